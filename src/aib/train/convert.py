"""A checkpoint of the published code as a run folder of ours."""

from __future__ import annotations

import argparse
import hashlib
import re
import reprlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aib.data import open_data
from aib.models import create_model
from aib.models.reference import ReferenceNetwork, convert_reference, identify_reference
from aib.saved import load_saved
from aib.train.checks import check_apart
from aib.train.config import TrainConfig, config_from_dict
from aib.train.macs import count_macs
from aib.train.origin import keep_origin
from aib.train.published import Colour, published_normalization, published_settings
from aib.train.run_folder import RunFolder
from aib.train.weights import save_weights

__all__ = ["PublishedCheckpoint", "convert_checkpoint", "read_published"]

TENSOR_BYTES = 1 << 28
"""Of the largest tensor that is taken from a checkpoint; a file may hold one number and call it a tensor of any size."""

IMAGE_SIZE = 32
"""Side of the images of every network that can be converted."""

CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
CIFAR100 = """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm"""
CLASS_NAMES = {"cifar10": tuple(CIFAR10.split()), "cifar100": tuple(CIFAR100.split()), "svhn": tuple("0123456789")}
"""Classes in the order of their labels, for data sets that are not at hand when a checkpoint is converted."""

BY_CLASSES = {10: "cifar10", 100: "cifar100"}
"""The data set where a checkpoint does not say."""


class _Unread:
    """Takes the place of numpy's types in a checkpoint: it keeps nothing and does nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


# Beside tensors, numbers, texts and containers of them the published checkpoints hold their command line and numbers of numpy's (an
# accuracy, a learning rate). Namespace only keeps attributes; of numpy nothing is needed, so nothing of it is built.
ALLOWED: list[Any] = [argparse.Namespace] + [
    (_Unread, name)
    for name in (
        "numpy.dtype", "numpy.ndarray", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
        "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct",
    )
]  # fmt: skip


@dataclass(frozen=True)
class PublishedCheckpoint:
    """What is used of a checkpoint of the published code.

    Attributes:
        state_dict: tensors by their published keys, on the CPU.
        epoch: finished epochs, or None where the file does not say.
        dataset: the data set as the published command line names it (``"CIFAR10"``), or None where the file does not say.
    """

    state_dict: dict[str, Tensor]
    epoch: int | None
    dataset: str | None


def read_published(path: Path) -> PublishedCheckpoint:
    """Read a checkpoint of the published code; nothing in the file is executed.

    Looked for, in this order: ``model_states.net`` (VGG), ``state_dict`` (WRN), and a state dict by itself.

    Args:
        path: what ``torch.save`` wrote, whatever its ending (``.tar``, ``.pth``).

    Raises:
        ValueError: there is no such file, it is cut or no checkpoint, it asks for a Python type that is not allowed (which is
            named), it is of a run of this package, or there is no state dict in it (the keys that are there are named).
    """
    content = _load(path)
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{path} holds a {type(content).__name__}; expected a dict with model_states.net or state_dict, or a state dict"
        )
    if {"format", "model", "state"} <= content.keys():
        raise ValueError(f"{path} is a checkpoint of a run of aib, which needs none of this; go on with its run folder")
    states = content.get("model_states")
    found = states.get("net") if isinstance(states, Mapping) else content.get("state_dict")
    if found is None and all(isinstance(value, Tensor) for value in content.values()):
        found = content
    if not isinstance(found, Mapping) or not found:
        inner = states if isinstance(states, Mapping) else {}
        keys = [*(_shown(key) for key in content), *(f"model_states.{_shown(key)}" for key in inner)]
        shown = ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")
        raise ValueError(f"{path} holds no state dict under model_states.net or state_dict; it has {shown or 'nothing'}")
    if large := [k for k, v in found.items() if isinstance(v, Tensor) and v.numel() * v.element_size() > TENSOR_BYTES]:
        raise ValueError(f"{path} has a tensor of more than {TENSOR_BYTES:,} bytes, {_shown(large[0])}; no published network has")
    epoch, arguments = content.get("epoch"), content.get("args")
    dataset = vars(arguments).get("dataset") if isinstance(arguments, argparse.Namespace) else None
    return PublishedCheckpoint(dict(found), epoch if type(epoch) is int else None, dataset if isinstance(dataset, str) else None)


def _shown(key: Any) -> str:
    """A key of a stranger's checkpoint, for a message."""
    return key if isinstance(key, str) and key.isprintable() else reprlib.repr(key)


def _load(path: Path) -> Any:
    if not path.is_file():
        if (path / "config.toml").is_file():
            raise ValueError(f"{path} is already a run of aib; go on with aib eval {path}")
        raise ValueError(f"{path} is a folder, not a checkpoint" if path.is_dir() else f"no checkpoint at {path}")
    try:
        with path.open("rb") as file:
            start = file.read(512)
        zipped = start.startswith(b"PK")
        whole = not zipped or zipfile.is_zipfile(path)
        arrays = []
        if zipped and whole:
            with zipfile.ZipFile(path) as archive:
                arrays = [name for name in archive.namelist() if name.endswith(".npy")]
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except (zipfile.BadZipFile, ValueError, NotImplementedError):  # of an archive that says that it has several disks, and worse
        whole = False
    if whole and arrays:
        shown = ", ".join(map(_shown, arrays[:3]))
        raise ValueError(f"{path} holds arrays ({shown}), not a checkpoint; expected what torch.save wrote")
    if not zipped and _is_text(start):
        raise ValueError(f"{path} is a text file, not a checkpoint; expected what torch.save wrote, a .tar or .pth file")
    if not whole:
        raise ValueError(f"{path} is cut or damaged; copy or fetch it again")
    try:
        return load_saved(path, ALLOWED)
    except Exception as error:  # a cut or foreign file raises any of a dozen types
        if asked := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise ValueError(
                f"{path} asks for the Python type {asked[1]}, and building it could run code of the file; allowed are tensors, "
                "numbers, texts, containers of them and argparse.Namespace: save the state dict alone with torch.save"
            ) from None
        raise ValueError(
            f"{path} is no checkpoint that torch.save wrote, or it is cut or damaged; fetch or copy it again"
        ) from None


def _is_text(start: bytes) -> bool:
    """Whether the first bytes of a file are those of a text: no control characters but for spaces and ends of lines."""
    return bool(start) and all(byte >= 32 or byte in b"\t\n\r" for byte in start)


def convert_checkpoint(
    path: Path,
    out: Path,
    *,
    model_name: str | None = None,
    data: str | None = None,
    root: str = "data",
    mean: Colour | None = None,
    std: Colour | None = None,
) -> RunFolder:
    """Make a run folder of a checkpoint of the published code, for evaluation, explanation and reports.

    ``config.toml`` gives the settings of the published code, those of the recipe ``reference/DATA/MODEL``: what the weights were
    trained with, as far as that code tells and a configuration can say (`aib.train.published` names what it cannot). There is no
    log and no last checkpoint, so nothing can be resumed.

    Args:
        path: see `read_published`.
        out: the new folder.
        model_name: one of `aib.models.reference.REFERENCE_MODELS`; by default what the weights are.
        data: the data it was trained on, for the class names and as the default of later evaluations; by default CIFAR-10 or
            CIFAR-100, by what the checkpoint says and by the number of classes.
        root: the folder of the named data sets. Where CIFAR or SVHN is absent its class names are known all the same.
        mean, std: normalisation of pixels in [0, 1]; by default that of the published code (`published_normalization`).

    Raises:
        ValueError: see `read_published` and `aib.convert_reference`; or ``out`` is taken, the data have other classes or cannot be
            opened, or the normalisation is incomplete or not positive.
        OSError: the folder cannot be written.
    """
    folder = RunFolder(out)
    folder.check_free()
    checkpoint = read_published(path)
    try:
        network = identify_reference(checkpoint.state_dict)
        weights = convert_reference(checkpoint.state_dict, model_name or network.name)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    data = data or _trained_on(checkpoint, network, path)
    check_apart(out, data)
    given = mean, std
    mean, std, told = _normalization(network.name, checkpoint.dataset or Path(data).stem, mean, std)
    class_names = _class_names(data, root, network)
    with torch.device("meta"):  # its weights are all replaced: a start need not be drawn
        model = create_model(network.name, network.num_classes, **network.options)
    macs = count_macs(model, (3, IMAGE_SIZE, IMAGE_SIZE))
    model.load_state_dict(weights, assign=True)
    card = {
        "name": network.name,
        "data": data if data in CLASS_NAMES else Path(data).stem,
        "num_classes": network.num_classes,
        "class_names": class_names,
        "mean": list(mean),
        "std": list(std),
        "image_size": [IMAGE_SIZE, IMAGE_SIZE],
        "channels": 3,
        "site": None,
        "parameters": sum(p.numel() for p in model.parameters()),
        "macs": macs,
        "options": {
            "name": network.name, "num_classes": network.num_classes, "in_channels": 3, "pretrained": None, **network.options,
        },
        "epoch": checkpoint.epoch,
        "converted_from": {
            "file": path.name,
            "sha256": _sha256(path),
            "dataset": checkpoint.dataset,
            "normalization": told,
            "training": "by the published code, which keeps the epoch with the least test error; config.toml repeats its settings",
        },
    }  # fmt: skip
    # of a normalisation that was given nobody knows that the code is the published one
    colours = {"mean": list(mean), "std": list(std)} if given == (None, None) else {"mean": [], "std": []}
    folder.create(_published_config(network, {"data": data, "root": root, **colours}, out))
    keep_origin(folder, None)
    save_weights(folder, model, card)
    return folder


def _normalization(model_name: str, dataset: str, mean: Colour | None, std: Colour | None) -> tuple[Colour, Colour, str]:
    """Mean, standard deviation and where they come from."""
    if (mean is None) != (std is None):
        given, absent = ("mean", "std") if std is None else ("std", "mean")
        raise ValueError(f"{given} is given without {absent}; give both or neither")
    if mean is None or std is None:
        whose = "0.5" if dataset.lower() == "svhn" else "CIFAR-100's" if model_name.startswith("vgg") else "CIFAR-10's"
        kind = "SVHN" if dataset.lower() == "svhn" else f"every CIFAR with {model_name.partition('_')[0].upper()}"
        return *published_normalization(model_name, dataset), f"{whose}, which the published code takes for {kind}"
    if min(std) <= 0:
        raise ValueError(f"std is {', '.join(map(str, std))}; it must be above 0")
    return mean, std, "as given"


def _trained_on(checkpoint: PublishedCheckpoint, network: ReferenceNetwork, path: Path) -> str:
    """The data set the checkpoint names, or else the CIFAR with as many classes."""
    if checkpoint.dataset is not None:
        if checkpoint.dataset.lower() in CLASS_NAMES:
            return checkpoint.dataset.lower()
        raise ValueError(f"{path} was trained on {checkpoint.dataset}, not on {', '.join(CLASS_NAMES)}; name the data with --data")
    if network.num_classes not in BY_CLASSES:
        raise ValueError(f"{path} has {network.num_classes} classes and does not say of what data; give them with --data")
    return BY_CLASSES[network.num_classes]


def _class_names(data: str, root: str, network: ReferenceNetwork) -> list[str]:
    """Names from the data themselves, whose spelling later evaluations compare with, or from memory where a named set is absent."""
    try:
        bundle = open_data(data, root=Path(root), image_size=IMAGE_SIZE, val_fraction=None)
    except ValueError:
        if data not in CLASS_NAMES:
            raise
        names = CLASS_NAMES[data]
    else:
        names = tuple(bundle.class_names)
        if bundle.channels != 3:
            raise ValueError(f"{data} has images of {bundle.channels} channel; the published networks take 3")
    if len(names) != network.num_classes:
        raise ValueError(
            f"{data} has {len(names)} classes, the network has {network.num_classes}; name the data it was trained on with --data"
        )
    return list(names)


def _published_config(network: ReferenceNetwork, data: dict[str, Any], out: Path) -> TrainConfig:
    """The published code's settings, those of the recipe ``reference/DATA/MODEL``, with the checkpoint's own data and sizes.

    But nothing is held out: the published code trains on all images, so none of them could validate.
    """
    tables = published_settings(network.name, "cifar10", "reference")  # of every data set of 32x32 images, but for what is given
    tables["data"] |= {**data, "val_fraction": 0.0}
    tables["model"] |= network.options
    return config_from_dict({**tables, "run": {"out": str(out)}})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

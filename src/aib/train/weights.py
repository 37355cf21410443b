"""The selected weights of a run: ``model.safetensors`` with ``model.json`` beside it, enough to use the model anywhere."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aib.backbones import one_line
from aib.classifier import Classifier
from aib.data.images import MAX_SIDE
from aib.models.build import build_model
from aib.train.checkpoint import load_checkpoint, strip_prefixes, write_atomically
from aib.train.checks import finite_weights
from aib.train.device import wants_channels_last
from aib.train.restoring import load_weights
from aib.train.run_folder import RunFolder

__all__ = ["LoadedRun", "load_best", "load_run", "save_weights", "selected_epoch"]

CARD_FORMAT = 1
CARD_KEYS = ("name", "options", "class_names", "mean", "std", "image_size", "channels")
"""What using the weights takes."""


@dataclass(frozen=True)
class LoadedRun:
    """A trained model with all it takes to use it.

    Attributes:
        model: in eval mode, on the device asked for.
        card: the content of ``model.json``: class names, normalisation, image size, parameters.
        folder: where it came from.
    """

    model: Classifier
    card: dict[str, Any]
    folder: RunFolder

    @property
    def class_names(self) -> list[str]:
        return self.card["class_names"]

    @property
    def mean(self) -> list[float]:
        return self.card["mean"]

    @property
    def std(self) -> list[float]:
        return self.card["std"]

    @property
    def image_size(self) -> tuple[int, int]:
        height, width = self.card["image_size"]
        return height, width

    def trained_on(self, data: str) -> bool:
        """Whether ``data`` names what the run was trained on, be it with the extra images or without: svhn, svhn+extra."""
        own = (self.folder.config.data.data, self.card["data"])
        return data.removesuffix("+extra") in [name.removesuffix("+extra") for name in own]


def save_weights(folder: RunFolder, model: Classifier, card: Mapping[str, Any]) -> None:
    """Write weights and card; each file whole or not at all.

    Raises:
        OSError: the disk is full or the folder refuses the file.
    """
    from safetensors.torch import save_file

    # one entry alone: of several the order, and so the file's bytes, would change from one writing to the next
    # safetensors refuses shared storage and non-contiguous tensors: both are copied out
    # the epoch is in both files: a process may be killed between the two
    about = {"name": card["name"], "format": CARD_FORMAT, "epoch": card.get("epoch")}
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in strip_prefixes(model.state_dict()).items()}

    def write(path: Path) -> None:
        try:
            save_file(tensors, path, metadata={"aib": json.dumps(about)})
        except OSError:
            raise
        except Exception as error:  # safetensors reports a full disk as its own error type
            raise OSError(f"cannot write {folder.weights}: {error}") from error

    write_atomically(folder.weights, write)
    folder.write_json("model.json", {"format": CARD_FORMAT, **card})


def selected_epoch(folder: RunFolder) -> int | None:
    """The epoch of the selected weights, None where weights and card are not there, damaged or of different epochs."""
    from safetensors import safe_open

    if not folder.weights.is_file():  # a pipe would be waited for
        return None
    try:
        epoch = folder.read_json("model.json")["epoch"]
        with safe_open(folder.weights, "pt") as file:
            about = json.loads(file.metadata()["aib"])
    except Exception:  # of many kinds: whatever a damaged file makes the libraries trip over
        return None
    return epoch if type(epoch) is int and about.get("epoch", epoch) == epoch else None  # older weights do not say


def load_best(folder: RunFolder, model: Classifier, epoch: int) -> Classifier | None:
    """A copy of ``model`` with the weights in ``best.ckpt``; None where that is absent, damaged, another model's or epoch's."""
    try:
        best = load_checkpoint(folder.best)
        if best.get("state", {}).get("epoch") != epoch:
            return None
        chosen = copy.deepcopy(model)
        load_weights(chosen, best.get("model", {}), folder.best)
    except ValueError:
        return None
    return chosen


def load_run(path: Path | str, *, device: torch.device | str = "cpu", weights: str = "best") -> LoadedRun:
    """The trained model of a run folder.

    Args:
        path: the run folder.
        device: where to put the model.
        weights: ``"best"`` on validation, or those of the ``"last"`` checkpoint.

    Raises:
        ValueError: it is no run folder, files are missing, damaged or of another version, do not fit the model, or hold weights
            that are not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = RunFolder.open(Path(path))
    card = folder.read_json("model.json")
    if not isinstance(card, dict) or "format" not in card:
        raise ValueError(f"{folder.path / 'model.json'} is not the description of a model that aib writes")
    if card["format"] != CARD_FORMAT:
        found = repr(card["format"])[:20]
        raise ValueError(f"{folder.path / 'model.json'} has format {found}; this version of aib reads {CARD_FORMAT}")
    if weights == "last":
        state = load_checkpoint(folder.last).get("model", {})
    elif weights == "best":
        if not folder.weights.is_file():  # absent, or a pipe that would block for ever
            raise ValueError(f"{folder.path} has no model.safetensors")
        try:
            state = load_file(folder.weights)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{folder.weights} is cut or damaged ({one_line(error)})") from None
    else:
        raise ValueError(f"weights is {weights!r}; it must be 'best' or 'last'")
    if missing := [key for key in CARD_KEYS if key not in card]:
        raise ValueError(f"{folder.path / 'model.json'} is damaged: it lacks {', '.join(missing)}")
    if (wrong := _wrong(card)) is not None:
        raise ValueError(f"{folder.path / 'model.json'} is damaged: its {wrong} is not what aib writes")
    model = _filled(card, strip_prefixes(state), folder)
    if model.num_classes != (named := len(card["class_names"])):
        raise ValueError(f"{folder.path / 'model.json'} names {named} classes; the weights are of {model.num_classes}")
    if not finite_weights(model):
        raise ValueError(f"the weights in {folder.path} hold numbers that are not finite; they are damaged")
    model = model.to(device).eval()
    if wants_channels_last(folder.config.run.channels_last, str(device)):
        model = model.to(memory_format=torch.channels_last)
    return LoadedRun(model, card, folder)


def _wrong(card: Mapping[str, Any]) -> str | None:
    """The first key of a card, which has all of them, whose value no training writes."""
    names, channels, size, options = (card[key] for key in ("class_names", "channels", "image_size", "options"))

    def numbers(values: Any, low: float) -> bool:
        plain = isinstance(values, list) and all(type(value) in (int, float) for value in values)
        return plain and len(values) == channels and all(low <= value <= 1e6 for value in values)

    right = {
        "class_names": isinstance(names, list) and len(names) > 1 and all(isinstance(name, str) for name in names),
        "channels": type(channels) is int and channels in (1, 3),
        "mean": numbers(card["mean"], -1e6),
        "std": numbers(card["std"], 1e-9),
        "image_size": isinstance(size, list) and len(size) == 2 and all(type(n) is int and 1 <= n <= MAX_SIDE for n in size),
        "name": isinstance(card["name"], str),
        "options": isinstance(options, dict) and isinstance(options.get("name"), str),
    }
    return next((key for key, fine in right.items() if not fine), None)


def _filled(card: Mapping[str, Any], state: Mapping[str, Tensor], folder: RunFolder) -> Classifier:
    """The network that a card describes, with these weights.

    Raises:
        ValueError: there is no such network, or the weights are another one's.
    """
    options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in card["options"].items()}
    options["pretrained"] = None  # the weights are here: a card has nothing to fetch or to open
    try:
        with torch.random.fork_rng(devices=()):  # the start of a fresh network is overwritten: draw it from nobody's numbers
            with torch.device("meta"):  # without memory, of which a damaged card could ask for any amount
                shapes = {key: value.shape for key, value in build_model(**options).state_dict().items()}
            if shapes == {key: value.shape for key, value in state.items()}:
                model = build_model(**options)
                model.load_state_dict(state)
                return model
    except Exception as error:  # options of a wrong type or size: whatever the network's parts trip over
        reason = str(error) if isinstance(error, ValueError) else one_line(error)
        raise ValueError(f"{folder.path / 'model.json'} describes no network: {reason}") from None
    raise ValueError(f"the weights in {folder.path} do not fit {card['name']} as model.json describes it")

"""The selected weights of a run: ``model.safetensors`` with ``model.json`` beside it, enough to use the model anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aib.classifier import Classifier
from aib.models.build import build_model
from aib.train.checkpoint import load_checkpoint, strip_prefixes, write_atomically
from aib.train.device import wants_channels_last
from aib.train.run_folder import RunFolder

__all__ = ["LoadedRun", "load_run", "save_weights"]

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


def save_weights(folder: RunFolder, model: Classifier, card: Mapping[str, Any]) -> None:
    """Write weights and card; each file whole or not at all.

    Raises:
        OSError: the disk is full or the folder refuses the file.
    """
    from safetensors.torch import save_file

    # safetensors refuses shared storage and non-contiguous tensors: both are copied out
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in strip_prefixes(model.state_dict()).items()}

    def write(path: Path) -> None:
        try:
            save_file(tensors, path, metadata={"format": "pt", "aib": json.dumps({"name": card["name"], "format": CARD_FORMAT})})
        except OSError:
            raise
        except Exception as error:  # safetensors reports a full disk as its own error type
            raise OSError(f"cannot write {folder.weights}: {error}") from error

    write_atomically(folder.weights, write)
    folder.write_json("model.json", {"format": CARD_FORMAT, **card})


def load_run(path: Path | str, *, device: torch.device | str = "cpu", weights: str = "best") -> LoadedRun:
    """The trained model of a run folder.

    Args:
        path: the run folder.
        device: where to put the model.
        weights: ``"best"`` on validation, or those of the ``"last"`` checkpoint.

    Raises:
        ValueError: it is no run folder, files are missing, damaged or of another version, or do not fit the model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = RunFolder.open(Path(path))
    card = folder.read_json("model.json")
    if not isinstance(card, dict) or "format" not in card:
        raise ValueError(f"{folder.path / 'model.json'} is not the description of a model that aib writes")
    if card["format"] != CARD_FORMAT:
        raise ValueError(f"{folder.path / 'model.json'} has format {card['format']}; this version of aib reads {CARD_FORMAT}")
    if weights == "last":
        state = load_checkpoint(folder.last)["model"]
    elif weights == "best":
        try:
            state = load_file(folder.weights)
        except FileNotFoundError:
            raise ValueError(f"{folder.path} has no model.safetensors") from None
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{folder.weights} is cut or damaged ({error})") from None
    else:
        raise ValueError(f"weights is {weights!r}; it must be 'best' or 'last'")
    if missing := [key for key in CARD_KEYS if key not in card]:
        raise ValueError(f"{folder.path / 'model.json'} is damaged: it lacks {', '.join(missing)}")
    options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in card["options"].items()}
    with torch.random.fork_rng(devices=()):  # the start that a fresh network draws is overwritten: draw it from nobody's numbers
        model = build_model(**options)
    try:
        model.load_state_dict(strip_prefixes(state))
    except RuntimeError:
        raise ValueError(f"the weights in {folder.path} do not fit {card['name']} as model.json describes it") from None
    model = model.to(device).eval()
    if wants_channels_last(folder.config.run.channels_last, str(device)):
        model = model.to(memory_format=torch.channels_last)
    return LoadedRun(model, card, folder)

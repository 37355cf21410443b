"""Small, learnable data and short runs for the tests of training, evaluation and the command line."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from aib.train.checkpoint import load_checkpoint
from aib.train.config import TrainConfig, config_from_dict, config_to_dict
from aib.train.run_folder import RunFolder

SIDE = 16
COLOURS = {3: [(220, 40, 40), (40, 220, 40), (40, 40, 220)], 1: [(110,), (175,), (245,)]}
"""Colour of the square that makes the class, for RGB and for grey images."""

TABLE = {
    field.name: table for table, part in config_to_dict(TrainConfig()).items() for field in fields(getattr(TrainConfig(), table))
}


def squares(count: int, seed: int, channels: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images (N, 16, 16, channels) uint8 of noise with a square of the class's colour, labels (N,) and masks (N, 16, 16)."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 70, (count, SIDE, SIDE, channels)).astype(np.uint8)
    labels = np.arange(count) % 3
    masks = np.zeros((count, SIDE, SIDE), bool)
    for image, label, mask in zip(images, labels, masks):
        top, left = rng.integers(0, SIDE - 6, 2)
        mask[top : top + 6, left : left + 6] = True
        image[mask] = np.array(COLOURS[channels][label]) - rng.integers(0, 20, (36, channels))
    return images, labels, masks


def write_npz(path: Path, *, train: int = 96, val: int = 24, test: int = 40, channels: int = 3, **more: Any) -> Path:
    """The squares as an ``.npz`` file with masks."""
    arrays: dict[str, Any] = {}
    for seed, (split, count) in enumerate({"train": train, "val": val, "test": test}.items()):
        arrays[f"x_{split}"], arrays[f"y_{split}"], arrays[f"masks_{split}"] = squares(count, seed, channels)
    np.savez(path, **{**arrays, **more})
    return path


def write_folder(path: Path, count: int = 12, side: int = SIDE) -> Path:
    """The squares as PNG files in the class folders ``blue``, ``green`` and ``red``, ``count`` in each."""
    images, labels, _ = squares(3 * count, 0)
    for i, (image, label) in enumerate(zip(images, labels)):
        file = path / ("red", "green", "blue")[label] / f"{i:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST).save(file)
    return path


def tiny_config(data: Path | str, out: Path | str, **changes: Any) -> TrainConfig:
    """Three short epochs with every source of randomness on; ``changes`` by field name, whatever its table."""
    given: dict[str, Any] = {
        "data": str(data), "out": str(out), "model": "vgg_xs_aib_qt", "anchors": 8, "epochs": 3, "batch_size": 16,
        "crop_padding": 2, "flip": True, "beta": 1e-3, "device": "cpu", "quiet": True,
    }  # fmt: skip
    tables: dict[str, dict[str, Any]] = {}
    for name, value in {**given, **changes}.items():
        if value is not None:
            tables.setdefault(TABLE[name], {})[name] = value
    return config_from_dict(tables)


def rows(folder: RunFolder) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl`` without what the clock says."""
    lines = folder.metrics.read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in ("seconds", "images_per_second")} for line in lines]


def outcome(folder: RunFolder) -> dict[str, Any]:
    """All that a run leaves: both weights, the optimiser, the position and the log."""
    from safetensors.torch import load_file

    return {
        "last": load_checkpoint(folder.last), "selected": load_file(folder.weights), "card": folder.read_json("model.json"),
        "rows": rows(folder),
    }  # fmt: skip


def same(a: Any, b: Any) -> bool:
    """Whether two nested structures are equal, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)

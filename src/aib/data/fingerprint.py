"""Whether two data sets are the same, told from a few numbers that fit into a file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from aib.data.bundle import DataBundle, Split
from aib.data.folder import FileSplit

__all__ = ["fingerprint", "is_fingerprint", "other_split"]

IMAGES = 8
"""Images of a split that are looked at."""

CLOSE = 0.5
"""Grey levels by which the mean of a quarter of an image may differ: libraries decode and resize files a little differently."""


def fingerprint(bundle: DataBundle) -> dict[str, Any]:
    """What tells a data set from others, by split: images of each class, a hash of the labels in order, a look at `IMAGES` images.

    The look is the mean of each quarter of an image, in grey levels from 0 to 255. An image that is not looked at may change.
    """
    return {name: _of_split(bundle.split(name), bundle.num_classes) for name in ("train", "val", "test")}


def _of_split(split: Split, classes: int) -> dict[str, Any]:
    quarters: list[list[float]] = []
    if len(split):
        where = torch.linspace(0, len(split) - 1, min(IMAGES, len(split))).long()
        looked = replace(split, workers=0) if isinstance(split, FileSplit) else split  # so few need no processes
        (batch,) = looked.batches([where])
        images = batch.images.cpu().double().mean(1, keepdim=True)
        quarters = torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1).tolist()
    return {
        "counts": torch.bincount(split.labels, minlength=classes).tolist(),
        "labels": hashlib.sha256(split.labels.numpy().astype("<i8").tobytes()).hexdigest()[:16],
        "quarters": [[round(value, 2) for value in image] for image in quarters],
    }


def is_fingerprint(value: object) -> bool:
    """Whether ``value``, of a file that may come from anywhere, has the form of a fingerprint."""
    return isinstance(value, Mapping) and all(_is_split(value.get(name)) for name in ("train", "val", "test"))


def _is_split(value: object) -> bool:
    if not isinstance(value, Mapping) or not isinstance(value.get("labels"), str):
        return False
    counts, quarters = value.get("counts"), value.get("quarters")
    return (
        isinstance(counts, list) and all(type(count) is int for count in counts)
        and isinstance(quarters, list) and all(
            isinstance(image, list) and len(image) == 4 and all(type(mean) in (int, float) and 0 <= mean <= 255 for mean in image)
            for image in quarters
        )
    )  # fmt: skip


def other_split(kept: Mapping[str, Any], bundle: DataBundle) -> str | None:
    """The first split, test first, in which ``bundle`` differs from the data of the fingerprint ``kept``; None if none does."""
    found = fingerprint(bundle)
    for name in ("test", "train", "val"):
        one, two = kept[name], found[name]
        if any(one[key] != two[key] for key in ("counts", "labels")) or len(one["quarters"]) != len(two["quarters"]):
            return name
        images = zip(one["quarters"], two["quarters"])
        if any(abs(a - b) > CLOSE for image in images for a, b in zip(*image)):
            return name
    return None

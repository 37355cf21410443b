"""What a run's latent and map carry, in bits, and what its rate says about images of another kind."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aib.data import open_data
from aib.data.bundle import DataBundle, Split
from aib.interpret.detection import detection_table, selective_table, unusualness
from aib.interpret.information import measure_information
from aib.train.origin import locate_root
from aib.train.predict import predict
from aib.train.weights import LoadedRun

__all__ = ["detection_numbers", "information_numbers", "open_outside"]


def information_numbers(run: LoadedRun, batches: Iterable[Tensor], seed: int = 0) -> dict[str, Any] | None:
    """`aib.interpret.information.Information.summary` with the mean rate map, or None for a model without a latent.

    Args:
        run: the run.
        batches: normalised images on the model's device.
        seed: of the intervals.
    """
    rest = iter(batches)
    first = next(rest)
    with torch.no_grad():
        if run.model.forward_details(first[:1]).latent_mean is None:
            return None
    found = measure_information(run.model, itertools.chain([first], rest))
    numbers = found.summary(seed)
    if found.rate_maps is not None:
        numbers["attention"]["map"] = found.rate_maps.mean(0)[0].tolist()
    return numbers


def detection_numbers(
    run: LoadedRun, split: Split, outside: Sequence[DataBundle], *, device: str = "cpu", seed: int = 0
) -> dict[str, Any]:
    """How well rate and predictions tell the run's images from those of other data sets, and right answers from wrong ones.

    Args:
        run: the run.
        split: its own images.
        outside: of `open_outside`; their test images count.
        device: where to compute.
        seed: of the intervals.

    Returns:
        ``{"selective": ..., "outside": {name: ...}}`` of `aib.interpret.detection`.
    """

    def look(images: Split) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.bool_]]:
        found = predict(run.model, images, run.mean, run.std, device=device)
        rate = None if found.rate is None else found.rate.double().numpy()
        return unusualness(found.logits.double().numpy(), rate), found.errors.numpy()

    inside, wrong = look(split)
    tables = {bundle.name: detection_table(inside, look(bundle.test)[0]) for bundle in outside}
    return {"selective": selective_table(inside, wrong, seed), "outside": tables}


def open_outside(run: LoadedRun, names: Sequence[str], root: str | None = None, download: bool = False) -> list[DataBundle]:
    """Data sets that the run has not seen; ``root`` and ``download`` are those of `aib.train.run_data.open_run_data`.

    Raises:
        ValueError: one is unknown, is the run's own, or has other channels or another image size than the run's.
    """
    found = []
    for name in names:
        if run.trained_on(name):
            raise ValueError(f"{name} is what the run was trained on; --outside takes data that it has not seen")
        bundle = open_data(name, root=locate_root(run.folder, name, root), download=download, val_fraction=None)
        if (bundle.channels, tuple(bundle.image_size)) != (run.card["channels"], run.image_size):
            raise ValueError(
                f"{bundle.name} has {bundle.channels} channels and size {bundle.image_size}; the run was trained on "
                f"{run.card['channels']} and {run.image_size}"
            )
        found.append(bundle)
    return found

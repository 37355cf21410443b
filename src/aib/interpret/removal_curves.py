"""What removal did to the answers of a network: curves and areas of every image, and the numbers that are quoted of them.

`aib.interpret.faithfulness` measures them and says what each number means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aib.interpret.imputation import Fill
from aib.interpret.intervals import bootstrap_mean, bootstrap_means, share_interval
from aib.interpret.margins import margins

__all__ = ["SHARES", "STEPS", "Faithfulness", "RemovalCurves"]

STEPS = 8
"""Equal steps in which an image is removed."""

SHARES = {"1/4": STEPS // 4, "1/2": STEPS // 2, "3/4": 3 * STEPS // 4}
"""The shares quoted by name, and their steps."""

_TIE = 1e-6
"""Probabilities that differ by no more are equal: a pass in float32 does not tell them apart."""

_DIGITS = 6
"""Decimals of curves in plain numbers, of which every map has many."""


@dataclass(frozen=True)
class RemovalCurves:
    """One map under one fill. Step 0 is the whole image, at step `STEPS` everything is removed, which leaves the blurred image by
    the blur and the mean colour else; all tensors are on the CPU.

    Attributes:
        shares: (STEPS + 1,) float64 share of the cells removed, 0 to 1.
        morf, lerf: (N, STEPS + 1) float64 probability of the class predicted for the whole image, with the most and with the least
            important cells removed first.
        morf_correct, lerf_correct: (N, STEPS + 1) bool, whether the predicted class is the label.
    """

    shares: Tensor
    morf: Tensor
    lerf: Tensor
    morf_correct: Tensor
    lerf_correct: Tensor

    @property
    def deletion(self) -> Tensor:
        """(N,) area under ``morf``, in [0, 1]; the lower, the better."""
        return torch.trapezoid(self.morf, self.shares)

    @property
    def insertion(self) -> Tensor:
        """(N,) area under the insertion curve, ``lerf`` read backwards, in [0, 1]; the higher, the better."""
        return torch.trapezoid(self.lerf, self.shares)

    @property
    def srg(self) -> Tensor:
        """(N,) insertion - deletion, in [-1, 1]."""
        return self.insertion - self.deletion

    @property
    def polarity(self) -> Tensor:
        """(N,) 1 where removing the most attended quarter costs more than the least attended one, 0 where less, else 1/2."""
        gap = self.lerf[:, SHARES["1/4"]] - self.morf[:, SHARES["1/4"]]
        return torch.where(gap.abs() <= _TIE, 0.5, (gap > 0).double())

    def numbers(self, seed: int = 0) -> dict[str, Any]:
        """The scores and the curves as ``[mean, low, high]`` of plain numbers, with 95 % intervals over images.

        Intervals of accuracies and of the polarity are Wilson's, those of areas and probabilities a bootstrap's.

        Keys: ``"deletion"``, ``"insertion"``, ``"srg"``, ``"polarity"``; ``"attended_removed"`` and ``"unattended_removed"``, the
        accuracy by the share removed; ``"morf"`` and ``"lerf"``, one a step, each with an interval by itself and not of the curve
        as a whole.

        Args:
            seed: of the bootstrap; with the same one, intervals of all maps are of the same resamples.
        """

        def interval(values: Tensor) -> list[float]:
            return list(bootstrap_mean(values.double().numpy(), seed))

        def share(values: Tensor) -> list[float]:
            return list(share_interval(values.numpy()))

        both = bootstrap_means(torch.cat([self.morf, self.lerf], 1).numpy(), seed).round(_DIGITS).tolist()
        return {
            **{name: interval(getattr(self, name)) for name in ("deletion", "insertion", "srg")},
            "polarity": share(self.polarity),
            "attended_removed": {name: share(self.morf_correct[:, step]) for name, step in SHARES.items()},
            "unattended_removed": {name: share(self.lerf_correct[:, step]) for name, step in SHARES.items()},
            "morf": both[: STEPS + 1],
            "lerf": both[STEPS + 1 :],
        }


@dataclass(frozen=True)
class Faithfulness:
    """Named maps on the same footing: the same images, cells, fills, noise and order of ties.

    Attributes:
        curves: of every fill and every map, by name.
        predicted: (N,) int64 class predicted for the whole image, on the CPU.
        labels: (N,) int64, on the CPU.
        cells: rows and columns of the grid.
    """

    curves: Mapping[Fill, Mapping[str, RemovalCurves]]
    predicted: Tensor
    labels: Tensor
    cells: tuple[int, int]

    def numbers(self, seed: int = 0, controls: Mapping[str, Sequence[str]] | None = None) -> dict[str, Any]:
        """``{"n", "cells", "shares", "accuracy", "fills": {fill: {map: ...}}}`` of plain numbers; see `RemovalCurves.numbers`.

        ``"accuracy"`` is that of the whole images as ``[mean, low, high]``, ``"shares"`` what the curves are drawn over. With
        ``controls`` there is ``"above"``, by fill: how far each map stands above the best of its controls in ``"srg"``,
        ``"deletion"``, ``"insertion"`` and ``"polarity"``, and in ``"attended_removed"`` and ``"unattended_removed"``, the accuracy
        with the more and with the less attended half removed; see `aib.interpret.margins.margins`. There more is better in all of
        them: deletion and ``"attended_removed"``, of which less is, are counted downwards, and their best control is the lowest.

        Args:
            seed: of the bootstrap.
            controls: by map, the names of its controls.
        """
        fills = {fill: {name: curves.numbers(seed) for name, curves in maps.items()} for fill, maps in self.curves.items()}
        some = next(iter(next(iter(self.curves.values())).values()))
        found = {
            "n": len(self.labels), "cells": list(self.cells), "shares": some.shares.tolist(),
            "accuracy": list(share_interval((self.predicted == self.labels).numpy())), "fills": fills,
        }  # fmt: skip
        if controls is not None:
            found["above"] = {fill: self._above(fill, controls, seed) for fill in self.curves}
        return found

    def _above(self, fill: Fill, controls: Mapping[str, Sequence[str]], seed: int) -> dict[str, Any]:
        curves = self.curves[fill]
        half = SHARES["1/2"]
        better: dict[str, Callable[[RemovalCurves], Tensor]] = {
            "srg": lambda one: one.srg,
            "deletion": lambda one: -one.deletion,
            "insertion": lambda one: one.insertion,
            "polarity": lambda one: one.polarity,
            "attended_removed": lambda one: ~one.morf_correct[:, half],
            "unattended_removed": lambda one: one.lerf_correct[:, half],
        }
        values = {metric: {name: read(one).numpy() for name, one in curves.items()} for metric, read in better.items()}
        return margins(values, controls, shares=("polarity", "attended_removed", "unattended_removed"), seed=seed)

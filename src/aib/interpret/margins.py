"""How far a map stands above the best of its controls in any metric of images: paired, since all are judged on the same images.

Of every metric more is better here: one of which less is better is given with its sign turned.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from aib.interpret.intervals import bootstrap_mean, paired_shares

__all__ = ["above_best", "margins"]


def above_best(
    values: Mapping[str, ArrayLike], source: str, controls: Sequence[str], *, shares: bool = False, seed: int = 0
) -> dict[str, Any]:
    """The mean of ``values[source]`` less that of the control with the greatest mean, image by image.

    The best control is chosen on the same images, which favours the controls a little; of equals it is the first.

    Args:
        values: by source, (N,) of a metric of which more is better, in the order of the images; NaN where it does not exist.
        source: the one in question.
        controls: names in ``values``.
        shares: whether the values are yes, no or parts of one, whose interval is `paired_shares`; else it is a bootstrap's.
        seed: of the bootstrap.

    Returns:
        ``{"control", "difference"}``, the difference [mean, low, high] with a 95 % interval over images; both None where no image
        has a value.

    Raises:
        ValueError: there is no control, or no such source.
    """
    if not controls:
        raise ValueError(f"{source!r} has no control to be compared with")
    for name in (source, *controls):
        if name not in values:
            raise ValueError(f"there is no source {name!r}; these were measured: {', '.join(values)}")
    numbers = {name: np.asarray(values[name], np.float64) for name in (source, *controls)}
    means = {name: float(np.nanmean(numbers[name])) for name in controls if not np.isnan(numbers[name]).all()}
    if not means:
        return {"control": None, "difference": None}
    best = max(means, key=means.__getitem__)
    one, other = numbers[source], numbers[best]
    found = paired_shares(one, other) if shares else bootstrap_mean(one - other, seed)
    return {"control": None, "difference": None} if math.isnan(found[0]) else {"control": best, "difference": list(found)}


def margins(
    metrics: Mapping[str, Mapping[str, ArrayLike]],
    controls: Mapping[str, Sequence[str]],
    *,
    shares: Collection[str] = (),
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """`above_best` of every judged source in every metric: ``{source: {metric: {"control", "difference"}}}``.

    Args:
        metrics: values by metric and source.
        controls: by judged source, its controls. Those that a metric has no values of are passed over, as is a source with none.
        shares: the metrics whose values are shares.
        seed: of the bootstrap.
    """
    found: dict[str, dict[str, Any]] = {}
    for source, names in controls.items():
        for metric, values in metrics.items():
            known = [name for name in names if name in values]
            if source in values and known:
                found.setdefault(source, {})[metric] = above_best(values, source, known, shares=metric in shares, seed=seed)
    return found

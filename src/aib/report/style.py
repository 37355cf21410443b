"""One look for every figure and overlay: colours that survive colour blindness, and numbers written one way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ACCENT",
    "COLOUR_MAP",
    "CONTROL",
    "OTHER",
    "SERIES",
    "colour_map",
    "compact",
    "interval",
    "percent",
    "plain",
    "thin_labels",
]

ACCENT = "#0072b2"
OTHER = "#d55e00"
CONTROL = "#8a929b"
SERIES = (ACCENT, OTHER, "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's palette, told apart with any colour vision; blue is always the model itself, grey always a control."""

COLOUR_MAP = "inferno"
"""Perceptually uniform, with lightness rising all the way, so that it also reads in grey: dark is low, bright is high."""

NO_VALUE = "–"


@cache
def _table() -> NDArray[np.uint8]:
    from matplotlib import colormaps

    return (colormaps[COLOUR_MAP](np.linspace(0.0, 1.0, 256))[:, :3] * 255).round().astype(np.uint8)


def colour_map(values: NDArray[np.floating], vmin: float = 0.0, vmax: float = 1.0) -> NDArray[np.uint8]:
    """Colours (..., 3) of values (...) on the fixed scale [vmin, vmax]; values beyond it take the colour of its end.

    Raises:
        ValueError: the scale is empty, or a value is not finite.
    """
    if not vmax > vmin:
        raise ValueError(f"the colour scale runs from {vmin} to {vmax}; vmax must be above vmin")
    if not np.isfinite(values).all():
        raise ValueError(f"the map has {int((~np.isfinite(values)).sum())} values that are not finite")
    share = (np.asarray(values, dtype=np.float64) - vmin) / (vmax - vmin)
    return _table()[(share.clip(0.0, 1.0) * 255).round().astype(np.intp)]


def thin_labels(values: Sequence[float], limit: int, gap: float) -> list[float]:
    """At most ``limit`` of the ``values``, sorted, both ends kept and no two nearer than ``gap``: those that get a label."""
    ordered = sorted(set(values))
    if len(ordered) < 2 or ordered[-1] - ordered[0] < gap:
        return ordered[:1]
    low, high = ordered[0], ordered[-1]
    gap = max(gap, (high - low) / (limit - 1) * 0.999)
    kept = [low]
    for value in ordered[1:-1]:
        if value - kept[-1] >= gap and high - value >= gap:
            kept.append(value)
    return [*kept, high]


def percent(share: float | None, digits: int = 1) -> str:
    """A share in [0, 1] as ``"5.0 %"``, with a space that does not break; a dash for None and NaN."""
    return NO_VALUE if share is None or math.isnan(share) else f"{100 * share:.{digits}f}\u00a0%"


def interval(bounds: Sequence[float] | None, digits: int = 1) -> str:
    """A confidence interval of shares as ``"4.1–6.1 %"``."""
    return NO_VALUE if bounds is None else f"{100 * bounds[0]:.{digits}f}–{100 * bounds[1]:.{digits}f}\u00a0%"


def compact(number: float | None) -> str:
    """A count to three digits with its prefix: ``"19.7 M"``, ``"123 k"``, ``"12.4 G"``."""
    if number is None:
        return NO_VALUE
    for limit, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= 0.9995 * limit:
            scaled = number / limit
            digits = max(0, 2 - int(np.log10(max(abs(scaled), 1.0))))
            return f"{scaled:.{digits}f}\u00a0{prefix}"
    return f"{number:g}"


def plain(number: float | None, digits: int = 1) -> str:
    """A number with ``digits`` decimals, or a dash."""
    return NO_VALUE if number is None else f"{number:.{digits}f}"

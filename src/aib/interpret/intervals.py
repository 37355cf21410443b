"""Intervals for what reports quote: a share of errors, a mean over images, a difference over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["bootstrap_mean", "mean_interval", "paired_difference", "wilson_interval"]

_BLOCK = 1 << 22
"""Values that the bootstrap resamples at once, to bound its memory at some 50 MB."""


def wilson_interval(errors: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval (low, high) of a proportion ``errors / n``; within [0, 1] and sensible at 0 and n errors.

    Raises:
        ValueError: ``errors`` is not between 0 and ``n``, ``n`` is below 1, or ``confidence`` is outside (0, 1).
    """
    _check_confidence(confidence)
    if n < 1 or not 0 <= errors <= n:
        raise ValueError(f"{errors} errors in {n}; expected 0 <= errors <= n and n >= 1")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = errors / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # at 0 and n errors the ends are 0 and 1 but for rounding
    low = 0.0 if errors == 0 else (centre - spread) / scale
    high = 1.0 if errors == n else (centre + spread) / scale
    return low, high


def bootstrap_mean(values: ArrayLike, seed: int = 0, draws: int = 2000, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean of ``values`` and its percentile bootstrap interval, (mean, low, high).

    Args:
        values: (N,) numbers. NaN marks a value that does not exist: it is left out of the mean and of every resample.
        seed: of the resampling; the same values and seed give the same interval.
        draws: number of resamples.
        confidence: of the interval.

    Returns:
        (mean, low, high), all NaN where no value is left.

    Raises:
        ValueError: ``values`` is not (N,) or holds an infinity, ``draws`` is below 1, or ``confidence`` is outside (0, 1).
    """
    _check_confidence(confidence)
    if draws < 1:
        raise ValueError(f"draws is {draws}; it must be at least 1")
    numbers = _numbers("values", values)
    numbers = numbers[~np.isnan(numbers)]
    count = len(numbers)
    if count == 0:
        return math.nan, math.nan, math.nan
    rng = np.random.default_rng(seed)
    rows = max(1, _BLOCK // count)
    means = [
        numbers[rng.integers(0, count, (min(rows, draws - start), count), dtype=np.int32)].mean(1)
        for start in range(0, draws, rows)
    ]
    low, high = np.quantile(np.concatenate(means), [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(numbers.mean()), float(low), float(high)


def paired_difference(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean of ``a - b`` over pairs (the same seed, data and budget) and its Student t interval, (mean, low, high).

    The t interval is honest for three seeds, where a normal one is far too narrow; it takes the differences for normal.

    Returns:
        (mean, low, high); the ends are NaN for a single pair, which says nothing of its spread.

    Raises:
        ValueError: the two have different lengths or are empty, a value is not finite, or ``confidence`` is outside (0, 1).
    """
    _check_confidence(confidence)
    first, second = _numbers("a", a), _numbers("b", b)
    if len(first) != len(second) or len(first) == 0:
        raise ValueError(f"{len(first)} and {len(second)} values; a paired difference needs as many of each, at least 1")
    difference = first - second
    if np.isnan(difference).any():
        raise ValueError("a pair holds NaN; leave out the pairs that do not exist")
    return mean_interval(difference, confidence)


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean of ``values``, one a seed, and its Student t interval, (mean, low, high); the ends are NaN for a single value.

    Raises:
        ValueError: ``values`` is empty, not (N,) or not finite, or ``confidence`` is outside (0, 1).
    """
    _check_confidence(confidence)
    numbers = _numbers("values", values)
    if len(numbers) == 0 or np.isnan(numbers).any():
        raise ValueError("values is empty or holds NaN; a mean needs numbers")
    mean, count = float(numbers.mean()), len(numbers)
    if count == 1:
        return mean, math.nan, math.nan
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    reach = float(stdtrit(count - 1, 0.5 + confidence / 2) * numbers.std(ddof=1) / math.sqrt(count))
    return mean, mean - reach, mean + reach


def _numbers(name: str, values: ArrayLike) -> NDArray[np.float64]:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1:
        raise ValueError(f"{name} has shape {numbers.shape}; expected (N,)")
    if np.isinf(numbers).any():
        raise ValueError(f"{name} holds an infinite value; expected finite numbers")
    return numbers


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must lie between 0 and 1")

"""Intervals for what reports quote: a share of errors, a mean over images, a difference over seeds.

Means over images have a percentile bootstrap. Shares have not: near 0 and 1 resamples of few images hardly differ from each other,
and of 0 hits they are all 0. With 40 images a bootstrap's interval holds a share of 2 % in 55 % of samples and one of 95 % in 87 %,
Wilson's both in 95 %. Of paired differences of such shares with 25 images Newcombe's holds at least 93 %, a bootstrap's fewer than
80 % (`tests/test_intervals.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Interval", "bootstrap_mean", "bootstrap_means", "correlated", "difference_interval", "mean_interval", "paired_difference",
    "paired_shares", "share_interval", "wilson_interval",
]  # fmt: skip

Interval = tuple[float, float, float]
"""A mean and the ends of its interval."""

_BLOCK = 1 << 22
"""Values that the bootstrap resamples at once, to bound its memory at some 50 MB."""


def wilson_interval(errors: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval (low, high) of a proportion ``errors / n``; within [0, 1] and sensible at 0 and n errors.

    ``errors`` may be a sum of parts of one, such as shared points: what lies in [0, 1] varies at most as much as a share of its
    mean, so the interval is then too wide rather than too narrow.

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


def share_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean of values (N,) in [0, 1], each a yes, a no or a part of one, and its Wilson interval, (mean, low, high).

    A bootstrap of 0 hits in 6 gives [0, 0], as if that were known exactly; this gives [0, 0.39]. NaN is left out; all NaN where no
    value is left.

    Raises:
        ValueError: ``values`` is not (N,), a value lies outside [0, 1], or ``confidence`` is outside (0, 1).
    """
    _check_confidence(confidence)
    numbers = _numbers("values", values)
    numbers = numbers[~np.isnan(numbers)]
    if not len(numbers):
        return math.nan, math.nan, math.nan
    if numbers.min() < 0 or numbers.max() > 1:
        raise ValueError(f"values go from {numbers.min():g} to {numbers.max():g}; shares lie between 0 and 1")
    total = float(numbers.sum())
    # a sum of parts may leave [0, n] by rounding
    return total / len(numbers), *wilson_interval(min(total, len(numbers)), len(numbers), confidence)


def paired_shares(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean of ``a - b`` over pairs of values in [0, 1] (the same images, two maps), and its interval, (mean, low, high).

    Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on paired data", method 10:
    Wilson intervals of both shares put together by `difference_interval`, with the correlation phi of the 2 x 2 table, its
    numerator corrected for continuity. Where values lie between 0 and 1 the correlation is Pearson's. With few pairs, or no two
    that differ, the interval keeps the width that so few allow. Pairs in which one is NaN are left out; all NaN where none is left.

    Raises:
        ValueError: the lengths differ, and as in `share_interval`.
    """
    first, second = _pairs(a, b)
    if not len(first):
        return math.nan, math.nan, math.nan
    one, other = share_interval(first, confidence), share_interval(second, confidence)
    if np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all():
        n, x, y = len(first), int(first.sum()), int(second.sum())
        both = int((first * second).sum())
        margins = x * y * (n - x) * (n - y)
        numerator: float = both * (n - x - y + both) - (x - both) * (y - both)
        if numerator > 0:
            numerator = max(numerator - n / 2, 0)
        return difference_interval(one, other, numerator / math.sqrt(margins) if margins else 0.0)
    return difference_interval(one, other, correlated(first, second))


def difference_interval(one: Interval, other: Interval, correlation: float = 0.0) -> Interval:
    """(mean, low, high) of the difference of two estimates from their own intervals and their correlation over the images.

    The method of variance estimates recovery (Zou and Donner 2008): the distance of each end from its mean stands for a standard
    error, so an interval that is lopsided at the edge of its range stays so. Of two shares with Wilson intervals it is Newcombe's.
    """
    (a, a_low, a_high), (b, b_low, b_high) = one, other

    def reach(down: float, up: float) -> float:
        return math.sqrt(max(0.0, down * down + up * up - 2 * correlation * down * up))

    return a - b, a - b - reach(a - a_low, b_high - b), a - b + reach(a_high - a, b - b_low)


def correlated(a: ArrayLike, b: ArrayLike) -> float:
    """Pearson's correlation of two series of numbers (N,); 0 where one does not vary."""
    first, second = (values - values.mean() for values in (_numbers("a", a), _numbers("b", b)))
    product = math.sqrt(float(first @ first) * float(second @ second))
    return max(-1.0, min(1.0, float(first @ second) / product)) if product > 0 else 0.0


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


def bootstrap_means(values: ArrayLike, seed: int = 0, draws: int = 2000, confidence: float = 0.95) -> NDArray[np.float64]:
    """`bootstrap_mean` of every column of ``values`` (N, K) at once, (K, 3): [mean, low, high], but for rounding.

    All columns have the same resamples, which are drawn and counted once: 18 columns of 300 rows take less time than one of them.

    Raises:
        ValueError: ``values`` is not (N, K) with N and K at least 1, or is not finite; else as `bootstrap_mean`.
    """
    _check_confidence(confidence)
    if draws < 1:
        raise ValueError(f"draws is {draws}; it must be at least 1")
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 2 or not numbers.size or not np.isfinite(numbers).all():
        raise ValueError(f"values have shape {numbers.shape}; expected (N, K) of finite numbers, N and K at least 1")
    count = len(numbers)
    rng, rows, means = np.random.default_rng(seed), max(1, _BLOCK // count), []
    for start in range(0, draws, rows):
        some = min(rows, draws - start)
        drawn = rng.integers(0, count, (some, count), dtype=np.int32) + count * np.arange(some)[:, None]
        times = np.bincount(drawn.ravel(), minlength=some * count).reshape(some, count)
        means.append(times.astype(np.float64) @ numbers / count)
    low, high = np.quantile(np.concatenate(means), [0.5 - confidence / 2, 0.5 + confidence / 2], axis=0)
    return np.stack([numbers.mean(0), low, high], 1)


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


def _pairs(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = _numbers("a", a), _numbers("b", b)
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values; a paired difference needs as many of each")
    known = ~np.isnan(first + second)
    return first[known], second[known]


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

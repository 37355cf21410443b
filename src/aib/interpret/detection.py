"""Does the network know when it should not be trusted? Images of another kind, calibration, and errors against coverage.

All start from scores of *unusualness*, a number an image that grows the less the image is like those of training (`unusualness`).
Their signs are fixed beforehand and never chosen on the data: a score that ranks the wrong way round gets an AUROC below 1/2, and
that is what is reported. In the terms of the detection literature the images *inside* are the positives, that should be accepted.

Ties share, as everywhere: a pair of equal scores counts half, and images with equal scores are accepted in a random order, of which
the expectation is given. A score that is constant gets 1/2, a false positive rate of 1 and the error itself at every coverage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aib.interpret.intervals import wilson_interval
from aib.interpret.roc import auroc, auroc_difference, false_positive_rate, finite_scores

__all__ = [
    "COVERAGES", "detection_table", "reliability_bins", "risk_coverage", "risk_coverage_area", "selective_table", "unusualness",
]  # fmt: skip

COVERAGES = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
"""Shares of the most usual images on which `selective_table` gives the error."""


def unusualness(logits: ArrayLike, rate: ArrayLike | None = None) -> dict[str, NDArray[np.float64]]:
    """Scores that should be higher for images unlike those of training.

    ``"max_softmax"``  1 - the largest softmax probability (Hendrycks and Gimpel 2017), in [0, 1);
    ``"entropy"``      of the predicted probabilities in nats, in [0, log(classes)];
    ``"rate"``         KL(p(z | x, a) || N(0, I)) in nats (Alemi, Fischer and Dillon 2018): the cost of an image against the prior,
                       which grows with the distance of its latent. Nothing in the objective makes images of another kind lie far;
                       whether they do is for the AUROC to say.

    Float64 and without cancellation, so that confident predictions do not tie at a probability that rounds to 1.

    Args:
        logits: (N, classes) finite, at least two classes.
        rate: (N,) nats, at least 0; without it there is no ``"rate"``.

    Returns:
        (N,) of each.

    Raises:
        ValueError: shapes that are not these, or a value that is not finite.
    """
    scores = np.asarray(logits, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[1] < 2 or not len(scores):
        raise ValueError(f"logits have shape {scores.shape}; expected (N, classes) with N >= 1 and at least 2 classes")
    if not np.isfinite(scores).all():
        raise ValueError("logits hold a value that is not finite; expected finite numbers")
    shifted = np.sort(scores, axis=1)[:, ::-1]
    shifted = shifted - shifted[:, :1]
    others = np.exp(shifted[:, 1:]).sum(1)  # what the softmax's denominator has beside the largest term, 1
    log_total = np.log1p(others)
    found = {
        "max_softmax": others / (1 + others),
        "entropy": log_total - (np.exp(shifted) * shifted).sum(1) / (1 + others),
    }
    if rate is not None:
        found["rate"] = finite_scores("rate", rate)
        if len(found["rate"]) != len(scores):
            raise ValueError(f"{len(scores)} rows of logits but {len(found['rate'])} rates")
    return found


def detection_table(inside: Mapping[str, ArrayLike], outside: Mapping[str, ArrayLike], confidence: float = 0.95) -> dict[str, Any]:
    """How well each score tells images outside from images inside.

    Args:
        inside, outside: name to scores (M,) and (N,), both of `unusualness`.
        confidence: of the intervals.

    Returns:
        ``{"inside": M, "outside": N, "scores": {name: {"auroc", "false_positive_rate"}}}`` of plain numbers, [value, low, high]
        each, None for an end that does not exist. The false positive rate is that at 95 % true positives. Where ``"rate"`` is among
        the scores, ``"rate_less": {name: [difference, low, high]}`` has its AUROC less that of each other one, paired.

    Raises:
        ValueError: no score, different names or numbers of images, or whatever `auroc` raises.
    """
    if not inside or list(inside) != list(outside):
        raise ValueError(f"scores are {', '.join(inside) or 'none'} inside, {', '.join(outside) or 'none'} outside; give the same")
    m, n = _one_length("inside", inside), _one_length("outside", outside)
    scores = {
        name: {
            "auroc": _plain(auroc(inside[name], outside[name], confidence)),
            "false_positive_rate": list(false_positive_rate(inside[name], outside[name], confidence=confidence)),
        }
        for name in inside
    }
    table: dict[str, Any] = {"inside": m, "outside": n, "scores": scores}
    if "rate" in inside:
        rate = inside["rate"], outside["rate"]
        others = [name for name in inside if name != "rate"]
        table["rate_less"] = {name: _plain(auroc_difference(rate, (inside[name], outside[name]), confidence)) for name in others}
    return table


def reliability_bins(confidence: ArrayLike, correct: ArrayLike, bins: int = 15) -> list[dict[str, Any]]:
    """Confidence against accuracy in equal bins (low, high] of confidence on [0, 1]; 0 belongs to the first.

    Args:
        confidence: (N,) in [0, 1].
        correct: (N,) bool.
        bins: number of bins.

    Returns:
        ``low``, ``high``, ``count``, mean ``confidence``, ``accuracy`` and its 95 % Wilson interval ``accuracy_interval`` of every
        bin that holds an image, lowest first. The expected calibration error is the mean of ``abs(confidence - accuracy)``,
        weighted by ``count``.

    Raises:
        ValueError: shapes that differ, a confidence outside [0, 1], ``correct`` that is not bool, or ``bins`` below 1.
    """
    sure = finite_scores("confidence", confidence)
    right = _flags("correct", correct, len(sure))
    if sure.min() < 0 or sure.max() > 1:
        raise ValueError(f"confidence goes from {sure.min():g} to {sure.max():g}; it must lie in 0 to 1")
    if bins < 1:
        raise ValueError(f"bins is {bins}; it must be at least 1")
    which = np.searchsorted(np.arange(1, bins) / bins, sure, side="left")
    rows = []
    for index in np.unique(which).tolist():
        mine = which == index
        count, hits = int(mine.sum()), int(right[mine].sum())
        rows.append({
            "low": index / bins, "high": (index + 1) / bins, "count": count, "confidence": float(sure[mine].mean()),
            "accuracy": hits / count, "accuracy_interval": list(wilson_interval(hits, count)),
        })  # fmt: skip
    return rows


def risk_coverage(unusual: ArrayLike, wrong: ArrayLike) -> NDArray[np.float64]:
    """Error among the 1, 2, ..., N most usual images (the risk-coverage curve), (N,) fractions; the last is the error of all.

    Args:
        unusual: (N,) scores; the lowest are accepted first, equal ones in an order at random, of which this is the expectation.
        wrong: (N,) bool.

    Raises:
        ValueError: shapes that differ, scores that are not finite, or ``wrong`` that is not bool.
    """
    _, starts, errors = _ordered(unusual, wrong)
    sizes = np.diff(starts, append=len(errors))
    group_error = np.repeat(np.add.reduceat(errors, starts) / sizes, sizes)  # a random order spreads a group's errors evenly
    return np.cumsum(group_error) / np.arange(1, len(errors) + 1)


def risk_coverage_area(unusual: ArrayLike, wrong: ArrayLike) -> float:
    """Area under the risk-coverage curve, its mean over the coverages 1/N, 2/N, ..., 1 (Geifman, Uziel and El-Yaniv 2019).

    Lower is better: an uninformative score has the error of all images, the best score puts the wrong ones last. Arguments and
    errors as in `risk_coverage`.
    """
    return float(risk_coverage(unusual, wrong).mean())


def selective_table(scores: Mapping[str, ArrayLike], wrong: ArrayLike, seed: int = 0, draws: int = 500) -> dict[str, Any]:
    """Errors on the most usual images by each score, with 95 % intervals.

    Args:
        scores: name to (N,), of `unusualness`.
        wrong: (N,) bool.
        seed: of the bootstrap over images; all scores see the same resamples.
        draws: number of resamples.

    Returns:
        ``{"n", "error", "coverage", "best_area", "scores": {name: {"area", "error_at"}}}`` of plain numbers: ``"area"`` is
        [value, low, high] of `risk_coverage_area`, by the bootstrap; ``"error_at"`` as much of the error for each of `COVERAGES`,
        by Wilson's interval, which takes the images accepted for given. ``"error"`` is also the area of a score that knows nothing,
        ``"best_area"`` that of one that knows which predictions are wrong.

    Raises:
        ValueError: no score, ``draws`` below 1, or whatever `risk_coverage` raises.
    """
    if not scores:
        raise ValueError("there is no score; give at least one, by name")
    if draws < 1:
        raise ValueError(f"draws is {draws}; it must be at least 1")
    count = _one_length("scores", scores)
    flags = _flags("wrong", wrong, count)
    table = {}
    for name, values in scores.items():
        order, starts, errors = _ordered(values, flags)
        place = np.empty(count, dtype=np.int64)
        place[order] = np.arange(count)
        rng = np.random.default_rng(seed)
        areas = []
        for _ in range(draws):
            picked = np.bincount(place[rng.integers(0, count, count)], minlength=count)
            areas.append(_area(np.add.reduceat(picked, starts), np.add.reduceat(picked * errors, starts)))
        curve = risk_coverage(values, flags)
        error_at = []
        for share in COVERAGES:
            accepted = max(1, math.ceil(share * count - 1e-9))
            error = float(curve[accepted - 1])
            error_at.append([error, *wilson_interval(round(error * accepted), accepted)])
        table[name] = {"area": [float(curve.mean()), *map(float, np.quantile(areas, [0.025, 0.975]))], "error_at": error_at}
    best = risk_coverage_area(flags.astype(np.float64), flags)
    return {"n": count, "error": float(flags.mean()), "coverage": list(COVERAGES), "best_area": best, "scores": table}


def _ordered(unusual: ArrayLike, wrong: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The order of the scores (N,), where each group of equal ones starts, and the errors (N,) of 0 and 1 in that order."""
    scores = finite_scores("unusual", unusual)
    flags = _flags("wrong", wrong, len(scores))
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return order, starts, flags[order].astype(np.int64)


def _area(sizes: NDArray[np.int64], errors: NDArray[np.int64]) -> float:
    """Area under the risk-coverage curve of groups of equal scores, with so many images and errors each, some perhaps none.

    Of a group of n images and e errors after C images and E errors, the sum over j = 1..n of (E + j e/n) / (C + j) is
    e + (E - C e/n) (H(C + n) - H(C)), H the harmonic numbers.
    """
    total = int(sizes.sum())
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, total + 1))])
    after = np.cumsum(sizes)
    before = after - sizes
    rate = errors / np.maximum(sizes, 1)
    wrong_before = np.cumsum(errors) - errors
    return float((errors + (wrong_before - before * rate) * (harmonic[after] - harmonic[before])).sum() / total)


def _plain(estimate: tuple[float, float, float]) -> list[float | None]:
    return [None if math.isnan(x) else x for x in estimate]


def _flags(name: str, values: ArrayLike, count: int) -> NDArray[np.bool_]:
    flags = np.asarray(values)
    if flags.shape != (count,) or flags.dtype != np.bool_:
        raise ValueError(f"{name} is {flags.shape} {flags.dtype}; expected ({count},) bool")
    return flags


def _one_length(name: str, scores: Mapping[str, ArrayLike]) -> int:
    lengths = {key: len(finite_scores(key, values)) for key, values in scores.items()}
    if len({*lengths.values()}) > 1:
        raise ValueError(f"{name}: " + ", ".join(f"{n} of {key}" for key, n in lengths.items()) + "; there must be as many of each")
    return next(iter(lengths.values()))

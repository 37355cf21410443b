"""Do metrics agree on which maps are good? Rank correlation between metrics over the sources of maps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["metric_agreement"]

LEAST_SOURCES = 4
"""Sources that two metrics must share: of fewer, a rank correlation says nothing."""


def metric_agreement(table: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Spearman's rank correlation of every pair of metrics over the sources of maps that both have judged.

    Metrics that disagree measure different things; one number then stands for none of the others. Sources are few, so a single
    correlation is rough: it has no interval, and none is claimed.

    Args:
        table: metric to source to its mean, all of metrics of which more is better; NaN is left out.

    Returns:
        ``{"metrics": [...], "spearman": [[...]], "sources": [[...]]}``: square matrices of the correlation, None where the pair
        shares fewer than four sources or one of the two is constant over them, and of the number of sources shared.
    """
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    names = list(table)
    correlations: list[list[float | None]] = []
    counts: list[list[int]] = []
    for first in names:
        correlations.append([])
        counts.append([])
        for second in names:
            shared = [s for s in table[first] if s in table[second] and not math.isnan(table[first][s] + table[second][s])]
            counts[-1].append(len(shared))
            a, b = (rankdata([table[metric][source] for source in shared]) for metric in (first, second))
            a, b = a - a.mean() if len(a) else a, b - b.mean() if len(b) else b
            product = math.sqrt(float(a @ a) * float(b @ b))
            correlations[-1].append(float(a @ b) / product if len(shared) >= LEAST_SOURCES and product > 0 else None)
    return {"metrics": names, "spearman": correlations, "sources": counts}

"""Do metrics agree on which maps are good? Rank correlation between metrics over the sources of maps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["metric_agreement"]

LEAST_SOURCES = 4
"""Sources that metrics must share: of fewer, a rank correlation says nothing."""


def metric_agreement(table: Mapping[str, Mapping[str, float]], judged: Sequence[str] = ()) -> dict[str, Any]:
    """Spearman's rank correlation of every pair of metrics, all over the same sources of maps.

    Metrics that disagree measure different things; one number then stands for none of the others. Sources are few, so a single
    correlation is rough: it has no interval, and none is claimed. Controls are made to be bad, each in its way, and metrics that
    agree on them need not agree on maps in question: so the sources are those of ``judged`` alone where they are at least four.
    Where they are fewer, controls are among them, and named.

    Args:
        table: metric to source to its mean, all of metrics of which more is better; NaN is left out.
        judged: the sources in question; none by default.

    Returns:
        ``{"metrics": [...], "spearman": [[...]], "sources": [...], "controls": [...]}``: the square matrix of the correlations,
        None where fewer than four sources are shared or a metric is constant over them, the names of the sources that all metrics
        have judged, and which of them are controls.
    """
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    names = list(table)
    first = next(iter(table.values()), {})
    shared = [s for s in first if all(not math.isnan(values.get(s, math.nan)) for values in table.values())]
    in_question = [source for source in shared if source in judged]
    sources = in_question if len(in_question) >= LEAST_SOURCES else shared
    ranks = {name: rankdata([values[source] for source in sources]) for name, values in table.items()}
    correlations: list[list[float | None]] = []
    for a in names:
        correlations.append([])
        for b in names:
            one, other = (ranks[name] - ranks[name].mean() if sources else ranks[name] for name in (a, b))
            product = math.sqrt(float(one @ one) * float(other @ other))
            known = len(sources) >= LEAST_SOURCES and product > 0
            correlations[-1].append(float(one @ other) / product if known else None)
    controls = [source for source in sources if source not in judged]
    return {"metrics": names, "spearman": correlations, "sources": sources, "controls": controls}

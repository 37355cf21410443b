"""Several runs side by side, and the difference of two errors measured on the same images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aib.report.read import RunRecord
from aib.report.style import compact, interval, percent, plain

__all__ = [
    "CONTROLS",
    "MEANINGS",
    "MEASURES",
    "Table",
    "comparison_table",
    "measured",
    "own_map",
    "paired_difference",
    "run_labels",
]

CONTROLS = frozenset(
    {
        "centre",
        "center",
        "uniform",
        "chance",
        "edges",
        "edge detector",
        "random",
        "blurred random",
        "another image",
        "other image",
        "untrained",
    }
)
"""Names of maps that controls have in an evaluation; every score stands beside theirs."""

MEASURES = {"pointing_game": "Pointing game", "energy": "Energy in the mask", "iou": "IoU with the mask"}

MEANINGS = {
    "pointing_game": "How often the brightest place of the map lies on the object; tied maxima share the point. It says nothing "
    "about the rest of the map.",
    "energy": "How much of the map's sum lies on the object. A map that is bright everywhere scores the object's share of the "
    "image.",
    "iou": "The object against the map's brightest pixels, as many as the object has; ties broken at random and averaged.",
}
"""What each of `MEASURES` says, and what it does not."""


@dataclass(frozen=True)
class Table:
    """A table of texts; the first cell of a row is its header.

    Attributes:
        caption: what it shows, one sentence.
        columns: headers.
        rows: cells.
        note: what to mind when reading it.
        folded: whether it opens on a click on its caption.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = field(default="")
    folded: bool = field(default=False)


def run_labels(records: Sequence[RunRecord]) -> list[str]:
    """A name a run: its folder's, with the parent folder's where two are equal, with a number where even those are."""
    names = [record.name for record in records]
    labels = [
        name if names.count(name) == 1 else f"{record.path.resolve().parent.name}/{name}" for name, record in zip(names, records)
    ]
    return [label if labels.count(label) == 1 else f"{label} ({index})" for index, label in enumerate(labels, start=1)]


def own_map(localization: Mapping[str, Any]) -> str | None:
    """Name of the model's own map among those that were located; None where the model has none."""
    name = localization.get("own")
    return str(name) if name in localization.get("maps", {}) else None


def measured(maps: Mapping[str, Any], measure: str) -> dict[str, list[float]]:
    """[mean, low, high] by name of the maps on which ``measure`` has a value."""
    found = {name: values.get(measure) for name, values in maps.items()}
    return {name: values for name, values in found.items() if values and all(v is not None and math.isfinite(v) for v in values)}


def paired_difference(first: RunRecord, second: RunRecord) -> tuple[float, float, float] | None:
    """Error of ``second`` less that of ``first`` on the same images, with its 95 % interval (normal approximation).

    None when the two were not evaluated on the same labels in the same order.
    """
    if first.labels is None or second.labels is None or first.predictions is None or second.predictions is None:
        return None
    if first.split != second.split or not np.array_equal(first.labels, second.labels) or len(first.labels) < 2:
        return None
    difference = (second.predictions != second.labels).astype(float) - (first.predictions != first.labels).astype(float)
    half = 1.96 * float(difference.std(ddof=1)) / math.sqrt(len(difference))
    mean = float(difference.mean())
    return mean, mean - half, mean + half


def comparison_table(records: Sequence[RunRecord]) -> Table:
    """Columns are runs; rows that no run has are left out."""

    def evaluated(read: Callable[[dict[str, Any]], str | None]) -> list[str | None]:
        return [None if record.evaluation is None else read(dict(record.evaluation)) for record in records]

    def located(measure: str) -> list[str | None]:
        def read(evaluation: dict[str, Any]) -> str | None:
            localization = evaluation.get("localization") or {}
            maps = localization.get("maps", {})
            found = {name: values for name, values in measured(maps, measure).items() if name.casefold() not in CONTROLS}
            if not found:
                return None
            own = own_map(localization)
            shown = own if own in found else max(found, key=lambda name: found[name][0])
            return f"{percent(found[shown][0])} ({interval(found[shown][1:])}), {shown}"

        return evaluated(read)

    def anchors(evaluation: dict[str, Any]) -> str | None:
        usage = evaluation.get("anchors")
        return f"{usage['used']} of {len(usage['values'])}" if usage else None

    rows: list[tuple[str, Sequence[str | None]]] = [
        ("Model", [str(record.model["name"]) for record in records]),
        ("Error (95 % interval)", evaluated(lambda e: f"{percent(e['error'])} ({interval(e['error_interval'])})")),
        (
            f"Error less that of {run_labels(records)[0]}, in points",
            [None] + [_difference(records[0], other) for other in records[1:]],
        ),
        ("Cross-entropy, nats", evaluated(lambda e: plain(e.get("cross_entropy"), 3))),
        ("Calibration error (ECE)", evaluated(lambda e: percent(e["ece"]) if e.get("ece") is not None else None)),
        ("Rate, bits", evaluated(lambda e: plain(e["rate_bits"]) if "rate_bits" in e else None)),
        ("Anchors in use", evaluated(anchors)),
        *[(name, located(measure)) for measure, name in MEASURES.items()],
        ("Parameters", [compact(record.model.get("parameters")) for record in records]),
        ("Multiply-accumulates an image", [compact(record.model.get("macs")) for record in records]),
        ("Evaluated on", [_evaluated_on(record) for record in records]),
    ]
    kept = [
        [name, *("–" if cell is None else cell for cell in cells)]
        for name, cells in rows
        if any(cell is not None for cell in cells)
    ]
    note = (
        "Intervals are 95 % and cover the choice of images only; one run each says nothing about other seeds. "
        "A difference whose interval holds 0 may be chance. Of a run without a map of its own, its best explainer is shown."
    )
    return Table("The runs side by side.", ["", *run_labels(records)], kept, note)


def _difference(first: RunRecord, second: RunRecord) -> str | None:
    difference = paired_difference(first, second)
    if difference is None:
        return None
    mean, low, high = (100 * value for value in difference)
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})".replace("-", "−")


def _evaluated_on(record: RunRecord) -> str:
    if record.evaluation is None:
        return "not evaluated yet"
    return f"{record.evaluation['n']:,} {record.split} images"

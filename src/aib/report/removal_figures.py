"""What removing an image's parts does to the answer: the curves, and how far maps stand above their best controls in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from aib.report.compare import Table
from aib.report.parts import Figure
from aib.report.read_scores import ScoreRecord
from aib.report.score_figures import PLAIN, POINTS, Line, curve_chart, source_colours
from aib.report.score_names import fill_label, fill_words, metric_label, source_label
from aib.report.style import CONTROL

__all__ = ["removal_above", "removal_curves"]

UNIFORM, FAINT = "uniform", "#c3c8ce"
"""The control that is always drawn beside the best one, and its paler grey."""

CURVES = "Probability of the predicted class as cells of the image are removed, the most attended first (solid) or the least "
CURVES += "attended first (dashed)"
BANDS = ", with 95\u00a0% bands over images at each step"
SHOWN = {
    "mean": "Filled with the mean colour: the further the two curves are apart, the more the map’s order matters. Not shown is how "
    "much of the fall the map makes: a flat colour has edges that no photograph has, and the network may answer to those.",
    "blur": "Filled with the blurred image, on which the curves end and from which insertion starts: they show what the fine parts "
    "of the marked cells are worth. Not shown is what their colours and coarse shapes are worth, since those stay: less is lost.",
    "noisy_linear": "Each removed pixel is the mean of its neighbours with a little noise, so that the shape of the hole hardly "
    "shows: the curves show what only the removed cells tell. Not shown is what the kept ones tell as well, and a large hole is a "
    "smooth surface that no photograph has either.",
}
"""By fill, what its curves show and what they do not."""

OLDER = "In this older file the blur, too, ends on the mean colour: its deletion and insertion do not compare with those of newer "
OLDER += "files."

SCALED = {"srg": PLAIN, "deletion": PLAIN, "insertion": PLAIN}
"""Metrics that are areas; the others are shares, and differences of those in points."""


def removal_curves(scores: ScoreRecord, found: Mapping[str, Any], fill: str) -> Figure:
    """The curves of everything judged with their bands, and in grey those of the best control and of the uniform map.

    Args:
        scores: of a run.
        found: its ``"faithfulness"``.
        fill: one of those in ``found["fills"]``.
    """
    maps, colours = found["fills"][fill], source_colours(scores.judged, scores.own)
    present = [source for source in scores.judged if source in maps]
    best = _best(scores, found, fill, present[0]) if present else None
    grey = {UNIFORM: (f"{source_label(UNIFORM)}, a control", FAINT)} if UNIFORM in maps else {}
    if best is not None and best in maps:
        beside = f" of {source_label(present[0])}" if len(present) > 1 else ""
        grey[best] = f"{source_label(best)}, best control{beside}", CONTROL
    lines = []
    for name in [*grey, *reversed(present)]:
        label, colour = grey.get(name) or (source_label(name), colours[name])
        width = 1.2 if name in grey else 2.4 if name == scores.judged[0] else 1.5
        for part, dash in (("lerf", "5 3"), ("morf", None)):
            steps = [(100 * share, *(100 * end for end in value)) for share, value in zip(found["shares"], maps[name][part])]
            band = [(at, low, high) for at, _, low, high in steps if not math.isnan(low + high)]
            points = [(at, value) for at, value, *_ in steps]
            lines.append(Line(label, colour, points, dash, width, band=() if name in grey else band))
    svg = curve_chart(f"class probability, filled {fill_words(fill)}", lines, x_label="removed, %", x=(0.0, 100.0))
    curves = CURVES + BANDS * any(bool(line.band) for line in lines)
    said = [
        f"{curves}." if fill == next(iter(found["fills"])) else "The same curves.",
        SHOWN.get(fill, ""),
        _grey_words(best if best in grey else None, UNIFORM in grey, scores, present),
    ]
    if fill == "blur" and scores.numbers.get("format", 1) < 3:
        said.append(OLDER)
    return Figure(svg, " ".join(sentence for sentence in said if sentence))


def _best(scores: ScoreRecord, found: Mapping[str, Any], fill: str, source: str) -> str | None:
    """The control that a source is compared with in the SRG."""
    named: str | None = found.get("above", {}).get(fill, {}).get(source, {}).get("srg", {}).get("control")
    if named is not None:
        return named
    maps = found["fills"][fill]
    known = {name: maps[name]["srg"][0] for name in scores.compared(source, maps) if maps[name]["srg"] is not None}
    return max(known, key=known.__getitem__) if known else None


def _grey_words(best: str | None, uniform: bool, scores: ScoreRecord, present: Sequence[str]) -> str:
    drawn = []
    if best is not None:
        whose = "the map’s controls" if present[0] == scores.own else f"the controls of {source_label(present[0])}"
        drawn.append(f"{source_label(best)}, which of {whose} has the greatest SRG")
    if uniform and best != UNIFORM:
        drawn.append("paler, the uniform map, whose cells go in random order" if drawn else "the uniform map")
    return f"Grey: {'; '.join(drawn)}." if drawn else ""


def removal_above(above: Mapping[str, Any], judged: Sequence[str], kinds: str) -> Table:
    """How far each map stands above its best control, with every fill.

    Args:
        above: by fill, source and metric, ``{"control", "difference"}``, of which more is better.
        judged: the sources.
        kinds: what their controls are, in words.
    """
    metrics = list(dict.fromkeys(metric for sources in above.values() for found in sources.values() for metric in found))
    rows = []
    for name in judged:
        for metric in metrics:
            cells = []
            for sources in above.values():
                best = sources.get(name, {}).get(metric, {})
                control = best.get("control")
                # a control has the size of the map that it is beside, or was made for it: the row says which
                named = "" if control is None else f"\n{source_label(control.partition('@')[0])}"
                cells.append(SCALED.get(metric, POINTS).estimate(best.get("difference")) + named)
            rows.append([source_label(name), metric_label(metric), *cells])
    note = "By what removed cells are filled with. The numbers to quote: the mean less that of the best control, which is named, "
    note += "image by image, with 95 % intervals over images; polarity and accuracies in points. More is better in every row: "
    note += "deletion, and accuracy with the attended half removed, are how much lower they are than the lowest control’s. "
    return Table("Above the best control", ["map", "metric", *map(fill_label, above)], rows, (note + kinds).strip())

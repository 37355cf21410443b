"""What is judged beside its own controls: a row of a figure, and how a sentence says the difference."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from aib.report.read_scores import Estimate, ScoreRecord
from aib.report.score_figures import DotRow, Form, source_colours
from aib.report.score_names import control_words, source_label

__all__ = ["control_row", "others_ahead", "versus_control"]


def control_row(
    scores: ScoreRecord,
    source: str,
    values: Mapping[str, Estimate | None],
    best: str | None = None,
    *,
    sign: int = 0,
    few: bool = False,
    also: Collection[str] = (),
) -> DotRow:
    """A judged source with its own controls, as far as they have values.

    Args:
        scores: the file.
        source: what is judged.
        values: of it and of others, by name.
        best: its best control, as the file says.
        sign: where the file does not, the best is that with the greatest value times this; 0 names none.
        few: whether the values rest on too few images to say.
        also: names that are controls of every source here.
    """
    mine = {*scores.compared(source, values), *also}
    known = {name: value for name, value in values.items() if name in mine and value is not None}
    if best is None and known and sign:
        best = max(known, key=lambda name: sign * known[name][0])
    colour = source_colours(scores.judged, scores.own)[source]
    controls = [(source_label(name), value) for name, value in known.items()]
    return DotRow(source_label(source), colour, values.get(source), controls, None if best is None else source_label(best), few)


def others_ahead(counts: Mapping[str, str], where: str, what: str) -> str:
    """In how many cases the explainers are above their own best controls: ``{"Grad-CAM": "2 of 3"}`` in words; empty for none."""
    if not counts:
        return ""
    (first, count), *rest = counts.items()
    said = [f"{first} is ahead {where} {count} {what}", *(f"{name} {where} {number}" for name, number in rest)]
    return f"Each beside its own best control, {', '.join(said)}."


def versus_control(best: Mapping[str, Any], form: Form, unit: str = "") -> str:
    """``"12.3 (7.3 to 17.3) points above its best control, an edge detector"``; empty where the file does not say.

    Args:
        best: ``"control"`` and ``"difference"`` from it.
        form: of the difference, without a sign.
        unit: of the difference.
    """
    difference: Estimate | None = best.get("difference")
    control = best.get("control")
    if difference is None or control is None:
        return ""
    mean, low, high = difference
    named = f"its best control, {control_words(control)}"
    if low > 0:
        return f"{form.estimate(difference)}{unit} above {named}"
    if high < 0:
        return f"{form.estimate((-mean, -high, -low))}{unit} below {named}"
    signed = Form(form.factor, form.suffix, form.digits, signed=True)
    return f"not told apart from {named} ({signed.number(mean)}, {signed.number(low)} to {signed.number(high)}{unit})"

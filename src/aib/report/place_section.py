"""The section of a scored run on masks: do the maps lie on the object, and more so than their controls?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from aib.report.beside import control_row, others_ahead, versus_control
from aib.report.compare import CONTROLS, MEANINGS, MEASURES, Table
from aib.report.parts import Figure, Section
from aib.report.read import RunRecord
from aib.report.read_scores import LEAST, Estimate, ScoreRecord
from aib.report.score_figures import BARE, PERCENT, POINTS, DotGroup, dot_chart, score_legend
from aib.report.score_names import control_kinds, source_label, who_is

__all__ = ["place_section"]

CHANCE = "chance"
"""Known in closed form from the masks, so it has no interval, and is a line in the figures."""


def place_section(record: RunRecord, scores: ScoreRecord) -> Section | None:
    """Pointing game, energy and IoU of all that is judged, beside the controls of each.

    None without masks, and where the evaluation's section shows all that is judged already.
    """
    found = scores.numbers.get("localization")
    if not found:
        return None
    judged = [name for name in scores.judged if name in found["maps"]]
    if not judged or (not found.get("above") and all(_known(record, scores, name) for name in judged)):
        return None
    drawn = [_figure(scores, found, judged, measure) for measure in MEASURES if any(found["maps"][n].get(measure) for n in judged)]
    tables = [_every_table(scores, found, judged)]
    if found.get("above"):
        kinds = [name for source in judged for name in scores.compared(source, found["maps"])]
        tables.insert(0, _above_table(found["above"], judged, kinds))
    return Section("located", "Do the maps lie on the object?", _lead(scores, found, judged), drawn, tables)


def _known(record: RunRecord, scores: ScoreRecord, name: str) -> bool:
    """Whether the evaluation shows a judged map."""
    shown = [_plain(one) for one in ((record.evaluation or {}).get("localization") or {}).get("maps", {})]
    return bool(shown) if name == scores.own else any(one.startswith(_plain(source_label(name))) for one in shown)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _images(found: Mapping[str, Any]) -> int:
    return int(found["n"] - found.get("excluded", 0))


SAID = {"pointing_game": "{} in the pointing game", "energy": "{} of its energy in the mask", "iou": "an IoU of {}"}


def _lead(scores: ScoreRecord, found: Mapping[str, Any], judged: Sequence[str]) -> str:
    """The answer for the first source, measure by measure, then in how many measures the others are above their controls."""
    first, n, excluded = judged[0], _images(found), found.get("excluded", 0)
    left_out = f"; {excluded:,} with an empty mask are left out" if excluded else ""
    measured = f"Measured on {n:,} images, the same for all maps{left_out}."
    above = found.get("above", {})
    said = []
    for measure, words in SAID.items():
        if (value := found["maps"][first].get(measure)) is not None:
            beside = versus_control(above.get(first, {}).get(measure, {}), BARE, " points")
            said.append(f"{words.format(PERCENT.estimate(value))}, {beside}".rstrip(", "))
    differences = _differences(above, first)
    if not differences or not said:
        return f"Explainers beside controls. {measured}"
    who = who_is(scores.own, first)
    if n < LEAST:
        return f"Too few images to say: {n:,}. {who[0].upper()}{who[1:]} has {'; '.join(said)}."
    ahead, behind = sum(one[1] > 0 for one in differences), sum(one[2] < 0 for one in differences)
    opening = "Yes" if ahead == len(differences) else "No" if behind == len(differences) else "In part" if ahead else "Not shown"
    known = {source_label(name): _differences(above, name) for name in judged[1:]}
    counts = {name: f"{sum(one[1] > 0 for one in values)} of {len(values)}" for name, values in known.items() if values}
    others = others_ahead(counts, "in", "measures")
    return f"{opening}: {who} has {'; '.join(said)}. {others}{' ' * bool(others)}{measured}"


def _differences(above: Mapping[str, Any], source: str) -> list[Estimate]:
    return [best["difference"] for best in above.get(source, {}).values() if best.get("difference") is not None]


def _figure(scores: ScoreRecord, found: Mapping[str, Any], judged: Sequence[str], measure: str) -> Figure:
    values: dict[str, Estimate | None] = {name: one.get(measure) for name, one in found["maps"].items()}
    chance, few = values.pop(CHANCE, None), _images(found) < LEAST
    groups = []
    for source in judged:
        best = found.get("above", {}).get(source, {}).get(measure, {}).get("control")
        groups.append(DotGroup((source_label(source),), [control_row(scores, source, values, best, sign=1, few=few)]))
    legend = score_legend({}, controls=True, best=True) if any(group.rows[0].controls for group in groups) else ()
    svg = dot_chart(MEASURES[measure], groups, PERCENT, legend=legend, bounds=(0.0, 1.0), missing="none",
                    line=None if chance is None else chance[0])  # fmt: skip
    line = f" The line is chance, {PERCENT.number(chance[0])}\u00a0%." if chance is not None else ""
    return Figure(svg, MEANINGS[measure] + line)


def _above_table(above: Mapping[str, Any], judged: Sequence[str], kinds: Sequence[str]) -> Table:
    rows = []
    for name in judged:
        for measure, title in MEASURES.items():
            if best := above.get(name, {}).get(measure):
                control = best.get("control")
                named = "–" if control is None else source_label(control.partition("@")[0])
                rows.append([source_label(name), title, POINTS.estimate(best.get("difference")), named])
    note = "The number to quote, in points: the mean less that of the best control, image by image, with 95 % intervals over "
    note += f"images. {control_kinds(kinds)}"
    return Table("Above the best control", ["map", "measure", "above the best control, points", "best control"], rows, note)


def _every_table(scores: ScoreRecord, found: Mapping[str, Any], judged: Sequence[str]) -> Table:
    everything = bool(found.get("above"))
    others = [name for name in found["maps"] if name not in judged and (everything or name.casefold() in CONTROLS)]

    def cell(name: str, measure: str) -> str:
        value: Estimate | None = found["maps"][name].get(measure)
        return PERCENT.estimate(value if value is None or name != CHANCE else (value[0], math.nan, math.nan))

    rows = [[source_label(name), *(cell(name, measure) for measure in MEASURES)] for name in [*judged, *others]]
    note = f"On {_images(found):,} images, all maps the same ones. Compare within this table. Chance is known from the masks."
    return Table("Where the maps lie, every map", ["map", *MEASURES.values()], rows, note, folded=everything)

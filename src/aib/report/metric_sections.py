"""Sections of a scored run: do the places a map marks matter, is it steady, and does it know the class?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aib.report.compare import CONTROLS, MEASURES, Table
from aib.report.parts import Figure, Section
from aib.report.read import RunRecord
from aib.report.read_scores import LEAST, Estimate, ScoreRecord
from aib.report.removal_figures import removal_above, removal_curves
from aib.report.score_figures import BARE, PERCENT, PLAIN, POINTS, DotGroup, Form, dot_chart, source_colours
from aib.report.score_names import control_words, fill_label, fill_words, source_label, who_is
from aib.report.style import CONTROL

__all__ = ["metric_sections"]

AREA = Form()
"""Areas under curves, in [0, 1]."""

MAIN_FILL = "blur"
"""The fill of the figures that show one, where it is there."""

HALF = "1/2"

Maps = Mapping[str, Mapping[str, Any]]
"""Numbers of every map under one fill."""


def metric_sections(record: RunRecord, scores: ScoreRecord) -> list[Section]:
    """Removal of the image's parts, then noise, grids and masks; those that the file has numbers for."""
    return [section for section in (_faithfulness(scores), _steadiness(record, scores)) if section is not None]


def _faithfulness(scores: ScoreRecord) -> Section | None:
    found = scores.numbers.get("faithfulness")
    fills: Mapping[str, Maps] = found["fills"] if found else {}
    names = list(dict.fromkeys(name for maps in fills.values() for name in maps))
    judged = [name for name in scores.judged if name in names]
    if not found or not judged:
        return None
    controls = [name for name in names if name not in judged]
    drawn = [removal_curves(scores, found, fill) for fill in fills]
    drawn += [
        _gain(scores, fills, judged, controls),
        *(_area(scores, fills, judged, controls, metric) for metric in AREAS),
        _halves(scores, found, judged, controls),
        _polarity(scores, fills, judged, controls),
    ]
    tables = [_removal_table(fills, [*judged, *controls])]
    if above := found.get("above"):
        tables.insert(0, removal_above(above, judged))
    lead = _removal_lead(scores, found, judged, controls)
    return Section("faithfulness", "Do the places it marks matter to the network?", lead, drawn, tables)


def _group(
    scores: ScoreRecord,
    name: tuple[str, ...],
    maps: Maps,
    judged: Sequence[str],
    controls: Sequence[str],
    read: Callable[[Mapping[str, Any]], Estimate | None],
    sign: int = 1,
) -> DotGroup:
    """Rows of one fill; the best control of the first source has the greatest value times ``sign``."""
    mine = scores.controls_of.get(judged[0], controls)
    colours = source_colours(scores.judged, scores.own)
    grey = [(source_label(one), read(maps[one])) for one in controls if one in maps]
    compared = {source_label(one) for one in mine}
    known = {one: sign * value[0] for one, value in grey if value is not None and one in compared}
    shown = [(source_label(one), colours[one], read(maps[one]) if one in maps else None) for one in judged]
    return DotGroup(name, shown, grey, max(known, key=known.__getitem__) if known else None)


def _legend(scores: ScoreRecord, judged: Sequence[str]) -> list[tuple[str, str, str]]:
    colours = source_colours(scores.judged, scores.own)
    return [*((source_label(name), colours[name], "dot") for name in judged), ("controls", CONTROL, "ring")]


def _gain(scores: ScoreRecord, fills: Mapping[str, Maps], judged: Sequence[str], controls: Sequence[str]) -> Figure:
    groups = [_group(scores, (fill_label(fill),), maps, judged, controls, lambda one: one["srg"]) for fill, maps in fills.items()]
    svg = dot_chart("SRG, the area between the curves", groups, PLAIN, legend=_legend(scores, judged), line=0.0, missing="none")
    return Figure(
        svg,
        "Symmetric relevance gain: area under the dashed curve less that under the solid one. A map that knows nothing of the "
        "image has 0 "
        "on average; a bright centre, or edges, gain where the objects are, without the network.",
    )


AREAS = {
    "deletion": (-1, "under the solid curves", "Area under the solid curves: the lower, the sooner the answer goes with the cells "
                 "that are marked most. How low it can be is the doing of the fill and the network as well: by itself, without the "
                 "controls beside it, it says nothing of the map."),
    "insertion": (1, "under the dashed curves", "Area under the dashed curves. Read backwards, they show the cells that are marked "
                  "most coming first onto what the fill leaves of the image: the higher, the sooner the answer is there. It does "
                  "not rank maps of different grain: cells that lie scattered show more of anything than a patch, and a map "
                  "without any order gains here what it loses in deletion."),
}  # fmt: skip
"""By metric: whether more is better, which area it is, and the sentence under its figure."""


def _area(scores: ScoreRecord, fills: Mapping[str, Maps], judged: Sequence[str], controls: Sequence[str], metric: str) -> Figure:
    sign, under, sentence = AREAS[metric]
    groups = [
        _group(scores, (fill_label(fill),), maps, judged, controls, lambda one: one[metric], sign) for fill, maps in fills.items()
    ]
    svg = dot_chart(f"{metric}, the area {under}", groups, AREA, legend=_legend(scores, judged), bounds=(0.0, 1.0), missing="none")
    return Figure(svg, sentence)


def _halves(scores: ScoreRecord, found: Mapping[str, Any], judged: Sequence[str], controls: Sequence[str]) -> Figure:
    fill = MAIN_FILL if MAIN_FILL in found["fills"] else next(iter(found["fills"]))
    maps, whole = found["fills"][fill], found.get("accuracy")

    def removed(kind: str) -> Callable[[Mapping[str, Any]], Estimate | None]:
        return lambda one: one[f"{kind}_removed"].get(HALF)

    groups = [
        _group(scores, (f"{kind} half", "removed"), maps, judged, controls, removed(kind), sign)
        for kind, sign in (("attended", -1), ("unattended", 1))
    ]
    svg = dot_chart(
        f"accuracy, half filled {fill_words(fill)}", groups, PERCENT, legend=_legend(scores, judged), bounds=(0.0, 1.0),
        line=whole[0] if whole else None, missing="none",
    )  # fmt: skip
    line = f" (the line: {PERCENT.number(whole[0])}\u00a0% on whole images)" if whole else ""
    return Figure(
        svg,
        f"With the more attended half gone a faithful map leaves little accuracy, with the other half gone nearly all{line}. "
        "Filled images "
        "are unlike those of training: part of a loss is the fill’s doing.",
    )


def _polarity(scores: ScoreRecord, fills: Mapping[str, Maps], judged: Sequence[str], controls: Sequence[str]) -> Figure:
    groups = [
        _group(scores, (fill_label(fill),), maps, judged, controls, lambda one: one["polarity"]) for fill, maps in fills.items()
    ]
    svg = dot_chart("polarity", groups, PERCENT, legend=_legend(scores, judged), bounds=(0.0, 1.0), line=0.5, missing="none")
    return Figure(
        svg,
        "Share of images that lose more when the most attended quarter goes than when the least attended one goes; the line is "
        "chance. It "
        "says which end of the map matters, not how much.",
    )


def _removal_lead(scores: ScoreRecord, found: Mapping[str, Any], judged: Sequence[str], controls: Sequence[str]) -> str:
    first, said = judged[0], ""
    paired: list[Estimate] = []
    for fill, maps in found["fills"].items():
        best = found.get("above", {}).get(fill, {}).get(first, {}).get("srg", {})
        mine, control, difference = maps.get(first, {}).get("srg"), best.get("control"), best.get("difference")
        if mine is None or control is None or difference is None:
            continue
        paired.append(difference)
        if fill == MAIN_FILL or not said:
            said = f"filled {fill_words(fill)}, {who_is(scores.own, first)} has an SRG of {PLAIN.estimate(mine)}, "
            said += f"{PLAIN.estimate(difference)} more than the best control, {control_words(control)}"
    if not said:
        known = "; the file has no differences from the controls, so score the run again" if controls else ""
        return f"Cells of {found['n']:,} images were removed in the order of each map{known}."
    if found["n"] < LEAST:
        return f"Too few images to say: {found['n']:,}. {said[0].upper()}{said[1:]}."
    above, below = sum(one[1] > 0 for one in paired), sum(one[2] < 0 for one in paired)
    opening = "Yes" if above == len(paired) else "No" if below == len(paired) else "In part" if above else "Not shown"
    verdict = f"image by image it is above its best control with {above} of {len(paired)} fills"
    verdict += f", below with {below}" if below else ""
    return f"{opening}: {said}; {verdict}. Measured on {found['n']:,} images."


def _removal_table(fills: Mapping[str, Maps], names: Sequence[str]) -> Table:
    shares = list(next(iter(next(iter(fills.values())).values()))["attended_removed"])
    columns = ["map", "filled with", "deletion", "insertion", "SRG", "polarity, %"]
    columns += [f"accuracy, {kind} {share} removed, %" for kind in ("attended", "unattended") for share in shares]
    rows = []
    for name in names:
        for fill, maps in fills.items():
            if name in maps:
                one = maps[name]
                cells = [AREA.estimate(one["deletion"]), AREA.estimate(one["insertion"]), PLAIN.estimate(one["srg"])]
                cells.append(BARE.estimate(one["polarity"]))
                cells += [
                    BARE.estimate(one[f"{kind}_removed"].get(share)) for kind in ("attended", "unattended") for share in shares
                ]
                rows.append([source_label(name), fill_label(fill), *cells])
    note = "Deletion: the lower, the better; insertion and SRG: the higher. With the attended part removed low accuracy is good."
    return Table("Every number of the removal", columns, rows, note, folded=True)


def _steadiness(record: RunRecord, scores: ScoreRecord) -> Section | None:
    drawn, said = [], []
    every = scores.numbers.get("sensitivity", {})
    noise = {name: values for name, values in every.items() if name in scores.judged}
    if noise:
        drawn.append(_noise(scores, {**noise, **every}))
        first, values = next(iter(noise.items()))
        if (pooled := _pooled(values)) is not None:
            who = who_is(scores.own, first)
            moved = f"Noise that no one sees moves {who} by {PERCENT.estimate(pooled)} of what another image does"
            said.append(f"{moved}{_steadier(values)}.")
    grid = scores.numbers.get("grid_pointing")
    if grid and any(name in scores.judged for name in grid["maps"]):
        drawn.append(_grid(scores, grid))
        explained = {name: value for name, value in grid["maps"].items() if name in scores.judged and name != scores.own and value}
        if explained:
            best, value = max(explained.items(), key=lambda item: item[1][0])
            verdict = "more than" if value[1] > grid["chance"] else "not shown to be more than"
            said.append(
                f"Of the explainers {source_label(best)} puts most of its map on the class it explains: {PERCENT.estimate(value)}, "
                f"{verdict} chance ({100 * grid['chance']:.0f}\u00a0%){_over(grid.get('above', {}).get(best, {}))}."
            )
    tables = [table for table in (_steady_table(scores, every, grid), _mask_table(record, scores)) if table is not None]
    if not drawn and not tables:
        return None
    return Section("steadiness", "Is it steady, and does it know the class?", " ".join(said), drawn, tables)


def _steady_table(scores: ScoreRecord, noise: Mapping[str, Any], grid: Mapping[str, Any] | None) -> Table | None:
    """Change by noise and grid pointing of everything that has one of the two."""
    maps = grid["maps"] if grid else {}
    names = list(dict.fromkeys([*(name for name in scores.judged if name in noise or name in maps), *noise, *maps]))
    if not names:
        return None
    rows = []
    for name in names:
        best = (grid or {}).get("above", {}).get(name, {})
        control = f" {source_label(best['control'])}" if best.get("control") else ""
        moved = _pooled(noise[name]) if name in noise else None
        least = noise.get(name, {}).get("above", {})
        steadier = POINTS.estimate(least.get("difference")) + (f" {source_label(least['control'])}" if least.get("control") else "")
        rows.append([source_label(name), BARE.estimate(moved), steadier, BARE.estimate(maps.get(name)),
                     POINTS.estimate(best.get("difference")) + control])  # fmt: skip
    note = "Noise: a map that is the same for all images has none, and the map of another image has the map’s own. Grid pointing: "
    note += "maps that do not depend on the class, the own map and its controls among them, are at chance by definition."
    note += " Above the best control more is better: of noise it is how much less the map changes than the steadiest control."
    columns = ["map", "change by noise, %", "noise, points above the best control", "grid pointing, %",
               "grid, points above the best control"]  # fmt: skip
    return Table("Noise and grids, every map", columns, rows, note, folded=True)


def _pooled(values: Mapping[str, Any]) -> Estimate | None:
    """Mean change by noise over mean change to another image; the mean of their ratios runs off where two images look alike."""
    found: Estimate | None = values.get("pooled", values["share"])
    return found


def _steadier(values: Mapping[str, Any]) -> str:
    """By how much less than the steadiest control a map changes, or more; nothing of too few images or without a control."""
    best = values.get("above", {})
    difference, control = best.get("difference"), best.get("control")
    if difference is None or control is None or values["n"] < LEAST:
        return ""
    if difference[1] <= 0 <= difference[2]:
        return f", not told apart from its steadiest control, {control_words(control)}"
    size = (abs(difference[0]), *sorted(map(abs, difference[1:])))
    sense = "less" if difference[0] > 0 else "more"
    return f", {BARE.estimate(size)} points {sense} than its steadiest control, {control_words(control)}"


def _noise(scores: ScoreRecord, noise: Mapping[str, Any]) -> Figure:
    colours = source_colours(scores.judged, scores.own)
    groups = [
        DotGroup((source_label(name),), [(source_label(name), colours.get(name, CONTROL), _pooled(one))])
        for name, one in noise.items()
        if name in scores.judged or name.partition("@")[0] != "random"  # at 100 %, which would leave no room for the others
    ]
    sigma = next(iter(noise.values()))["sigma"]
    svg = dot_chart("change of the map by noise", groups, PERCENT, bounds=(0.0, 0.1), missing="one map for all images")
    return Figure(
        svg,
        f"How far noise of {sigma:g} of 255 grey levels moves the map, as a share of how far another image moves it, both means "
        "over images: near 0 it is steady, near 100\u00a0% it is noise itself. Coarse maps are steadier than fine ones, which is "
        "no merit; controls are grey.",
    )


def _grid(scores: ScoreRecord, grid: Mapping[str, Any]) -> Figure:
    colours = source_colours(scores.judged, scores.own)
    order = [name for name in scores.judged if name in grid["maps"]] + [name for name in grid["maps"] if name not in scores.judged]
    groups = [
        DotGroup((source_label(name),), [(source_label(name), colours.get(name, CONTROL), grid["maps"][name])]) for name in order
    ]
    least = min([value[0] for value in grid["maps"].values() if value] + [grid["chance"]])
    svg = dot_chart(
        "share of the map in the right tile of four",
        groups,
        PERCENT,
        bounds=(min(0.2, least), 0.3),
        line=grid["chance"],
        missing="none",
    )
    images = f" made of {grid['images']:,} images" if "images" in grid else ""
    own = " The own map does not depend on the class asked for and is at chance by construction: no fault." if scores.own else ""
    return Figure(
        svg,
        f"Grid pointing: {grid['n']:,} grids of four images{images}, and how much of the map lies in the tile of the class it "
        "explains; "
        f"the line is chance.{own} It does not say where in the tile.",
    )


def _over(best: Mapping[str, Any]) -> str:
    difference, control = best.get("difference"), best.get("control")
    if difference is None or control is None:
        return ""
    return f", {POINTS.estimate(difference)} points above its best control, {control_words(control)}"


def _mask_table(record: RunRecord, scores: ScoreRecord) -> Table | None:
    """Localisation on the images of this file, unless the evaluation's section shows all that is judged already."""
    found = scores.numbers.get("localization")
    if not found:
        return None
    shown = [_plain(name) for name in ((record.evaluation or {}).get("localization") or {}).get("maps", {})]

    def known(name: str) -> bool:
        return bool(shown) if name == scores.own else any(one.startswith(_plain(source_label(name))) for one in shown)

    judged = [name for name in scores.judged if name in found["maps"]]
    above = found.get("above", {})
    if not above and all(known(name) for name in judged):
        return None
    controls = [name for name in found["maps"] if name not in judged and (above or name.casefold() in CONTROLS)]
    rows = []
    for name in [*judged, *controls]:
        cells = [PERCENT.estimate(found["maps"][name].get(measure)) for measure in MEASURES]
        rows.append([source_label(name), *cells])
        if name in above:
            best = [above[name].get(measure, {}) for measure in MEASURES]
            named = [f" {source_label(one['control'])}" if one.get("control") else "" for one in best]
            cells = [POINTS.estimate(one.get("difference")) + control for one, control in zip(best, named)]
            rows.append([f"{source_label(name)}, points above the best control", *cells])
    excluded = found.get("excluded", 0)
    left_out = f"; {excluded:,} images with an empty mask are left out" if excluded else ""
    note = f"On {found['n'] - excluded:,} images, all sources the same ones{left_out}: explainers beside controls. "
    note += "Compare within this table."
    return Table("Where the maps lie", ["map", *MEASURES.values()], rows, note)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())

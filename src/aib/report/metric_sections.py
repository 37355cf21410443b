"""Sections of a scored run: do the places a map marks matter, where do they lie, is it steady, and does it know the class?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aib.report.beside import control_row, others_ahead, versus_control
from aib.report.compare import Table
from aib.report.parts import Figure, Section
from aib.report.place_section import place_section
from aib.report.read import RunRecord
from aib.report.read_scores import LEAST, Estimate, ScoreRecord
from aib.report.removal_figures import removal_above, removal_curves
from aib.report.score_figures import BARE, PERCENT, PLAIN, POINTS, DotGroup, Form, dot_chart, score_legend, source_colours
from aib.report.score_names import control_kinds, control_words, fill_label, fill_words, source_label, who_is

__all__ = ["metric_sections"]

AREA = Form()
"""Areas under curves, in [0, 1]."""

MAIN_FILL = "blur"
"""The fill of the figures that show one, where it is there."""

HALF = "1/2"

AT_CHANCE = ("uniform", "edges", "random")
"""Maps that do not depend on the class, beside all others in grids."""

Maps = Mapping[str, Mapping[str, Any]]
"""Numbers of every map under one fill."""


def metric_sections(record: RunRecord, scores: ScoreRecord) -> list[Section]:
    """Removal of the image's parts, then masks, noise and grids; those that the file has numbers for."""
    made = (_faithfulness(scores), place_section(record, scores), _steadiness(scores))
    return [section for section in made if section is not None]


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
        _gain(scores, fills, judged),
        *(_area(scores, fills, judged, metric) for metric in AREAS),
        _halves(scores, found, judged),
        _polarity(scores, fills, judged),
    ]
    tables = [_removal_table(fills, [*judged, *controls])]
    if above := found.get("above"):
        kinds = control_kinds(name for source in judged for name in scores.compared(source, controls))
        tables.insert(0, removal_above(above, judged, kinds))
    lead = _removal_lead(scores, found, judged, controls)
    return Section("faithfulness", "Do the places it marks matter to the network?", lead, drawn, tables)


def _group(
    scores: ScoreRecord,
    name: tuple[str, ...],
    maps: Maps,
    judged: Sequence[str],
    read: Callable[[Mapping[str, Any]], Estimate | None],
    best: Callable[[str], str | None] | None = None,
    sign: int = 1,
) -> DotGroup:
    """Rows of one fill, each with its own controls; the best of them is as the file says, or the greatest times ``sign``."""
    values = {one: read(numbers) for one, numbers in maps.items()}
    rows = [control_row(scores, source, values, best(source) if best else None, sign=sign, few=_few(scores)) for source in judged]
    return DotGroup(name, rows)


def _few(scores: ScoreRecord) -> bool:
    return bool(scores.numbers["faithfulness"]["n"] < LEAST)


def _best(scores: ScoreRecord, fill: str, metric: str) -> Callable[[str], str | None]:
    """The best control of each source in one metric, as the file says."""
    above = scores.numbers["faithfulness"].get("above", {}).get(fill, {})

    def named(source: str) -> str | None:
        found: str | None = above.get(source, {}).get(metric, {}).get("control")
        return found

    return named


def _legend(scores: ScoreRecord, judged: Sequence[str]) -> list[tuple[str, str, str]]:
    colours = source_colours(scores.judged, scores.own)
    return score_legend({source_label(name): colours[name] for name in judged}, controls=True, best=True)


def _gain(scores: ScoreRecord, fills: Mapping[str, Maps], judged: Sequence[str]) -> Figure:
    groups = [
        _group(scores, (fill_label(fill),), maps, judged, lambda one: one["srg"], _best(scores, fill, "srg"))
        for fill, maps in fills.items()
    ]
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


def _area(scores: ScoreRecord, fills: Mapping[str, Maps], judged: Sequence[str], metric: str) -> Figure:
    sign, under, sentence = AREAS[metric]
    groups = [
        _group(scores, (fill_label(fill),), maps, judged, lambda one: one[metric], _best(scores, fill, metric), sign)
        for fill, maps in fills.items()
    ]
    svg = dot_chart(f"{metric}, the area {under}", groups, AREA, legend=_legend(scores, judged), bounds=(0.0, 1.0), missing="none")
    return Figure(svg, sentence)


def _halves(scores: ScoreRecord, found: Mapping[str, Any], judged: Sequence[str]) -> Figure:
    fill = MAIN_FILL if MAIN_FILL in found["fills"] else next(iter(found["fills"]))
    maps, whole = found["fills"][fill], found.get("accuracy")

    def removed(kind: str) -> Callable[[Mapping[str, Any]], Estimate | None]:
        return lambda one: one[f"{kind}_removed"].get(HALF)

    groups = [
        _group(scores, (f"{kind} half", "removed"), maps, judged, removed(kind), _best(scores, fill, f"{kind}_removed"), sign)
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


def _polarity(scores: ScoreRecord, fills: Mapping[str, Maps], judged: Sequence[str]) -> Figure:
    groups = [
        _group(scores, (fill_label(fill),), maps, judged, lambda one: one["polarity"], _best(scores, fill, "polarity"))
        for fill, maps in fills.items()
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
    above = {source: _gains(found, source) for source in judged}
    for fill, best in above[first].items():
        mine = found["fills"][fill].get(first, {}).get("srg")
        if mine is not None and (fill == MAIN_FILL or not said):
            said = f"filled {fill_words(fill)}, {who_is(scores.own, first)} has an SRG of {PLAIN.estimate(mine)}, "
            said += versus_control(best, AREA)
    if not said:
        known = "; the file has no differences from the controls, so score the run again" if controls else ""
        return f"Cells of {found['n']:,} images were removed in the order of each map{known}."
    if found["n"] < LEAST:
        return f"Too few images to say: {found['n']:,}. {said[0].upper()}{said[1:]}."
    differences = [best["difference"] for best in above[first].values()]
    total, ahead, behind = len(differences), sum(one[1] > 0 for one in differences), sum(one[2] < 0 for one in differences)
    opening = "Yes" if ahead == total else "No" if behind == total else "In part" if ahead else "Not shown"
    verdict = f"image by image it is above its best control with {ahead} of {total} fills"
    verdict += f", below with {behind}" if behind else ""
    counts = {
        source_label(source): f"{sum(best['difference'][1] > 0 for best in gains.values())} of {len(gains)}"
        for source, gains in above.items()
        if source != first and gains
    }
    others = others_ahead(counts, "with", "fills")
    return f"{opening}: {said}; {verdict}. {others}{' ' * bool(others)}Measured on {found['n']:,} images."


def _gains(found: Mapping[str, Any], source: str) -> dict[str, Mapping[str, Any]]:
    """By fill, the best control of a source by its SRG and the difference from it, where there is one."""
    best = {fill: sources.get(source, {}).get("srg", {}) for fill, sources in found.get("above", {}).items()}
    return {fill: one for fill, one in best.items() if one.get("difference") is not None and fill in found["fills"]}


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


def _steadiness(scores: ScoreRecord) -> Section | None:
    drawn, said = [], []
    every = scores.numbers.get("sensitivity", {})
    noise = {name: values for name, values in every.items() if name in scores.judged}
    if noise:
        drawn.append(_noise(scores, list(noise), every))
        first, values = next(iter(noise.items()))
        if (pooled := _pooled(values)) is not None:
            who = who_is(scores.own, first)
            moved = f"Noise that no one sees moves {who} by {PERCENT.estimate(pooled)} of what another image does"
            said.append(f"{moved}{_steadier(values)}.")
    grid = scores.numbers.get("grid_pointing")
    if grid and any(name in scores.judged for name in grid["maps"]):
        drawn.append(_grid(scores, grid))
        said.append(_grid_lead(scores, grid))
    table = _steady_table(scores, every, grid)
    if not drawn and table is None:
        return None
    lead = " ".join(part for part in said if part)
    return Section("steadiness", "Is it steady, and does it know the class?", lead, drawn, [] if table is None else [table])


def _blind(grid: Mapping[str, Any], name: str | None) -> bool:
    """Whether a map is at chance in every grid because it does not depend on the class; those that do have a best control."""
    value = grid["maps"].get(name)
    return value is not None and name not in grid.get("above", {}) and all(abs(end - grid["chance"]) < 1e-6 for end in value)


def _grid_lead(scores: ScoreRecord, grid: Mapping[str, Any]) -> str:
    """The greatest share of what is judged and depends on the class, beside chance and its best control."""
    maps = {name: value for name, value in grid["maps"].items() if name in scores.judged and value and not _blind(grid, name)}
    if not maps:
        return ""
    if grid["n"] < LEAST:
        return f"Too few grids to say whether a map knows the class: {grid['n']}."
    first, value = max(maps.items(), key=lambda item: item[1][0])
    who, itself = who_is(scores.own, first), "itself" if first == scores.own else "its map"
    verdict = "more than" if value[1] > grid["chance"] else "less than" if value[2] < grid["chance"] else "not told apart from"
    said = f"{who} puts {PERCENT.estimate(value)} of {itself} on the class it explains, {verdict} chance"
    said = f"Of the maps that depend on the class {said}" if len(maps) > 1 else f"{said[0].upper()}{said[1:]}"
    beside = versus_control(grid.get("above", {}).get(first, {}), BARE, " points")
    more = ", more than the others" if len(maps) > 1 else ""
    return f"{said} ({100 * grid['chance']:.0f}\u00a0%){more}{', ' if beside else ''}{beside}."


def _steady_table(scores: ScoreRecord, noise: Mapping[str, Any], grid: Mapping[str, Any] | None) -> Table | None:
    """Change by noise and grid pointing of everything that has one of the two."""
    maps = grid["maps"] if grid else {}
    names = list(dict.fromkeys([*(name for name in scores.judged if name in noise or name in maps), *noise, *maps]))
    if not names:
        return None
    rows = []
    for name in names:
        best = (grid or {}).get("above", {}).get(name, {})
        control = f"\n{source_label(best['control'].partition('@')[0])}" if best.get("control") else ""
        moved = _pooled(noise[name]) if name in noise else None
        least = noise.get(name, {}).get("above", {})
        steadier = POINTS.estimate(least.get("difference")) + (
            f"\n{source_label(least['control'].partition('@')[0])}" if least.get("control") else ""
        )
        rows.append([source_label(name), BARE.estimate(moved), steadier, BARE.estimate(maps.get(name)),
                     POINTS.estimate(best.get("difference")) + control])  # fmt: skip
    note = "Noise: a map that is the same for all images has none, and the map of another image has the map’s own. Grid pointing: "
    note += "maps that do not depend on the class are at chance by definition. Above the best control more is better: of noise it "
    note += "is how much less the map changes than the steadiest control."
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


def _noise(scores: ScoreRecord, judged: Sequence[str], noise: Mapping[str, Any]) -> Figure:
    values = {
        name: _pooled(one)
        for name, one in noise.items()
        if name in judged or name.partition("@")[0] != "random"  # at 100 %, which would leave no room for the others
    }

    def least(name: str) -> str | None:
        found: str | None = noise[name].get("above", {}).get("control")
        return found

    groups = [DotGroup((source_label(name),), [control_row(scores, name, values, least(name), sign=-1)]) for name in judged]
    sigma = noise[judged[0]]["sigma"]
    svg = dot_chart("change of the map by noise", groups, PERCENT, legend=score_legend({}, controls=True, best=True),
                    bounds=(0.0, 0.1), missing="one map for all images")  # fmt: skip
    return Figure(
        svg,
        f"How far noise of {sigma:g} of 255 grey levels moves the map, as a share of how far another image moves it, both means "
        "over images: near 0 it is steady, near 100\u00a0% it is noise itself. Coarse maps are steadier than fine ones, which is "
        "no merit.",
    )


def _grid(scores: ScoreRecord, grid: Mapping[str, Any]) -> Figure:
    judged = [name for name in scores.judged if name in grid["maps"]]
    above, few = grid.get("above", {}), grid["n"] < LEAST

    def group(name: str) -> DotGroup:
        best = above.get(name, {}).get("control")
        sign = int(not _blind(grid, name))  # of maps that are all at chance none is the best
        return DotGroup((source_label(name),), [control_row(scores, name, grid["maps"], best, sign=sign, few=few, also=AT_CHANCE)])

    groups = [group(name) for name in judged]
    svg = dot_chart(
        "share of the map in the right tile of four",
        groups,
        PERCENT,
        legend=score_legend({}, controls=True, best=True),
        bounds=(0.0, 0.5),
        line=grid["chance"],
        missing="none",
    )
    images = f" made of {grid['images']:,} images" if "images" in grid else ""
    own = " The own map does not depend on the class asked for and is at chance by construction: no fault."
    own = own if _blind(grid, scores.own) else ""
    return Figure(
        svg,
        f"Grid pointing: {grid['n']:,} grids of four images{images}, and how much of the map lies in the tile of the class it "
        "explains; "
        f"the line is chance.{own} It does not say where in the tile.",
    )

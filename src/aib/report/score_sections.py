"""Sections of a scored run: does the map stay when the image changes, and does it know what was learned?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aib.report import figures
from aib.report.bit_sections import bit_sections
from aib.report.compare import Table
from aib.report.cosine_table import mean_cosines
from aib.report.edited_gallery import edited_pictures
from aib.report.metric_sections import metric_sections
from aib.report.parts import Figure, Section
from aib.report.read import RunRecord
from aib.report.read_scores import LEAST, QUOTED, Estimate, Key, ScoreRecord
from aib.report.sanity_section import sanity_section
from aib.report.score_figures import (
    BARE,
    PERCENT,
    POINTS,
    DotGroup,
    Line,
    curve_chart,
    dot_chart,
    source_colours,
)
from aib.report.score_names import control_words, edit_label, edit_lines, source_label, who_is
from aib.report.style import ACCENT, CONTROL

__all__ = ["score_sections"]

KNOWS = "which knows nothing of the image or has not learned"
"""What controls have in common: maps made without the network, of another image, or from random weights."""

RADII = 3
"""Radii that make a curve."""


def score_sections(record: RunRecord) -> list[Section]:
    """All sections that the scores of the run have numbers for, in the order of the page."""
    scores = record.scores
    if scores is None:
        return []
    made = [_score(scores), _sweep(scores), _pictures(scores), sanity_section(scores)]
    return [section for section in made if section is not None] + metric_sections(record, scores) + bit_sections(scores)


def _score(scores: ScoreRecord) -> Section | None:
    edits = scores.edits() or list(dict.fromkeys((edit, size) for _, edit, size in scores.rows))
    if not edits or not scores.scored:
        return None
    drawn = [_dots(scores, edits, "score"), _dots(scores, edits, "excess")]
    if scores.above:
        drawn.append(_above_dots(scores, edits))
    return Section("score", "Does the map stay when the image changes?", _lead(scores), drawn, _score_tables(scores, edits))


def _lead(scores: ScoreRecord) -> str:
    first = scores.scored[0]
    if not scores.above:
        return (
            "These scores stand without controls. A map that never changes scores 100\u00a0%, so by themselves they do not show "
            "that "
            f"{who_is(scores.own, first)} means anything."
        )
    text = _verdict(scores, first)
    counts: list[str] = []
    for source in scores.scored[1:]:
        found = _compared(scores, source)
        does = "" if counts else " stays more than it"
        counts.append(f"{source_label(source)}{does} under {len(found.above)} of {found.total}")
    return text + (f" Of the explainers, {', '.join(counts)}." if counts else "")


Difference = tuple[str, str, Estimate]
"""Label of an edit, the best control under it, and how far the source stands above that."""


@dataclass(frozen=True)
class _Compared:
    """Edits under which a source stands above its best control, below it, or is not told from it, those with too few images to
    say, and those without a value."""

    above: Sequence[Difference]
    below: Sequence[Difference]
    between: Sequence[Difference]
    few: Sequence[str]
    missing: Sequence[str]

    @property
    def total(self) -> int:
        return len(self.above) + len(self.below) + len(self.between)


def _compared(scores: ScoreRecord, source: str) -> _Compared:
    known: list[Difference] = []
    few, missing = [], []
    for edit in scores.edits():
        control, difference = scores.over_control((source, *edit))
        if difference is None or control is None:
            missing.append(edit_label(*edit))
        elif scores.above[source, *edit]["unchanged"] < LEAST:
            few.append(edit_label(*edit))
        else:
            known.append((edit_label(*edit), control, difference))
    above = [one for one in known if one[2][1] > 0]
    below = sorted((one for one in known if one[2][2] < 0), key=lambda one: one[2][0])
    return _Compared(above, below, [one for one in known if one not in above and one not in below], few, missing)


def _verdict(scores: ScoreRecord, source: str) -> str:
    """The answer in plain words: more than the best control under how many edits, by how much, and where a control does better."""
    found, who = _compared(scores, source), who_is(scores.own, source)
    total = found.total
    if not total and found.few:
        return f"Too few images to say: under no edit do {LEAST} predictions stay."
    if not total:
        return "It cannot be said: no prediction stays under any edit, so there is nothing to score."
    points = sorted(100 * difference[0] for _, _, difference in found.above)
    ends = list(dict.fromkeys(f"{point:.1f}" for point in points))
    by = f"{ends[0]} to {ends[-1]} points" if len(ends) > 1 else f"{ends[0]} points" if ends else ""
    if len(found.above) == total:
        edits = "the only edit" if total == 1 else f"all {total} edits"
        text = f"Yes: under {edits} {who} stays more than the best control, {KNOWS}, by {by}."
    elif found.above:
        named = f" ({'; '.join(label for label, _, _ in found.above)})" if len(found.above) <= 2 else ""
        text = f"Only in part: under {len(found.above)} of {total} edits{named} {who} stays more than the best control, {KNOWS}, "
        text += f"by {by}."
    else:
        text = f"No: under none of {total} edits does {who} stay more than the best control, {KNOWS}."
    if found.below:
        more = [f"{label} ({control_words(control)}, by {-100 * lost[0]:.1f} points)" for label, control, lost in found.below[:2]]
        rest = f" and {len(found.below) - 2} more" if len(found.below) > 2 else ""
        text += f" Under {'; '.join(more)}{rest} the control stays more."
    if found.between:
        text += f" Under {'the other ' if found.above or found.below else ''}{len(found.between)} the two are not told apart."
    if found.few:
        text += f" Under {'; '.join(found.few)} fewer than {LEAST} predictions stay: too few images to say."
    if found.missing:
        text += f" Under {'; '.join(found.missing)} no prediction stays, so nothing is scored."
    return text


def _value(scores: ScoreRecord, kind: str, source: str, edit: tuple[str, float]) -> Estimate | None:
    """On the images that all sources were scored on, where there are such."""
    row = scores.same_images.get((source, *edit)) or scores.rows.get((source, *edit), {})
    found: Estimate | None = row.get("thresholds", {}).get(QUOTED, {}).get(kind)
    return found


def _legend(scores: ScoreRecord, last: str | None) -> list[tuple[str, str, str]]:
    colours = source_colours(scores.judged, scores.own)
    entries = [(source_label(source), colours[source], "dot") for source in scores.scored]
    return entries + ([(last, CONTROL, "ring")] if last else [])


def _dots(scores: ScoreRecord, edits: Sequence[tuple[str, float]], kind: str) -> Figure:
    colours = source_colours(scores.judged, scores.own)
    groups = []
    for edit in edits:
        judged = [(source_label(source), colours[source], _value(scores, kind, source, edit)) for source in scores.scored]
        controls = [(source_label(name), _value(scores, kind, name, edit)) for name in scores.controls]
        mine = [source_label(name) for name in scores.controls_of[scores.scored[0]]]  # at the first one's resolution
        known = {name: value[0] for name, value in controls if value is not None and name in mine}
        best = max(known, key=known.__getitem__) if kind == "excess" and known else None
        groups.append(DotGroup(edit_lines(*edit), judged, controls, best))
    beside = scores.numbers.get("beside_controls")
    where = f"All on the same {beside['n']:,} images." if beside else f"On {scores.numbers['n']:,} images."
    if kind == "score":
        title = f"score at cosine {QUOTED}"
        sentence = (
            "The paper’s score: of the images whose prediction stays, the share whose map stays too (its cosine with the one "
            "before is "
            f"at least {QUOTED}). {where} It does not show that a map means anything: one that never changes has 100\u00a0%."
        )
    else:
        title = "excess over another image’s map"
        sentence = (
            "The score less the share that passes with the map of another image: maps alike for all images fall to 0. It is still "
            "no proof: an edge detector knows nothing of the network. The best control is filled, with its name and interval."
        )
    bounds = (0.0, 1.0)
    legend = _legend(scores, "controls" if any(group.controls for group in groups) else None)
    return Figure(dot_chart(title, groups, PERCENT, legend=legend, bounds=bounds), sentence)


def _above_dots(scores: ScoreRecord, edits: Sequence[tuple[str, float]]) -> Figure:
    colours = source_colours(scores.judged, scores.own)
    groups = []
    for edit in edits:
        found = {source: scores.over_control((source, *edit)) for source in scores.scored}
        judged = [(source_label(source), colours[source], found[source][1]) for source in scores.scored]
        name = next((source_label(control) for control, _ in found.values() if control is not None), None)
        at: list[tuple[str, Estimate | None]] = [("", None) if name is None else (name, (0.0, math.nan, math.nan))]
        groups.append(DotGroup(edit_lines(*edit), judged, at, name))
    sentence = (
        "The number to quote, in points: the excess less that of the best control, image by image. Right of the line the map stays "
        "more than the control named in grey, left of it less; an interval across the line shows neither. It does not say what "
        "the map shows, only that it stays with its image."
    )
    svg = dot_chart("above the best control", groups, POINTS, legend=_legend(scores, "best control"), line=0.0)
    return Figure(svg, sentence)


def _score_tables(scores: ScoreRecord, edits: Sequence[tuple[str, float]]) -> list[Table]:
    numbers = scores.numbers
    beside = numbers.get("beside_controls", {})
    rows = [
        [edit_label(*edit), source_label(source), _stays(scores.rows[source, *edit]), *_cells(scores, (source, *edit), QUOTED)]
        for source in scores.scored
        for edit in edits
        if (source, *edit) in scores.rows
    ]
    every = [
        [edit_label(*edit), source_label(source), threshold, f"{scores.rows[source, *edit]['unchanged']:,}",
         *_cells(scores, (source, *edit), threshold)]
        for source in scores.scored
        for edit in scores.every_edit() or edits
        for threshold in scores.rows.get((source, *edit), {}).get("thresholds", {})
    ]  # fmt: skip
    note = "Intervals are 95 %, over images, for each number by itself. A dash: no prediction stays. "
    if "consistency" in numbers and "beside_controls" in numbers:
        note += (
            f"The own map’s score and excess are over {numbers['consistency']['n']:,} images; explainers, and what stands above "
            "the best "
            f"control, over the {numbers['beside_controls']['n']:,} that all controls were scored on: the columns need not add up. "
        )
    if scores.same_map:
        names = ", ".join(source_label(name) for name in scores.same_map)
        note += f"Not among the controls: {names}. What is random there lies behind the map, which is the same. "
    if left := beside.get("not_recomputed"):
        names = ", ".join(source_label(name) for name in left)
        note += f"{names}: too costly to compute anew on networks with random weights; it lacks those controls."
    shared = ["score, %", "excess, %", "above the best control, points", "best control"]
    return [
        Table(f"Scores at cosine {QUOTED}", ["edit", "map", "prediction stays", *shared], rows, note),
        Table("Every cosine and every radius", ["edit", "map", "cosine", "images", *shared], every, folded=True),
        *([_control_table(scores, edits)] if scores.controls else []),
        *([cosines] if (cosines := mean_cosines(scores, edits)) else []),
    ]


def _stays(row: Mapping[str, Any]) -> str:
    share = row["unchanged_share"]
    return f"{row['unchanged']:,} of {row['n']:,}" + (f", {PERCENT.number(share[0])}{PERCENT.suffix}" if share else "")


def _cells(scores: ScoreRecord, key: Key, threshold: str) -> list[str]:
    """Score, excess, how far it stands above the best control, and which that is."""
    control, difference = scores.over_control(key, threshold)
    score, excess = (BARE.estimate(scores.estimate(kind, key, threshold)) for kind in ("score", "excess"))
    return [score, excess, POINTS.estimate(difference), "–" if None in (control, difference) else source_label(str(control))]


def _control_table(scores: ScoreRecord, edits: Sequence[tuple[str, float]]) -> Table:
    def cell(source: str, edit: tuple[str, float]) -> str:
        score, excess = (_value(scores, kind, source, edit) for kind in ("score", "excess"))
        return "–" if score is None or excess is None else f"{PERCENT.number(score[0])} / {PERCENT.number(excess[0])}"

    sources = [*scores.scored, *scores.controls, *scores.same_map]
    rows = [
        [source_label(source) + (" (same map, no control)" if source in scores.same_map else ""), *(cell(source, e) for e in edits)]
        for source in sources
    ]
    what = "; ".join(f"{source_label(name)}: {control_words(name)}" for name in scores.controls)
    caption = f"Every control: score / excess at cosine {QUOTED}, in per cent"
    return Table(caption, ["map", *(edit_label(*edit) for edit in edits)], rows, f"What they are. {what}.", folded=True)


def _sweep(scores: ScoreRecord) -> Section | None:
    if not scores.scored:
        return None
    source, drawn, said = scores.scored[0], [], []
    for name, kept in (("low frequencies", "below"), ("high frequencies", "from")):
        known = scores.same_images or scores.rows
        radii = sorted(size for one, edit, size in known if (one, edit) == (source, name))
        radii = [radius for radius in radii if _value(scores, "score", source, (name, radius)) is not None]
        if len(radii) < RADII:
            continue
        drawn.append(_sweep_figure(scores, source, name, kept, radii))
        found = {
            radius: None if scores.above.get((source, name, radius), {}).get("unchanged", 0) < LEAST
            else scores.over_control((source, name, radius))[1]
            for radius in radii
        }  # fmt: skip
        more, less = (_listed(radii, found, sign) for sign in (1, -1))
        count = f"at {more} of {len(radii)} radii, less at {less}"
        said.append(f"Of {name} alone {who_is(scores.own, source)} stays more than the best control {count}.")
    if not drawn:
        return None
    lead = "Only a part of the image’s frequencies is kept. " + " ".join(said if scores.above else [])
    return Section("sweep", "How much may the image lose?", lead.strip(), drawn)


def _listed(radii: Sequence[float], found: Mapping[float, Estimate | None], sign: int) -> str:
    """``"2 (2, 4)"``: radii where the differences are above 0 (``sign`` 1) or below (-1) with their whole interval."""
    there = [radius for radius in radii if (value := found[radius]) is not None and min(sign * value[1], sign * value[2]) > 0]
    return f"{len(there)} ({', '.join(f'{radius:g}' for radius in there)})" if there else "none"


def _sweep_figure(scores: ScoreRecord, source: str, name: str, kept: str, radii: Sequence[float]) -> Figure:
    def line(label: str, colour: str, values: Sequence[Estimate | None], dash: str | None = None, band: bool = True) -> Line:
        known = [(radius, value) for radius, value in zip(radii, values) if value is not None]
        ends = [(r, 100 * v[1], 100 * v[2]) for r, v in known if band and not math.isnan(v[1] + v[2])]
        return Line(label, colour, [(r, 100 * v[0]) for r, v in known], dash, band=ends if len(ends) > 1 else (), dots=not dash)

    bests = [scores.over_control((source, name, radius))[0] for radius in radii]
    control = [None if best is None else _value(scores, "excess", best, (name, radius)) for best, radius in zip(bests, radii)]
    own = [_value(scores, "excess", source, (name, radius)) for radius in radii]
    score = [_value(scores, "score", source, (name, radius)) for radius in radii]
    label = "own map" if source == scores.own else source_label(source)
    lines = [
        *([line("best control", CONTROL, control)] if any(value is not None for value in control) else []),
        line(f"{label}, score", ACCENT, score, "4 3", band=False),
        line(label, ACCENT, own),
    ]
    lowest = min([low for one in lines for _, low, _ in one.band] + [0.0])
    rows = {radius: scores.same_images.get((source, name, radius)) or scores.rows[source, name, radius] for radius in radii}
    stays = [(radius, f"{100 * row['unchanged_share'][0]:.0f}\u00a0%") for radius, row in rows.items() if row["unchanged_share"]]
    named = dict.fromkeys(source_label(best) for best in bests if best is not None)
    sentence = f"Excess at cosine {QUOTED}, with 95\u00a0% intervals, over the radius in cycles an image. "
    if named:
        sentence += f"The best control is chosen anew at every radius ({', '.join(named)}). "
    sentence += "Where much is lost few predictions stay, and a point says little."
    pad = 0.06 * (radii[-1] - radii[0])
    svg = curve_chart(
        f"only {name} kept: excess", lines, x_label=f"kept {kept} this radius", x=(radii[0] - pad, radii[-1] + pad),
        y=(lowest, 104.0), x_ticks=[(radius, f"{radius:g}") for radius in radii], second_ticks=("stays", stays),
    )  # fmt: skip
    return Figure(svg, sentence)


def _pictures(scores: ScoreRecord) -> Section | None:
    pictures = edited_pictures(scores, figures.colour_bar(None))
    if pictures is None:
        return None
    edited = [head for tile in pictures.tiles for head in tile.heads[1:]]
    changed = sum(head.changed for head in edited)
    images = "One image" if len(pictures.tiles) == 1 else f"{len(pictures.tiles)} images"
    lead = f"{images}, drawn at random and not chosen: as they are, then edited, with the maps below. {changed} of {len(edited)} "
    lead += "edits change the prediction; there the score does not ask the map to stay."
    return Section("edited", "Original and edited, side by side", lead, pictures=pictures)

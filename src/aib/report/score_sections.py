"""Sections of a scored run: does the map stay when the image changes, and does it know what was learned?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aib.report import figures
from aib.report.beside import control_row, others_ahead
from aib.report.bit_sections import bit_sections
from aib.report.compare import Table
from aib.report.cosine_table import mean_cosines
from aib.report.edited_gallery import edited_pictures
from aib.report.metric_sections import metric_sections
from aib.report.parts import Figure, Section
from aib.report.read import RunRecord
from aib.report.read_scores import LEAST, QUOTED, Estimate, Key, ScoreRecord
from aib.report.sanity_section import same_map_note, sanity_section
from aib.report.score_figures import (
    BARE,
    PERCENT,
    POINTS,
    DotGroup,
    DotRow,
    Form,
    dot_chart,
    score_legend,
    source_colours,
)
from aib.report.score_names import (
    control_kinds,
    control_words,
    edit_label,
    edit_lines,
    left_out_words,
    of_network,
    source_label,
    who_is,
)
from aib.report.sweep_section import PALE_ONES, sweep_section

__all__ = ["score_sections"]

OTHER = "other image"

CORRELATION = Form()


def score_sections(record: RunRecord) -> list[Section]:
    """All sections that the scores of the run have numbers for, in the order of the page."""
    scores = record.scores
    if scores is None:
        return []
    made = [_score(scores), sweep_section(scores), _pictures(scores), sanity_section(scores)]
    return [section for section in made if section is not None] + metric_sections(record, scores) + bit_sections(scores)


def _score(scores: ScoreRecord) -> Section | None:
    edits = scores.edits() or list(dict.fromkeys((edit, size) for _, edit, size in scores.rows))
    if not edits or not scores.scored:
        return None
    drawn = [_dots(scores, edits, "score"), _dots(scores, edits, "excess")]
    if scores.above:
        drawn.append(_above_dots(scores, edits))
    if any(scores.beside("correlation", source, edit) for source in scores.scored for edit in edits):
        drawn.append(_dots(scores, edits, "correlation"))
    return Section("score", "Does the map stay when the image changes?", _lead(scores), drawn, _score_tables(scores, edits))


def _lead(scores: ScoreRecord) -> str:
    first = scores.scored[0]
    if not scores.above:
        return (
            "These scores stand without controls. A map that never changes scores 100\u00a0%, so by themselves they do not show "
            "that "
            f"{who_is(scores.own, first)} means anything."
        )
    said = [_verdict(scores, first), _by_correlation(scores, first)]
    found = {source_label(source): _compared(scores, source) for source in scores.scored[1:]}
    counts = {name: f"{len(one.above)} of {one.total}" for name, one in found.items()}
    said.append(others_ahead(counts, "under", "edits"))
    names = [name for source in scores.scored for name in scores.compared(source, scores.controls)]
    said.append(control_kinds(name for name in names if name.partition("@")[0] != OTHER))  # which is in the excess itself
    return " ".join(filter(None, said))


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
        elif scores.few((source, *edit)):
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
        text = f"Yes: under {edits} {who} stays with its own image more than the best control, by {by}."
    elif found.above:
        named = f" ({'; '.join(label for label, _, _ in found.above)})" if len(found.above) <= 2 else ""
        text = f"Only in part: under {len(found.above)} of {total} edits{named} {who} stays with its own image more than the best "
        text += f"control, by {by}."
    elif len(found.below) == total:
        edits = "the only edit" if total == 1 else f"all {total} edits"
        text = f"No: under {edits} a control stays with its own image more than {who}."
    elif total == 1:
        text = f"Not shown: under the only edit {who} and the best control are not told apart."
    else:
        text = f"Not shown: under none of {total} edits does {who} stay with its own image more than the best control."
    if found.below:
        more = [f"{label} ({control_words(control)}, by {-100 * lost[0]:.1f} points)" for label, control, lost in found.below[:2]]
        rest = f" and {len(found.below) - 2} more" if len(found.below) > 2 else ""
        text += f" Under {'; '.join(more)}{rest} the control is ahead."
    if found.between and total > 1:
        text += f" Under {'the other ' if found.above or found.below else ''}{len(found.between)} the two are not told apart."
    if found.few:
        text += f" Under {'; '.join(found.few)} fewer than {LEAST} predictions stay: too few images to say."
    if found.missing:
        text += f" Under {'; '.join(found.missing)} no prediction stays, so nothing is scored."
    return text


def _by_correlation(scores: ScoreRecord, source: str) -> str:
    """The same answer by what does not depend on the map's zero; nothing where the file has no correlations."""
    found = [scores.over_correlation((source, *edit))[1] for edit in scores.edits() if not scores.few((source, *edit))]
    known = [difference for difference in found if difference is not None]
    ahead = sum(difference[1] > 0 for difference in known)
    text = f"By the correlation, which no constant added to the map changes, it is ahead under {ahead} of {len(known)}."
    return text if known else ""


def _legend(scores: ScoreRecord, controls: bool, best: bool) -> list[tuple[str, str, str]]:
    colours = source_colours(scores.judged, scores.own)
    return score_legend({source_label(one): colours[one] for one in scores.scored}, controls=controls, best=best)


def _with_few(sentence: str, groups: Sequence[DotGroup]) -> str:
    return f"{sentence} {PALE_ONES}" if any(row.few for group in groups for row in group.rows) else sentence


def _dots(scores: ScoreRecord, edits: Sequence[tuple[str, float]], kind: str) -> Figure:
    def row(source: str, edit: tuple[str, float]) -> DotRow:
        values = {name: scores.beside(kind, name, edit) for name in [source, *scores.controls]}
        read = {"excess": scores.over_control, "correlation": scores.over_correlation}.get(kind)
        best = read((source, *edit))[0] if read else None
        return control_row(scores, source, values, best, few=scores.few((source, *edit)))

    groups = [DotGroup(edit_lines(*edit), [row(source, edit) for source in scores.scored]) for edit in edits]
    beside = scores.numbers.get("beside_controls")
    where = f"All on the same {beside['n']:,} images." if beside else f"On {scores.numbers['n']:,} images."
    if kind == "score":
        title = f"score at cosine {QUOTED}"
        sentence = (
            "The paper’s score: of the images whose prediction stays, the share whose map stays too (its cosine with the one "
            "before is "
            f"at least {QUOTED}). {where} It does not show that a map means anything: one that never changes has 100\u00a0%."
        )
    elif kind == "correlation":
        title = "correlation, above that with another image’s map"
        sentence = (
            "The mean correlation of the map with the one before the edit, less that with another image’s map. Neither a constant "
            "added to the map nor a threshold changes it, so it also tells of maps that are bright nearly everywhere, whose score "
            "is 100 % and whose excess is 0. A map that does not vary has 0. It is no proof either: see the edge detector."
        )
    else:
        title = "excess over another image’s map"
        sentence = (
            "How much more often the map stays with its own image than with another: maps alike for all images fall to 0. It is no "
            "proof: an edge detector has much of it without the network. And it depends on the map’s zero: the same constant added "
            "to every value changes it, and a large one brings it to 0."
        )
    grey = any(one.controls for group in groups for one in group.rows)
    marked = any(one.best for group in groups for one in group.rows)
    form = CORRELATION if kind == "correlation" else PERCENT
    svg = dot_chart(title, groups, form, legend=_legend(scores, grey, marked), bounds=(0.0, 1.0))
    return Figure(svg, _with_few(sentence, groups))


def _above_dots(scores: ScoreRecord, edits: Sequence[tuple[str, float]]) -> Figure:
    colours = source_colours(scores.judged, scores.own)

    def row(source: str, edit: tuple[str, float]) -> DotRow:
        control, difference = scores.over_control((source, *edit))
        name = None if control is None else source_label(control)
        at = [] if name is None else [(name, (0.0, math.nan, math.nan))]
        return DotRow(source_label(source), colours[source], difference, at, name, scores.few((source, *edit)))

    groups = [DotGroup(edit_lines(*edit), [row(source, edit) for source in scores.scored]) for edit in edits]
    sentence = (
        "The number to quote, in points: the excess less that of the best control, image by image. The control is named in grey, "
        "each map’s below its own. Right of the line the map is ahead, left of it the control; an interval across the line shows "
        "neither. It does not say what the map shows, only that it stays with its image."
    )
    svg = dot_chart("above the best control", groups, POINTS, legend=_legend(scores, False, True), line=0.0)
    return Figure(svg, _with_few(sentence, groups))


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
    if scores.own is not None and "consistency" in numbers and beside:
        mine = scores.compared_on(scores.own)
        note += f"The own map’s score and excess are over {numbers['consistency']['n']:,} images, and what stands above the best "
        note += f"control is over the {mine:,} that its controls were scored on too: the columns need not add up. "
        if len(scores.scored) > 1:
            note += f"Explainers are on {beside['n']:,} images. "
    note += f"{same_map_note(scores)} "
    note += left_out_words(beside.get("not_recomputed", ()), scores.controls_of, source_label)
    shared = ["score, %", "excess, %", "above the best control, points", "control"]
    return [
        Table(f"Scores at cosine {QUOTED}", ["edit", "map", "prediction stays", *shared], rows, note.strip()),
        *_drawn_table(scores),
        Table("Every cosine and every radius", ["edit", "map", "cosine", "images", *shared], every, folded=True),
        *([_control_table(scores, edits)] if scores.controls else []),
        *([cosines] if (cosines := mean_cosines(scores, edits)) else []),
    ]


def _stays(row: Mapping[str, Any]) -> str:
    share = row["unchanged_share"]
    return f"{PERCENT.number(share[0])}{PERCENT.suffix} of {row['n']:,}" if share else f"{row['unchanged']:,} of {row['n']:,}"


def _cells(scores: ScoreRecord, key: Key, threshold: str) -> list[str]:
    """Score, excess, how far it stands above the best control, and which that is."""
    control, difference = scores.over_control(key, threshold)
    score, excess = (BARE.estimate(scores.estimate(kind, key, threshold)) for kind in ("score", "excess"))
    few = " (too few)" if scores.few(key) and difference is not None else ""
    named = "–" if None in (control, difference) else source_label(str(control).partition("@")[0])
    return [score, excess, POINTS.estimate(difference) + few, named]


def _drawn_table(scores: ScoreRecord) -> list[Table]:
    """The own map beside the controls made without the network on all images, where those are more than all controls were on."""
    whole, own = scores.numbers.get("consistency", {}).get("n", 0), scores.own or ""
    if not scores.above_drawn or "beside_controls" not in scores.numbers or whole <= scores.compared_on(own):
        return []
    rows = []
    for (_, name, size), one in scores.above_drawn.items():
        best = one["thresholds"].get(QUOTED, {}).get("excess", {})
        control, difference = best.get("control"), best.get("difference")
        shown = POINTS.estimate(difference) + (" (too few)" if difference and one["unchanged"] < LEAST else "")
        named = "–" if control is None else source_label(control)
        rows.append([edit_label(name, size), f"{one['unchanged']:,} of {whole:,}", shown, named])
    note = "More images, fewer controls: networks with random weights are not among them, so the number to quote is the one above."
    if not any(map(of_network, scores.compared(own, scores.controls))):
        note = ""
    columns = ["edit", "prediction stays", "above the best control, points", "best control"]
    return [Table(f"The own map on all {whole:,} images, beside the controls made without the network", columns, rows, note, True)]


def _control_table(scores: ScoreRecord, edits: Sequence[tuple[str, float]]) -> Table:
    def cell(source: str, edit: tuple[str, float]) -> str:
        score, excess = (scores.beside(kind, source, edit) for kind in ("score", "excess"))
        return "–" if score is None or excess is None else f"{PERCENT.number(score[0])} / {PERCENT.number(excess[0])}"

    counted = [*scores.scored, *scores.controls]
    shown = dict.fromkeys([*scores.same_map, *(source for source, _, _ in scores.same_images if source not in counted)])
    rows = [
        [source_label(source) + (" (no control)" if source in shown else ""), *(cell(source, e) for e in edits)]
        for source in [*counted, *shown]
    ]
    what = dict.fromkeys(f"{source_label(name.partition('@')[0])}: {control_words(name)}" for name in [*scores.controls, *shown])
    caption = f"Every control: score / excess at cosine {QUOTED}, in per cent"
    note = f"What they are. {'; '.join(what)}."
    return Table(caption, ["map", *(edit_label(*edit) for edit in edits)], rows, note, folded=True)


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

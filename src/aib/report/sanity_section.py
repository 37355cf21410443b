"""The section of a scored run on the sanity check: do the maps know what was learned?"""

from __future__ import annotations

from collections.abc import Mapping

from aib.report.parts import Figure, Section
from aib.report.read_scores import LEAST, Estimate, ScoreRecord
from aib.report.score_figures import PLAIN, DotGroup, DotRow, dot_chart, score_legend, source_colours
from aib.report.score_names import control_words, same_map_words, source_label, who_is
from aib.report.style import ACCENT

__all__ = ["ALIKE", "same_map_note", "sanity_section"]

ALIKE = 0.5
"""Rank correlation, of either sign, from which on a map is called much the same as another."""


def sanity_section(scores: ScoreRecord) -> Section | None:
    """Rank correlation of what is judged with the same on networks with random weights, and what that says; None without any."""
    found = {name: numbers["spearman"] for name, numbers in scores.numbers.get("randomized", {}).items()}
    if not found:
        return None
    lead = " ".join(
        part for part in (*(_learned(scores, source, found) for source in scores.judged), same_map_note(scores)) if part
    )
    sentence = (
        "Rank correlation (Spearman) of each map with that of the same network with random weights, in whole or in part, a mean "
        "over images with its 95\u00a0% interval: 1 is the same order of positions, −1 the order upside down, 0 nothing in common. "
        "A value near 0 shows that training made the map, not that the map is right."
    )
    groups = _groups(scores, found)
    colours = source_colours(scores.judged, scores.own)
    shown = [source for source in scores.judged if any(row.name == source_label(source) for group in groups for row in group.rows)]
    legend = score_legend({source_label(source): colours[source] for source in shown})
    svg = dot_chart("rank correlation with the trained map", groups, PLAIN, legend=legend, bounds=(-1.0, 1.0), line=0.0,
                    missing="a constant map")  # fmt: skip
    return Section("randomised", "Does the map know what was learned?", lead, [Figure(svg, sentence)])


def same_map_note(scores: ScoreRecord) -> str:
    """`same_map_words` of the networks in the file."""
    known = {name: one["spearman"] for name, one in scores.numbers.get("randomized", {}).items()}
    return same_map_words(scores.same_map, {name: value[0] for name, value in known.items() if value}, source_label)


def _groups(scores: ScoreRecord, found: Mapping[str, Estimate | None]) -> list[DotGroup]:
    """One for each way in which weights are random, with a row for each source."""
    colours = source_colours(scores.judged, scores.own)
    rows: dict[str, list[DotRow]] = {}
    for name, value in found.items():
        kind, _, source = name.partition("@")
        source = source or scores.own or ""
        note = "no control" if name in scores.same_map else ""
        row = DotRow(source_label(source), colours.get(source, ACCENT), value, few=_few(scores, name), note=note)
        rows.setdefault(kind, []).append(row)
    return [DotGroup((source_label(kind),), mine) for kind, mine in rows.items()]


def _few(scores: ScoreRecord, name: str) -> bool:
    return bool(scores.numbers["randomized"][name].get("n", LEAST) < LEAST)


def _learned(scores: ScoreRecord, source: str, found: Mapping[str, Estimate | None]) -> str:
    """The answer for one source: the most alike of all its networks, those of the cascade too, but where the map is the same.

    Upside down is alike, too: the places are the same, and what is bright in one is dark in the other.
    """
    suffix = "" if source == scores.own else f"@{source}"
    mine = {
        name.removesuffix(suffix): value for name, value in found.items() if name.endswith(suffix) and name not in scores.same_map
    }
    known = {name: value for name, value in mine.items() if value is not None and "@" not in name}
    if not known:
        return ""
    most = max(known, key=lambda name: abs(known[name][0]))
    text, who = f"rank correlation {PLAIN.estimate(known[most])}", who_is(scores.own, source)
    if _few(scores, most + suffix):
        return f"Too few images to say for {who}: fewer than {LEAST}. The most alike is that of {control_words(most)}, {text}."
    # the own map is made by its attention alone, an explainer's by all of the network
    partly = [name for name in known if name.startswith("last ") or (name.startswith("attention") and source != scores.own)]
    if abs(known[most][0]) < ALIKE:
        return f"Yes: with random weights {who} is another map. The most alike is that of {control_words(most)}, {text}."
    alike = "much as it is" if known[most][0] > 0 else "much as it is but upside down"
    others = {name: value for name, value in known.items() if name not in partly}
    if most in partly and (not others or max(abs(value[0]) for value in others.values()) < ALIKE):
        rest = "; with all weights random it is another" if others else ""
        return f"In part: {control_words(most)} gives {who} {alike}, {text}{rest}."
    shows = "It shows the image and the architecture then, not what was learned."
    if known[most][0] < 0:
        shows = "Its places show the image and the architecture then; only which of them are bright was learned."
    return f"Hardly: {control_words(most)} gives {who} {alike}, {text}. {shows}"

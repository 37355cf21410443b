"""The section of a scored run on the sanity check: do the maps know what was learned?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aib.report.parts import Figure, Section
from aib.report.read_scores import LEAST, ScoreRecord
from aib.report.score_figures import PLAIN, DotGroup, DotRow, dot_chart, score_legend, source_colours
from aib.report.score_names import control_words, same_map_words, source_label, who_is
from aib.report.style import ACCENT

__all__ = ["ALIKE", "same_map_note", "sanity_section"]

ALIKE = 0.5
"""Rank correlation, of either sign, from which on a map is called much the same as another."""

COUNTS = {2: "two", 3: "three", 4: "four", 5: "five"}


def sanity_section(scores: ScoreRecord) -> Section | None:
    """Rank correlation of what is judged with the same on networks with random weights, and what that says; None without any."""
    found: Mapping[str, Mapping[str, Any]] = scores.numbers.get("randomized", {})
    if not found:
        return None
    lead = " ".join(
        part for part in (*(_learned(scores, source, found) for source in scores.judged), same_map_note(scores)) if part
    )
    draws = max(len(_draws(numbers)) for numbers in found.values())
    mean = "a mean over images with its 95\u00a0% interval"
    if draws:
        times = COUNTS.get(draws, str(draws))
        mean = (
            f"for {times} draws of the weights (the rings) and on average (the dot, with its 95\u00a0% interval over images, which "
        )
        mean += "holds for these draws)"
    sentence = (
        f"Rank correlation (Spearman) of each map with that of the same network with random weights, in whole or in part, {mean}: "
        "1 is the same order of positions, −1 the order upside down, 0 nothing in common. A value near 0 shows that training made "
        "the map, not that the map is right."
    )
    groups = _groups(scores, found)
    colours = source_colours(scores.judged, scores.own)
    shown = [source for source in scores.judged if any(row.name == source_label(source) for group in groups for row in group.rows)]
    legend = score_legend({source_label(source): colours[source] for source in shown})
    legend += [("one draw of the weights", colours[shown[0]], "ring")] if draws and shown else []
    svg = dot_chart("rank correlation with the trained map", groups, PLAIN, legend=legend, bounds=(-1.0, 1.0), line=0.0,
                    missing="a constant map")  # fmt: skip
    return Section("randomised", "Does the map know what was learned?", lead, [Figure(svg, sentence)])


def same_map_note(scores: ScoreRecord) -> str:
    """`same_map_words` of the networks in the file."""
    known = {name: one["spearman"] for name, one in scores.numbers.get("randomized", {}).items()}
    return same_map_words(scores.same_map, {name: value[0] for name, value in known.items() if value}, source_label)


def _draws(numbers: Mapping[str, Any]) -> list[float]:
    """Rank correlations of the single draws of random weights; of older files, and where there is one draw only, none."""
    known = [value for value in numbers.get("draws", ()) if value is not None]
    return known if len(known) > 1 else []


def _groups(scores: ScoreRecord, found: Mapping[str, Mapping[str, Any]]) -> list[DotGroup]:
    """One for each way in which weights are random, with a row for each source."""
    colours = source_colours(scores.judged, scores.own)
    rows: dict[str, list[DotRow]] = {}
    for name, numbers in found.items():
        kind, _, source = name.partition("@")
        source = source or scores.own or ""
        note = "no control" if name in scores.same_map else ""
        row = DotRow(source_label(source), colours.get(source, ACCENT), numbers["spearman"], few=_few(numbers), note=note,
                     parts=_draws(numbers))  # fmt: skip
        rows.setdefault(kind, []).append(row)
    return [DotGroup((source_label(kind),), mine) for kind, mine in rows.items()]


def _few(numbers: Mapping[str, Any]) -> bool:
    return bool(numbers.get("n", LEAST) < LEAST)


def _learned(scores: ScoreRecord, source: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """The answer for one source: the most alike of all draws of all its networks, those of the cascade too, but where the map is
    the same.

    Upside down is alike, too: the places are the same, and what is bright in one is dark in the other. So the mean over draws, of
    which some are one way up and some the other, would hide both.
    """
    suffix = "" if source == scores.own else f"@{source}"
    mine = {
        name.removesuffix(suffix): numbers
        for name, numbers in found.items()
        if name.endswith(suffix) and name not in scores.same_map and numbers["spearman"] is not None
    }
    known = {name: _draws(numbers) or [numbers["spearman"][0]] for name, numbers in mine.items() if "@" not in name}
    if not known:
        return ""
    extent = {name: max(map(abs, values)) for name, values in known.items()}
    most = max(known, key=extent.__getitem__)
    text, who = _correlation(mine[most], extent[most] >= ALIKE), who_is(scores.own, source)
    if _few(mine[most]):
        text = _correlation(mine[most])
        return f"Too few images to say for {who}: fewer than {LEAST}. The most alike is that of {control_words(most)}, {text}."
    if extent[most] < ALIKE:
        return f"Yes: with random weights {who} is another map. The most alike is that of {control_words(most)}, {text}."
    # the own map is made by its attention alone, an explainer's by all of the network
    partly = [name for name in known if name.startswith("last ") or (name.startswith("attention") and source != scores.own)]
    up, down = max(known[most]) >= ALIKE, min(known[most]) <= -ALIKE
    alike = "much as it is" + (" or upside down" if up and down else " but upside down" if down else "") + _share(known[most])
    others = [extent[name] for name in known if name not in partly]
    if most in partly and (not others or max(others) < ALIKE):
        rest = "; with all weights random it is another" if others else ""
        return f"In part: {control_words(most)} gives {who} {alike}, {text}{rest}."
    shows = "It shows the image and the architecture then, not what was learned."
    if down:
        shows = "Its places show the image and the architecture then; only which of them are bright was learned."
    return f"Hardly: {control_words(most)} gives {who} {alike}, {text}. {shows}"


def _share(values: Sequence[float]) -> str:
    """In how many of several draws the map is alike."""
    count = sum(abs(value) >= ALIKE for value in values)
    return f" in {count} of {len(values)} draws of its weights" if len(values) > 1 else ""


def _correlation(numbers: Mapping[str, Any], counted: bool = False) -> str:
    """The mean with its interval, and the ends of the draws that it is over, which are said before where they are ``counted``."""
    text, draws = f"rank correlation {PLAIN.estimate(numbers['spearman'])}", _draws(numbers)
    if not draws:
        return text
    over = "" if counted else f" over {COUNTS.get(len(draws), len(draws))} draws of its weights"
    return f"{text} on average, {PLAIN.number(min(draws))} to {PLAIN.number(max(draws))}{over}"

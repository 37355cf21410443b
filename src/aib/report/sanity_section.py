"""The section of a scored run on the sanity check: do the maps know what was learned?"""

from __future__ import annotations

from collections.abc import Mapping

from aib.report.parts import Figure, Section
from aib.report.read_scores import Estimate, ScoreRecord
from aib.report.score_figures import PLAIN, DotGroup, dot_chart
from aib.report.score_names import control_words, source_label, who_is
from aib.report.style import ACCENT

__all__ = ["ALIKE", "sanity_section"]

ALIKE = 0.5
"""Rank correlation from which on a map is called much the same as another."""


def sanity_section(scores: ScoreRecord) -> Section | None:
    """Rank correlation of what is judged with the same on networks with random weights, and what that says; None without any."""
    found = {name: numbers["spearman"] for name, numbers in scores.numbers.get("randomized", {}).items()}
    if not found:
        return None
    groups = [
        DotGroup((source_label(name), *(("same map",) if name in scores.same_map else ())), [(source_label(name), ACCENT, value)])
        for name, value in found.items()
    ]
    lead = " ".join(_learned(scores, source, found) for source in scores.judged)
    if scores.same_map:
        names = ", ".join(source_label(name) for name in scores.same_map)
        lead += f" What is random in {names} lies behind the map, which is the same: they are no controls."
    sentence = (
        "Rank correlation (Spearman) of the run’s map with that of the same network with parts of it untrained, a mean over "
        "images with "
        "its 95\u00a0% interval: 1 is the same order of positions, 0 nothing in common. A low value shows that training made the "
        "map, not "
        "that the map is right."
    )
    svg = dot_chart("rank correlation with the trained map", groups, PLAIN, bounds=(-1.0, 1.0), line=0.0, missing="a constant map")
    return Section("randomised", "Does the map know what was learned?", lead.strip(), [Figure(svg, sentence)])


def _learned(scores: ScoreRecord, source: str, found: Mapping[str, Estimate | None]) -> str:
    """The answer for one source: the most alike of all its networks, those of the cascade too, but where the map is the same."""
    suffix = "" if source == scores.own else f"@{source}"
    mine = {
        name.removesuffix(suffix): value for name, value in found.items() if name.endswith(suffix) and name not in scores.same_map
    }
    known = {name: value for name, value in mine.items() if value is not None and "@" not in name}
    if not known:
        return ""
    most = max(known, key=lambda name: known[name][0])
    text, who = f"rank correlation {PLAIN.estimate(known[most])}", who_is(scores.own, source)
    # the own map is made by its attention alone, an explainer's by all of the network
    partly = [name for name in known if name.startswith("last ") or (name.startswith("attention") and source != scores.own)]
    if known[most][0] < ALIKE:
        return f"Yes: with random weights {who} is another map. The most alike is that of {control_words(most)}, {text}."
    others = {name: value for name, value in known.items() if name not in partly}
    if most in partly and (not others or max(value[0] for value in others.values()) < ALIKE):
        return f"In part: {control_words(most)} gives {who} much as it is, {text}; with all weights random it is another."
    return (
        f"Hardly: {control_words(most)} gives {who} much as it is, {text}. It shows the image and the architecture then, not what "
        "was learned."
    )

"""The scores of several runs' own maps side by side."""

from __future__ import annotations

from collections.abc import Sequence

from aib.report.compare import Table
from aib.report.parts import Figure, Section
from aib.report.read import RunRecord
from aib.report.read_scores import LEAST, QUOTED, Estimate, ScoreRecord
from aib.report.score_figures import BARE, PERCENT, POINTS, DotGroup, DotRow, Form, dot_chart
from aib.report.score_names import edit_label, edit_lines
from aib.report.style import SERIES
from aib.report.sweep_section import PALE_ONES

__all__ = ["score_comparison"]


def score_comparison(labels: Sequence[str], records: Sequence[RunRecord]) -> Section | None:
    """Score, and excess and correlation above the best control, of each run's own map; None unless two runs have them.

    Args:
        labels: names of the runs on the page.
        records: the runs.
    """
    scored = {label: record.scores for label, record in zip(labels, records) if record.scores is not None}
    scored = {label: scores for label, scores in scored.items() if scores.own is not None and scores.edits()}
    if len(scored) < 2:
        return None
    edits = list(dict.fromkeys(edit for scores in scored.values() for edit in scores.edits()))
    colours = {label: SERIES[index % len(SERIES)] for index, label in enumerate(scored)}
    legend = [(label if len(label) <= 40 else label[:39] + "…", colour, "dot") for label, colour in colours.items()]

    def row(label: str, scores: ScoreRecord, edit: tuple[str, float], kind: str) -> DotRow:
        return DotRow(label, colours[label], _estimate(scores, edit, kind), few=scores.few((scores.own or "", *edit)))

    def groups(kind: str) -> list[DotGroup]:
        return [DotGroup(edit_lines(*edit), [row(label, scores, edit, kind) for label, scores in scored.items()]) for edit in edits]

    def above(title: str, kind: str, form: Form) -> str:
        return dot_chart(title, groups(kind), form, legend=legend, line=0.0, missing="no value")

    score = dot_chart(f"score at cosine {QUOTED}", groups("score"), PERCENT, legend=legend, bounds=(0.0, 1.0), missing="no value")
    drawn = [
        Figure(
            score,
            "Of the images whose prediction stays, the share whose map stays too. A map that never changes has 100 %: it does not "
            "rank runs.",
        ),
        Figure(
            above("excess above the best control", "above", POINTS),
            "How far the excess of the map stands above that of the best control of the same run. Runs are compared by this, and "
            f"intervals cover the choice of images only, not other seeds. {PALE_ONES}",
        ),
    ]
    if any(_estimate(scores, edit, "correlation") for scores in scored.values() for edit in edits):
        drawn.append(
            Figure(
                above("correlation above the best control", "correlation", Form(signed=True)),
                "The same of the correlation with the map before the edit, less that with another image’s map. No constant "
                "added to a map changes it, so it also tells runs apart whose maps are bright nearly everywhere and whose score is "
                "100 %.",
            )
        )
    rows = [[edit_label(*edit), *(_cell(record.scores, edit) for record in records)] for edit in edits]
    rows.append(
        ["Scored on", *("–" if r.scores is None else f"{r.scores.numbers['n']:,} {r.scores.split} images" for r in records)]
    )
    note = (
        "First the score in per cent, then, in points, how far the excess stands above that of the run’s best control; with 95 % "
    )
    note += "intervals."
    table = Table(f"Own maps at cosine {QUOTED}", ["edit", *labels], rows, note)
    return Section("score", "Whose map stays?", _lead(scored), drawn, [table])


def _estimate(scores: ScoreRecord, edit: tuple[str, float], kind: str) -> Estimate | None:
    key = (scores.own or "", *edit)
    over = {"above": scores.over_control, "correlation": scores.over_correlation}.get(kind)
    return over(key)[1] if over else scores.estimate(kind, key)


def _cell(scores: ScoreRecord | None, edit: tuple[str, float]) -> str:
    if scores is None or scores.own is None:
        return "–"
    score, above = (_estimate(scores, edit, kind) for kind in ("score", "above"))
    few = " (too few)" if scores.few((scores.own, *edit)) else ""
    return BARE.estimate(score) if above is None else f"{BARE.estimate(score)}; {POINTS.estimate(above)}{few}"


def _lead(scored: dict[str, ScoreRecord]) -> str:
    parts = []
    for label, scores in scored.items():
        keys = [(scores.own or "", *edit) for edit in scores.edits()]
        known = [value for key in keys if (value := scores.over_control(key)[1]) is not None and not scores.few(key)]
        few = sum(scores.few(key) for key in keys)
        rest = f" (under {few} more fewer than {LEAST} predictions stay)" if few else ""
        parts.append(f"{label} under {sum(value[1] > 0 for value in known)} of {len(known)} edits{rest}")
    return f"The own map stands above the best control of its run: {'; '.join(parts)}."

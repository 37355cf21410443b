"""The mean cosines behind the score, which counts those above a threshold, and the mean correlations, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from aib.report.compare import Table
from aib.report.read_scores import ScoreRecord
from aib.report.score_figures import Form
from aib.report.score_names import edit_label, source_label

__all__ = ["mean_cosines"]

COSINE = Form(digits=3)
ABOVE = Form(digits=3, signed=True)


def mean_cosines(scores: ScoreRecord, edits: Sequence[tuple[str, float]]) -> Table | None:
    """Mean cosine and correlation of the edited image's map with that of the image and of another one; None where the file has
    none."""
    rows = []
    for source in scores.scored:
        for edit in edits:
            row = scores.rows.get((source, *edit), {})
            if row.get("cosine_own") is not None:
                own, other = (COSINE.estimate(row.get(f"cosine_{which}")) for which in ("own", "other"))
                correlations = [COSINE.estimate(row.get("correlation", {}).get(which)) for which in ("own", "other")]
                above = ABOVE.estimate(scores.over_correlation((source, *edit))[1])
                rows.append([edit_label(*edit), source_label(source), f"{row['unchanged']:,}", own, other, *correlations, above])
    note = "Of the edited image’s map with that of the image as it was, and with that of another image; over the images whose "
    note += "prediction stays, with 95 % intervals. Maps that are positive everywhere have a cosine near 1 with any map: only the "
    note += "distance between the two columns says that a map stays with its own image. The correlation is the cosine of the maps "
    note += "less their means; in the last column, how far its distance is above that of the best control, on the images that all "
    note += "controls were scored on."
    pairs = ["cosine with its own image", "with another", "correlation with its own image", "with another"]
    columns = ["edit", "map", "images", *pairs, "above the best control"]
    return Table("Mean cosines and correlations", columns, rows, note, folded=True) if rows else None

"""Table 2 of the paper, the interpretability score, published values beside recorded ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from aib.paper.tables import PaperTable, mean_of_seeds, published, read_recorded

__all__ = ["read_scores", "table2"]

OWN_MAP = "own map"
"""The source of the rows that count: not an explainer's."""

USUAL_RADIUS = {"low frequencies": "12", "high frequencies": "4"}
"""Of `aib score` for images of 32 pixels; the paper does not print its radii."""

COLUMNS = ("model", "data", "recipe", "seed", "source", "edit", "size", "threshold", "score", "excess", "above")


def read_scores(path: Path) -> list[dict[str, str]]:
    """Recorded scores (`aib.train.score_record`); see `aib.paper.tables.read_recorded`."""
    return read_recorded(path, "scores", COLUMNS)


def table2(scores: Sequence[Mapping[str, str]], recipe: str | None = None, threshold: str = "0.9") -> PaperTable:
    """Interpretability scores in per cent, and what they are worth.

    Args:
        scores: of `read_scores`.
        recipe: whose runs count, of all models; by default those of the paper's recipes, beside every published value.
        threshold: cosine from which on a map counts as unchanged; the published code has 0.85, 0.9 and 0.95.

    Raises:
        ValueError: no score was recorded for the recipe or the threshold.
    """
    found: dict[tuple[str, ...], list[Mapping[str, str]]] = {}
    for row in scores:
        wanted = row["recipe"] == recipe if recipe is not None else row["recipe"].startswith(("paper/", "reference/"))
        if wanted and row["source"] == OWN_MAP and row["threshold"] == threshold:
            size = "" if USUAL_RADIUS.get(row["edit"]) == row["size"] else row["size"]
            found.setdefault((row["model"], row["data"], row["edit"], size), []).append(row)
    if recipe is not None and not found:
        known = sorted({row["recipe"] for row in scores if row["recipe"]})
        raise ValueError(
            f"no recorded score of the recipe {recipe!r} at {threshold}; there are scores of {', '.join(known) or 'none'}"
        )
    lines: dict[tuple[str, ...], str] = {
        (line["model"], line["data"], line["edit"], line["size"]): line["score"] for line in published("table2")
    }
    keys = [*lines, *(key for key in found if key not in lines)]
    if recipe is not None:
        trained = {key[:2] for key in found}
        keys = sorted((key for key in keys if key[:2] in trained), key=lambda key: (key[1], key[0]))
    rows = []
    for key in keys:
        numbers = {
            name: [100 * float(row[name]) for row in found.get(key, []) if row[name]] for name in ("score", "excess", "above")
        }
        rows.append((*key[:3], key[3] or "–", lines.get(key) or "–", *(mean_of_seeds(values) for values in numbers.values())))
    return PaperTable(
        f"Table 2. Interpretability score in per cent (cosine {threshold})" + (f", recipe {recipe}" if recipe is not None else ""),
        ("model", "data", "edit", "size", "published", "ours", "excess", "above the best control"),
        tuple(rows),
        (
            "ours: share of the images with an unchanged prediction whose map is unchanged too; a map that never changes has 100",
            "excess: that share less the share with the map of another image; a map that never changes has 0",
            "above the best control: the excess less that of the best of uniform, centred, edge and random maps and of the network "
            "untrained",
            "means over seeds with 95 % t intervals, and how many; size: side of the window, or radius in cycles an image",
        ),
    )

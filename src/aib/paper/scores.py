"""Table 2 of the paper, the interpretability score, published values beside recorded ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from aib.paper.counting import changes, network_and_data, one_a_seed, recipes_of, unchanged
from aib.paper.tables import PAIRED, PaperTable, difference_of_seeds, mean_of_seeds, published, read_recorded

__all__ = ["compare_scores", "read_scores", "table2"]

OWN_MAP = "own map"
"""The source of the rows that count: not an explainer's."""

USUAL_RADIUS = {"low frequencies": "12", "high frequencies": "4"}
"""Of `aib score` for images of 32 pixels; the paper does not print its radii."""

COLUMNS = (
    "data", "evaluated_on", "split", "model", "recipe", "seed", "score_seed", "source", "edit", "size", "threshold", "n",
    "unchanged", "score", "excess", "above", "command",
)  # fmt: skip

SHOWN = ("stays", "ours", "excess", "above the best control", "correlation", "correlation above")
NUMBERS = ("excess", "above", "correlation_excess", "correlation_above")
"""The columns of all but the first two."""
MEANINGS = (
    "stays: share of the images whose prediction the edit leaves as it was; the rest is over those",
    "ours: share of the images with an unchanged prediction whose map is unchanged too; a map that never changes has 100",
    "excess: that share less the share with the map of another image; a map that never changes has 0",
    "above the best control: the excess less that of the control that has most of it, on the images that controls were scored on "
    "(control_n of the file, often fewer); aib score names it",
    "correlation: 100 times the mean of Pearson's with the image's map less that with another image's; a constant added to the map "
    "does not change it; correlation above: that less the best control's, where it may be another control",
    "means over seeds with 95 % t intervals, and how many; size: side of the window, or radius in cycles an image",
)
OUR_READING = (
    "radii (low frequencies within 12, high from 4 on), the sides of the windows, and which published rows are low and which high "
    "frequencies are our reading of the paper"
)
"""Its text, as we have it, does not say."""


def read_scores(path: Path) -> list[dict[str, str]]:
    """Recorded scores (`aib.train.score_record`); see `aib.paper.tables.read_recorded`."""
    return read_recorded(path, "scores", COLUMNS)


def table2(scores: Sequence[Mapping[str, str]], threshold: str = "0.9", convention: str = "paper") -> PaperTable:
    """Interpretability scores of the paper's recipes in per cent, published beside ours, and what they are worth.

    Args:
        scores: of `read_scores`; those of the recipes ``CONVENTION/DATA/MODEL`` count, with no option changed, one a seed
            (`aib.paper.counting.one_a_seed`).
        threshold: cosine from which on a map counts as unchanged; the published code has 0.85, 0.9 and 0.95.
        convention: see `aib.paper.tables.table1`.

    Raises:
        ValueError: the convention is unknown.
    """
    own = {network_and_data(recipe): recipe for recipe in recipes_of(convention) & {row["recipe"] for row in scores}}
    found: dict[tuple[str, ...], list[Mapping[str, str]]] = {}
    for row in _counted(scores, threshold):
        if own.get((row["model"], row["data"])) == row["recipe"] and unchanged(row):
            size = "" if USUAL_RADIUS.get(row["edit"]) == row["size"] else row["size"]
            found.setdefault((row["model"], row["data"], row["edit"], size), []).append(row)
    lines: dict[tuple[str, ...], str] = {
        (line["model"], line["data"], line["edit"], line["size"]): line["score"] for line in published("table2")
    }
    keys = [*lines, *(key for key in found if key not in lines)]
    rows = [(*key[:3], key[3] or "–", lines.get(key) or "–", *_means(one_a_seed(found.get(key, ())))) for key in keys]
    return PaperTable(
        f"Table 2. Interpretability score in per cent (cosine {threshold}, {convention} recipes)",
        ("model", "data", "edit", "size", "published", *SHOWN),
        tuple(rows),
        (*MEANINGS, OUR_READING),
        keys=4,
    )


def compare_scores(
    scores: Sequence[Mapping[str, str]], recipe: str, threshold: str = "0.9", first: str | None = None
) -> PaperTable:
    """Scores of all recorded runs of one recipe, whatever was changed on its command line, with paired differences.

    Args:
        scores: of `read_scores`.
        recipe: name of the recipe.
        threshold: see `table2`.
        first: label of the row of every edit that the others are compared with; the first one by default.

    Raises:
        ValueError: no score was recorded for the recipe at the threshold, or there is no such row.
    """
    found: dict[tuple[str, ...], dict[str, list[Mapping[str, str]]]] = {}
    for row in _counted(scores, threshold):
        if row["recipe"] == recipe:
            labels = found.setdefault((row["data"], row["edit"], row["size"]), {})
            labels.setdefault(" ".join([row["model"], *changes(row)]), []).append(row)
    if not found:
        known = sorted({row["recipe"] for row in scores if row["recipe"]})
        raise ValueError(
            f"no recorded score of the recipe {recipe!r} at {threshold}; there are scores of {', '.join(known) or 'none'}"
        )
    every = list(dict.fromkeys(label for labels in found.values() for label in labels))
    if first is not None and first not in every:
        raise ValueError(f"no row {first!r}; there are {', '.join(every)}")
    first = first or every[0]
    rows = []
    for key, several in sorted(found.items(), key=lambda item: (*item[0][:2], float(item[0][2]))):
        groups = {label: {int(row["seed"]): row for row in one_a_seed(mine)} for label, mine in several.items()}
        base = groups.get(first, {})
        for label in sorted(groups, key=every.index):
            mine = groups[label]
            ours, theirs = (
                {seed: 100 * float(row["excess"]) for seed, row in group.items() if row["excess"]} for group in (mine, base)
            )
            difference = difference_of_seeds(ours, theirs) if label != first else ""
            rows.append((*key, label, *_means(mine.values()), difference))
    return PaperTable(
        f"Recorded scores of {recipe} in per cent (cosine {threshold})",
        ("data", "edit", "size", "model and changes", *SHOWN, f"excess minus {first}"),
        tuple(rows),
        (*MEANINGS, PAIRED),
        keys=4,
    )


def _counted(scores: Iterable[Mapping[str, str]], threshold: str) -> list[Mapping[str, str]]:
    """One row for a run, an edit and a size: on the test images of the run's own data, of most images, of the lowest seed."""
    found: dict[tuple[str, ...], Mapping[str, str]] = {}
    for row in sorted(scores, key=lambda row: (-int(row["n"]), int(row["score_seed"]))):
        own = row["evaluated_on"] == row["data"] and row["split"] == "test" and row["source"] == OWN_MAP
        if own and row["threshold"] == threshold:
            found.setdefault((row["command"], row["edit"], row["size"]), row)
    return list(found.values())


def _means(rows: Iterable[Mapping[str, str]]) -> list[str]:
    """What `SHOWN` names, over seeds; of seeds without an unchanged prediction, which have no score, the number is told."""
    rows = list(rows)
    none = sum(not row["score"] for row in rows)
    stays = mean_of_seeds([100 * int(row["unchanged"]) / int(row["n"]) for row in rows])
    score = _mean(rows, "score") if none < len(rows) or not rows else "none unchanged"
    if 0 < none < len(rows):
        score += f", none unchanged in {none}"
    rest = [_mean(rows, name) if any(row.get(name) for row in rows) or not rows else "–" for name in NUMBERS]
    return [stays, score, *rest]


def _mean(rows: Iterable[Mapping[str, str]], name: str) -> str:
    return mean_of_seeds([100 * float(row[name]) for row in rows if row.get(name)])

"""The scores of a run as text of 100 columns: what is judged, every control beside it, and how far it stands above the best."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from operator import getitem
from typing import Any

from aib.report.read_scores import LEAST
from aib.report.score_names import control_kinds, left_out_words, same_map_words

__all__ = ["WIDTH", "sentences", "tables"]

WIDTH = 100
"""Columns that the tables fit in."""

ALL_SIZES = "all sizes together"
"""Of the edits of table 2: means over images whose prediction stays."""

FILL = "blur"
"""The fill of what is printed for one only, where it is there."""

CHANCE = "chance"
"""Of maps beside masks: known from the masks, so it has no interval."""


def tables(result: Mapping[str, Any], threshold: str) -> list[Any]:
    """What is judged, every control beside it, and the other metrics, as tables of text."""
    beside = result["beside_controls"]
    judged = list(dict.fromkeys(comparison["source"] for comparison in beside["comparisons"]))
    found = [_judged(result, source, threshold) for source in judged]
    edits = list(dict.fromkeys(name for name, _ in result["edits"]))
    lines = _table(f"score / excess in %, {ALL_SIZES}, {beside['n']} images", "map", *edits)
    counted = {*judged, *beside.get("controls", ())}.union(*beside.get("controls_of", {}).values()).difference(beside["same_map"])
    for source in _in_order([row["source"] for row in beside["rows"]], result):
        note = "" if source in counted else " (no control)"
        lines.add_row(_named(source) + note, *(_pooled_score(result, source, edit, threshold) for edit in edits))
    found.append(lines)
    found.append(_correlations(result, edits))
    return found + _removal(result) + _places(result) + _above(result, judged)


def _table(title: str, *columns: str) -> Any:
    from rich.table import Table

    made = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if number else "left")
    return made


def _in_order(names: Iterable[str], result: Mapping[str, Any]) -> list[str]:
    """What is judged first, then the controls of each, then what is none."""
    beside, every = result["beside_controls"], dict.fromkeys(names)
    controls_of = beside.get("controls_of", {})
    wished = [*(one["source"] for one in beside["comparisons"]), *(name for controls in controls_of.values() for name in controls)]
    return list(dict.fromkeys([name for name in wished if name in every] + list(every)))


def _named(source: str) -> str:
    return source.replace("randomised", "random")


def _edit(name: str, size: float) -> str:
    return f"{name.replace('frequencies', 'freq.')} {size:g}"


def _judged(result: Mapping[str, Any], source: str, threshold: str) -> Any:
    """The consistency of one source under every edit."""
    beside = result["beside_controls"]
    cells = {
        (row["source"], row["edit"], row["size"]): row
        for row in [*beside["rows"], *result.get("consistency", {"rows": []})["rows"]]
    }
    lines = _table(f"{source}, cosine {threshold}, in %", "edit", "stays", "score", "excess", "beside", "above best", "control")
    lines.columns[-1].justify = "left"
    for comparison in beside["comparisons"]:
        if comparison["source"] != source:
            continue
        key = (source, comparison["edit"], comparison["size"])
        numbers, best = cells[key]["thresholds"][threshold], comparison["thresholds"][threshold]["excess"]
        few = "" if comparison["unchanged"] >= LEAST else "  (too few)"
        lines.add_row(
            _edit(comparison["edit"], comparison["size"]), _stays(cells[key]), _percent(numbers["score"]),
            _percent(numbers["excess"]), _stays(comparison), _points(best["difference"]), _plain(best["control"]) + few,
        )  # fmt: skip
    return lines


def _stays(row: Mapping[str, Any]) -> str:
    return f"{row['unchanged']}/{row['n']}"


def _pooled_score(result: Mapping[str, Any], source: str, edit: str, threshold: str) -> str:
    means = [_pooled(result, source, edit, "thresholds", threshold, kind) for kind in ("score", "excess")]
    return " / ".join(f"{100 * mean:z.0f}" for mean in means if mean is not None) or "–"


def _pooled(result: Mapping[str, Any], source: str, edit: str, *place: str) -> float | None:
    """Mean over all images whose prediction stays under the edit, of all its sizes in table 2 together."""
    rows = [row for row in result["beside_controls"]["rows"] if (row["source"], row["edit"]) == (source, edit)]
    rows = [row for row in rows if [edit, row["size"]] in result["edits"]]
    found = [(row["unchanged"], reduce(getitem, place, row)) for row in rows]
    known = [(count, value[0]) for count, value in found if value is not None]
    return sum(count * mean for count, mean in known) / sum(count for count, _ in known) if known else None


def _correlations(result: Mapping[str, Any], edits: Sequence[str]) -> Any:
    """Of every source, how its maps correlate with those of the image and of another one."""
    beside = result["beside_controls"]
    lines = _table(f"correlation with its own image / with another, {ALL_SIZES}, {beside['n']} images", "map", *edits)
    for source in _in_order([row["source"] for row in beside["rows"]], result):
        cells = []
        for edit in edits:
            means = [_pooled(result, source, edit, "correlation", kind) for kind in ("own", "other")]
            cells.append(" / ".join(f"{mean:z.2f}" for mean in means if mean is not None) or "–")
        lines.add_row(_named(source), *cells)
    return lines


def _removal(result: Mapping[str, Any]) -> list[Any]:
    """What removing cells in the order of a map does."""
    faithful = result["faithfulness"]
    fills: Mapping[str, Any] = faithful["fills"]
    names = _in_order(next(iter(fills.values())), result)
    if not names:
        return []
    n = f", on {faithful['n']} images" if "n" in faithful else ""
    gains = _table(f"SRG, by what fills the place of removed cells{n}", "map", *(fill.replace("_", " ") for fill in fills))
    for name in names:
        gains.add_row(_named(name), *(_signed(maps[name]["srg"]) for maps in fills.values()))
    fill = _main_fill(fills)
    columns = ("map", "polarity", "deletion", "insertion", "attended gone", "unattended gone")
    rest = _table(f"filled with {fill.replace('_', ' ')}, in %: accuracy with a half of the cells gone, and more", *columns)
    for name in names:
        one = fills[fill][name]
        halves = (one["attended_removed"]["1/2"], one["unattended_removed"]["1/2"])
        rest.add_row(_named(name), *(_percent(value) for value in (one["polarity"], one["deletion"], one["insertion"], *halves)))
    return [gains, rest]


def _main_fill(fills: Iterable[str]) -> str:
    known = list(fills)
    return FILL if FILL in known else known[0]


def _places(result: Mapping[str, Any]) -> list[Any]:
    """Noise, grids and masks, each for the maps it has a number of."""
    columns: dict[str, Callable[[str], Sequence[float] | None]] = {}
    names: list[str] = []
    if noise := result["sensitivity"]:
        columns["noise"] = lambda name: noise[name]["pooled"] if name in noise else None
        names += noise
    if grid := result.get("grid_pointing"):
        columns[f"grid ({100 * grid['chance']:.0f})"] = lambda name: grid["maps"].get(name)
        names += grid["maps"]
    if places := result.get("localization", {}).get("maps", {}):
        for metric in ("pointing_game", "energy", "iou"):
            columns[metric.replace("_", " ")] = lambda name, metric=metric: places.get(name, {}).get(metric)  # type: ignore[misc]
        names += places
    if not columns:
        return []
    title = "steadiness and place, in %" + (" (grid: chance in brackets)" if grid else "")
    lines = _table(title, "map", *columns)
    for name in _in_order(names, result):
        lines.add_row(_named(name), *(_percent(read(name), known=name == CHANCE) for read in columns.values()))
    return [lines]


REMOVED = {
    "srg": "SRG", "polarity": "polarity", "deletion": "deletion", "insertion": "insertion", "attended_removed": "attended gone",
    "unattended_removed": "unattended gone",
}  # fmt: skip
"""Metrics of the removal that have a best control."""


def _above(result: Mapping[str, Any], judged: Sequence[str]) -> list[Any]:
    """How far each source stands above the best of its controls in every other metric, image by image.

    The SRG with every fill, the rest of the removal with one: the report has them all.
    """
    rows = []
    by_fill = result["faithfulness"].get("above", {})
    fill = _main_fill(by_fill) if by_fill else ""
    images = result["faithfulness"].get("n", 0)
    for source in judged:
        for metric, label in REMOVED.items():
            for one in by_fill if metric == "srg" else (fill,):
                found = by_fill.get(one, {}).get(source, {}).get(metric)
                rows.append((source, f"{label}, {one.replace('_', ' ')}", found, images))
        noise = result["sensitivity"].get(source, {})
        rows.append((source, "noise", noise.get("above"), noise.get("n", 0)))
        if source in (grid := result.get("grid_pointing", {})).get("above", {}):
            rows.append((source, "grid pointing", grid["above"][source], grid["n"]))
        places = result.get("localization", {})
        for metric, found in places.get("above", {}).get(source, {}).items():
            label = "IoU" if metric == "iou" else metric.replace("_", " ")
            rows.append((source, label, found, places["n"] - places.get("excluded", 0)))
    rows = [row for row in rows if row[2] is not None and row[2]["difference"] is not None]
    if not rows:
        return []
    lines = _table("above the best control, in points (more is better)", "map", "metric", "above best", "control")
    lines.columns[1].justify = lines.columns[-1].justify = "left"
    for source, label, best, n in rows:
        few = "" if n >= LEAST else "  (too few)"
        lines.add_row(source, label, _points(best["difference"]), _plain(best["control"]) + few)
    return [lines]


def _plain(control: str | None) -> str:
    """Without what it was made for, which the line says."""
    return (control or "").partition("@")[0].replace("randomised", "random")


def _percent(values: Sequence[float] | None, known: bool = False) -> str:
    """A mean with its interval; without one where it is ``known`` in closed form."""
    if values is None:
        return "–"
    return f"{100 * values[0]:z.1f}" + ("" if known else f" [{100 * values[1]:z.0f}, {100 * values[2]:z.0f}]")


def _signed(values: Sequence[float]) -> str:
    mean, low, high = values
    return f"{mean:+z.2f} [{low:+z.2f}, {high:+z.2f}]"


def _points(values: Sequence[float] | None) -> str:
    if values is None:
        return "–"
    mean, low, high = (100 * value for value in values)
    return f"{mean:+z.1f} [{low:+z.0f}, {high:+z.0f}]"


def _area(values: Sequence[float | None], sign: str = "") -> str:
    """An AUROC, or with a sign a difference of two; a set of one image gives no ends."""
    mean, *ends = (f"{value:{sign}z.3f}" for value in values if value is not None)
    return mean + (f" [{', '.join(ends)}]" if ends else "")


def sentences(result: Mapping[str, Any]) -> list[str]:
    """What the tables do not say, in plain words."""
    beside = result["beside_controls"]
    said = [
        "stays: in how many of the images the prediction does; score and excess are over those, and what stands above the best "
        "control is over those beside it. score: of the images whose prediction stays, the share whose map stays. excess: how much "
        "more often it stays with its own image than with another's. A map that never changes has a score of 100 and an excess of "
        f"0; how far the excess is above the best control's is what to quote, from {LEAST} images on. correlation: of the maps "
        "less their means, so that it also tells of maps that are bright nearly everywhere. In brackets, 95 % intervals over "
        "images.",
        " ".join([
            control_kinds(name for names in beside.get("controls_of", {}).values() for name in names),
            "@ is followed by the size or the map that a control was made for, where that is not the first one's.",
        ]).strip(),
    ]  # fmt: skip
    similar = {name: found["spearman"] for name, found in result.get("randomized", {}).items()}
    said.append(same_map_words(beside["same_map"], {name: value[0] for name, value in similar.items() if value}, _named))
    said.append(left_out_words(beside.get("not_recomputed", ()), beside.get("controls_of", {}), _named))
    said = [line for line in said if line]
    if result.get("sensitivity"):
        said.append(
            "noise: mean change of the map by noise no one sees, over its mean change to another image. Uniform and centred maps "
            "have none, and another image's map has the map's own. grid: maps that do not depend on the class are at chance by "
            "definition."
        )
    if result["faithfulness"].get("above"):
        said.append(
            "Deletion, accuracy with the attended half gone and noise stand above the best control by how much less they are. The "
            "report has them with every fill."
        )
    if "map_ablation" in result:
        shown = ", ".join(f"{name.replace('_', ' ')} {_percent(value)}" for name, value in result["map_ablation"].items())
        said.append(f"Error in % with the map replaced: {shown}.")
    if "information" in result:
        mean, low, high = result["information"]["latent"]["image"]
        line = f"The latent carries {mean:.1f} [{low:.1f}, {high:.1f}] bits an image"
        if "quantized" in result["information"]:
            codes = result["information"]["quantized"]["codes"]
            line += (
                ", the quantised map "
                + ", ".join("{:.0f} [{:.0f}, {:.0f}]".format(*code["image"]) + f" ({name})" for name, code in codes.items())
                + " by code"
            )
        said.append(line + ".")
    for name, table in result.get("detection", {}).get("outside", {}).items():
        shown = ", ".join(f"{score.replace('_', ' ')} {_area(numbers['auroc'])}" for score, numbers in table["scores"].items())
        less = ", ".join(f"{score.replace('_', ' ')} {_area(value, '+')}" for score, value in table.get("rate_less", {}).items())
        said.append(
            f"Told from {name}, AUROC: {shown}." + (f" The rate's less that of {less}, on the same images." if less else "")
        )
    return said

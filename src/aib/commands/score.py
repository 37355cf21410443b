"""``aib score``: what a run's maps are worth, beside controls that know nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tyro

from aib.commands.options import parse_options
from aib.train.score_settings import ScoreSettings


@dataclass(frozen=True)
class ScoreOptions:
    """Score a run's maps: the paper's interpretability score, faithfulness, localisation and bits, beside controls."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    settings: tyro.conf.OmitArgPrefixes[ScoreSettings] = field(default_factory=ScoreSettings)
    threshold: float = 0.9
    """Cosine from which on a map counts as unchanged, in the printed table; all of 0.85, 0.9 and 0.95 are kept."""
    device: str = "auto"
    """cpu, cuda, mps or auto."""
    record: Path | None = None
    """Add or replace the run's rows in this CSV file (results/scores.csv), which aib table 2 reads."""


def run(arguments: Sequence[str]) -> None:
    """Parse ``arguments``, score and print."""
    options = parse_options(ScoreOptions, "score", arguments)
    thresholds = ("0.85", "0.9", "0.95")
    threshold = f"{options.threshold:g}"
    if threshold not in thresholds:
        raise ValueError(f"threshold is {threshold}; it must be one of {', '.join(thresholds)}")

    from rich.console import Console

    from aib.recipes import start_of
    from aib.train.device import choose_device
    from aib.train.results_table import check_table
    from aib.train.run_folder import RunFolder
    from aib.train.score import score_run
    from aib.train.score_record import SCORE_COLUMNS, record_scores

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:  # a file or a pipe has no width to keep to
        console = Console(highlight=False, markup=False, width=160)
    check_table(options.record, SCORE_COLUMNS)
    given = options.settings
    settings = replace(given, against=_separated(given.against), outside=_separated(given.outside))
    result = score_run(
        options.run, settings, device=choose_device(options.device), say=lambda line: console.print(line, soft_wrap=True)
    )
    for table in tables(result, threshold):
        console.print()
        console.print(table)
    console.print("\n" + "\n".join(sentences(result)), soft_wrap=True)
    console.print(f"saved in {options.run / 'score'}; aib report {options.run} shows it", soft_wrap=True)
    if options.record is not None:
        record_scores(options.run, result, options.record, start_of(RunFolder.open(options.run).config))


def _separated(names: Sequence[str]) -> tuple[str, ...]:
    """Names that may also be written with commas between them."""
    return tuple(part for name in names for part in name.split(",") if part)


def tables(result: Mapping[str, Any], threshold: str) -> list[Any]:
    """What is judged, every control beside it, and the other metrics, as tables of text."""
    from rich.table import Table

    def table(title: str, *columns: str) -> Any:
        made = Table(columns[0], box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
        for column in columns[1:]:
            made.add_column(column, justify="right")
        return made

    beside = result["beside_controls"]
    cells = {
        (row["source"], row["edit"], row["size"]): row
        for row in [*beside["rows"], *result.get("consistency", {"rows": []})["rows"]]
    }
    found = []
    for source in dict.fromkeys(comparison["source"] for comparison in beside["comparisons"]):
        lines = table(
            f"{source}, cosine {threshold}, in %", "edit", "images", "unchanged", "score", "excess", "above the best control"
        )
        for comparison in beside["comparisons"]:
            if comparison["source"] != source:
                continue
            row = cells[source, comparison["edit"], comparison["size"]]
            numbers, best = row["thresholds"][threshold], comparison["thresholds"][threshold]["excess"]
            lines.add_row(
                f"{comparison['edit']} {comparison['size']:g}", str(row["n"]), f"{100 * row['unchanged_share'][0]:.1f}",
                _percent(numbers["score"]), _percent(numbers["excess"]),
                "–" if best["difference"] is None else f"{_interval(best['difference'])}  {best['control']}",
            )  # fmt: skip
        found.append(lines)
    groups = list(dict.fromkeys(row["edit"] for row in beside["rows"]))
    lines = table("score / excess in %, means over sizes, on the images of the controls", "source of the map", *groups)
    for source in dict.fromkeys(row["source"] for row in beside["rows"]):
        note = " (same map)" if source in beside["same_map"] else ""
        lines.add_row(source + note, *(_means(beside["rows"], source, group, threshold) for group in groups))
    found.append(lines)
    faithful, places = result["faithfulness"], result.get("localization", {}).get("maps", {})
    grid = result.get("grid_pointing", {}).get("maps", {})
    fills = [f"SRG {fill.replace('_', ' ')}" for fill in faithful["fills"]]
    metrics = [metric for metric in ("pointing_game", "energy", "iou") if places]
    lines = table("faithfulness, and where the map lies", "source of the map", *fills, "polarity", "noise", "grid",
                  *(metric.replace("_", " ") for metric in metrics))  # fmt: skip
    for source in next(iter(faithful["fills"].values())):
        noise = result["sensitivity"].get(source, {}).get("share")
        lines.add_row(
            source,
            *(f"{maps[source]['srg'][0]:+.3f}" for maps in faithful["fills"].values()),
            f"{faithful['fills']['blur'][source]['polarity'][0]:.3f}",
            "" if noise is None else f"{noise[0]:.2f}",
            f"{grid[source][0]:.3f}" if source in grid else "",
            *(f"{places[source][metric][0]:.3f}" if source in places else "" for metric in metrics),
        )
    found.append(lines)
    return found


def _means(rows: Sequence[Mapping[str, Any]], source: str, edit: str, threshold: str) -> str:
    chosen = [row["thresholds"][threshold] for row in rows if (row["source"], row["edit"]) == (source, edit)]
    chosen = [numbers for numbers in chosen if numbers["score"] is not None]
    if not chosen:
        return "–"
    score, excess = (100 * sum(numbers[kind][0] for numbers in chosen) / len(chosen) for kind in ("score", "excess"))
    return f"{score:.0f} / {excess:.0f}"


def _percent(values: Sequence[float] | None) -> str:
    return "–" if values is None else f"{100 * values[0]:.1f}"


def _interval(values: Sequence[float]) -> str:
    mean, low, high = (100 * value for value in values)
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def sentences(result: Mapping[str, Any]) -> list[str]:
    """What the tables do not say, in plain words."""
    said = [
        "score: maps that stay, of the images whose prediction stays. excess: the score less that with another image's map. A map "
        "that never changes has a score of 100 and an excess of 0; how far the excess is above the best control's is what to quote."
    ]
    if same := result["beside_controls"]["same_map"]:
        said.append(
            f"same map: in {', '.join(same)} what is random lies behind the map, or hardly changes it: they are no controls."
        )
    if "information" in result:
        latent = result["information"]["latent"]["image"][0]
        line = f"The latent carries {latent:.1f} bits an image"
        if "quantized" in result["information"]:
            codes = result["information"]["quantized"]["codes"]
            line += (
                ", the quantised map " + ", ".join(f"{code['image'][0]:.0f} ({name})" for name, code in codes.items()) + " by code"
            )
        said.append(line + ".")
    for name, table in result.get("detection", {}).get("outside", {}).items():
        shown = ", ".join(f"{score.replace('_', ' ')} {numbers['auroc'][0]:.3f}" for score, numbers in table["scores"].items())
        said.append(f"Told from {name}, AUROC: {shown}.")
    return said

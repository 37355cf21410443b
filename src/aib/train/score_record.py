"""``results/scores.csv``: one row for a run, an edit and a threshold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aib.train.config import TrainConfig
from aib.train.record import command_line
from aib.train.results_table import update_table
from aib.train.run_folder import RunFolder, environment

__all__ = ["SCORE_COLUMNS", "record_scores"]

SCORE_COLUMNS = (
    "data", "evaluated_on", "split", "model", "recipe", "seed", "score_seed", "source", "edit", "size", "threshold", "n",
    "unchanged", "score", "score_low", "score_high",
    "other", "excess", "excess_low", "excess_high", "cosine", "cosine_low", "cosine_high", "best_control", "control_n",
    "above", "above_low", "above_high", "correlation", "correlation_excess", "correlation_excess_low", "correlation_excess_high",
    "correlation_control", "correlation_above", "correlation_above_low", "correlation_above_high",
    "hardware", "torch", "aib", "commit", "date", "command",
)  # fmt: skip
KEY = ("data", "evaluated_on", "split", "score_seed", "source", "edit", "size", "threshold", "command")
ORDER = ("data", "model", "recipe", "command", "evaluated_on", "split", "score_seed", "source", "edit", "size", "threshold")


def record_scores(path: Path, result: Mapping[str, Any], table: Path, base: TrainConfig) -> None:
    """Add the rows of a scored run to ``table``, in place of older ones of as many images and control images or fewer; scores are
    fractions, empty where nothing counts.

    ``above`` is the excess less that of the best control, over the ``control_n`` images that controls were measured on; the
    correlations (`aib.interpret.consistency`) are the same at every threshold.

    Args:
        path: run folder.
        result: of `aib.train.score.score_run`.
        table: the CSV file.
        base: what the run's options are compared with for its command: its recipe, or the defaults.

    Raises:
        ValueError: ``table`` is another table, or holds scores of the run on more images.
        OSError: it cannot be written.
    """
    folder = RunFolder.open(path)
    config, made = folder.config, environment("", "")
    known, card = folder.read_json("environment.json"), folder.read_json("model.json")
    beside = {(c["source"], c["edit"], c["size"]): c for c in result["beside_controls"]["comparisons"]}
    own = result.get("consistency", {"rows": []})["rows"]
    explained = [row for row in result["beside_controls"]["rows"] if row["source"] in result["against"]]
    rows = []
    for row in [row for row in own if row["source"] == result["own"]] + explained:
        compared = beside[row["source"], row["edit"], row["size"]]
        comparison, correlated = compared["thresholds"], compared["correlation"]
        for threshold, numbers in row["thresholds"].items():
            best = comparison[threshold]["excess"]
            rows.append({
                "data": card["data"], "evaluated_on": result["data"] + (f"-{result['labels']}" if result["labels"] else ""),
                "split": result["split"], "model": result["model"], "recipe": config.run.recipe or "", "seed": config.run.seed,
                "score_seed": result["seed"], "source": row["source"], "edit": row["edit"], "size": f"{row['size']:g}",
                "threshold": threshold, "n": row["n"],
                "unchanged": row["unchanged"], **_ends("score", numbers["score"]),
                "other": "" if numbers["other"] is None else round(numbers["other"][0], 5),
                **_ends("excess", numbers["excess"]), **_ends("cosine", row["cosine_own"]),
                "best_control": best["control"] or "", "control_n": compared["n"],
                **_ends("above", best["difference"]),
                "correlation": _ends("own", row["correlation"]["own"])["own"],
                **_ends("correlation_excess", row["correlation"]["excess"]),
                "correlation_control": correlated["control"] or "", **_ends("correlation_above", correlated["difference"]),
                "hardware": known["device"] if known["device"] != "cpu" else known["cpu"], "torch": made["torch"],
                "aib": made["aib"], "commit": made["commit"] or "", "date": made["date"], "command": command_line(config, base),
            })  # fmt: skip
    update_table(table, SCORE_COLUMNS, KEY, ORDER, rows, refuse=_fewer_images)


def _fewer_images(kept: Mapping[str, str], new: Mapping[str, str]) -> str | None:
    """Why a row is not replaced: a trial on few images must not take the place of the result."""
    for column, what in (("n", "images"), ("control_n", "control images")):
        if int(new[column]) < int(kept[column]):
            held, made = f"{int(kept[column]):,} {what}", f"{int(new[column]):,}"
            return f"it holds this run's scores on {held}, and these are on {made}; record them in another file"
    return None


def _ends(name: str, values: list[float] | None) -> dict[str, object]:
    mean, low, high = ("", "", "") if values is None else (round(value, 5) for value in values)
    return {name: mean, f"{name}_low": low, f"{name}_high": high}

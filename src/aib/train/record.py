"""``results/runs.csv``: one row a run, with all it takes to judge and repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from aib.backbones import one_line
from aib.train.config import TrainConfig, is_flag
from aib.train.results_table import update_table
from aib.train.run_folder import RunFolder

__all__ = ["COLUMNS", "check_trained", "command_line", "record_run"]

COLUMNS = (
    "data", "evaluated_on", "model", "recipe", "seed", "beta", "epochs", "split", "samples", "mirror", "error", "error_low",
    "error_high", "last_error", "rate_bits", "parameters", "macs", "training_pflop", "seconds", "hardware", "threads", "torch",
    "aib", "commit", "date", "command",
)  # fmt: skip
KEY = ("data", "evaluated_on", "split", "samples", "mirror", "command")
"""A row with the same values here is replaced."""
ORDER = ("data", "model", "recipe", "command", "evaluated_on", "split", "samples", "mirror")


def check_trained(folder: RunFolder) -> None:
    """Refuse a run of whose training nothing is known, before it is evaluated for a table of trainings.

    Raises:
        ValueError: it was converted, or its ``environment.json`` is gone.
    """
    if not folder.has("environment.json"):
        raise ValueError(f"{folder.path} has no environment.json, as a converted run: there is no training to record")


def record_run(path: Path, result: Mapping[str, Any], table: Path, base: TrainConfig) -> dict[str, str]:
    """Add the run's row to ``table``, in place of an older one of the same run; errors are fractions, seconds those of training.

    Args:
        path: run folder.
        result: of `aib.train.evaluate.evaluate`.
        table: the CSV file.
        base: what the run's options are compared with for its command: its recipe, or the defaults.

    Raises:
        ValueError: ``table`` is no such table, or a file of the run is damaged.
        OSError: it cannot be written.
    """
    folder = RunFolder.open(path)
    try:
        row = _row(folder, result, base)
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise ValueError(
            f"model.json, environment.json, origin.json or metrics.jsonl in {path} is damaged ({one_line(error)})"
        ) from None
    update_table(table, COLUMNS, KEY, ORDER, [row])
    return {name: str(value) for name, value in row.items()}


def _row(folder: RunFolder, result: Mapping[str, Any], base: TrainConfig) -> dict[str, Any]:
    """The run's values by column."""
    config, card, environment = folder.config, folder.read_json("model.json"), folder.read_json("environment.json")
    epochs = folder.log()
    batch = config.optim.batch_size
    known = folder.read_json("origin.json") if folder.has("origin.json") else {}  # older runs have none
    if "data" in known:
        batch = min(batch, sum(known["data"]["train"]["counts"]))
    images = sum(e["step"] for e in epochs[-1:]) * batch
    return {
        "data": card["data"], "evaluated_on": result["data"], "model": card["name"] + (f"@{card['site']}" if card["site"] else ""),
        "recipe": config.run.recipe or "", "seed": config.run.seed, "beta": config.optim.beta, "epochs": len(epochs),
        "split": result["split"], "samples": "x".join(map(str, result["samples"] or ())),
        "mirror": "yes" if result["mirror"] else "", "error": round(result["error"], 6),
        "error_low": round(result["error_interval"][0], 6), "error_high": round(result["error_interval"][1], 6),
        "last_error": "" if result["last_error"] is None else round(result["last_error"], 6),
        "rate_bits": round(result["rate_bits"], 3) if "rate_bits" in result else "",
        "parameters": card["parameters"], "macs": card["macs"],
        # a multiply-accumulate is two operations, a training step costs three forward passes
        "training_pflop": round(6 * card["macs"] * images / 1e15, 4),
        "seconds": round(sum(e["seconds"] for e in epochs)),
        "hardware": (f"{processes} x " if (processes := environment.get("processes", 1)) > 1 else "")
        + (environment["device"] if environment["device"] != "cpu" else environment["cpu"]),
        "threads": environment["threads"], "torch": environment["torch"], "aib": environment["aib"],
        "commit": environment["commit"] or "", "date": environment["date"], "command": command_line(config, base),
    }  # fmt: skip


NOT_REPEATED = ("recipe", "out", "seed", "quiet", "device", "checkpoint_minutes")
"""Options that do not change what a run computes, or that the command names by itself."""


def command_line(config: TrainConfig, base: TrainConfig) -> str:
    """The command that repeats a run: the recipe of ``base``, if it is one, whatever differs from ``base``, and the seed."""
    recipe = base.run.recipe
    words = ["aib", "train"] + (["--recipe", recipe] if recipe else [])
    for table in fields(TrainConfig):
        before, now = getattr(base, table.name), getattr(config, table.name)
        for option in fields(now):
            value = getattr(now, option.name)
            if option.name in NOT_REPEATED or value == getattr(before, option.name) or (option.name, value) == ("devices", 1):
                continue  # one device is what none given means
            name = option.name.replace("_", "-")
            if is_flag(option.name):  # a flag; where None is allowed too, the value is written out
                words.append(f"--{name}" if value else f"--no-{name}")
            else:
                words += [f"--{name}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return shlex.join([*words, "--seed", str(config.run.seed)])

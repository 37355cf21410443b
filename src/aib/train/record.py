"""``results/runs.csv``: one row a run, with all it takes to judge and repeat it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aib.train.checkpoint import write_atomically
from aib.train.config import config_to_dict
from aib.train.run_folder import RunFolder

__all__ = ["COLUMNS", "record_run"]

COLUMNS = (
    "data", "model", "recipe", "seed", "beta", "epochs", "split", "error", "error_low", "error_high", "last_error", "rate_bits",
    "parameters", "macs", "training_pflop", "seconds", "hardware", "threads", "torch", "aib", "commit", "date", "command",
)  # fmt: skip
KEY = ("data", "model", "recipe", "seed", "beta", "epochs", "split")
"""A row with the same values here is replaced."""


def record_run(path: Path, result: Mapping[str, Any], table: Path) -> dict[str, str]:
    """Add the run's row to ``table``, in place of an older one of the same run; errors are fractions, seconds those of training.

    Raises:
        ValueError: ``table`` is no such table.
        OSError: it cannot be written.
    """
    folder = RunFolder.open(path)
    config, card, environment = folder.config, folder.read_json("model.json"), folder.read_json("environment.json")
    epochs = [json.loads(line) for line in folder.metrics.read_text(encoding="utf-8").splitlines()]
    images = sum(e["step"] for e in epochs[-1:]) * config.optim.batch_size
    row: dict[str, Any] = {
        "data": card["data"], "model": card["name"] + (f"@{card['site']}" if card["site"] else ""),
        "recipe": config.run.recipe or "", "seed": config.run.seed, "beta": config.optim.beta, "epochs": len(epochs),
        "split": result["split"], "error": round(result["error"], 6), "error_low": round(result["error_interval"][0], 6),
        "error_high": round(result["error_interval"][1], 6),
        "last_error": "" if result["last_error"] is None else round(result["last_error"], 6),
        "rate_bits": round(result["rate_bits"], 3) if "rate_bits" in result else "",
        "parameters": card["parameters"], "macs": card["macs"],
        # a multiply-accumulate is two operations, a training step costs three forward passes
        "training_pflop": round(6 * card["macs"] * images / 1e15, 4),
        "seconds": round(sum(e["seconds"] for e in epochs)),
        "hardware": environment["device"] if environment["device"] != "cpu" else environment["cpu"],
        "threads": environment["threads"], "torch": environment["torch"], "aib": environment["aib"],
        "commit": environment["commit"] or "", "date": environment["date"], "command": _command(config_to_dict(config)),
    }  # fmt: skip
    text = {k: str(v) for k, v in row.items()}
    rows: list[dict[str, str]] = []
    if table.exists():
        with table.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise ValueError(f"{table} is not a table of runs; its columns should be {', '.join(COLUMNS)}")
            rows = list(reader)
    rows = [r for r in rows if any(r[k] != text[k] for k in KEY)] + [text]
    rows.sort(key=lambda r: tuple(r[k] for k in KEY))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    table.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(table, lambda temporary: _write(temporary, buffer.getvalue()))
    return text


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _command(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """The command line that repeats the run."""
    run = tables["run"]
    words = ["aib", "train"]
    if "recipe" in run:
        words += ["--recipe", run["recipe"]]
    else:
        words += ["--data", tables["data"]["data"], "--model", tables["model"]["model"]]
    return " ".join([*words, "--seed", str(run["seed"])])

"""Tables 1, 3 and 4 of the paper, published values beside ours; a cell that nobody has run says so.

Table 1 reads recorded results; tables 3 and 4 are computed on the spot from the networks.
"""

from __future__ import annotations

import csv
import io
import re
import shlex
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aib.classifier import Classifier
from aib.data.texts import read_text
from aib.interpret.intervals import mean_interval, paired_difference
from aib.models import create_model
from aib.recipes import list_recipes
from aib.train.macs import count_macs

__all__ = [
    "NOT_RUN",
    "PaperTable",
    "changes",
    "compare_runs",
    "mean_of_seeds",
    "published",
    "read_recorded",
    "read_runs",
    "signed_interval",
    "table1",
    "table3",
    "table4",
    "unchanged",
]

FOLDER = Path(__file__).resolve().parent / "published"
NOT_RUN = "not run"
CONVENTIONS = ("paper", "reference")

NO_CHANGE = (
    "recipe", "seed", "data", "root", "model", "download", "workers", "precision", "channels-last", "compile",
    "compile-mode", "devices", "accumulate",
)  # fmt: skip
"""Options of a recorded command that leave it a run of its recipe."""

GREATEST = 1e12
"""Bound of the numbers of a table of results, which are shares, bits and seeds."""

NAMES = {"vgg_aib_cub": "vgg_aib (CUB)", "wrn_aib_cub": "wrn_aib (CUB)"}

PARAMETER_REASONS = {
    "wrn_aib_cub": "published: with a second copy of layer3 (20.74 M) that is never run",
}
MAC_REASONS = {
    **dict.fromkeys(
        ("wrn_aib", "wrn_aib_qt", "wrn_aib_cub"),
        "published: a profiler counted branch and last group, each registered under two names, four times",
    ),
    "vgg_aib_cub": "published: with the additions of the biases (0.014)",
}
"""A profiler that hangs a counter on a module for each of its names, and adds up the counts by name, counts it 2 x 2 times: 12.376
+ 3 (7.132 + 1.783) = 39.12 for wrn_aib, printed 39.14; 19.622 + 3 (8.224 + 2.209) = 50.92 for CUB, printed 50.97. The little that
is left is what it counts of normalisation."""


@dataclass(frozen=True)
class PaperTable:
    """A table ready to print: its title, column names, rows of text, and notes that belong under it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def published(name: str) -> list[dict[str, str]]:
    """Rows of a published table as text: ``table1``, ``table2`` or ``sizes``; empty where the paper prints nothing."""
    with (FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_runs(path: Path) -> list[dict[str, str]]:
    """Recorded runs (`aib.train.record`); see `read_recorded`."""
    return read_recorded(path, "runs", ("data", "model", "recipe", "seed", "split", "error", "rate_bits", "command"))


def read_recorded(path: Path, what: str, columns: Iterable[str]) -> list[dict[str, str]]:
    """Rows of a table of results; none where the file is absent.

    Raises:
        ValueError: the file is not such a table.
    """
    if not path.exists():
        return []
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
        if missing := set(columns) - set(reader.fieldnames or ()):
            raise ValueError(f"it has no column {', '.join(sorted(missing))}")
        rows = list(reader)
        for number, row in enumerate(rows, start=1):
            _check_row(row, number)
    except (UnicodeDecodeError, csv.Error):
        raise ValueError(f"{path} is not a table of {what}: it is no text with commas") from None
    except ValueError as error:
        raise ValueError(f"{path} is not a table of {what}: {error}") from None
    return rows


def _check_row(row: Mapping[str | None, Any], number: int) -> None:
    """Refuse a row that `aib` did not record.

    Raises:
        ValueError: it has more or fewer values than there are columns, or what should be a number or a command is none.
    """
    if None in row or None in row.values():
        raise ValueError(f"row {number} has more or fewer values than there are columns")
    for name in ("error", "score", "excess", "above", "rate_bits", "seed", "score_seed", "n"):
        value = row.get(name, "")
        try:
            if value and abs(int(value) if name in ("seed", "score_seed", "n") else float(value)) >= GREATEST:
                raise ValueError
        except ValueError:
            raise ValueError(f"the {name} of row {number} is {value[:80]!r}, which is no number") from None
    if "error" in row and not row["error"]:
        raise ValueError(f"row {number} has no error")
    try:
        shlex.split(row.get("command", ""))
    except ValueError as error:
        raise ValueError(f"the command of row {number} is none: {error}") from None


def table1(runs: Sequence[Mapping[str, str]], convention: str = "paper") -> PaperTable:
    """Test errors in per cent of every model on every data set.

    Args:
        runs: of `read_runs`; those of the recipes ``CONVENTION/DATA/MODEL`` count, with no option changed.
        convention: ``"paper"`` or ``"reference"``; where the two do not differ there is one recipe, under ``paper``.

    Raises:
        ValueError: the convention is unknown.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention is {convention!r}; it must be {' or '.join(CONVENTIONS)}")
    rows = []
    recipes = {recipe.name for recipe in list_recipes()}
    lines = published("table1")
    columns = list(lines[0])[1:]
    for line in lines:
        cells = []
        for column in columns:
            data, _, split = column.partition("_")
            trained, evaluated = ("cifar10", "stl10-by-index") if data == "stl10" else (data, data)
            name = f"{trained}/{line['model']}"
            recipe = f"{convention}/{name}" if f"{convention}/{name}" in recipes else f"paper/{name}"
            errors = {
                run["seed"]: 100 * float(run["error"]) for run in runs
                if run["recipe"] == recipe and unchanged(run) and on_mean_path(run)
                and run.get("evaluated_on", run["data"]) == evaluated and run["split"] == (split or "test")
            }  # fmt: skip
            cells.append(f"{line[column] or '–'} / {mean_of_seeds(errors.values())}" if line[column] or errors else "–")
        rows.append((line["model"], *cells))
    return PaperTable(
        f"Table 1. Test error in per cent, published / ours ({convention} recipes)",
        ("model", *columns),
        tuple(rows),
        (
            "ours: mean over seeds, 95 % t interval where there are several, and their number; selected on validation images, "
            "mean path",
            "STL-10: models trained on CIFAR-10, classes matched by index as in the published columns (aib eval RUN --data stl10 "
            "--labels by-index); --labels by-name gives the honest number, over the nine classes that both have",
        ),
    )


def on_mean_path(run: Mapping[str, str]) -> bool:
    """Whether a recorded evaluation took the deterministic mean path."""
    return not run.get("samples")


def compare_runs(runs: Sequence[Mapping[str, str]], recipe: str, first: str | None = None) -> PaperTable:
    """All recorded runs of one recipe, whatever was changed on its command line, with paired differences.

    Args:
        runs: of `read_runs`.
        recipe: name of the recipe.
        first: label of the row that the others are compared with; the first one by default.

    Raises:
        ValueError: there is no such run or row.
    """
    groups: dict[str, dict[int, Mapping[str, str]]] = {}
    for run in runs:
        if (
            run["recipe"] == recipe
            and run["split"] == "test"
            and on_mean_path(run)
            and run.get("evaluated_on", run["data"]) == run["data"]
        ):
            label = " ".join([run["model"], *changes(run)])
            groups.setdefault(label, {})[int(run["seed"])] = run
    if not groups:
        known = sorted({run["recipe"] for run in runs if run["recipe"]})
        raise ValueError(f"no recorded run of the recipe {recipe!r}; there are runs of {', '.join(known) or 'none'}")
    if first is not None and first not in groups:
        raise ValueError(f"no row {first!r}; there are {', '.join(groups)}")
    base = groups[first or next(iter(groups))]
    rows = []
    for label, mine in groups.items():
        errors = [100 * float(run["error"]) for run in mine.values()]
        shared = [seed for seed in mine if seed in base]
        difference = ""
        if mine is not base and shared:
            ours, theirs = ([100 * float(group[seed]["error"]) for seed in shared] for group in (mine, base))
            difference = signed_interval(paired_difference(ours, theirs))
        rates = [float(run["rate_bits"]) for run in mine.values() if run["rate_bits"]]
        rows.append((label, mean_of_seeds(errors), difference, f"{statistics.fmean(rates):.1f}" if rates else ""))
    return PaperTable(
        f"Recorded runs of {recipe}: test error in per cent",
        ("model and changes", "error", f"minus {first or next(iter(groups))}", "rate (bits)"),
        tuple(rows),
        ("means with 95 % t intervals over seeds (their number in brackets); differences are paired by seed",),
    )


def table3() -> PaperTable:
    """Parameters in millions: published, counted, and why they differ."""
    rows = []
    for line in published("sizes"):
        count = sum(parameter.numel() for parameter in _on_meta(line).parameters()) / 1e6
        printed = line["params_m_paper"]
        differs = bool(printed) and abs(count - float(printed)) > 0.0051
        rows.append((
            NAMES.get(line["model"], line["model"]), line["classes"], printed or "–", f"{count:.6f}",
            PARAMETER_REASONS.get(line["model"], "unexplained; counts of the published code agree with ours") if differs else "",
        ))  # fmt: skip
    return PaperTable("Table 3. Parameters in millions", ("model", "classes", "published", "ours", "why they differ"), tuple(rows))


def table4(latency: bool = True, repeats: int = 5, device: str = "cpu") -> PaperTable:
    """Multiply-accumulates of one image, thousand millions, and the time that one takes here on the mean path.

    Args:
        latency: whether to time, which needs the networks' memory (up to half a gigabyte) and some seconds each.
        repeats: timed passes after two to warm up; the median is shown.
        device: where to time.
    """
    rows = []
    for line in published("sizes"):
        size = int(line["input"])
        macs = _meta_macs(line) / 1e9
        printed = line["gflops_paper"]
        differs = bool(printed) and abs(macs - float(printed)) > 0.0051
        rows.append((
            NAMES.get(line["model"], line["model"]), line["input"], line["classes"], printed or "–", f"{macs:.6f}",
            *([f"{1000 * _latency(line, size, repeats, device):.1f}"] if latency else []),
            MAC_REASONS.get(line["model"], "unexplained") if differs else "",
        ))  # fmt: skip
    where = f"{device}, {torch.get_num_threads()} threads" if device == "cpu" else device
    return PaperTable(
        "Table 4. Multiply-accumulates of one image, thousand millions (the paper calls them FLOPs)",
        ("model", "side", "classes", "published", "ours", *(["ms an image"] if latency else []), "why they differ"),
        tuple(rows),
        (f"time: one image at a time, mean path, median of {repeats}, {where}, torch {torch.__version__}",) if latency else (),
    )


def unchanged(run: Mapping[str, str]) -> bool:
    """Whether a run kept every option of its recipe but where the data lie."""
    return not changes(run)


def changes(run: Mapping[str, str]) -> list[str]:
    """Options of a recorded command beside the recipe, its model, the seed, the machine's and where the data lie: ``beta 0.0``.

    Arithmetic, memory order and the number of devices are the machine's: a row of table 1 stays one on a GPU.
    """
    words = shlex.split(run["command"])[2:]
    found: list[str] = []
    for word in words:
        if re.match(r"--[a-z]", word):
            found.append(word[2:])
        elif found:
            found[-1] += f" {word}"
    return [change for change in found if change.split()[0].removeprefix("no-") not in NO_CHANGE]


def mean_of_seeds(values: Iterable[float]) -> str:
    """Mean with a 95 % t interval where there are several, and their number; `NOT_RUN` for none."""
    numbers = list(values)
    if not numbers:
        return NOT_RUN
    mean, low, high = mean_interval(numbers)
    return f"{mean:.2f}" + (f" [{low:.2f}, {high:.2f}]" if low == low else "") + f" ({len(numbers)})"


def signed_interval(values: tuple[float, float, float]) -> str:
    """A difference with its interval, where there is one."""
    mean, low, high = values
    return f"{mean:+.2f}" + (f" [{low:+.2f}, {high:+.2f}]" if low == low else "")


def _on_meta(line: Mapping[str, str]) -> Classifier:
    with torch.device("meta"):
        return create_model(line["model"], int(line["classes"]))


def _meta_macs(line: Mapping[str, str]) -> int:
    return count_macs(_on_meta(line), (3, int(line["input"]), int(line["input"])))


def _latency(line: Mapping[str, str], size: int, repeats: int, device: str) -> float:
    """Seconds of a forward pass of one image."""
    model: nn.Module = create_model(line["model"], int(line["classes"])).eval().to(device)
    image = torch.rand(1, 3, size, size, device=device)
    times = []
    with torch.no_grad():
        for turn in range(repeats + 2):
            began = time.perf_counter()
            model(image)
            if device == "cuda":
                torch.cuda.synchronize()
            if turn >= 2:
                times.append(time.perf_counter() - began)
    return statistics.median(times)

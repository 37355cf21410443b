"""Table 1 of the paper from recorded runs, published values beside ours; a cell that nobody has run says so."""

from __future__ import annotations

import csv
import io
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aib.data.texts import read_text
from aib.interpret.intervals import mean_interval, paired_difference
from aib.paper.counting import changes, check_protocol, counted, network_and_data, on_protocol, one_a_seed, recipes_of

__all__ = [
    "NOT_RUN", "PAIRED", "WHY", "PaperTable", "compare_runs", "difference_of_seeds", "mean_of_seeds", "numbered",
    "published", "read_recorded", "read_runs", "table1",
]  # fmt: skip

FOLDER = Path(__file__).resolve().parent / "published"
NOT_RUN = "not run"
WHY = "why they differ"
"""The column of reasons."""

GREATEST = 1e12
"""Bound of the numbers of a table of results, which are shares, bits and seeds."""


@dataclass(frozen=True)
class PaperTable:
    """A table ready to print: its title, column names, rows of text, notes to print under it, and how many columns name a row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    keys: int = 1

    def markdown(self) -> str:
        """Columns and rows as a table in Markdown, columns of numbers flush right."""
        numeric = [all(cell[:1] in "+-0123456789" for cell in column) for column in zip(*self.rows, strict=True)]
        rules = ["---:" if right else "---" for right in numeric or [False] * len(self.columns)]
        return "\n".join(f"| {' | '.join(line)} |" for line in (self.columns, rules, *self.rows))


def numbered(table: PaperTable) -> PaperTable:
    """The table with the reasons of its last column as numbered notes below, each said once."""
    if table.columns[-1] != WHY:
        return table
    reasons = list(dict.fromkeys(row[-1] for row in table.rows if row[-1]))
    rows = tuple((*row[:-1], f"({reasons.index(row[-1]) + 1})" if row[-1] else "") for row in table.rows)
    notes = tuple(f"({number}) {reason}" for number, reason in enumerate(reasons, start=1))
    return replace(table, columns=(*table.columns[:-1], "note"), rows=rows, notes=(*notes, *table.notes))


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


def table1(runs: Sequence[Mapping[str, str]], convention: str = "paper", protocol: str = "mean") -> PaperTable:
    """Test errors in per cent of every model on every data set.

    Args:
        runs: of `read_runs`; those of the recipes ``CONVENTION/DATA/MODEL`` count, see `aib.paper.counting.counted`.
        convention: ``"paper"`` or ``"reference"``; where the two do not differ there is one recipe, under ``paper``.
        protocol: ``"mean"`` or ``"sampled"``, see `aib.paper.counting.on_protocol`.

    Raises:
        ValueError: the convention or the protocol is unknown.
    """
    recipes = recipes_of(convention)
    check_protocol(protocol)
    rows = []
    lines = published("table1")
    columns = list(lines[0])[1:]
    for line in lines:
        cells = []
        for column in columns:
            data, _, split = column.partition("_")
            trained, evaluated = ("cifar10", "stl10-by-index") if data == "stl10" else (data, data)
            name = f"{trained}/{line['model']}"
            recipe = f"{convention}/{name}" if f"{convention}/{name}" in recipes else f"paper/{name}"
            mine = counted(runs, recipe, evaluated, split or "test", protocol)
            errors = [100 * float(run["error"]) for run in mine]
            cells.append(f"{line[column] or '–'} / {mean_of_seeds(errors)}" if line[column] or errors else "–")
        rows.append((line["model"], *cells))
    return PaperTable(
        f"Table 1. Test error in per cent, published / ours ({convention} recipes)",
        ("model", *columns),
        tuple(rows),
        (
            f"ours: mean over seeds, 95 % t interval where there are several, and their number; {TESTED[protocol]}; of several "
            "runs of a seed the one without options of the machine counts, else the newest",
            "trained on nine tenths of the training images (45,000 of CIFAR's 50,000): the others choose the epoch; the paper's "
            "code trains on all of them and chooses by the test error; a run of another share (--val-fraction), as with any other "
            "change of its recipe, does not count here: --recipe NAME shows it",
            "STL-10: models trained on CIFAR-10, classes matched by index as in the published columns: aib eval RUN --data stl10 "
            "--labels by-index, with --split train for stl10_train; --labels by-name gives the honest number, over the nine "
            "classes that both have",
        ),
    )


TESTED = {
    "mean": "on the mean path (--protocol sampled: as the paper tests)",
    "sampled": "as the paper tests, logits averaged over 4 draws of the attention and 4 of the latent for each (aib eval RUN "
    "--samples 4 4); what draws nothing as it is",
}
"""By test protocol, what a note says of it."""


def compare_runs(runs: Sequence[Mapping[str, str]], recipe: str, first: str | None = None, protocol: str = "mean") -> PaperTable:
    """All recorded runs of one recipe, whatever was changed on its command line, with paired differences on the same data.

    Args:
        runs: of `read_runs`.
        recipe: name of the recipe.
        first: label of the row that the others are compared with; the first one by default.
        protocol: see `aib.paper.counting.on_protocol`.

    Raises:
        ValueError: there is no such run or row, or the protocol is unknown.
    """
    check_protocol(protocol)
    recorded = [run for run in runs if run["recipe"] == recipe]
    data = _own_data(recipe, recorded)
    found: dict[str, list[Mapping[str, str]]] = {}
    for run in sorted(recorded, key=lambda run: run["data"] != data):  # the first row is of the recipe's own data
        own = run["split"] == "test" and run.get("evaluated_on", run["data"]) == run["data"]
        if own and on_protocol(run, protocol):
            other = [f"data {run['data']}"] if run["data"] != data else []
            found.setdefault(" ".join([run["model"], *other, *changes(run)]), []).append(run)
    groups = {label: {int(run["seed"]): run for run in one_a_seed(mine)} for label, mine in found.items()}
    if not groups and recorded:
        raise ValueError(
            f"no recorded run of the recipe {recipe!r} on the test images of its data and --protocol {protocol}; there are only "
            f"ones {'; '.join(dict.fromkeys(map(_test_of, recorded)))} (aib eval RUN --record adds one"
            f"{' with --samples 4 4' * (protocol == 'sampled')})"
        )
    if not groups:
        known = sorted({run["recipe"] for run in runs if run["recipe"]})
        raise ValueError(f"no recorded run of the recipe {recipe!r}; there are runs of {', '.join(known) or 'none'}")
    if first is not None and first not in groups:
        raise ValueError(f"no row {first!r}; there are {', '.join(groups)}")
    first = first or next(iter(groups))
    errors = {label: {seed: 100 * float(run["error"]) for seed, run in mine.items()} for label, mine in groups.items()}
    rows = []
    for label, mine in groups.items():
        alike = len({run["data"] for run in (*mine.values(), *groups[first].values())}) == 1
        difference = difference_of_seeds(errors[label], errors[first]) if label != first and alike else ""
        rates = [float(run["rate_bits"]) for run in mine.values() if run["rate_bits"]]
        costs = [float(run["training_pflop"]) for run in mine.values() if run.get("training_pflop")]
        rate, cost = f"{statistics.fmean(rates):.1f}" if rates else "", f"{statistics.fmean(costs):.3g}" if costs else ""
        rows.append((label, mean_of_seeds(errors[label].values()), difference, rate, cost))
    return PaperTable(
        f"Recorded runs of {recipe}: test error in per cent",
        ("model and changes", "error", f"minus {first}", "rate (bits)", "PFLOP"),
        tuple(rows),
        (
            f"means with 95 % t intervals over seeds (their number in brackets), {TESTED[protocol]}",
            f"{PAIRED}; PFLOP of a training: 6e-15 for each multiply-accumulate",
        ),
    )


def _test_of(run: Mapping[str, str]) -> str:
    """How a run was tested, in words."""
    parts = [f"with --samples {samples.replace('x', ' ')}" if (samples := run.get("samples")) else "on the mean path"]
    parts += ["with logits averaged over mirror images"] if run.get("mirror") else []
    on = run.get("evaluated_on", run["data"])
    parts += [f"on {run['split']} images of {on}"] if (run["split"], on) != ("test", run["data"]) else []
    return ", ".join(parts)


def _own_data(recipe: str, runs: Sequence[Mapping[str, str]]) -> str | None:
    """The data of a recipe; of one that is gone, those of its first run whose command names none."""
    try:
        return network_and_data(recipe)[1]
    except ValueError:
        return min(runs, key=lambda run: len(changes(run, ("data",))))["data"] if runs else None


def mean_of_seeds(values: Iterable[float]) -> str:
    """Mean with a 95 % t interval where there are several, and their number; `NOT_RUN` for none."""
    numbers = list(values)
    if not numbers:
        return NOT_RUN
    mean, low, high = mean_interval(numbers)
    return f"{mean:.2f}" + (f" [{low:.2f}, {high:.2f}]" if low == low else "") + f" ({len(numbers)})"


PAIRED = "differences are paired by seed (in brackets the number of pairs where a mean has more seeds)"


def difference_of_seeds(ours: Mapping[int, float], theirs: Mapping[int, float]) -> str:
    """Mean difference of the seeds that both have with a 95 % t interval where there are several, and their number where one has
    more; empty for none."""
    shared = [seed for seed in ours if seed in theirs]
    if not shared:
        return ""
    mean, low, high = paired_difference([ours[seed] for seed in shared], [theirs[seed] for seed in shared])
    number = f" ({len(shared)})" if len(shared) < max(len(ours), len(theirs)) else ""
    return f"{mean:+.2f}" + (f" [{low:+.2f}, {high:+.2f}]" if low == low else "") + number

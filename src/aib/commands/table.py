"""``aib table``: the paper's tables, published values beside ours."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from aib.commands.options import check_out, parse_options

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from aib.paper.tables import PaperTable

THRESHOLDS = ("0.85", "0.9", "0.95")


@dataclass(frozen=True)
class TableOptions:
    """Print table 1 (errors), 2 (interpretability), 3 (parameters) or 4 (cost) of the paper beside what was measured here."""

    number: tyro.conf.Positional[Literal[1, 2, 3, 4]]
    """Number of the table in the paper."""
    runs: Path = Path("results/runs.csv")
    """Recorded runs, for table 1 (aib eval RUN --record)."""
    scores: Path = Path("results/scores.csv")
    """Recorded scores, for table 2."""
    convention: Literal["paper", "reference"] = "paper"
    """For tables 1 and 2: recipes as the paper writes them, or as its published code runs them."""
    protocol: Literal["mean", "sampled"] = "mean"
    """For table 1: errors on the mean path, or as the paper tests, over 4 x 4 draws (aib eval RUN --samples 4 4 --record)."""
    recipe: str | None = None
    """Instead of the paper's recipes: all recorded runs (table 1) or scores (table 2) of this one."""
    threshold: float = 0.9
    """For table 2: cosine from which on a map counts as unchanged, 0.85, 0.9 or 0.95."""
    versus: str | None = None
    """With --recipe: the row the others are compared with, by its label; the first by default."""
    latency: bool = True
    """For table 4: time a forward pass of each network on this machine."""
    device: str = "cpu"
    """For table 4: where to time."""
    out: Path | None = None
    """Also write the table to this file, as .csv or .md."""


def run(arguments: Sequence[str]) -> None:
    """Parse ``arguments`` and print the table."""
    options = parse_options(TableOptions, "table", arguments)
    if options.out is not None and options.out.suffix not in (".csv", ".md"):
        raise ValueError(f"out is {options.out}; it must end in .csv or .md")
    if options.out is not None:
        check_out(options.out)

    _check(options)

    from rich.console import Console

    from aib.paper.scores import compare_scores, read_scores, table2
    from aib.paper.sizes import table3, table4
    from aib.paper.tables import compare_runs, numbered, read_runs, table1
    from aib.train.device import choose_device

    if options.number == 1:
        runs = read_runs(options.runs)
        if options.recipe:
            found = compare_runs(runs, options.recipe, options.versus, options.protocol)
        else:
            found = table1(runs, options.convention, options.protocol)
    elif options.number == 2:
        scores, threshold = read_scores(options.scores), f"{options.threshold:g}"
        if options.recipe:
            found = compare_scores(scores, options.recipe, threshold, options.versus)
        else:
            found = table2(scores, threshold, options.convention)
    else:
        found = table3() if options.number == 3 else table4(options.latency, device=choose_device(options.device))
    short = numbered(found)
    console = Console(highlight=False, markup=False)
    wide = not console.is_terminal  # a file or a pipe has no width to keep to
    if wide:
        console = Console(highlight=False, markup=False, width=200)
    console.print(short.title, style="bold", soft_wrap=wide)  # a title of the table itself is broken at the table's width
    for part in _parts(short, console):
        console.print(part)
    console.print("\n".join(short.notes), soft_wrap=wide)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(_as_text(found if options.out.suffix == ".csv" else short, options.out.suffix), encoding="utf-8")


GAP = 2
"""Spaces between columns."""


def _parts(table: PaperTable, console: Console) -> list[Table]:
    """The table, or one below the other as many parts of its columns as the console's width takes.

    The columns that name a row stand in every part, so a table is parted only where they tell its rows apart; in others cells are
    broken.
    """
    from rich import box
    from rich.table import Table

    natural = [max(map(len, cells)) for cells in zip(table.columns, *table.rows)]
    space = console.width - 2  # the box takes the first and the last
    names, apart = list(range(table.keys)), len({row[: table.keys] for row in table.rows}) == len(table.rows)
    groups = [names[:]]
    for column in range(len(names), len(natural)):
        width = sum(natural[other] + GAP for other in groups[-1]) + natural[column]
        if len(groups[-1]) > len(names) and width > space and apart:
            groups.append(names[:])
        groups[-1].append(column)
    parts = []
    for group in groups:
        made = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        cells = [[table.columns[column], *(row[column] for row in table.rows)] for column in group]
        for cell, fixed in zip(cells, _widths(cells, space - GAP * (len(group) - 1))):
            made.add_column(cell[0], width=fixed, overflow="fold")
        for row in table.rows:
            made.add_row(*(row[column] for column in group))
        parts.append(made)
    return parts


def _widths(columns: Sequence[Sequence[str]], space: int) -> Sequence[int | None]:
    """Widths at which no word is broken; None for each where there is no space for that."""
    natural = [max(map(len, cells)) for cells in columns]
    widths = [max(len(word) for cell in cells for word in cell.split() or [""]) for cells in columns]
    widths[0] = natural[0]
    if sum(widths) > space:
        return [None] * len(columns)
    while sum(widths) < min(space, sum(natural)):  # a space more for the column that lacks most
        widths[max(range(len(widths)), key=lambda i: natural[i] - widths[i])] += 1
    return widths


def _check(options: TableOptions) -> None:
    """Refuse what would be ignored.

    Raises:
        ValueError: an option belongs to another table, the threshold is none that is recorded, or a table that was named is absent.
    """
    usual = TableOptions(options.number)
    for name, needs, holds in (
        ("runs", "is for table 1", options.number == 1),
        ("scores", "is for table 2", options.number == 2),
        ("threshold", "is for table 2", options.number == 2),
        ("protocol", "is for table 1", options.number == 1),
        ("convention", "is for tables 1 and 2, without --recipe", options.number <= 2 and options.recipe is None),
        ("recipe", "is for tables 1 and 2", options.number <= 2),
        ("versus", "goes with --recipe", options.recipe is not None and options.number <= 2),
        ("latency", "is for table 4", options.number == 4),
        ("device", "is for table 4, with its times", options.number == 4 and options.latency),
    ):
        if not holds and getattr(options, name) != getattr(usual, name):
            raise ValueError(f"--{name} {needs}")
    if f"{options.threshold:g}" not in THRESHOLDS:
        raise ValueError(f"threshold is {options.threshold:g}; it must be one of {', '.join(THRESHOLDS)}")
    for path, default in ((options.runs, usual.runs), (options.scores, usual.scores)):
        if path != default and not path.exists():
            raise ValueError(f"there is no file {path}")


def _as_text(table: PaperTable, suffix: str) -> str:
    """The table as CSV or as Markdown with its title and notes."""
    if suffix == ".csv":
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows([table.columns, *table.rows])
        return buffer.getvalue()
    return "\n".join([f"**{table.title}**", "", table.markdown(), "", *table.notes, ""])

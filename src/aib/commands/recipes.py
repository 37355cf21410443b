"""``aib recipes``: the packaged recipes with published and measured values, and the models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from aib.commands.options import parse_options

if TYPE_CHECKING:
    from aib.recipes import Recipe

RUNS = Path("results/runs.csv")


@dataclass(frozen=True)
class RecipesOptions:
    """List the recipes and models, or print one recipe."""

    name: tyro.conf.Positional[str | None] = None
    """A recipe to print, ready to be saved and changed; or a folder of them, such as paper/cifar10, to list."""
    runs: Path = RUNS
    """For the list: recorded runs (aib eval RUN --record) that are quoted where the recipe has any there."""


def run(arguments: Sequence[str]) -> None:
    """Parse ``arguments`` and print."""
    options = parse_options(RecipesOptions, "recipes", arguments)

    from aib.recipes import list_recipes, recipe_path

    listed = [recipe for recipe in list_recipes() if options.name is None or recipe.name.startswith(f"{options.name.rstrip('/')}/")]
    if options.name is not None and not listed:
        if options.runs != RUNS:
            raise ValueError("--runs is for the list; a recipe is printed as it is")
        print(recipe_path(options.name).read_text(encoding="utf-8"), end="")
        return

    from rich.console import Console
    from rich.table import Table

    from aib.models import model_names

    runs, unread = _runs(options.runs)
    console = Console(highlight=False, markup=False)
    wide = not console.is_terminal  # a file or a pipe has no width to keep to
    if wide:
        console = Console(highlight=False, markup=False, width=200)
    rows = {recipe.name: (recipe.name, recipe.published or "-", _measured(recipe, runs)) for recipe in listed}
    widths = [max(map(len, cells)) for cells in zip(("recipe", "published", "measured"), *rows.values())]
    for number, (summary, group) in enumerate(groupby(listed, key=lambda recipe: recipe.summary)):
        console.print(f"\n{summary}", style="bold", soft_wrap=wide)
        table = Table("recipe", "published", "measured", box=None, pad_edge=False, show_header=number == 0)
        for column, width in zip(table.columns, widths[:2]):
            column.width = width
        for recipe in group:
            table.add_row(*rows[recipe.name])
        console.print(table)
    lines = (
        "\nmeasured: test error in per cent, selected on validation images; mean over seeds, 95 % t interval, number of seeds. "
        "All runs of a recipe: aib table 1 --recipe NAME",
        *unread,
        f"\nmodels: {', '.join(model_names())}, and every timm model with --attend SITE (aib sites MODEL lists them)",
        "run one: aib train --recipe NAME     change one: aib recipes NAME > mine.toml; aib train --recipe mine.toml",
    )
    console.print("\n".join(lines), soft_wrap=wide)


def _runs(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    """The recorded runs, and what to say where a file that nobody named is no such table.

    Raises:
        ValueError: a file that was named is absent or no such table.
    """
    from aib.paper.tables import read_runs

    if path != RUNS and not path.exists():
        raise ValueError(f"there is no file {path}")
    try:
        return read_runs(path), []
    except ValueError as error:
        if path != RUNS:
            raise
        return [], [f"nothing is quoted of recorded runs: {error}"]


def _measured(recipe: Recipe, runs: Sequence[Mapping[str, str]]) -> str:
    """The mean error of a recipe's own recorded runs and how many there are with changes, or what its header quotes."""
    from aib.paper.counting import counted
    from aib.paper.tables import NOT_RUN, mean_of_seeds

    every = {run["command"] for run in runs if run["recipe"] == recipe.name}
    if not every:
        return recipe.measured or NOT_RUN
    mine = counted(runs, recipe.name)
    found = mean_of_seeds([100 * float(run["error"]) for run in mine])
    return found + (f", {len(every)} run{'s' * (len(every) > 1)} in all" if len(every) > len(mine) else "")

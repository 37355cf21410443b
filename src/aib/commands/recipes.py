"""``aib recipes``: the packaged recipes with published and measured values, and the models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from aib.commands.options import parse_options


@dataclass(frozen=True)
class RecipesOptions:
    """List the recipes and models, or print one recipe."""

    name: tyro.conf.Positional[str | None] = None
    """A recipe to print, ready to be saved and changed; or a folder of them, such as paper/cifar10, to list."""


def run(arguments: Sequence[str]) -> None:
    """Parse ``arguments`` and print."""
    options = parse_options(RecipesOptions, "recipes", arguments)

    from aib.recipes import list_recipes, recipe_path

    listed = [recipe for recipe in list_recipes() if options.name is None or recipe.name.startswith(f"{options.name.rstrip('/')}/")]
    if options.name is not None and not listed:
        print(recipe_path(options.name).read_text(encoding="utf-8"), end="")
        return

    from rich.console import Console
    from rich.table import Table

    from aib.models import model_names

    table = Table("recipe", "what", "published", "measured", box=None)
    for recipe in listed:
        table.add_row(recipe.name, recipe.summary, recipe.published or "-", recipe.measured or "not run")
    console = Console(highlight=False)
    if not console.is_terminal:  # a file or a pipe has no width to keep to
        console = Console(highlight=False, width=200)
    console.print(table)
    lines = (
        f"\nmodels: {', '.join(model_names())}, and every timm model with --attend SITE (aib sites MODEL lists them)",
        "run one: aib train --recipe NAME     change one: aib recipes NAME > mine.toml; aib train --recipe mine.toml",
    )
    console.print("\n".join(lines), soft_wrap=True)

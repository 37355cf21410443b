"""Complete, reproducible runs as TOML files, packaged with the code.

A recipe's first comment lines say what it is; ``# published:`` and ``# measured:`` lines hold the paper's value and ours.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from pathlib import Path

from aib.train.config import TrainConfig, read_config

__all__ = ["Recipe", "list_recipes", "load_recipe", "recipe_path", "start_of"]

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Recipe:
    """One packaged recipe: its name, the first line of its header, and the values quoted there (empty where there are none)."""

    name: str
    summary: str
    published: str
    measured: str


def list_recipes() -> list[Recipe]:
    """All packaged recipes, sorted by name."""
    found = []
    for path in sorted(FOLDER.rglob("*.toml")):
        header = []
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                break
            header.append(line.removeprefix("#").strip())
        quoted = {key: value.strip() for key, _, value in (line.partition(":") for line in header)}
        name = path.relative_to(FOLDER).with_suffix("").as_posix()
        found.append(Recipe(name, header[0] if header else "", quoted.get("published", ""), quoted.get("measured", "")))
    return found


def recipe_path(name: str) -> Path:
    """The file of a packaged recipe, or ``name`` itself where it is the path of a TOML file.

    Raises:
        ValueError: there is no such recipe; near names are given.
    """
    packaged = FOLDER / f"{name}.toml"
    if packaged.is_file() and packaged.resolve().is_relative_to(FOLDER):
        return packaged
    if name.endswith(".toml"):
        return Path(name)
    names = [r.name for r in list_recipes()]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(names) or 'none'}."
    raise ValueError(f"unknown recipe {name!r}; {hint} A path must end in .toml")


def load_recipe(name: str) -> TrainConfig:
    """The configuration of a recipe, which remembers the recipe's name.

    Raises:
        ValueError: see `recipe_path` and `aib.train.config.read_config`.
    """
    config = read_config(recipe_path(name))
    return replace(config, run=replace(config.run, recipe=name))


def start_of(config: TrainConfig) -> TrainConfig:
    """What a run's options were changed from: its recipe, or the defaults."""
    return load_recipe(config.run.recipe) if config.run.recipe else TrainConfig()

"""Complete, reproducible runs as TOML files, packaged with the code.

A recipe's first comment lines say what it is; ``# published:`` and ``# measured:`` lines hold the paper's value and ours.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from aib.train.config import TrainConfig, read_config

if TYPE_CHECKING:
    from aib.train.run_folder import RunFolder

__all__ = ["Recipe", "list_recipes", "load_recipe", "recipe_path", "start_of"]

FOLDER = Path(__file__).resolve().parent
LIKE = 0.65
"""Likeness of two names from which one may have been meant for the other."""


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
    """The file of a packaged recipe, or of ``name`` where that is the path of a TOML file.

    Args:
        name: of the recipe, with or without ``.toml``; with it, a file of one's own goes before the packaged one.

    Raises:
        ValueError: there is no such recipe or file; near names are given.
    """
    if name.endswith(".toml") and Path(name).is_file():
        return Path(name)
    plain = name.removesuffix(".toml")
    packaged = FOLDER / f"{plain}.toml"
    if packaged.is_file() and packaged.resolve().is_relative_to(FOLDER):
        return packaged
    if not (near := _near(plain)):
        hint = "there are none."
    elif near[0][1] >= LIKE:
        hint = f"did you mean {', '.join(other for other, likeness in near if likeness >= LIKE)}?"
    else:
        hint = f"the nearest is {near[0][0]}, aib recipes lists them all."
    if name.endswith(".toml"):
        raise ValueError(f"no recipe at {name}; {hint}")
    raise ValueError(f"unknown recipe {name!r}; {hint} A path must end in .toml")


def _near(name: str) -> list[tuple[str, float]]:
    """The three recipes most like ``name`` with the likeness from 0 to 1, greatest first; a name without folders is any part."""

    def likeness(other: str) -> float:
        parts = [other] if "/" in name else other.split("/")
        return max(difflib.SequenceMatcher(None, name, part).ratio() for part in parts)

    return sorted(((recipe.name, likeness(recipe.name)) for recipe in list_recipes()), key=lambda pair: -pair[1])[:3]


def load_recipe(name: str) -> TrainConfig:
    """The configuration of a recipe, which remembers the recipe's name, or the path that was given.

    Raises:
        ValueError: see `recipe_path` and `aib.train.config.read_config`.
    """
    path = recipe_path(name)
    config = read_config(path)
    if path.is_relative_to(FOLDER):  # however it was written: results are found by this name
        name = path.relative_to(FOLDER).with_suffix("").as_posix()
    return replace(config, run=replace(config.run, recipe=name))


def start_of(folder: RunFolder) -> TrainConfig:
    """What a run's options were changed from: its recipe, or the defaults, also where the recipe is gone.

    A recipe that was given as a path is the copy that the run keeps, whatever has become of the file.

    Raises:
        ValueError: the copy is damaged.
    """
    from aib.train.origin import RECIPE

    name = folder.config.run.recipe
    if not name:
        return TrainConfig()
    if folder.has(RECIPE):
        config = read_config(folder.path / RECIPE)
        return replace(config, run=replace(config.run, recipe=name))
    try:
        return load_recipe(name)
    except ValueError:
        return TrainConfig()

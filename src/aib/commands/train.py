"""``aib train``: train a classifier, from options, from a recipe, or go on with an interrupted run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from aib.commands.options import parse_options
from aib.train.config import MACHINE, PLACE, TrainConfig, with_machine


@dataclass(frozen=True)
class TrainOptions:
    """Train a classifier and leave a run folder.

    Options override the recipe's values. Ctrl-C saves the run; --resume RUN goes on with it.
    """

    recipe: str | None = None
    """A recipe's name (aib recipes lists them) or the path of a TOML file."""
    resume: str | None = None
    """An interrupted run's folder; its own configuration counts; with it go the machine's options, --root and --workers."""
    config: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)


def read_options(arguments: Sequence[str]) -> TrainOptions:
    """The options of a command line, with its recipe's values where it names one.

    Raises:
        ValueError: see `parse_options` and `aib.recipes.load_recipe`.
    """
    given = list(arguments)
    default = TrainOptions()
    if (name := _value(given, "--recipe")) is not None:
        from aib.recipes import load_recipe

        default = TrainOptions(recipe=name, config=load_recipe(name))
    return parse_options(TrainOptions, "train", given, default=default)


def run(arguments: Sequence[str]) -> None:
    """Parse ``arguments`` and train."""
    options = read_options(arguments)
    if options.resume is not None and with_machine(TrainConfig(), options.config) != options.config:
        allowed = ", ".join(f"--{name.replace('_', '-')}" for name in (*MACHINE, *PLACE))
        raise ValueError(f"--resume takes the run's own configuration; with it go only {allowed}")

    if options.config.model.pretrained == "yes":
        _offline_if_unreachable()

    from rich.console import Console

    from aib.train.loop import train
    from aib.train.processes import read_world
    from aib.train.unused import unused_options

    _check_recipe_fits(options, _typed(arguments))
    first = read_world(os.environ).rank == 0  # of several processes one speaks
    # a folder's name may hold what rich takes for markup
    console = Console(markup=False, quiet=options.config.run.quiet or not first, soft_wrap=True, highlight=False)
    for line in unused_options(options.config, _typed(arguments)):
        console.print(line)
    folder = train(options.config, resume=Path(options.resume) if options.resume else None)
    console.quiet = console.quiet or folder.config.run.quiet
    console.print(
        f"saved in {folder.path}\nnext: aib eval {folder.path}   aib explain {folder.path} IMAGE   aib report {folder.path}"
    )


def _check_recipe_fits(options: TrainOptions, typed: Sequence[str]) -> None:
    """Refuse a model that lacks an option which the recipe gives, not the user.

    Raises:
        ValueError: with the recipe of that model on the same data, where there is one.
    """
    from aib.models import model_names
    from aib.models.registry import takes
    from aib.recipes import list_recipes

    name, model = options.config.model.model, options.config.model
    if options.recipe is None or name not in model_names():
        return
    for option in ("anchors", "latent_dim", "modulation", "min_std", "width"):
        if getattr(model, option) is None or option in typed or takes(name, option):
            continue
        other = f"{options.recipe.rpartition('/')[0]}/{name}"
        near = f"take --recipe {other}" if other in [r.name for r in list_recipes()] else "take a recipe of such a model"
        raise ValueError(f"{name} has no option {option!r}, which the recipe {options.recipe} gives; {near}, or none")


def _offline_if_unreachable(seconds: float = 5.0) -> None:
    """Where the host of pretrained weights can't be reached, have the hub look in its cache only, not retry for half a minute.

    Set before the hub's library is imported, which reads it once. Behind a proxy nothing can be said: the hub tries by itself.
    """
    import socket
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    if getproxies():
        return
    host = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        socket.create_connection((host.hostname or "", host.port or 443), seconds).close()
    except OSError:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _typed(arguments: Sequence[str]) -> list[str]:
    """Names of the options in ``arguments``, as the configuration's fields have them."""
    return [word[2:].partition("=")[0].replace("-", "_").removeprefix("no_") for word in arguments if word.startswith("--")]


def _value(arguments: Sequence[str], option: str) -> str | None:
    """The value given to ``option``, found before the options are parsed: it decides their defaults."""
    for i, argument in enumerate(arguments):
        if argument == option and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith(f"{option}="):
            return argument.split("=", 1)[1]
    return None

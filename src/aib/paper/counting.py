"""Which recorded runs count as a recipe's own: its network and data, no option changed, one test protocol, one run a seed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from aib.models import model_names
from aib.models.cub import IMAGENET_FILES
from aib.models.registry import takes
from aib.recipes import list_recipes, load_recipe

__all__ = [
    "changes", "check_protocol", "counted", "network_and_data", "on_protocol", "one_a_seed", "recipes_of", "unchanged",
]  # fmt: skip

CONVENTIONS = ("paper", "reference")

PROTOCOLS = {"mean": "", "sampled": "4x4"}
"""By test protocol, the draws of attention and latent that a run is recorded with."""

MACHINE = ("precision", "channels-last", "compile", "compile-mode", "devices", "accumulate")
"""Options of a recorded command that say how a machine computes the run."""
NO_CHANGE = ("recipe", "seed", "data", "root", "model", "download", "workers", *MACHINE)
"""Options of a recorded command that are no change of its recipe; data and model are told apart by their own columns."""


def recipes_of(convention: str) -> set[str]:
    """Names of a convention's recipes, with the paper's where the two do not differ.

    Raises:
        ValueError: the convention is unknown.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention is {convention!r}; it must be {' or '.join(CONVENTIONS)}")
    names = {name.partition("/")[::2] for name in (recipe.name for recipe in list_recipes())}
    own = {f"{convention}/{cell}" for first, cell in names if first == convention}
    return own | {f"paper/{cell}" for first, cell in names if first == "paper" and (convention, cell) not in names}


def counted(
    runs: Iterable[Mapping[str, str]],
    recipe: str,
    evaluated_on: str | None = None,
    split: str = "test",
    protocol: str = "mean",
) -> list[Mapping[str, str]]:
    """The recorded runs that are a packaged recipe's own, one a seed (`one_a_seed`).

    They are of its own network on its own data, with no option changed but where the data lie and how the machine computes.

    Args:
        runs: of `aib.paper.tables.read_runs`.
        recipe: its name.
        evaluated_on: the data that the errors are of; by default those of the recipe.
        split: and their split.
        protocol: see `on_protocol`.
    """
    found = [run for run in runs if run["recipe"] == recipe and run["split"] == split and unchanged(run)]
    if not found:
        return []
    model, data = network_and_data(recipe)
    return one_a_seed(
        run for run in found
        if (run["model"], run["data"]) == (model, data) and run.get("evaluated_on", run["data"]) == (evaluated_on or data)
        and on_protocol(run, protocol)
    )  # fmt: skip


def network_and_data(recipe: str) -> tuple[str, str]:
    """Names of a recipe's network and data as its runs are recorded.

    Raises:
        ValueError: see `aib.recipes.load_recipe`.
    """
    config = load_recipe(recipe)
    site = f"@{config.model.attend}" if config.model.attend else ""
    return config.model.model + site, Path(config.data.data).name.removesuffix(".npz")


def one_a_seed(runs: Iterable[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """One of several runs of each seed: one without options of the machine before one with them, then the newest.

    Arithmetic and the number of devices change a run by rounding only: counted as runs of their own they would make an interval
    over seeds too narrow.
    """
    plainest_last = sorted(runs, key=lambda run: (not changes(run, MACHINE), run.get("date", "")))
    return list({run["seed"]: run for run in plainest_last}.values())


def on_protocol(run: Mapping[str, str], protocol: str = "mean") -> bool:
    """Whether an error was recorded under a test protocol.

    Args:
        run: a recorded run.
        protocol: ``"mean"``, the deterministic mean path; or ``"sampled"``, as the paper tests, logits averaged over 4 draws of the
            attention and 4 of the latent for each. A network that draws nothing has one error for both. Neither has logits averaged
            over mirror images.
    """
    samples = run.get("samples", "")
    drawn = samples == PROTOCOLS[protocol] or (not samples and not _draws(run["model"]))
    return drawn and not run.get("mirror")


def _draws(model: str) -> bool:
    """Whether a network has a latent to draw: told by its name, ``NETWORK`` or ``NETWORK@SITE``."""
    return "@" in model or (model in model_names() and takes(model, "latent_dim"))


def check_protocol(protocol: str) -> None:
    """Refuse what is no test protocol.

    Raises:
        ValueError: it is not.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol is {protocol!r}; it must be {' or '.join(PROTOCOLS)}")


def unchanged(run: Mapping[str, str]) -> bool:
    """Whether a run kept every option of its recipe but where the data lie."""
    return not changes(run)


def changes(run: Mapping[str, str], among: Collection[str] | None = None) -> list[str]:
    """Options of a recorded command beside the recipe, its model, the seed, the machine's and where the data lie: ``beta 0.0``.

    Arithmetic, memory order and the number of devices are the machine's: a row of table 1 stays one on a GPU. A local copy of
    torchvision's own ImageNet weights, told by its name, is no change either.

    Args:
        run: a recorded run or score.
        among: take those of these options instead.
    """
    words = shlex.split(run["command"])[2:]
    found: list[str] = []
    for word in words:
        if re.match(r"--[a-z]", word):
            found.append(word[2:])
        elif found:
            found[-1] += f" {word}"
    names = {change: change.split()[0].removeprefix("no-") for change in found}
    if among is not None:
        return [change for change, name in names.items() if name in among]
    return [change for change, name in names.items() if name not in NO_CHANGE and not _fetched(change, run.get("model", ""))]


def _fetched(change: str, model: str) -> bool:
    """Whether a change is where torchvision's ImageNet weights lie, as else fetched: of that name no other file is read."""
    option, _, value = change.partition(" ")
    known = model in model_names() and takes(model, "pretrained")  # timm's networks have other weights, in files of any name
    return option == "pretrained" and known and Path(value).name in IMAGENET_FILES.values()

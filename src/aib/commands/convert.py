"""``aib convert``: a checkpoint of the paper's published code as a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from aib.commands.options import parse_options


@dataclass(frozen=True)
class ConvertOptions:
    """Turn a checkpoint of the paper's published code into a run folder for eval, explain and report."""

    checkpoint: tyro.conf.Positional[Path]
    """The .tar or .pth file; nothing in it is executed."""
    out: Path
    """Folder of the run."""
    model: str | None = None
    """vgg_aib, vgg_aib_qt, wrn_aib or wrn_aib_qt; by default what the weights are."""
    data: str | None = None
    """The data it was trained on; by default what it says, or CIFAR-10 or -100 by the number of classes."""
    root: str = "data"
    """Folder that holds the named data sets."""
    mean: tuple[float, float, float] | None = None
    """Means of red, green and blue in [0, 1] that were subtracted; by default the published code's."""
    std: tuple[float, float, float] | None = None
    """Standard deviations that were divided by; by default the published code's."""


def run(arguments: Sequence[str]) -> None:
    """Parse ``arguments``, convert and say what came of it."""
    options = parse_options(ConvertOptions, "convert", arguments)

    from rich.console import Console

    from aib.train.convert import convert_checkpoint

    folder = convert_checkpoint(
        options.checkpoint, options.out, model_name=options.model, data=options.data, root=options.root, mean=options.mean,
        std=options.std,
    )  # fmt: skip
    card = folder.read_json("model.json")
    sizes = ", ".join(
        f"{name.replace('_', ' ')} {card['options'][name]}" for name in ("latent_dim", "anchors") if name in card["options"]
    )
    mean, std = (", ".join(f"{value:g}" for value in card[name]) for name in ("mean", "std"))
    Console(soft_wrap=True, highlight=False).print(
        f"{card['name']} with {card['num_classes']} classes of {card['data']}, {sizes}: {folder.path}\n"
        f"normalised with mean {mean} and std {std} ({card['converted_from']['normalization']})\n"
        f"go on with: aib eval {folder.path}   aib explain {folder.path} IMAGE",
        markup=False,
    )

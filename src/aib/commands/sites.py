"""``aib sites``: where attention can be attached in a timm model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from aib.commands.options import parse_options


@dataclass(frozen=True)
class SitesOptions:
    """List the sites of a timm model: the names that --attend takes, with the shape of the features there."""

    model: tyro.conf.Positional[str]
    """A timm model."""
    image_size: int | None = None
    """Side of the images; by default the model's own."""
    depth: int = 2
    """Show names with at most so many parts (layer3.0 has two); 0 shows all."""


def run(arguments: Sequence[str]) -> None:
    """Parse ``arguments`` and print a table."""
    options = parse_options(SitesOptions, "sites", arguments)

    from rich.console import Console
    from rich.table import Table

    from aib.sites import list_sites

    sites = list_sites(options.model, options.image_size)
    shown = [s for s in sites if not options.depth or s.name.count(".") < options.depth]
    table = Table("site", "channels", "map", "stride", box=None)
    for site in shown:
        table.add_row(site.name, str(site.channels), f"{site.height}x{site.width}", str(site.stride))
    console = Console(highlight=False)
    console.print(table)
    if len(shown) < len(sites):
        console.print(f"{len(sites) - len(shown)} more inside these: --depth 0 shows them")

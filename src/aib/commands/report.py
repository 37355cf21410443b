"""``aib report``: one self-contained HTML page about one or more runs, from their files alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from aib.commands.options import parse_options


@dataclass(frozen=True)
class ReportOptions:
    """Write the report of one or more evaluated runs, side by side."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders."""
    out: Path | None = None
    """The page; by default report.html in the first run's folder."""
    title: str | None = None
    """Title of the page."""


def run(arguments: Sequence[str]) -> None:
    """Parse ``arguments`` and write the page."""
    options = parse_options(ReportOptions, "report", arguments)
    if not options.runs:
        raise ValueError("no run given; name one or more run folders")

    from aib.report import build_report

    page = build_report(options.runs, options.out or options.runs[0] / "report.html", title=options.title)
    print(page)

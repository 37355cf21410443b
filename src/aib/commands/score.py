"""``aib score``: what a run's maps are worth, beside controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import tyro

from aib.commands.options import parse_options
from aib.commands.score_tables import WIDTH, sentences, tables
from aib.train.score_settings import ScoreSettings


@dataclass(frozen=True)
class ScoreOptions:
    """Score a run's maps: the paper's interpretability score, faithfulness, localisation and bits, beside controls."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    settings: tyro.conf.OmitArgPrefixes[ScoreSettings] = field(default_factory=ScoreSettings)
    threshold: float = 0.9
    """Cosine from which on a map counts as unchanged, in the printed table; all of 0.85, 0.9 and 0.95 are kept."""
    device: str = "auto"
    """cpu, cuda, mps or auto."""
    record: Path | None = None
    """Add or replace the run's rows in this CSV file (results/scores.csv), which aib table 2 reads."""


def run(arguments: Sequence[str]) -> None:
    """Parse ``arguments``, score and print."""
    options = parse_options(ScoreOptions, "score", arguments)
    thresholds = ("0.85", "0.9", "0.95")
    threshold = f"{options.threshold:g}"
    if threshold not in thresholds:
        raise ValueError(f"threshold is {threshold}; it must be one of {', '.join(thresholds)}")

    from rich.console import Console

    from aib.recipes import start_of
    from aib.train.device import choose_device
    from aib.train.record import check_trained
    from aib.train.results_table import check_table
    from aib.train.run_folder import RunFolder
    from aib.train.score import score_run
    from aib.train.score_record import SCORE_COLUMNS, record_scores

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:  # a file or a pipe has no width of its own
        console = Console(highlight=False, markup=False, width=WIDTH)
    check_table(options.record, SCORE_COLUMNS)
    base = None
    if options.record is not None:  # before the work
        check_trained(RunFolder.open(options.run))
        base = start_of(RunFolder.open(options.run))
    given = options.settings
    settings = replace(given, against=_separated(given.against), outside=_separated(given.outside))
    result = score_run(
        options.run, settings, device=choose_device(options.device), say=lambda line: console.print(line, soft_wrap=True)
    )
    for table in tables(result, threshold):
        console.print()
        console.print(table)
    console.print("\n" + "\n".join(sentences(result)), soft_wrap=True)
    folder, splits = options.run / "score", ("test", "val")
    first = next((split for split in splits if (folder / f"{split}.json").is_file()), None)
    shows = "it" if given.data is None and given.split == first else f"those of its own {first} images" if first else ""
    console.print(f"saved in {folder}" + (f"; aib report {options.run} shows {shows}" if shows else ""), soft_wrap=True)
    if options.record is not None and base is not None:
        record_scores(options.run, result, options.record, base)


def _separated(names: Sequence[str]) -> tuple[str, ...]:
    """Names that may also be written with commas between them."""
    return tuple(part for name in names for part in name.split(",") if part)

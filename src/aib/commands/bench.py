"""``aib bench``: time what the package claims to be fast, on this machine, and say whether it is."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import tyro

from aib.commands.options import parse_options

WIDE = ("step", "samples", "epoch", "growth", "explain", "variants")
"""Subjects with a network whose width can be chosen."""


@dataclass(frozen=True)
class BenchOptions:
    """Time parts of the package against references that take turns with them, and compare the ratios with targets.

    Subjects are step, quantizer, samples, epoch, start, growth, explain, variants and score; all of them where none is named. Every
    number ends in results/bench/SUBJECT.json.
    """

    subjects: tyro.conf.Positional[tuple[str, ...]] = ()
    """What to measure."""
    repeats: int | None = None
    """Rounds of every measurement; by default 12, and 2 with --quick. Intervals and verdicts take 6."""
    threads: int | None = None
    """Threads of the processor; by default those torch takes."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    quick: bool = False
    """The smallest form of everything, in a minute: to see that it runs, not to be quoted."""
    width: float | None = None
    """Factor on the channels of the networks; each subject has its own default, 1 for step."""
    batch_size: int | None = None
    """Images in a batch; each subject has its own default."""
    run: Path | None = None
    """A trained run: samples then adds the error of each kind of evaluation, and score takes its network and test images."""
    seed: int = 0
    """Of the order of the variants, of networks and images."""
    out: Path | None = None
    """Folder for the files: results/bench, and with --quick none unless it is named."""


def run(arguments: Sequence[str]) -> None:
    """Parse ``arguments``, measure and print."""
    options = parse_options(BenchOptions, "bench", arguments)

    from rich.console import Console
    from rich.table import Table

    from aib.bench.record import QUICK_ROUNDS, ROUNDS, Settings, check_subjects, measure_subject
    from aib.bench.shown import rounds_in_words, sentences, table

    subjects = check_subjects(options.subjects)
    if options.run is not None and not {"samples", "score"} & set(subjects):
        raise ValueError("--run is for the subjects samples and score")
    if options.run is not None and options.width is not None:
        raise ValueError("--width goes without --run, whose network has a width of its own")
    if options.width is not None and not set(WIDE) & set(subjects):
        raise ValueError(f"--width is for the subjects {', '.join(WIDE)}")
    settings = Settings(
        repeats=options.repeats if options.repeats is not None else QUICK_ROUNDS if options.quick else ROUNDS,
        threads=options.threads, device=options.device, quick=options.quick, width=options.width, batch_size=options.batch_size,
        run=options.run, seed=options.seed,
    )  # fmt: skip
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:  # a file or a pipe has no width to keep to
        console = Console(highlight=False, markup=False, width=200)
    out = options.out if options.out is not None or options.quick else Path("results/bench")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    for subject in subjects:
        with console.status(f"{subject} ...") as status:

            def say(line: str, subject: str = subject, status: Any = status) -> None:
                status.update(f"{subject}: {line}")

            result = measure_subject(subject, settings, out=out, command=command_of(subject, options), say=say)
        console.print(f"\n{subject}: {result['about']}", style="bold")
        header, rows = table(result)
        made = Table(*header[:2], box=None, pad_edge=False)
        for column in header[2:]:
            made.add_column(column, justify="right")
        for row in rows:
            made.add_row(*row)
        if rows:
            console.print(made)
        for sentence in sentences(result):
            console.print(sentence, soft_wrap=True)
    machine = result["machine"]
    load = "" if machine["load_after"] is None else f", load {machine['load_after']:g}"
    console.print(
        f"\n{machine['device'] if options.device == 'cuda' else machine['cpu']}, {machine['threads']} threads{load}, "
        f"torch {machine['torch']}, {rounds_in_words(settings.repeats)}; "
        + (f"saved in {out}: {', '.join(f'{subject}.json' for subject in subjects)}" if out is not None else "not saved (--out)"),
        soft_wrap=True,
    )


def command_of(subject: str, options: BenchOptions) -> str:
    """The command that repeats the measurement of one subject."""
    words = ["aib", "bench", subject]
    for option in fields(options):
        value = getattr(options, option.name)
        if option.name not in ("subjects", "out") and value != option.default:
            words += [f"--{option.name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join(words)

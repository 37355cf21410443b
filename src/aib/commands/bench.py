"""``aib bench``: time what the package claims to be fast, on this machine, and say whether it is."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from aib.commands.options import parse_options


@dataclass(frozen=True)
class BenchOptions:
    """Time parts of the package against references that take turns with them, and compare the ratios with targets.

    Subjects are step, quantizer, samples, epoch, start, growth, explain and score; all of them where none is named. Every number
    ends in results/bench/SUBJECT.json.
    """

    subjects: tyro.conf.Positional[tuple[str, ...]] = ()
    """What to measure."""
    repeats: int | None = None
    """Rounds of every measurement; by default 7, and 2 with --quick."""
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
    """A trained run for the subject samples, which then adds the error of each kind of evaluation."""
    seed: int = 0
    """Of the order of the variants, of networks and images."""
    out: Path = Path("results/bench")
    """Folder for the files."""


def run(arguments: Sequence[str]) -> None:
    """Parse ``arguments``, measure and print."""
    options = parse_options(BenchOptions, "bench", arguments)

    from rich.console import Console

    from aib.bench.record import Settings, check_subjects, measure_subject

    subjects = check_subjects(options.subjects)
    settings = Settings(
        repeats=options.repeats if options.repeats is not None else 2 if options.quick else 7,
        threads=options.threads, device=options.device, quick=options.quick, width=options.width, batch_size=options.batch_size,
        run=options.run, seed=options.seed,
    )  # fmt: skip
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:  # a file or a pipe has no width to keep to
        console = Console(highlight=False, markup=False, width=200)
    options.out.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["aib", "bench", *arguments])
    for subject in subjects:
        with console.status(f"{subject} ...") as status:

            def say(line: str, subject: str = subject, status: Any = status) -> None:
                status.update(f"{subject}: {line}")

            result = measure_subject(subject, settings, out=options.out, command=command, say=say)
        console.print(f"\n{subject}: {result['about']}", style="bold")
        if result["rows"]:
            console.print(table(result))
        for sentence in sentences(result):
            console.print(sentence, soft_wrap=True)
    machine = result["machine"]
    load = "" if machine["load_after"] is None else f", load {machine['load_after']:g}"
    console.print(
        f"\n{machine['device'] if options.device == 'cuda' else machine['cpu']}, {machine['threads']} threads{load}, "
        f"torch {machine['torch']}, medians of {settings.repeats} rounds; saved in {options.out}: "
        + ", ".join(f"{subject}.json" for subject in subjects),
        soft_wrap=True,
    )


def table(result: Mapping[str, Any]) -> Any:
    """Every variant of every case: its ratio to the reference of the case, and only beside that its time."""
    from rich.table import Table

    variants = [variant for row in result["rows"] for variant in row["variants"].values()]
    columns = {
        "processor": any(variant["processor_ratio"][0] is not None for variant in variants),
        "a second": any(variant["per_second"] is not None for variant in variants),
        "memory": any(variant["peak_bytes"] is not None for variant in variants),
    }
    made = Table("case", "variant", box=None, pad_edge=False)
    for column in ("ratio", *(["of the processor"] if columns["processor"] else []), "time",
                   *(name for name in ("a second", "memory") if columns[name])):  # fmt: skip
        made.add_column(column, justify="right")
    for row in result["rows"]:
        case = ", ".join(f"{value}" if isinstance(value, str) else f"{name} {value:g}" for name, value in row["case"].items())
        for name, variant in row["variants"].items():
            cells = [interval(variant["ratio"]) if name != row["reference"] else "1"]
            if columns["processor"]:
                cells.append(interval(variant["processor_ratio"][:1]) if name != row["reference"] else "1")
            cells.append(duration(variant["seconds_median"]))
            if columns["a second"]:
                cells.append("" if variant["per_second"] is None else f"{variant['per_second']:.3g}")
            if columns["memory"]:
                cells.append("" if variant["peak_bytes"] is None else f"{variant['peak_bytes'] / 2**20:.3g} MiB")
            made.add_row(case, name, *cells)
            case = ""
    return made


def sentences(result: Mapping[str, Any]) -> list[str]:
    """Targets with what was measured, and the notes."""
    said = []
    marks = {"yes": "reached", "no": "NOT reached", "unclear": "unclear"}
    for target in result["targets"]:
        unit = f" {target['unit']}" if target["unit"] else ""
        found = f"{interval(target['measured'])}, {marks[target['reached']]}"
        said.append(f"target {target['wanted']}{unit}: {target['name']} is {found}")
    return [*said, *result["notes"]]


def interval(measured: Sequence[float | None]) -> str:
    """``1.31 [1.29, 1.33]``, without the ends where there are none."""
    median, *ends = measured
    if median is None:
        return "–"
    return f"{median:.3g}" + (f" [{ends[0]:.3g}, {ends[1]:.3g}]" if ends and ends[0] is not None else "")


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{1e3 * seconds:.3g} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.3g} µs"

"""``aib sweep``: train a recipe with several values of some options over seeds, and compare."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aib.commands.options import check_out, parse_options

if TYPE_CHECKING:
    from aib.train.sweep import SweepRun


@dataclass(frozen=True)
class SweepOptions:
    """Train every combination of values over seeds, evaluate each run, and compare with intervals.

    The same command goes on where it was stopped: finished runs are left, begun ones are resumed.
    """

    recipe: str | None = None
    """A recipe's name or the path of a TOML file, the start of every run."""
    vary: tuple[str, ...] = ()
    """Options of aib train with their values: beta=0,0.001,0.01 anchors=20,50. Every combination is a cell."""
    set: tuple[str, ...] = ()
    """Options of aib train for all runs: data=data/cifar10.npz epochs=4."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of every cell."""
    out: Path = Path("runs/sweep")
    """Folder for the runs, their output (logs/), sweep.json and sweep.png."""
    record: Path | None = None
    """Add every run's row to this CSV file (results/runs.csv), also of those evaluated before."""
    jobs: int = 1
    """Runs at once; on CPUs they share the cores."""
    gpus: tuple[int, ...] = ()
    """CUDA devices to spread the runs over."""


def run(arguments: Sequence[str]) -> None:
    """Parse ``arguments``, run what is not done and compare."""
    options = parse_options(SweepOptions, "sweep", arguments)
    if not options.seeds or len(set(options.seeds)) < len(options.seeds):
        raise ValueError(f"seeds are {options.seeds}; give one or more different numbers")
    if options.jobs < 1:
        raise ValueError(f"jobs is {options.jobs}; it must be at least 1")

    check_out(options.out, folder=True)

    from rich.console import Console

    from aib.recipes import start_of
    from aib.train.checkpoint import write_text
    from aib.train.record import COLUMNS, record_run
    from aib.train.results_table import check_table
    from aib.train.run_folder import RunFolder
    from aib.train.stopping import Interrupted
    from aib.train.sweep import run_all

    check_table(options.record, COLUMNS)
    runs = plan(options)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    cells = len(runs) // len(options.seeds)
    numbers = ", ".join(_counted(*pair) for pair in ((cells, "cell"), (len(options.seeds), "seed"), (len(runs), "run")))
    console.print(f"{numbers} in {options.out}")
    jobs = options.jobs if options.jobs > 1 else max(1, len(options.gpus))
    try:
        failed = run_all(runs, jobs=jobs, gpus=options.gpus, record=options.record, log=options.out / "logs", say=console.print)
    except KeyboardInterrupt:
        raise Interrupted(f"stopped, every run is saved; the same command goes on ({options.out})") from None
    done = [run for run in runs if run.name not in failed]
    if done:
        if options.record is not None:
            for run in done:  # those evaluated by an earlier command, without a table, too
                record_run(run.path, run.result(), options.record, start_of(RunFolder(run.path)))
        rows = summarize(done)
        write_text(options.out / "sweep.json", json.dumps(rows, indent=1) + "\n")
        _print_table(rows, console)
        from aib.report.plots import sweep_plot

        sweep_plot(rows, options.out / "sweep.png")
        console.print(f"\nsaved in {options.out}: sweep.json, sweep.png")
    if failed:
        name, reason = next(iter(failed.items()))
        raise ValueError(f"{len(failed)} of {_counted(len(runs), 'run')} failed; the first, {name}: {reason}")


def plan(options: SweepOptions) -> list[SweepRun]:
    """Every run of the sweep, its options checked.

    Raises:
        ValueError: an option is unknown, has a value that it can't have, or is given twice, as a value is; two cells would share
            a folder, or are the same run; or there is no such network.
    """
    from aib.commands.train import read_options
    from aib.models.build import check_model
    from aib.train.sweep import SweepRun, grid

    fixed = dict(map(_assignment, options.set))
    vary = {key: values.split(",") for key, values in map(_assignment, options.vary)}
    twice = [key for key in vary if key in fixed or [v.partition("=")[0] for v in options.vary].count(key) > 1]
    if twice or (twice := [key for key in ("seed", "out", "recipe", "resume") if key in fixed or key in vary]):
        raise ValueError(f"{twice[0]} is given twice, or has an option of its own (--seeds, --out, --recipe)")
    runs = []
    # seed by seed: a sweep that is stopped early has compared all cells on its first seeds
    for seed, values in itertools.product(options.seeds, grid(vary)):
        name = ",".join(f"{key}={Path(value).name}" for key, value in values.items()) or "all"
        path = options.out / name / f"seed-{seed}"
        words = ["--recipe", options.recipe] if options.recipe is not None else []
        for key, value in {**fixed, **values}.items():
            words += _words(key, value)
        words += ["--seed", str(seed), "--out", str(path)]
        runs.append(SweepRun(values, seed, path, read_options(words).config, tuple(words)))
    cells = runs[: len(runs) // len(options.seeds)]
    _check_cells(cells)
    for run in cells:
        model = run.config.model
        check_model(
            model.model, attend=model.attend, anchors=model.anchors, latent_dim=model.latent_dim, modulation=model.modulation,
            min_std=model.min_std, width=model.width,
        )  # fmt: skip
    return runs


def _check_cells(runs: Sequence[SweepRun]) -> None:
    """Refuse cells, here those of one seed, that are the same or that would share a folder."""
    from aib.train.config import same_run

    for i, run in enumerate(runs):
        for other in runs[:i]:
            one, two = (" ".join(f"{key}={value}" for key, value in each.values.items()) for each in (other, run))
            if same_run(run.config, other.config):
                raise ValueError(f"--vary gives {one} twice" + (f", the second time as {two}" if one != two else ""))
            if run.path == other.path:
                raise ValueError(f"{one} and {two} would share the folder {run.path.parent}; give their files different names")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _assignment(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not value:
        raise ValueError(f"{text!r} is not of the form option=value")
    return key.lstrip("-").replace("-", "_"), value


def _words(key: str, value: str) -> list[str]:
    """An option of aib train; ``true`` and ``false`` are written as in a recipe."""
    from aib.train.config import is_flag

    name = key.replace("_", "-")
    if value not in ("true", "false"):
        return [f"--{name}", value]
    if is_flag(key):
        return [f"--{name}" if value == "true" else f"--no-{name}"]
    return [f"--{name}", value.capitalize()]  # an option that may also be left to its default: True, False or None


def summarize(runs: Sequence[SweepRun]) -> list[dict[str, Any]]:
    """One row a cell: values, seeds, mean error and rate with 95 % t intervals, and the paired difference to the first cell.

    Errors are fractions; an interval of a single seed is NaN, written as null.
    """
    from aib.interpret import mean_interval, paired_difference

    cells: dict[tuple[str, ...], dict[int, dict[str, Any]]] = {}
    for run in runs:
        cells.setdefault(tuple(run.values.values()), {})[run.seed] = run.result()
    first = next(iter(cells.values()))
    names = list(runs[0].values)
    rows = []
    for values, results in cells.items():
        errors = {seed: result["error"] for seed, result in results.items()}
        rates = [result["rate_bits"] for result in results.values() if "rate_bits" in result]
        shared = [seed for seed in errors if seed in first]
        difference = (
            paired_difference([errors[s] for s in shared], [first[s]["error"] for s in shared])
            if shared and results is not first
            else None
        )
        rows.append({
            "values": dict(zip(names, values)), "seeds": list(errors), "errors": list(errors.values()),
            "error": _plain(mean_interval(list(errors.values()))),
            "rate_bits": _plain(mean_interval(rates)) if rates else None,
            "error_minus_first": _plain(difference) if difference is not None else None,
        })  # fmt: skip
    return rows


def _plain(values: Sequence[float]) -> list[float | None]:
    """With None for NaN, which JSON does not know."""
    return [value if value == value else None for value in values]


def _print_table(rows: Sequence[Mapping[str, Any]], console: Any) -> None:
    from rich.table import Table

    def percent(values: Sequence[float | None] | None) -> str:
        if values is None:
            return ""
        mean, low, high = values
        ends = f"  [{100 * low:.2f}, {100 * high:.2f}]" if low is not None and high is not None else ""
        return f"{100 * mean:.2f}{ends}" if mean is not None else ""

    names = list(rows[0]["values"])
    table = Table(*names, "seeds", "test error %", "minus the first", "rate (bits)", box=None, pad_edge=False)
    for row in rows:
        rate = row["rate_bits"]
        table.add_row(
            *row["values"].values(), str(len(row["seeds"])), percent(row["error"]), percent(row["error_minus_first"]),
            f"{rate[0]:.1f}" if rate else "",
        )  # fmt: skip
    console.print(table)
    console.print("means with 95 % t intervals over seeds; differences are paired by seed")

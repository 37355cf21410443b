"""What a benchmark is told, what it finds, and the file that keeps all of it."""

from __future__ import annotations

import difflib
import importlib
import json
import math
import os
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch

from aib.bench import SOURCES, SUBJECTS
from aib.bench.timing import Measured, device_wait
from aib.recipes import start_of
from aib.train.checkpoint import write_text
from aib.train.device import choose_device
from aib.train.record import command_line
from aib.train.run_folder import RunFolder, environment

__all__ = [
    "FORMAT", "QUICK_ROUNDS", "ROUNDS", "Findings", "Settings", "Target", "check_subjects", "measure_subject",
    "source_digests",
]  # fmt: skip

FORMAT = 2
"""Of the JSON files. Intervals of the first were percentiles of a bootstrap, which cover the median in less than they said."""

ROUNDS, QUICK_ROUNDS = 12, 2
"""By default: an interval of 12 rounds leaves out the two outermost on either side and covers the median in 96 %."""


@dataclass(frozen=True)
class Settings:
    """What the subjects are told; None leaves a choice to the subject.

    Attributes:
        repeats: rounds of every measurement.
        threads: of the processor.
        device: ``"cpu"`` or ``"cuda"``.
        quick: the smallest form that still runs everything; its numbers are not worth quoting.
        width: factor on the channels of the networks.
        batch_size: images in a batch.
        run: a trained run for `samples`, which adds the errors of each kind of evaluation, and for `score`.
        seed: of the order of the variants, the networks and the images.

    Raises:
        ValueError: a number is out of range, or the machine lacks the device.
    """

    repeats: int = ROUNDS
    threads: int | None = None
    device: str = "cpu"
    quick: bool = False
    width: float | None = None
    batch_size: int | None = None
    run: Path | None = None
    seed: int = 0

    def turns(self) -> dict[str, Any]:
        """What `aib.bench.timing.take_turns` is told of it."""
        return {
            "repeats": self.repeats, "seed": self.seed, "least_seconds": 0.01 if self.quick else 0.1,
            "wait": device_wait(self.device),
        }  # fmt: skip

    def __post_init__(self) -> None:
        choose_device(self.device)
        for name, value in (("repeats", self.repeats), ("threads", self.threads), ("batch_size", self.batch_size)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.threads is not None and self.threads > (most := os.cpu_count() or 1):
            raise ValueError(f"threads is {self.threads}; this machine has {most} processors")
        if self.width is not None and not 0.1 <= self.width <= 4:
            raise ValueError(f"width is {self.width}; it must lie between 0.1 and 4, in multiples of the published width")


@dataclass(frozen=True)
class Target:
    """A number that a measurement is compared with.

    Attributes:
        name: what is measured.
        sense: whether the measurement is to be at most or at least the limit.
        limit: the number.
        measured: what it is here.
        unit: of both, empty for a ratio.
    """

    name: str
    sense: Literal["<=", "<", ">="]
    limit: float
    measured: Measured
    unit: str = ""

    @property
    def reached(self) -> Literal["yes", "no", "unclear"]:
        """Whether the whole interval lies on the right side, or on the wrong one; unclear where it does not say."""
        _, low, high = self.measured
        if math.isnan(low):
            return "unclear"
        good = [value >= self.limit if self.sense == ">=" else value <= self.limit for value in (low, high)]
        return "yes" if all(good) else "unclear" if any(good) else "no"

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name, "wanted": f"{self.sense} {self.limit:g}", "unit": self.unit,
            "measured": self.measured.as_json(), "reached": self.reached,
        }  # fmt: skip


@dataclass
class Findings:
    """What a subject found.

    Attributes:
        rows: of `aib.bench.timing.Timings.as_row`, one a case.
        targets: the numbers that it is compared with.
        notes: what else there is to say, one sentence each.
        details: further numbers, ready for JSON.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


def check_subjects(names: Sequence[str]) -> list[str]:
    """The subjects meant, in the order of `SUBJECTS`; all of them where none is named.

    Raises:
        ValueError: there is no such subject; the nearest is given.
    """
    for name in names:
        if name not in SUBJECTS:
            near = difflib.get_close_matches(name, SUBJECTS, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"there is no subject {name!r}; {hint}Subjects are {', '.join(SUBJECTS)}")
    return [name for name in SUBJECTS if not names or name in names]


def measure_subject(
    name: str, settings: Settings, *, out: Path | None = None, command: str = "", say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Measure one subject and return all there is to say, as it is also written to ``out/NAME.json``.

    Threads and random numbers of the process come back as they were.

    Args:
        name: of `SUBJECTS`.
        settings: see `Settings`.
        out: a folder; None writes nothing.
        command: that which repeats the measurement, for the record; that which trains its run is found beside it.
        say: called with a line on what is being done.

    Raises:
        ValueError: there is no such subject, or the run that was given does not serve.
    """
    (name,) = check_subjects([name])
    module = importlib.import_module(f"aib.bench.{name}")
    threads, began, load = torch.get_num_threads(), time.monotonic(), _load()
    devices = [torch.cuda.current_device()] if settings.device == "cuda" else []
    try:
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        machine = environment(settings.device, "32-true") | {"load": load, "niceness": _niceness()}
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(settings.seed)
            findings: Findings = module.measure(settings, say)
    finally:
        torch.set_num_threads(threads)
    result = {
        "format": FORMAT,
        "subject": name,
        "about": SUBJECTS[name],
        "definition": " ".join((module.__doc__ or "").split()),
        "command": command,
        "run_command": None if settings.run is None else _run_command(settings.run),
        "sources": source_digests(name),
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in asdict(settings).items()},
        "machine": machine | {"load_after": _load()},
        "seconds": round(time.monotonic() - began, 1),
        "targets": [target.as_json() for target in findings.targets],
        "rows": findings.rows,
        "notes": findings.notes,
        "details": findings.details,
    }
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / f"{name}.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
    return result


def _run_command(path: Path) -> str:
    """The command that trains the run which was measured, to the same folder."""
    folder = RunFolder.open(path)
    return f"{command_line(folder.config, start_of(folder))} --out {shlex.quote(str(path))}"


def source_digests(subject: str) -> dict[str, str]:
    """Beginnings of the SHA-256 of the files that a subject times and of its own, by their paths in the package."""
    package = Path(__file__).parents[1]
    places = [package / place for place in (*SOURCES[subject], f"bench/{subject}.py")]
    files = [path for place in places for path in (sorted(place.glob("*.py")) if place.is_dir() else [place])]
    return {str(path.relative_to(package).as_posix()): sha256(path.read_bytes()).hexdigest()[:16] for path in files}


def _load() -> float | None:
    """Processes that wanted a processor over the last minute, this one among them."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _niceness() -> int | None:
    return os.nice(0) if hasattr(os, "nice") else None

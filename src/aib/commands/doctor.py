"""``aib doctor``: what this machine has, what is missing and how to get it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal, NamedTuple

from aib.commands.options import parse_options

Status = Literal["ok", "note", "missing"]
FREE_GIB = 2.0
"""Disk space below which a note is shown: a run of a large model with its checkpoints."""


@dataclass(frozen=True)
class DoctorOptions:
    """Check this machine. Exit code 1 when something that aib needs is missing."""

    root: Path = Path("data")
    """Folder of the named data sets."""


class Finding(NamedTuple):
    """One line of the check."""

    name: str
    status: Status
    text: str


def run(arguments: Sequence[str]) -> None:
    """Parse ``arguments``, check and print."""
    options = parse_options(DoctorOptions, "doctor", arguments)

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    findings = [*_packages(), *_machine(), *_devices(), *_data(options.root), *_work()]
    marks = {"ok": ("ok", "green"), "note": ("note", "yellow"), "missing": ("missing", "bold red")}
    table = Table(box=None, show_header=False)
    for finding in findings:
        mark, style = marks[finding.status]
        table.add_row(Text(mark, style), finding.name, finding.text)
    console = Console(highlight=False)
    if not console.is_terminal:  # a file or a pipe has no width to keep to
        console = Console(highlight=False, width=200)
    console.print(table)
    missing = [f.name for f in findings if f.status == "missing"]
    if missing:
        console.print(f"\nmissing: {', '.join(missing)}")
        sys.exit(1)
    console.print("\neverything aib needs is here; aib demo is a good next step")


def _packages() -> Iterator[Finding]:
    """The declared dependencies and whether what is installed satisfies them."""
    yield Finding("aib", "ok", version("aib"))
    minimum = (3, 11)
    status: Status = "ok" if sys.version_info >= minimum else "missing"
    yield Finding("python", status, platform.python_version() + ("" if status == "ok" else "  (3.11 or newer is needed)"))
    from packaging.requirements import Requirement

    for line in requires("aib") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            yield Finding(requirement.name, "missing", f"get it: pip install '{requirement}'")
            continue
        fits = requirement.specifier.contains(found, prereleases=True)
        advice = "" if fits else f"  (needs {requirement.specifier}: pip install '{requirement}')"
        yield Finding(requirement.name, "ok" if fits else "missing", found + advice)


def _machine() -> Iterator[Finding]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding("processor", "ok", f"{platform.machine()}, {usable} of {os.cpu_count()} cores usable")
    try:
        import torch
        import torchvision
    except Exception as error:  # a broken pair of wheels raises anything from ImportError to RuntimeError
        yield Finding(
            "torch with torchvision", "missing", f"{type(error).__name__}: {str(error).splitlines()[0]} "
            "(the two must come from the same index: pip install --force-reinstall torch torchvision)",
        )  # fmt: skip
        return
    text = f"{torch.__version__} with {torchvision.__version__}, {torch.get_num_threads()} threads"
    yield Finding("torch with torchvision", "ok", text)


def _devices() -> Iterator[Finding]:
    try:
        import torch
    except Exception:
        return
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(i)
            yield Finding(f"cuda:{i}", "ok", f"{found.name}, {found.total_memory / 2**30:.0f} GiB")
    elif torch.backends.mps.is_available():
        yield Finding("mps", "ok", "Apple GPU")
    else:
        yield Finding("gpu", "note", "none; everything runs on the CPU, the paper's own networks slowly")


def _data(root: Path) -> Iterator[Finding]:
    yield Finding("clutter", "ok", "embedded, nothing to fetch")
    from aib.data.benchmarks import BENCHMARKS
    from aib.data.cub import SIZE
    from aib.data.open import is_there

    for name, size in {**{name: benchmark.download for name, benchmark in BENCHMARKS.items()}, "cub200": SIZE}.items():
        here = is_there(name, root)
        text = f"in {root}" if here else f"not in {root}; get it with --data {name} --download ({size}), or point --root at it"
        yield Finding(name, "ok" if here else "note", text)


def _work() -> Iterator[Finding]:
    free = shutil.disk_usage(".").free / 2**30
    writable = os.access(".", os.W_OK)
    status: Status = "ok" if writable and free > FREE_GIB else "note"
    text = f"{free:.1f} GiB free in this folder" + ("" if writable else "; it cannot be written: use --out")
    yield Finding("disk", status, text)

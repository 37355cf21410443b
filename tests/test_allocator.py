"""The allocator's setting: only for the command line, where the C library has it, and where the user has said nothing."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from typing import Any

import pytest

from aib.commands import allocator

GLIBC = platform.libc_ver()[0] == "glibc"

FAULTS = """
import ctypes, resource, sys
{before}
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def faults_of_one_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [libc.malloc(size << 20) for size in (48, 40, 3, 64)]
    for block, size in zip(blocks, (48, 40, 3, 64)):
        ctypes.memset(block, 1, size << 20)
    for block in blocks:
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults_of_one_step()
print(faults_of_one_step())
"""


class Library:
    """A C library whose ``mallopt`` notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []

    def mallopt(self, number: int, value: int) -> int:
        self.told.append((number, value))
        return 1


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    made = Library()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: made)
    for name in (*allocator.SETTINGS, "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    return made


def test_all_three_are_set(library: Library) -> None:
    assert allocator.keep_freed_memory()
    assert library.told == list(allocator.SETTINGS.values())


@pytest.mark.parametrize(
    ("name", "value"), [("MALLOC_TOP_PAD_", "0"), ("MALLOC_TRIM_THRESHOLD_", "1"), ("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")]
)
def test_what_the_user_set_stays(library: Library, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert not allocator.keep_freed_memory()
    assert library.told == []


def test_a_c_library_that_refuses_one_gets_the_others(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "mallopt", lambda number, value: library.told.append((number, value)) or number != -3)
    assert not allocator.keep_freed_memory()
    assert len(library.told) == 3


@pytest.mark.parametrize("error", [OSError("musl"), TypeError("Windows"), None])
def test_systems_without_it_go_on(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    def library_of(name: Any) -> object:
        if error is not None:
            raise error
        return object()

    monkeypatch.setattr(ctypes, "CDLL", library_of)
    assert not allocator.keep_freed_memory()


@pytest.mark.skipif(not GLIBC, reason="needs glibc")
def test_large_blocks_cost_no_page_faults_once_they_were_there() -> None:
    # a verb sets it before it reads its options; importing aib and its command line does not
    verb = "import aib.cli; aib.cli.main(['eval', 'no/such/run'])"
    library = "import aib, aib.cli, aib.commands.train, aib.commands.allocator"
    environment = {name: value for name, value in os.environ.items() if name not in (*allocator.SETTINGS, "GLIBC_TUNABLES")}
    faults = {}
    for before in (verb, library):
        done = subprocess.run(
            [sys.executable, "-c", FAULTS.format(before=before)],
            capture_output=True, text=True, timeout=120, check=False, env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        faults[before] = int(done.stdout.split()[-1])
    pages = (155 << 20) // os.sysconf("SC_PAGE_SIZE")
    assert faults[verb] < 100 < pages // 4 < faults[library]

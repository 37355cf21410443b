"""What a person waits for before anything happens, in fresh processes that take turns.

Targets: ``aib --help`` takes less than 0.5 s, and ``import aib`` less than 1.5 times ``import torch``. The package's names are
imported when they are used, so beside the bare import stands one with a name from inside, which is held to the same. The whole of
``aib demo`` has no reference: it is run once, for its size.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from aib.bench.record import Findings, Settings, Target
from aib.bench.timing import median_interval, take_turns

__all__ = ["measure"]

HELP_TARGET = 0.5
IMPORT_TARGET = 1.5
BARE, HELP, TORCH, AIB, NAME = "python -c pass", "aib --help", "import torch", "import aib", "import aib; aib.create_model"
WORDS = {
    BARE: ("-c", "pass"),
    HELP: ("-m", "aib", "--help"),
    TORCH: ("-c", "import torch"),
    AIB: ("-c", "import aib"),
    NAME: ("-c", "import aib; aib.create_model"),
}


def measure(settings: Settings, say: Callable[[str], None]) -> Findings:
    """See the top of the file; one case."""
    say("fresh processes")
    environment = os.environ | ({} if settings.threads is None else {"OMP_NUM_THREADS": str(settings.threads)})

    def process(words: tuple[str, ...]) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, *words], env=environment, stdout=subprocess.DEVNULL, check=True)

    def demo() -> float:
        """Seconds of a whole ``aib demo``, a fresh process with all its trainings."""
        with tempfile.TemporaryDirectory(prefix="aib-bench-") as folder:
            words = ("-m", "aib", "demo", "--quiet", "--no-open", "--device", settings.device, "--out", f"{folder}/demo")
            began = time.perf_counter()
            process(words)()
            return time.perf_counter() - began

    # the first import reads the disk, and writes the compiled files where there are none
    timings = take_turns(
        {name: process(words) for name, words in WORDS.items()}, TORCH,
        repeats=settings.repeats, warmup=0 if settings.quick else 1, seed=settings.seed, least_seconds=0, clock=_clock,
    )  # fmt: skip
    notes = [f"{HELP} takes {timings.ratio(HELP, BARE).median:.2f} times a Python that does nothing"]
    if not settings.quick:
        say("aib demo, once")
        notes.append(f"aib demo: {demo():.0f} s in all, once")
    return Findings(
        rows=[timings.as_row({"what": "a fresh process"})],
        targets=[
            Target(HELP, "<", HELP_TARGET, median_interval(timings.seconds[HELP]), "s"),
            *(Target(f"{name} / {TORCH}", "<", IMPORT_TARGET, timings.ratio(name)) for name in (AIB, NAME)),
        ],
        notes=notes,
    )


def _clock() -> tuple[float, float]:
    """The clock of the machine and the processor's time of finished child processes."""
    times = os.times()
    return time.perf_counter(), times.children_user + times.children_system

"""Many runs of one recipe: every combination of some options' values with every seed, each a run folder that can be resumed.

A run is a process of its own, so that one that fails or is killed leaves the others alone, and several can share a machine.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

import torch

from aib.data.open import is_there, open_data
from aib.train.checkpoint import load_checkpoint
from aib.train.config import TrainConfig, same_run
from aib.train.origin import locate_data
from aib.train.run_folder import BUSY, RunFolder
from aib.train.stopping import TIED, stop_signals

__all__ = ["SweepRun", "grid", "run_all", "visible_devices"]

GRACE_SECONDS = 120.0
"""How long a run that was asked to stop may take to save itself."""

WAIT_SECONDS = 0.5
"""Between two looks at a folder that another process trains in, or at whether this one is to stop."""


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Attributes:
        values: the varied options of this run, by name.
        seed: its seed.
        path: its run folder.
        config: the whole run.
        words: options of ``aib train`` that make it.
    """

    values: Mapping[str, str]
    seed: int
    path: Path
    config: TrainConfig
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """What tells this run from the others."""
        return " ".join([*(f"{key}={value}" for key, value in self.values.items()), f"seed={self.seed}"])

    def state(self) -> Literal["absent", "begun", "trained", "evaluated"]:
        """How far the run is.

        Raises:
            ValueError: its folder holds another run, or something else.
        """
        folder = RunFolder(self.path)
        if not folder.has("config.toml"):
            folder.check_free()
            return "absent"
        if not same_run(folder.config, self.config):
            raise ValueError(f"{self.path} holds a run with other options; choose another folder with --out")
        if folder.finished_epochs < self.config.optim.epochs or not folder.weights.is_file():
            return "begun"
        if folder.has("eval/test.json"):
            return "evaluated"
        return "trained" if self._is_kept(folder.last) else "begun"

    def _is_kept(self, last: Path) -> bool:
        """Whether the last epoch is in the checkpoint, which the log is ahead of for a moment; a finished run needs none."""
        try:
            return not last.exists() or load_checkpoint(last)["state"]["epoch"] >= self.config.optim.epochs
        except ValueError:  # damaged: resuming says so, and the other runs go on
            return False

    def result(self) -> dict[str, Any]:
        """The evaluation on the test images."""
        found: dict[str, Any] = RunFolder(self.path).read_json("eval/test.json")
        return found


def grid(vary: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Every combination of the options' values, the last option changing fastest."""
    return [dict(zip(vary, values)) for values in itertools.product(*vary.values())]


def run_all(
    runs: Sequence[SweepRun],
    *,
    jobs: int = 1,
    gpus: Sequence[int] = (),
    record: Path | None = None,
    log: Path,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, str]:
    """Train and evaluate what is not yet, ``jobs`` runs at once; what was begun is resumed, what is done is left.

    Runs end with this process, however it ends. A folder that another process still trains in is waited for.

    Args:
        runs: of the sweep; all are checked before the first starts.
        jobs: runs at once. On CPUs they share the cores evenly.
        gpus: indices of the CUDA devices that the runs are spread over, among those that this process may see.
        record: table that every evaluation is written to.
        log: folder of the runs' output, one file each.
        say: gets a line whenever a run starts and ends.

    Returns:
        The reason of every failed run, by its name.

    Raises:
        ValueError: a run's folder holds another run, its data are nowhere, or there is no such device.
        KeyboardInterrupt: after every run in progress has saved itself.
    """
    devices = visible_devices(gpus)
    waiting = [run for run in runs if run.state() != "evaluated"]
    _check_data(waiting)
    if waiting:
        log.mkdir(parents=True, exist_ok=True)
    free: SimpleQueue[str | None] = SimpleQueue()
    for lane in range(jobs):
        free.put(devices[lane % len(devices)] if devices else None)
    processes = _Processes()
    threads = max(1, (os.cpu_count() or 1) // jobs)

    def one(run: SweepRun) -> str | None:
        gpu, folder = free.get(), RunFolder(run.path)
        environment = {**os.environ, TIED: "1"}
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        else:
            environment.setdefault("OMP_NUM_THREADS", str(threads))
        output = log / f"{run.path.relative_to(log.parent).as_posix().replace('/', '-')}.log"
        try:
            while (state := run.state()) != "evaluated":
                if folder.in_training():
                    say(f"{run.name}: {folder.path} {BUSY}, waiting for it")
                    while folder.in_training():
                        if processes.stopped.wait(WAIT_SECONDS):
                            return "stopped"
                    continue
                say(f"{run.name}: {_WORDS[state]}")
                code = processes.call([sys.executable, "-m", "aib", *_command(run, state, record)], environment, output)
                reached = run.state()
                if code == 0 and reached == state:
                    return f"aib {'eval' if state == 'trained' else 'train'} ended, but {folder.path} is as before"
                if code != 0:
                    reason = _reason(code, output)
                    overtaken = BUSY in reason or folder.in_training() or (reached != state and reached in ("trained", "evaluated"))
                    if not overtaken:  # else another sweep does the same run: look what is left of it
                        return reason
        except ValueError as error:  # its folder holds another run now: said at once, and the others go on
            return str(error)
        finally:
            free.put(gpu)
        return None

    failed: dict[str, str] = {}
    done = len(runs) - len(waiting)
    if done:
        say(f"{done} of {len(runs)} runs are done already")
    with _interruptible(), ThreadPoolExecutor(jobs) as pool:
        pending = {pool.submit(one, run): run for run in waiting}
        try:
            for future in _as_completed(pending):
                run, reason = pending[future], future.result()
                done += 1
                if reason is not None:
                    failed[run.name] = reason
                    say(f"[{done}/{len(runs)}] {run.name}: failed, {reason}")
                else:
                    say(f"[{done}/{len(runs)}] {run.name}: error {100 * run.result()['error']:.2f} %")
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.stop()
            raise
    return failed


def _as_completed(pending: Iterable[Future[str | None]]) -> Iterator[Future[str | None]]:
    """Every future as it ends. Waits are short: only the main thread acts on a signal, which after a Ctrl-Z another may get."""
    left = set(pending)
    while left:
        ended, left = wait(left, timeout=WAIT_SECONDS, return_when=FIRST_COMPLETED)
        yield from ended


@contextmanager
def _interruptible() -> Iterator[None]:
    """Have `stop_signals` raise KeyboardInterrupt, also in a process that a script started in the background."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.default_int_handler) for number in stop_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_WORDS = {"absent": "training", "begun": "going on", "trained": "evaluating"}
"""What is said to begin, by the state of a run."""


def visible_devices(gpus: Sequence[int]) -> list[str]:
    """The devices of these indices as CUDA_VISIBLE_DEVICES names them: a scheduler may have left this process only some.

    Raises:
        ValueError: an index is beyond them.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        there = torch.cuda.device_count() if gpus else 0
        for gpu in gpus:
            if not 0 <= gpu < there:  # a run that sees no device would train on the CPU
                found = f"{there} CUDA devices, so indices must be below {there}" if there else "no CUDA device: leave --gpus out"
                raise ValueError(f"gpus names {gpu}; this machine has {found}")
        return [str(gpu) for gpu in gpus]
    names = [name.strip() for name in given.split(",") if name.strip()]
    for gpu in gpus:
        if not 0 <= gpu < len(names):
            raise ValueError(f"gpus names {gpu}; CUDA_VISIBLE_DEVICES is {given!r}, which leaves indices below {len(names)}")
    return [names[gpu] for gpu in gpus]


def _command(run: SweepRun, state: str, record: Path | None) -> list[str]:
    """What is to be done next of a run that is not evaluated, as arguments of ``aib``."""
    if state == "absent":
        return ["train", *run.words]
    if state == "begun":
        return ["train", "--resume", str(run.path)]
    return ["eval", str(run.path), *(["--record", str(record)] if record is not None else [])]


def _check_data(runs: Sequence[SweepRun]) -> None:
    """Find the data of all runs before the first starts; those that are to be fetched are, once and for all runs.

    Raises:
        ValueError: some are nowhere.
    """
    wanted = {}
    for run in runs:
        folder, data = RunFolder(run.path), run.config.data
        if folder.has("config.toml"):
            data = locate_data(folder, folder.config.data)
        wanted[data.data, data.root] = data.download
    for (name, root), download in wanted.items():
        if not is_there(name, root):
            open_data(name, root=root, download=download)


class _Processes:
    """The processes in progress, so that all can be asked to stop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self.stopped = threading.Event()

    def call(self, words: Sequence[str], environment: Mapping[str, str], output: Path) -> int:
        """Run to the end and return the exit code."""
        with output.open("ab") as file:
            with self._lock:
                if self.stopped.is_set():
                    return 130
                # its input is a pipe that closes when this process ends; its session is its own, or it would hear Ctrl-C twice,
                # from the terminal and from `stop`, and not save itself
                process = subprocess.Popen(
                    words, env=environment, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.PIPE, start_new_session=True
                )
                self._running.add(process)
            try:
                return process.wait()
            finally:
                if process.stdin is not None and process.returncode is not None:
                    process.stdin.close()
                with self._lock:
                    self._running.discard(process)

    def stop(self) -> None:
        """Ask every process to save itself and end; after `GRACE_SECONDS`, end it."""
        with self._lock:
            self.stopped.set()
            running = list(self._running)
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _reason(code: int, output: Path) -> str:
    """Why a process ended: the signal that killed it, or else its last line."""
    if code >= 0:
        return _last_line(output) or f"exit code {code}"
    name = signal.Signals(-code).name if -code in list(signal.Signals) else "unknown"
    memory = "; is there too little memory?" if name == "SIGKILL" else ""
    return f"killed by signal {-code} ({name}){memory}"


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")

"""Faults on purpose: ``aib`` in processes that are killed, run out of disk, lose their terminal or are given a mad clock.

The processes are forked from one that has imported everything, so that each costs no import. Which fault it is travels with the
command; the program knows nothing of it.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

__all__ = ["Job", "Server", "act_at", "serve", "small_disk"]

USED = (
    "lightning_fabric", "safetensors.torch", "sklearn.metrics", "tomli_w", "aib.commands.eval", "aib.commands.explain",
    "aib.report.html", "aib.train.evaluate", "aib.train.loop", "aib.train.record",
)  # fmt: skip
"""What the commands import when they need it."""


# --- the processes


class Server:
    """A warm process that forks others."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, itertools.count()
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        self.process = subprocess.Popen(
            [sys.executable, "-c", "import faults; faults.serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        )
        self.ask({"wait": None})  # until it is warm

    def ask(self, job: dict[str, Any]) -> int:
        """Send a job and return the number that comes back."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(self, *arguments: object, fault: tuple[Any, ...] = (), out: str | None = None) -> Job:
        """``aib ARGUMENTS`` in a process of its own.

        Args:
            fault: name and arguments of a function of this module that is called there first.
            out: where its standard output goes: a path, ``"closed"``, ``"pipe"`` (whose reader has gone), ``"tty"`` (a terminal) or
                ``"own tty"`` (one that the process belongs to, and that is gone when its reader is: see `Job.hang_up`).
        """
        stem = self.folder / str(next(self.count))
        job = {"arguments": [str(a) for a in arguments], "fault": [str(f) if isinstance(f, Path) else f for f in fault],
               "to": out, "out": f"{stem}.out", "err": f"{stem}.err"}  # fmt: skip
        return Job(self, self.ask(job), Path(f"{stem}.out"), Path(f"{stem}.err"))

    def __call__(self, *arguments: object, fault: tuple[Any, ...] = (), out: str | None = None) -> tuple[int, str, str]:
        """Exit code (minus the signal's number for a killed process), stdout and stderr of ``aib ARGUMENTS``; see `start`."""
        return self.start(*arguments, fault=fault, out=out).wait()

    def close(self) -> None:
        """End the warm process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


class Job:
    """A process of the server's."""

    def __init__(self, server: Server, process: int, out: Path, err: Path) -> None:
        self.server, self.process, self.out, self.err = server, process, out, err

    def wait(self) -> tuple[int, str, str]:
        """See `Server.__call__`."""
        code = self.server.ask({"wait": self.process})
        reader = Path(f"{self.out}.reader")
        while reader.exists() and Path(f"/proc/{reader.read_text()}").exists():  # of a terminal: it ends with the last byte
            time.sleep(0.01)
        out = self.out.read_text(errors="replace") if self.out.is_file() else ""
        return code, out, self.err.read_text(errors="replace")

    def hang_up(self) -> None:
        """Close its terminal, as when the window is closed or the connection lost."""
        os.kill(int(Path(f"{self.out}.reader").read_text()), signal.SIGKILL)

    def send(self, number: int) -> None:
        """Send a signal; the process may have ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, number)

    def until(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Wait until something is so, or the process has ended."""
        began = time.monotonic()
        while not condition() and time.monotonic() - began < seconds:
            with contextlib.suppress(OSError):
                if Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                    return
            time.sleep(0.002)


def serve() -> None:
    """The loop of the warm process: a job a line, a number a line."""
    import torch

    from aib.cli import main

    torch.set_num_threads(1)
    for module in USED:
        importlib.import_module(module)
    with contextlib.redirect_stdout(io.StringIO()):
        main(["train", "--help"])  # it imports a lot by itself
        main(["recipes"])
    for line in sys.stdin:
        job = json.loads(line)
        if "wait" in job:
            print(os.waitstatus_to_exitcode(os.waitpid(job["wait"], 0)[1]) if job["wait"] else 0, flush=True)
            continue
        process = os.fork()
        if process == 0:
            os._exit(_child(job))
        print(process, flush=True)


def _child(job: dict[str, Any]) -> int:
    from aib.cli import main

    code = 70
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    os.dup2(os.open(job["err"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        _give_stdout(job["to"] or job["out"], job["out"])
        if job["fault"]:
            name, *arguments = job["fault"]
            globals()[name](*arguments)
        code = main(job["arguments"])
        if sys.stdout is not None:  # as the interpreter does on its way out
            sys.stdout.flush()
    except BaseException:
        import traceback

        Path(job["err"]).write_text(traceback.format_exc())
    return code


def _give_stdout(where: str, copy: str) -> None:
    if where == "closed":
        os.close(1)
        sys.stdout = None  # type: ignore[assignment]
        return
    if where == "pipe":
        reader, writer = os.pipe()
        os.close(reader)
    elif where in ("tty", "own tty"):
        reader, writer = os.openpty()
        if (process := os.fork()) == 0:
            os.close(writer)
            with Path(copy).open("wb", buffering=0) as file, contextlib.suppress(OSError):  # EIO: the other end is closed
                while data := os.read(reader, 1000):
                    file.write(data)
            os._exit(0)
        Path(f"{copy}.reader").write_text(str(process))
        os.close(reader)
        if where == "own tty":
            import fcntl
            import termios

            os.setsid()
            fcntl.ioctl(writer, termios.TIOCSCTTY, 0)
            os.dup2(writer, 0)
            os.dup2(writer, 2)
    else:
        writer = os.open(where, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(writer, 1)
    if writer != 1:
        os.close(writer)
    raw = io.BufferedWriter(io.FileIO(1, "w", closefd=False))
    sys.stdout = io.TextIOWrapper(raw, encoding="utf-8", line_buffering="tty" in where)


# --- the faults


def act_at(folder: str, point: str, number: int, action: str, trace: str | None = None) -> None:
    """Do something when the program comes to a point for the ``number``-th time.

    Points are ``step`` and, for the files in ``folder``: ``open NAME`` (for writing), ``write NAME`` (about to be flushed, it is
    cut off at random first, as if the rest had not reached the disk), ``flush NAME`` (all of it is written), ``rename NAME``,
    ``link NAME``, ``remove NAME`` and ``mkdir NAME``; the thing itself is yet to be done. A temporary file has the name of the one
    that it becomes, and the folder itself is called ``folder``.

    Args:
        action: ``"kill"``, ``"full"`` (no space is left on the device) or the names of the signals that arrive.
        trace: a file that gets every point on a line.
    """
    seen: Counter[str] = Counter()
    lines = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666) if trace is not None else None

    def reached(name: str) -> bool:
        if lines is not None:
            os.write(lines, f"{name}\n".encode())
        seen[name] += 1
        return name == point and seen[name] == number

    def inside(path: object) -> bool:
        return str(path) == folder or str(path).startswith(f"{folder}/")

    def name_of(path: object) -> str:
        return "folder" if str(path) == folder else re.sub(r"^\.(.+?)(\.\d+)?\.tmp$", r"\1", Path(str(path)).name)

    def act() -> None:
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if action == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for name in action.split():
            signal.raise_signal(signal.Signals[name])

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        verb, path = event.removeprefix("os."), arguments[0] if arguments else None
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if verb in ("rename", "link"):
            path = arguments[1]
        if verb in ("open", "rename", "link", "remove", "mkdir") and inside(path) and reached(f"{verb} {name_of(path)}"):
            act()

    def flush(descriptor: int, original: Callable[[int], None] = os.fsync) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if inside(path):
            if path.is_file() and reached(f"write {name_of(path)}"):
                content = path.read_bytes()
                begin = content.rstrip(b"\n").rfind(b"\n") + 1 if path.suffix == ".jsonl" else 0  # earlier lines are on the disk
                if action in ("kill", "full"):
                    os.truncate(path, Random(len(content)).randrange(begin, len(content)))
                act()
            if reached(f"flush {name_of(path)}"):
                act()
        original(descriptor)

    from aib.train import loop

    def step(*arguments: Any, original: Callable[..., Any] = loop._Fit._step) -> Any:
        if reached("step"):
            act()
        return original(*arguments)

    sys.addaudithook(hook)
    os.fsync = flush
    loop._Fit._step = step  # type: ignore[method-assign]


def kill_careless(folder: str, point: str, number: int) -> None:
    """As `act_at` with ``"kill"``, in a program that writes over its checkpoints: the negative control."""
    from aib.train import checkpoint

    def write_over(path: Path, write: Callable[[Path], None]) -> None:
        write(path)
        with path.open("rb+") as file:
            os.fsync(file.fileno())

    checkpoint.write_atomically = write_over
    act_at(folder, point, number, "kill")


def no_larger_files(size: int) -> None:
    """As ``ulimit -f``: a file that would grow beyond ``size`` bytes cannot be written, as under a quota."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def no_flush_of_folders() -> None:
    """As on network file systems that flush files only."""

    def flush(descriptor: int, original: Callable[[int], None] = os.fsync) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().is_dir():
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        original(descriptor)

    os.fsync = flush


def clock(kind: str, saves: str) -> None:
    """A clock that jumps an hour back or ten years ahead at every third look, or ahead once, or that stands still.

    Args:
        saves: a file that gets a letter for every checkpoint written.
    """
    step = {"back": -3600.0, "ahead": 3.2e8, "one jump ahead": 3.2e8, "still": 0.0}[kind]
    looks = itertools.count(1)
    for name in ("time", "monotonic", "perf_counter"):
        original, started = getattr(time, name), getattr(time, name)()

        def look(original: Callable[[], float] = original, started: float = started) -> float:
            jumps = next(looks) // 3 if kind in ("back", "ahead") else next(looks) > 20
            return started if kind == "still" else original() + step * jumps

        setattr(time, name, look)
    from aib.train import loop

    def save(*arguments: Any, original: Callable[..., None] = loop.save_checkpoint) -> None:
        with Path(saves).open("a") as file:
            file.write("x")
        original(*arguments)

    loop.save_checkpoint = save


def surroundings(variables: dict[str, str | None], encoding: str = "utf-8") -> None:
    """Variables of the environment, and the encoding of what is printed."""
    for name, value in variables.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    sys.stdout.reconfigure(encoding=encoding, errors="strict")  # type: ignore[union-attr]


def close_stdin() -> None:
    """As ``<&-``."""
    os.close(0)
    sys.stdin = None  # type: ignore[assignment]


def ignore_hang_up() -> None:
    """As under ``nohup``."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def become_nobody() -> None:
    """Another user than the owner of the files, where this is the one who may do everything."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[bool]:
    """A file system in memory of that size at ``folder``; False where the system does not allow it."""
    folder.mkdir(exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k,mode=755", "aib-test", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(words, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)

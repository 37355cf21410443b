"""Hostile input: the judge of a case, processes that survive it, and the tools that spoil bytes, texts, JSON and places.

The cases are in `fuzz_images`, `fuzz_data` (what else a data set is made of), `fuzz_checkpoints` (and weights) and `fuzz_runs`
(recipes, run folders, reports, tables, command lines). A case is a function of its kind and of (seed, number) alone, so that each
can be repeated by itself.
"""

from __future__ import annotations

import json
import math
import os
import resource
import select
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, TextIO

SECONDS = 20
"""Longest time of the processor that a case may take."""

WAIT = 60
"""Longest time that it may take on the clock, which runs on a busy machine too; what takes no processor is blocked."""

MEGABYTES = 2000
"""Most memory that a case may add to the process."""

NUMBERS = (-1, 0, 1, 2, 127, 128, 255, 256, 32767, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
"""Where lengths and sizes go wrong."""

TEXTS = (
    "", " ", "x", "ünïcode ☃ 目", "a\nb", "\x1b[2J\x07", "\x00", "../../etc/passwd", "/dev/zero", "%s%n{0}", "nan", "-1", "1e999",
    "[bold]", "\u202e", "\ud83d", "a" * 5000, "--help", "~", "~nosuchuser/x", "None",
    "con", ".", "..", "*", "$(touch owned)", "vgg_xs_aib_qt",
    "clutter", "yes", "<script>alert(1)</script>",
)  # fmt: skip
"""Where texts go wrong."""


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        act: does with the input what the command line does with it.
        named: the file or folder that a message must name, if any.
    """

    act: Callable[[], object]
    named: Path | None = None


Maker = Callable[[Random, Path, Path], Case]
"""Of a case: from its random numbers, its own empty folder and the folder of valid files of `fuzz_runs.make_seeds`."""


@dataclass(frozen=True)
class Verdict:
    """What came of a case.

    Attributes:
        kind, number: of the case.
        outcome: ``"success"``, ``"refused"`` (one line that the command line prints) or ``"BUG"``.
        said: the line, or what is wrong.
        seconds: of the processor.
        megabytes: most memory that the case added.
    """

    kind: str
    number: int
    outcome: str
    said: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0


class Hang(BaseException):
    """The time of a case is over."""


class Watch:
    """Tells what a case does outside its folder, and whether it starts something; for a process that ends with its cases."""

    TOUCHES = ("os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.chown", "os.truncate", "os.rename", "os.link", "os.symlink")
    STARTS = (
        "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pickle.find_class", "socket.connect",
        "socket.getaddrinfo", "webbrowser.open",
    )  # fmt: skip
    ASKED = ("git", "uname")
    """Programs that tell what a run is made on."""

    def __init__(self, base: Path) -> None:
        self.base, self.on, self.seen = base.resolve(), False, ""
        sys.dont_write_bytecode = True
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on or self.seen:
            return
        if event == "subprocess.Popen" and arguments[0] in self.ASKED:
            return
        if event in self.STARTS:
            self.seen = f"{event}{arguments[:2]}"
        elif event == "open" and isinstance(arguments[0], str | bytes) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self._check(event, arguments[:1])
        elif event in self.TOUCHES:
            both = event in ("os.rename", "os.link")
            self._check(event, arguments[1:2] if event == "os.symlink" else arguments[: 2 if both else 1])

    def _check(self, event: str, paths: Sequence[Any]) -> None:
        self.on = False  # looking makes events of its own
        for path in paths:
            text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
            # what is opened is what a link leads to; what is removed or renamed is the link itself
            above, name = os.path.split(os.path.realpath(text) if event == "open" else text)
            if text and text != os.devnull and not Path(os.path.realpath(above), name).is_relative_to(self.base):
                self.seen = f"{event} of {text}"
        self.on = True


def judge(case: Case, watch: Watch | None = None) -> tuple[str, str]:
    """Outcome and what was said; a warning is a line too many."""
    with warnings.catch_warnings(record=True, action="always") as heard:
        for hidden in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):  # by Python, from users
            warnings.simplefilter("ignore", hidden)
        outcome, said = _judged(case, watch)
    if heard and outcome != "BUG":
        warning = heard[0]
        said = f"it warns at {Path(warning.filename).name}:{warning.lineno}: {warning.category.__name__}: {warning.message}"
        outcome = "BUG"
    return outcome, said


def _judged(case: Case, watch: Watch | None) -> tuple[str, str]:
    from aib.cli import _one_line
    from aib.data.images import printable

    try:
        if watch is not None:
            watch.seen, watch.on = "", True
        try:
            case.act()
        finally:
            if watch is not None:
                watch.on = False
        outcome, said = "success", ""
    except (ValueError, OSError) as error:
        outcome, said = "refused", _one_line(error)
        named = case.named is None or printable(case.named) in said
        if not said or not named or ("\n" in str(error) and not isinstance(error, OSError)):
            outcome, said = "BUG", f"{'not named' if not named else 'not one line'}: {_where(error)}"
    except Hang:
        outcome, said = "BUG", f"hangs: {traceback.format_exc(limit=-3)}"
    except BaseException as error:
        outcome, said = "BUG", _where(error)
    if watch is not None and watch.seen:
        outcome, said = "BUG", f"it did {watch.seen}"
    return outcome, said


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames[::-1])
    return f"{type(error).__name__}: {str(error)[:300]!r} at {places}"


# --- many cases


def run_cases(
    makers: Mapping[str, Maker], chosen: Sequence[tuple[str, int]], seed: int, base: Path, seeds: Path
) -> Iterator[Verdict]:
    """Judge the cases in a process of their own; a new one goes on where one crashes, hangs or is out of memory.

    Args:
        makers: by kind.
        chosen: kind and number of every case.
        seed: of all.
        base: an empty folder on a disk with some space.
        seeds: see `Maker`.
    """
    done = 0
    while done < len(chosen):
        reader, process = _start(makers, chosen[done:], seed, base, seeds)
        with reader:
            while done < len(chosen):
                ready, _, _ = select.select([reader], [], [], 2 * WAIT)
                line = reader.readline() if ready else ""
                if not line.endswith("\n"):
                    break
                yield Verdict(**json.loads(line))
                done += 1
            if done < len(chosen):
                os.kill(process, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if done < len(chosen):
            said = f"the process ended with {status}" if ready else "the process hung outside Python"
            yield Verdict(*chosen[done], "BUG", said)
            done += 1


def _start(
    makers: Mapping[str, Maker], chosen: Sequence[tuple[str, int]], seed: int, base: Path, seeds: Path
) -> tuple[TextIO, int]:
    read, write = os.pipe()
    process = os.fork()
    if process:
        os.close(write)
        return os.fdopen(read, encoding="utf-8", buffering=1), process
    code = 1
    try:
        os.close(read)
        with os.fdopen(write, "w", encoding="utf-8") as out:
            for number, name in ((0, os.devnull), (1, "out.txt"), (2, "err.txt")):
                os.dup2(os.open(base / name, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
            _work(makers, chosen, seed, base, seeds, out)
        code = 0
    finally:
        os._exit(code)  # nothing of the parent's is to be flushed or removed here


def _work(makers: Mapping[str, Maker], chosen: Sequence[tuple[str, int]], seed: int, base: Path, seeds: Path, out: TextIO) -> None:
    def stop(number: int, frame: object) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, stop)
    signal.signal(signal.SIGPROF, stop)
    limit = _kilobytes("VmSize") * 1024 + 4 * MEGABYTES * 1_000_000
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))  # so that the machine outlives a case that is a bug
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    watch, place = Watch(base), base / "case"
    for kind, number in chosen:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        os.chdir(place)
        try:
            case = makers[kind](Random(f"{seed}/{kind}/{number}"), place, seeds)
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak of the memory is that of now
            before, began = _kilobytes("VmRSS"), time.process_time()
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            signal.setitimer(signal.ITIMER_REAL, WAIT)
            try:
                outcome, said = judge(case, watch)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
                signal.setitimer(signal.ITIMER_REAL, 0)
            seconds, megabytes = time.process_time() - began, (_kilobytes("VmHWM") - before) / 1024
            if megabytes > MEGABYTES and outcome != "BUG":
                outcome, said = "BUG", f"it takes {megabytes:.0f} MB; {outcome}: {said}"
        except BaseException as error:
            outcome, said, seconds, megabytes = "BUG", f"in the making of the case: {_where(error)}", 0.0, 0.0
        verdict = Verdict(kind, number, outcome, said[:1000], round(seconds, 3), round(megabytes, 1))
        out.write(json.dumps(asdict(verdict)) + "\n")
        out.flush()


def _kilobytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


def judged(base: Path, acts: dict[str, Callable[[Path], object]], seeds: Path, named: Path | None = None) -> dict[str, Verdict]:
    """What comes of each act, which is given an empty folder, in a process of its own."""
    makers: dict[str, Maker] = {
        name: lambda r, folder, seeds, act=act: Case(lambda: act(folder), named)  # type: ignore[misc]
        for name, act in acts.items()
    }
    base.mkdir(exist_ok=True)
    return {verdict.kind: verdict for verdict in run_cases(makers, [(name, 0) for name in makers], 0, base, seeds)}


# --- spoiling


def spoil(data: bytes, r: Random, most: int = 4) -> bytes:
    """``data`` with one to ``most`` of: bits flipped, bytes set, cut, doubled, exchanged or inserted, lengths replaced."""
    for _ in range(r.randint(1, most)):
        size = len(data)
        at = r.randrange(size + 1)
        to = min(size, at + r.choice((1, 2, 4, 16, 100, 1000)))
        match r.randrange(9):
            case 0:
                spots = bytearray(data)
                for _ in range(r.choice((1, 1, 3, 20)) if size else 0):
                    spots[r.randrange(size)] ^= 1 << r.randrange(8)
                data = bytes(spots)
            case 1:
                data = data[:at] + bytes([r.choice((0, 255, 127, 128, 10))]) * (to - at) + data[to:]
            case 2:
                data = data[:at]
            case 3:
                data = data[:at] + data[to:]
            case 4:
                data = data[:to] + data[at:to] * r.choice((1, 2, 50)) + data[to:]
            case 5:
                start = r.randrange(size + 1)
                data = data[:at] + data[start : start + to - at] + data[to:]
            case 6:
                data = data[:at] + r.randbytes(r.choice((1, 4, 64))) + data[at:]
            case 7:
                width = r.choice((2, 4, 8))
                number = r.choice(NUMBERS) % (1 << (8 * width))
                data = data[:at] + number.to_bytes(width, r.choice(("little", "big"))) + data[at + width :]
            case 8:
                data = data + r.randbytes(20) if r.random() < 0.5 else data[at:]
    return data


def misplace(path: Path, r: Random) -> None:
    """Something in the place of a file that is none, or lies elsewhere."""
    path.unlink(missing_ok=True)
    match r.randrange(5):
        case 0:
            os.mkfifo(path)
        case 1:
            path.mkdir()
        case 2:
            path.symlink_to(path.name)
        case _:
            path.symlink_to(r.choice(("/dev/zero", "/dev/tty", "/etc/passwd", "/proc/self/mem", "/nowhere", ".")))


def strange(r: Random, depth: int = 0) -> Any:
    """A value that JSON can write and nobody expects."""
    match r.randrange(12 if depth < 2 else 7):
        case 0:
            return None
        case 1:
            return r.choice((True, False))
        case 2:
            return r.choice(NUMBERS)
        case 3:
            return r.choice((10**30, -(10**30), 10**400, r.randrange(-100, 100)))
        case 4:
            return r.choice((math.nan, math.inf, -math.inf, 1e308, 5e-324, 0.5, -0.0, r.uniform(-5, 5)))
        case 5 | 6:
            return r.choice(TEXTS)
        case 7:
            return [strange(r, depth + 1) for _ in range(r.randrange(4))]
        case 8:
            return {r.choice(TEXTS): strange(r, depth + 1) for _ in range(r.randrange(4))}
        case 9:
            return [r.choice(("a", 1, 0.5, None))] * r.choice((0, 1, 3, 1000))
        case 10:
            return nested(r.choice((3, 50, 5000)), r.choice(("[", "{")))
        case _:
            return {}


def nested(depth: int, kind: str = "[") -> Any:
    """Lists or tables in each other."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind == "[" else {"a": value}
    return value


def spoil_json(value: Any, r: Random) -> Any:
    """A copy of ``value`` with one thing somewhere in it replaced, removed or added."""
    if r.random() < 0.25 or not isinstance(value, dict | list) or not value:
        return strange(r)
    if isinstance(value, list):
        at = r.randrange(len(value))
        if r.random() < 0.2:
            return r.choice((value[:at], value + value, value[:at] + [strange(r)] + value[at:]))
        return [*value[:at], spoil_json(value[at], r), *value[at + 1 :]]
    key = r.choice(list(value))
    if r.random() < 0.15:
        return {k: v for k, v in value.items() if k != key}
    if r.random() < 0.1:
        return {**value, r.choice(TEXTS): strange(r)}
    return {**value, key: spoil_json(value[key], r)}


def write_json(value: Any) -> str:
    """``value`` as JSON, however deep it is."""
    try:
        return json.dumps(value)
    except RecursionError:
        return '{"format": ' + "[" * 5000 + "]" * 5000 + "}"


def weighted(r: Random, *choices: tuple[float, Callable[[], Any]]) -> Any:
    """The result of one function, chosen by weight."""
    return r.choices([make for _, make in choices], [weight for weight, _ in choices])[0]()

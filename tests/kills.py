"""Trainings that are killed at many moments and resumed, until each has come to its end; what must hold of them then."""

from __future__ import annotations

import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from aib.train.checkpoint import load_checkpoint
from aib.train.run_folder import LOCK, RunFolder
from aib.train.weights import load_run
from faults import Server
from tiny import outcome, same

__all__ = ["EPOCHS", "EVERY_STEP", "TRAIN", "Kill", "Whole", "check_readable", "everything", "finish", "kill_runs", "leftovers"]

TRAIN = ("--model", "vgg_xs_aib_qt", "--anchors", 8, "--batch-size", 16, "--crop-padding", 2, "--beta", 1e-3, "--device", "cpu")
"""A short training: 6 steps an epoch of `tiny.write_npz`."""

EPOCHS = ("--epochs", 2)

EVERY_STEP = ("--checkpoint-minutes", 0)
"""A checkpoint after every step: many moments are in the writing of one."""

KILLS_PER_RUN = 4


@dataclass(frozen=True)
class Whole:
    """A run that nothing disturbed.

    Attributes:
        folder: of the run.
        points: those of `faults.act_at` that it came to, in their order.
        seconds: of the whole command.
    """

    folder: RunFolder
    points: list[str]
    seconds: float

    @classmethod
    def train(cls, server: Server, data: Path, path: Path) -> Whole:
        """Train it, without a fault but with its points noted."""
        began, trace = time.monotonic(), path.with_name(f"{path.name}.points")
        fault = ("act_at", path, "", 0, "", trace)
        code, _, err = server("train", "--data", data, *TRAIN, *EPOCHS, *EVERY_STEP, "--out", path, fault=fault)
        assert (code, err) == (0, ""), err
        return cls(RunFolder.open(path), trace.read_text().splitlines(), time.monotonic() - began)


@dataclass(frozen=True)
class Kill:
    """A process that was killed.

    Attributes:
        run: number of its run.
        moment: when: ``after 1.23 s``, or a point of `faults.act_at` with how many times it had come to it.
        step: of the checkpoint that it left, 0 for none.
    """

    run: int
    moment: str
    step: int


def check_readable(folder: RunFolder) -> int:
    """Whatever a training has left can be read; the step of its last checkpoint, 0 before the first."""
    step = 0
    for path in folder.last.parent.glob("*.ckpt"):
        state = load_checkpoint(path)["state"]
        step = state["step"] if path == folder.last else step
    if folder.has("config.toml"):
        assert folder.config.optim.epochs > 0
    if folder.has("environment.json"):
        assert folder.read_json("environment.json")["torch"]
    if folder.has("model.json"):
        load_run(folder.path)
    if step:
        assert folder.finished_epochs >= load_checkpoint(folder.last)["state"]["epoch"]
    return step


def leftovers(folder: RunFolder) -> list[str]:
    """Temporary files."""
    return [str(path) for path in folder.path.rglob(".*") if path.name != LOCK]


def everything(folder: RunFolder) -> dict[str, Any]:
    """All that a training leaves but what the clock says: log, selected weights and every checkpoint."""
    found = outcome(folder)
    for path in folder.last.parent.iterdir():
        found[path.name] = load_checkpoint(path)
        found[path.name]["state"].pop("seconds")
    return found


def finish(server: Server, folder: RunFolder, whole: Whole) -> None:
    """Go on with a run to its end, which must be that of the undisturbed one, with nothing beside it."""
    code, _, err = server("train", "--resume", folder.path)
    # killed after its last checkpoint it has nothing left to do, and says so
    assert code == 0 or (code == 2 and f"{folder.path} has finished its" in err), err
    assert same(outcome(folder), outcome(whole.folder))
    assert leftovers(folder) == []


def kill_runs(
    server: Server, data: Path, whole: Whole, base: Path, *, kills: int, seed: int, say: Callable[[Kill], None] = lambda kill: None
) -> list[Kill]:
    """SIGKILL to trainings at ``kills`` moments: two thirds at points (every one before one comes twice), the others at any time.

    Of many kills some fall into every part of the writing of a checkpoint. Every run is resumed after a kill, up to four times,
    and at its end compared with the undisturbed one.

    Raises:
        AssertionError: a file cannot be read, a checkpoint was lost, or a run ended otherwise.
    """
    chooser, counts = Random(seed), Counter(whole.points)
    once = set(whole.points[: whole.points.index("step")])  # what a resumed run does not come to
    names = sorted(counts)
    wanted = min(kills - kills // 3, len(names))
    writes = [name for name in names if name.endswith("last.ckpt")]
    sure = writes if wanted >= 2 * len(writes) else []
    others = chooser.sample([name for name in names if name not in sure], wanted - len(sure))
    moments: list[str | None] = [*sure, *others, *([None] * (kills - wanted))]
    chooser.shuffle(moments)
    found: list[Kill] = []
    run, killed, step = 0, KILLS_PER_RUN, 0
    folder = RunFolder(base)
    for name in moments:
        hit = False
        while not hit:
            if killed >= KILLS_PER_RUN or (name in once and killed):
                if run:
                    _end(server, data, folder, whole)
                run, killed, step, folder = run + 1, 0, 0, RunFolder(base / f"run{run + 1}")
            start = _command(data, folder)
            if name is None:
                seconds = chooser.uniform(0, whole.seconds)
                moment, job = f"after {seconds:.2f} s", server.start(*start)
                time.sleep(seconds)
                job.send(signal.SIGKILL)
                code, _, err = job.wait()
            else:
                number = chooser.randint(1, max(1, counts[name] // (1 + (killed > 0))))
                moment = f"{name} {number}"
                code, _, err = server(*start, fault=("act_at", folder.path, name, number, "kill"))
            assert code in (-signal.SIGKILL, 0) or "has finished its" in err, err
            hit = code == -signal.SIGKILL
            assert hit or killed or name is None, f"a run never came to {moment}"
            before, step = step, check_readable(folder)
            assert step >= before
            killed = killed + 1 if hit else KILLS_PER_RUN
            if hit:
                found.append(Kill(run, moment, step))
                say(found[-1])
    _end(server, data, folder, whole)
    return found


def _command(data: Path, folder: RunFolder) -> tuple[object, ...]:
    """What a user types next: the same again if the run had not come to its first word, else ``--resume``."""
    if folder.has("config.toml"):
        return ("train", "--resume", folder.path)
    return ("train", "--data", data, *TRAIN, *EPOCHS, *EVERY_STEP, "--out", folder.path)


def _end(server: Server, data: Path, folder: RunFolder, whole: Whole) -> None:
    if not folder.has("config.toml"):
        code, _, err = server(*_command(data, folder))
        assert code == 0, err
    else:
        finish(server, folder, whole)
    assert same(everything(folder), everything(whole.folder))
    assert leftovers(folder) == []
    shutil.rmtree(folder.path)

"""Trainings survive what happens to processes and disks: kill -9 anywhere, signals, full and read-only disks, two in one folder.

Whatever happens, the program ends well or with one line and exit code 2 (130 when it was told to stop), and what it was working on
can be resumed to the weights, optimiser and log of a run that nothing disturbed, bit for bit.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from aib.train.run_folder import LOCK, RunFolder
from faults import Server, small_disk
from kills import EPOCHS, EVERY_STEP, TRAIN, Whole, check_readable, everything, finish, kill_runs, leftovers
from tiny import same, write_folder, write_npz

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork, signals and /proc")

SELDOM = ("--checkpoint-minutes", 60)
"""A checkpoint at the end of an epoch only."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_npz(tmp_path_factory.mktemp("data") / "squares.npz")


@pytest.fixture(scope="module")
def whole(server: Server, data: Path) -> Whole:
    return Whole.train(server, data, server.folder / "whole")


def begin(data: Path, path: Path, *options: object) -> tuple[object, ...]:
    """The command that starts a run."""
    return ("train", "--data", data, *TRAIN, *EPOCHS, *(options or SELDOM), "--out", path)


def begun(server: Server, data: Path, path: Path) -> RunFolder:
    """A run that was told to stop in its second epoch."""
    folder = RunFolder(path)
    code, _, err = server(*begin(data, path), fault=("act_at", path, "step", 9, "SIGTERM"))
    assert (code, check_readable(folder)) == (130, 9), err
    return folder


def told(err: str) -> str:
    """The one line that a process said."""
    (line,) = err.splitlines()
    assert line.startswith("aib ")
    return line


# --- kill -9


def test_trainings_killed_at_random_moments_end_as_whole_ones(server: Server, data: Path, whole: Whole, tmp_path: Path) -> None:
    assert len(kill_runs(server, data, whole, tmp_path, kills=4, seed=1)) == 4


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_kills_lose_nothing(server: Server, data: Path, whole: Whole, tmp_path: Path) -> None:
    kills = kill_runs(server, data, whole, tmp_path, kills=50, seed=0)
    assert len(kills) == 50
    assert {kill.moment.rpartition(" ")[0] for kill in kills} >= {"write last.ckpt", "rename last.ckpt", "link previous.ckpt"}


def test_decoders_end_with_the_training_that_is_killed(server: Server, tmp_path: Path) -> None:
    """Batches of 1.2 MB wait in pipes whose reading ends the decoders hold too: one that waits for a reader waits for ever."""
    photos, folder = write_folder(tmp_path / "photos", count=32, side=160), RunFolder(tmp_path / "run")
    job = server.start(
        "train", "--data", photos, *TRAIN, "--epochs", 50, *EVERY_STEP, "--image-size", 160, "--workers", 2, "--out", folder.path
    )
    job.until(folder.last.exists)
    decoders = children(job.process)
    time.sleep(1.0)  # as long as it takes to fill the pipes
    decoders |= children(job.process)  # an epoch may have ended
    job.send(signal.SIGKILL)
    code, _, err = job.wait()
    assert (code, len(decoders) >= 2) == (-signal.SIGKILL, True), err
    until = time.monotonic() + 8
    while (left := {process for process in decoders if Path(f"/proc/{process}").exists()}) and time.monotonic() < until:
        time.sleep(0.1)
    for process in left:
        os.kill(process, signal.SIGKILL)
    assert left == set()


def children(process: int) -> set[int]:
    """The processes that a process has started and that live."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            found |= {int(path.parent.name)} if int(parent) == process and state != "Z" else set()
    return found


def test_a_program_that_writes_over_its_checkpoint_would_be_seen(server: Server, data: Path, tmp_path: Path) -> None:
    fault = ("kill_careless", tmp_path / "run", "write last.ckpt", 2)
    assert server(*begin(data, tmp_path / "run", *EVERY_STEP), fault=fault)[0] == -signal.SIGKILL
    with pytest.raises(ValueError, match=r"\.ckpt is cut or damaged"):
        check_readable(RunFolder(tmp_path / "run"))


def test_a_training_killed_before_its_first_word_starts_with_the_same_command_and_then_resumes(
    server: Server, data: Path, whole: Whole, tmp_path: Path
) -> None:
    """The log and the weights of the first epoch are written before the checkpoint that counts it."""
    folder = RunFolder(tmp_path / "run")
    for point in ("mkdir folder", "open .training.lock", "write config.toml", "rename config.toml"):
        code, _, err = server(*begin(data, folder.path), fault=("act_at", folder.path, point, 1, "kill"))
        assert (code, folder.has("config.toml")) == (-signal.SIGKILL, False), err
    assert server(*begin(data, folder.path), fault=("act_at", folder.path, "mkdir checkpoints", 1, "kill"))[0] == -signal.SIGKILL
    for point in ("write metrics.jsonl", "rename model.json", "rename last.ckpt"):
        code, _, err = server("train", "--resume", folder.path, fault=("act_at", folder.path, point, 1, "kill"))
        assert (code, check_readable(folder)) == (-signal.SIGKILL, 0), err
        if point == "write metrics.jsonl":
            assert folder.metrics.read_text()[-1:] != "\n"
    (folder.path / ".tmpAbCd12").write_bytes(b"half of what safetensors was writing")
    finish(server, folder, whole)


# --- signals


@pytest.mark.parametrize(
    ("point", "signals", "step"),
    [
        ("write last.ckpt", "SIGTERM", 3),
        ("rename last.ckpt", "SIGINT SIGTERM SIGTERM SIGHUP", 3),  # as from a sweep and from the terminal that it shares
        ("rename last.ckpt", "SIGINT SIGINT", 1),
        pytest.param("write last.ckpt", "SIGINT SIGINT", 1, marks=pytest.mark.slow),
        pytest.param("link previous.ckpt", "SIGINT SIGINT", 1, marks=pytest.mark.slow),
        pytest.param("rename previous.ckpt", "SIGHUP", 3, marks=pytest.mark.slow),
        pytest.param("write model.safetensors", "SIGTERM", 7, marks=pytest.mark.slow),
        pytest.param("write metrics.jsonl", "SIGINT SIGINT", 6, marks=pytest.mark.slow),
        pytest.param("step", "SIGPIPE", 12, marks=pytest.mark.slow),
    ],
)
def test_signals_while_a_checkpoint_is_written(
    server: Server, data: Path, whole: Whole, tmp_path: Path, point: str, signals: str, step: int
) -> None:
    """Asked to stop, the run goes on to the end of the step after and saves; told to stop at once, it leaves the last one."""
    folder = RunFolder(tmp_path / "run")
    number = 2 if "last" in point else 1
    code, out, err = server(*begin(data, folder.path, *EVERY_STEP), fault=("act_at", folder.path, point, number, signals))
    if signals == "SIGPIPE":
        assert (code, err) == (0, ""), err
        assert same(everything(folder), everything(whole.folder))
        return
    assert code == 130
    if signals == "SIGINT SIGINT":
        assert told(err) == "aib train: interrupted"
    else:
        assert told(err).startswith(f"aib train: stopped after {step} of 12 steps, saved; go on with: aib train --resume ")
        assert "stopping after this step" in out
    assert check_readable(folder) == step
    assert leftovers(folder) == []
    finish(server, folder, whole)


# --- disks


@pytest.mark.parametrize("point", ["write", *(pytest.param(point, marks=pytest.mark.slow) for point in ("open", "rename"))])
def test_a_full_disk_is_told_by_the_file_that_was_to_be(
    server: Server, data: Path, whole: Whole, tmp_path: Path, point: str
) -> None:
    """Pretended: there is no space in the middle of that file, as a network disk says no sooner than when it is flushed."""
    folder = RunFolder(tmp_path / "run")
    fault = ("act_at", folder.path, f"{point} config.toml", 1, "full")
    code, _, err = server(*begin(data, folder.path), fault=fault)
    assert (code, told(err)) == (2, f"aib train: No space left on device ({folder.path / 'config.toml'})")
    assert not folder.path.exists()  # nothing is in the way of the next try
    command: tuple[object, ...] = begin(data, folder.path)
    for name in ("environment.json", "metrics.jsonl", "model.safetensors", "model.json", "checkpoints/last.ckpt"):
        if f"{point} {name}" == "rename metrics.jsonl":  # it is never renamed in a new run
            continue
        fault = ("act_at", folder.path, f"{point} {Path(name).name}", 1, "full")
        code, _, err = server(*command, fault=fault)
        advice = f"; make room, then go on from the last checkpoint with: aib train --resume {folder.path}"
        said = f"aib train: No space left on device ({folder.path / name}){advice if name != 'environment.json' else ''}"
        assert (code, told(err)) == (2, said)
        assert (check_readable(folder), leftovers(folder)) == (0, [])
        command = ("train", "--resume", folder.path)
    finish(server, folder, whole)


def test_a_quota_ends_the_run_in_one_line_and_the_old_checkpoint_stays(
    server: Server, data: Path, whole: Whole, tmp_path: Path
) -> None:
    """A real one, on the size of files."""
    folder = begun(server, data, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in folder.last.parent.iterdir()}
    size = folder.last.stat().st_size
    for limit, name in ((size // 4, "model.safetensors"), (size - 5000, "last.ckpt")):
        code, _, err = server("train", "--resume", folder.path, fault=("no_larger_files", limit))
        assert code == 2
        assert name in told(err)
        assert {path.name: path.read_bytes() for path in folder.last.parent.iterdir()} == before
    assert leftovers(folder) == []
    finish(server, folder, whole)


def fill(disk: Path, kilobytes: float) -> Path:
    """A file that leaves so much space on ``disk``."""
    state, ballast = os.statvfs(disk), disk / "ballast"
    ballast.write_bytes(bytes(state.f_bavail * state.f_frsize - int(kilobytes * 1000)))
    return ballast


@pytest.mark.parametrize(
    ("kilobytes", "name"),
    [
        pytest.param(0, "metrics.jsonl", marks=pytest.mark.slow),
        pytest.param(100, "model.safetensors", marks=pytest.mark.slow),
        (200, "last.ckpt"),
    ],
)
def test_a_disk_that_fills_up_or_turns_read_only_leaves_the_last_checkpoint(
    server: Server, data: Path, whole: Whole, tmp_path: Path, kilobytes: int, name: str
) -> None:
    """A real one, a small file system in memory."""
    with small_disk(tmp_path / "disk", 4000) as mounted:
        if not mounted:
            pytest.skip("this user may not mount a file system")
        folder = begun(server, data, tmp_path / "disk" / "run")
        ballast = fill(tmp_path / "disk", kilobytes)
        code, _, err = server("train", "--resume", folder.path)
        assert code == 2
        assert name in told(err)
        assert (check_readable(folder), leftovers(folder)) == (9, [])
        ballast.unlink()
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "disk")], check=True)
        for words in (("train", "--resume", folder.path), ("eval", folder.path)):
            code, _, err = server(*words)
            assert (code, "Read-only file system" in told(err)) == (2, True), err
        assert check_readable(folder) == 9
        subprocess.run(["mount", "-o", "remount,rw", str(tmp_path / "disk")], check=True)
        finish(server, folder, whole)


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [0, 8, 40, 100])
def test_a_disk_too_full_for_results_leaves_the_old_ones(server: Server, whole: Whole, tmp_path: Path, kilobytes: int) -> None:
    """Evaluation, table and report; afterwards, with space, all are as they would have been."""
    with small_disk(tmp_path / "disk", 4000) as mounted:
        if not mounted:
            pytest.skip("this user may not mount a file system")
        folder = RunFolder(Path(shutil.copytree(whole.folder.path, tmp_path / "disk" / "run")))
        table, page, image = folder.path.parent / "runs.csv", folder.path / "report.html", tmp_path / "image.png"
        evaluation: tuple[object, ...] = ("eval", folder.path, "--record", table)
        assert server(*evaluation)[0] == 0
        assert server("report", folder.path)[0] == 0
        shutil.copy(next((folder.path / "eval" / "test-gallery").glob("*.png")), image)
        kept = {path: path.read_bytes() for path in (page, table, folder.path / "eval" / "test.json")}
        ballast = fill(tmp_path / "disk", kilobytes)
        for words in (evaluation, ("report", folder.path), ("explain", folder.path, image, "--out", tmp_path / "disk" / "maps")):
            code, _, err = server(*words)
            assert code in (0, 2)
            if code == 2:
                assert "No space left on device" in told(err), err
                assert str(tmp_path / "disk") in told(err), err
            assert leftovers(folder) == []
        if kilobytes == 0:
            assert {path: path.read_bytes() for path in kept} == kept
        assert server("report", folder.path, "--out", tmp_path / "report.html")[0] == 0  # what is there can be read
        ballast.unlink()
        assert server(*evaluation)[0] == 0
        assert server("report", folder.path)[0] == 0
        assert {path: path.read_bytes() for path in kept} == kept


@pytest.mark.slow
@pytest.mark.parametrize(
    "point", ["write test.npz", "rename test.json", "write test-gallery.json", "write runs.csv", "remove 000.npy"]
)
def test_an_evaluation_that_is_killed_leaves_what_can_be_read_and_is_done_again(
    server: Server, whole: Whole, tmp_path: Path, point: str
) -> None:
    folder = RunFolder(Path(shutil.copytree(whole.folder.path, tmp_path / "run")))
    command: tuple[object, ...] = ("eval", folder.path, "--record", tmp_path / "runs.csv")
    assert server(*command)[0] == 0
    wanted = {path: path.read_bytes() for path in (*folder.path.rglob("eval/*"), tmp_path / "runs.csv") if path.is_file()}
    assert server(*command, fault=("act_at", tmp_path, point, 1, "kill"))[0] == -signal.SIGKILL
    assert server("report", folder.path)[0] == 0
    assert server(*command)[0] == 0
    assert {path: path.read_bytes() for path in wanted} == wanted
    assert [path.name for path in tmp_path.glob(".*")] == [".runs.csv.lock"]


@pytest.mark.slow
def test_a_run_folder_without_permission_is_one_line(server: Server, data: Path, whole: Whole) -> None:
    with tempfile.TemporaryDirectory() as place:  # that of pytest is closed to other users
        Path(place).chmod(0o755)
        folder = begun(server, data, Path(place, "run"))
        (folder.path / LOCK).unlink()
        for inside in (folder.path, folder.last.parent):
            inside.chmod(0o555)
        for words in (("train", "--resume", folder.path), ("eval", folder.path), begin(data, Path(place, "other"))):
            code, _, err = server(*words, fault=("become_nobody",))
            assert (code, "Permission denied" in told(err)) == (2, True), err
        assert (check_readable(folder), leftovers(folder)) == (9, [])
        for inside in (folder.path, folder.last.parent):
            inside.chmod(0o755)
        finish(server, folder, whole)


@pytest.mark.slow
def test_a_folder_that_is_a_file_or_vanishes_is_one_line(server: Server, data: Path, whole: Whole, tmp_path: Path) -> None:
    folder = begun(server, data, tmp_path / "run")
    kept = folder.last.parent.rename(tmp_path / "kept")
    for name, words in (("checkpoints", ("train", "--resume", folder.path)), ("eval", ("eval", folder.path))):
        (folder.path / name).write_text("a file")
        code, _, err = server(*words)
        assert (code, str(folder.path / name) in told(err)) == (2, True), err
        (folder.path / name).unlink()
    kept.rename(folder.last.parent)
    finish(server, folder, whole)
    job = server.start("train", "--data", data, *TRAIN, "--epochs", 50, "--out", tmp_path / "moved")
    job.until(RunFolder(tmp_path / "moved").last.exists)
    (tmp_path / "moved").rename(tmp_path / "elsewhere")
    code, _, err = job.wait()
    assert (code, str(tmp_path / "moved") in told(err)) == (2, True), err
    assert not (tmp_path / "moved").exists()
    check_readable(RunFolder(tmp_path / "elsewhere"))


@pytest.mark.slow
def test_a_disk_that_cannot_flush_folders_will_do(server: Server, data: Path, whole: Whole, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    code, _, err = server(*begin(data, folder.path), fault=("no_flush_of_folders",))
    assert (code, err) == (0, ""), err
    finish_of: Any = everything(folder)
    assert same(finish_of["last"], everything(whole.folder)["last"])
    assert {oct(path.stat().st_mode & 0o777) for path in folder.path.iterdir() if path.is_file()} == {oct(0o666 & ~umask())}


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_of_two_trainings_that_start_in_one_folder_one_has_it(server: Server, data: Path, tmp_path: Path) -> None:
    folder, rates = RunFolder(tmp_path / "run"), (0.01, 0.02)
    options = ("train", "--data", data, *TRAIN, "--epochs", 1, "--out", folder.path)
    jobs = [server.start(*options, "--lr", rate) for rate in rates]
    ended = [job.wait() for job in jobs]
    assert sorted(code for code, _, _ in ended) == [0, 2]
    winner = [code for code, _, _ in ended].index(0)
    assert folder.config.optim.lr == rates[winner]
    said = told(ended[1 - winner][2])
    assert "is being trained by another process" in said or "exists and is not empty" in said
    assert folder.finished_epochs == 1

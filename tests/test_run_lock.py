"""One process trains in a folder: a second one refuses, and a killed one leaves the folder free."""

from __future__ import annotations

import errno
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

import pytest
from filelock import FileLock, Timeout

from aib.cli import main
from aib.data import open as open_module
from aib.data import open_data
from aib.train.results_table import update_table
from aib.train.run_folder import LOCK, RunFolder
from tiny import tiny_config, write_npz

HOLD = """
import sys, time
from pathlib import Path
from aib.train.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_in_training_is_refused_until_its_process_is_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create(tiny_config(write_npz(tmp_path / "squares.npz"), folder.path, epochs=1))
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder.path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    leftover = folder.path / ".model.json.1.tmp"  # what the other process is writing
    leftover.write_text("{")
    try:
        assert main(["train", "--resume", str(folder.path)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{folder.path} is being trained by another process" in line
        assert leftover.exists()
        assert folder.finished_epochs == 0
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    time.sleep(0.1)
    assert main(["train", "--resume", str(folder.path)]) == 0
    assert folder.finished_epochs == 1
    assert not leftover.exists()


def test_a_look_at_a_folder_refuses_no_training(tmp_path: Path) -> None:
    """A sweep that waits looks twice a second, and holds the folder while it does."""
    folder = RunFolder(tmp_path / "run")
    folder.create(tiny_config("somewhere", folder.path))
    looking = FileLock(folder.path / LOCK, thread_local=False)
    looking.acquire()
    threading.Timer(0.1, looking.release, kwargs={"force": True}).start()
    assert folder.in_training()  # another look does not wait
    with folder.locked():
        assert folder.in_training()
    assert not folder.in_training()


def test_what_others_write_into_a_run_is_no_leftover(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create(tiny_config("somewhere", folder.path))
    left = [folder.path / ".model.json.7.tmp", folder.path / ".tmpAbCd12", folder.last.parent / ".last.ckpt.7.tmp"]
    others = [folder.path / ".report.html.7.tmp", folder.path / ".maps.json.7.tmp"]
    for path in (*left, *others):
        path.write_text("half")
    folder.remove_leftovers()
    assert [path.exists() for path in (*left, *others)] == [False, False, False, True, True]


def test_the_folder_is_free_again_after_the_training(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create(tiny_config("somewhere", folder.path))
    for _ in range(2):
        with folder.locked():
            pass


@pytest.mark.skipif(sys.platform == "win32", reason="file systems of Unix")
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_trains_and_no_killed_process_leaves_it_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    import fcntl

    def missing(*arguments: object) -> None:
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "flock", missing)
    folder = RunFolder(tmp_path / "run")
    folder.create(tiny_config("somewhere", folder.path))
    with folder.locked():
        left = folder.path / LOCK
        assert not left.exists() or left.read_bytes() == b""
        with folder.locked():
            pass
    assert not folder.in_training()


@pytest.mark.skipif(sys.platform == "win32", reason="file systems of Unix")
def test_other_errors_of_a_lock_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def broken(*arguments: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="broken"), RunFolder(tmp_path).locked():
        pass


@pytest.mark.parametrize("name", ["cifar10", "svhn+extra", "stl10", "cub200"])
def test_the_folder_of_data_sets_is_held_while_one_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Two processes that unpack the same archive would remove each other's half."""

    def opened(*arguments: object, **options: object) -> NoReturn:
        with pytest.raises(Timeout):
            FileLock(tmp_path / open_module.LOCK).acquire(timeout=0)
        raise InterruptedError(name)

    monkeypatch.setattr("aib.data.benchmarks.open_benchmark", opened)
    monkeypatch.setattr("aib.data.cub.open_cub", opened)
    with pytest.raises(InterruptedError, match=re.escape(name)):
        open_data(name, root=tmp_path)
    FileLock(tmp_path / open_module.LOCK).acquire(timeout=0)


@pytest.mark.skipif(sys.platform == "win32", reason="file systems of Unix")
def test_a_table_on_a_disk_without_locks_is_no_killed_process_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def missing(*arguments: object) -> None:
        raise OSError(errno.ENOSYS, "no locks")

    monkeypatch.setattr(fcntl, "flock", missing)
    path = tmp_path / "results.csv"
    (tmp_path / ".results.csv.lock").write_text("")  # of a killed process
    update_table(path, ["run", "error"], ["run"], ["run"], [{"run": "a", "error": 0.5}])
    assert path.read_text() == "run,error\na,0.5\n"

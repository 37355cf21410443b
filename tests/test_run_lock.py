"""One process trains in a folder: a second one refuses, and a killed one leaves the folder free."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from filelock import FileLock, Timeout

from aib.cli import main
from aib.train import run_data
from aib.train.config import DataConfig
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


@pytest.mark.parametrize("other", [None, "cifar100"])
def test_an_evaluation_holds_the_data_while_it_opens_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str | None
) -> None:
    """Two that unpack the same archive would remove each other's half."""

    def opened(name: str, *, root: Path, **options: Any) -> NoReturn:
        with pytest.raises(Timeout):
            FileLock(root / run_data.LOCK).acquire(timeout=0)
        raise InterruptedError(name)

    monkeypatch.setattr(run_data, "open_data", opened)
    monkeypatch.setattr(run_data, "locate_data", lambda folder, data, root: data)
    monkeypatch.setattr(run_data, "locate_root", lambda folder, data, root: tmp_path)
    config = DataConfig(data="cifar10", root=str(tmp_path))
    folder = SimpleNamespace(config=SimpleNamespace(data=config))
    run: Any = SimpleNamespace(folder=folder, image_size=(32, 32), class_names=[])
    with pytest.raises(InterruptedError, match=other or "cifar10"):
        run_data.open_run_data(run, other)

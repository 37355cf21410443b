"""A training of two processes, one of them killed: the small form of what tests/test_many_machines.py does with commands.

And processes that decode, which the system kills first where memory is short.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from aib.cli import main
from aib.train import loop, predict, watch
from aib.train.checkpoint import load_checkpoint
from aib.train.loop import train
from ranks import run_ranks
from tiny import tiny_config, write_folder, write_npz


@pytest.mark.slow  # 7 seconds or 45: where nobody closes the connection, silence has to be noticed
@pytest.mark.skipif(sys.platform == "win32", reason="processes are forked here")
def test_a_process_killed_in_mid_epoch_ends_the_other_with_the_way_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_npz(tmp_path / "data.npz")
    original = loop._Fit._step

    def step(self: Any, *arguments: Any) -> Any:
        if self.rank == 1 and self.state.step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *arguments)

    monkeypatch.setattr(loop._Fit, "_step", step)
    for name, value in {"GRACE": 1.0, "WORD_SECONDS": 2.0}.items():
        monkeypatch.setattr(watch, name, value)
    run = tmp_path / "run"
    (first, said), (second, _) = run_ranks(2, lambda rank: train(tiny_config(path, run, checkpoint_minutes=0)) and None, tmp_path)
    assert (first, second) == (2, -signal.SIGKILL)
    assert "process 1 of 2 is gone" in said
    assert load_checkpoint(loop.RunFolder(run).last)["state"]["step"] in (1, 2)


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_killed_process_that_decodes_ends_its_command_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, run = write_folder(tmp_path / "photos", count=6, side=80), tmp_path / "run"

    def killed(*arguments: Any, **options: Any) -> Any:
        multiprocessing.active_children()[0].kill()
        time.sleep(30)  # torch raises its error here
        raise AssertionError

    what = {"image_size": 66, "model": "vgg_xs", "epochs": 2, "batch_size": 4, "workers": 1, "device": "cpu"}
    options = [word for name, value in what.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    with monkeypatch.context() as patch:
        patch.setattr(loop._Fit, "_step", killed)
        assert main(["train", "--data", str(photos), *options, "--quiet", "--out", str(run)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("aib train: a process that decodes images is gone (DataLoader worker (pid ")
    assert line.endswith(f"go on from the last checkpoint with: aib train --resume {run} and fewer --workers")
    assert main(["train", "--resume", str(run), "--workers", "0"]) == 0
    monkeypatch.setattr(predict, "normalize", killed)
    assert main(["eval", str(run), "--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("aib eval: a process that decodes images is gone (DataLoader worker (pid ")


def test_an_error_inside_a_process_that_decodes_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no process that was killed, and how many there are changes nothing."""

    def failing(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):")

    monkeypatch.setattr(loop._Fit, "_step", failing)
    words = ["train", "--data", str(write_npz(tmp_path / "data.npz")), "--model", "vgg_xs", "--epochs", "1", "--device", "cpu"]
    with pytest.raises(RuntimeError, match="Caught RuntimeError") as caught:
        main([*words, "--quiet", "--out", str(tmp_path / "run")])
    assert not hasattr(caught.value, "__notes__")

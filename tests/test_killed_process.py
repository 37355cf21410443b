"""A training of two processes, one of them killed: the small form of what tests/test_many_machines.py does with commands."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from aib.train import loop, watch
from aib.train.checkpoint import load_checkpoint
from aib.train.loop import train
from ranks import run_ranks
from tiny import tiny_config, write_npz


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

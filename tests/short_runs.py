"""Fixtures for the tests of training: small data, an undisturbed run of three epochs, and an act after a given step."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aib.data import open_data
from aib.data.bundle import DataBundle
from aib.train import loop
from aib.train.loop import train
from aib.train.run_folder import RunFolder
from tiny import tiny_config, write_npz

STEPS = 6
"""Of an epoch: 96 images in batches of 16."""

AfterStep = Callable[[int, Callable[[Any], None]], None]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_npz(tmp_path_factory.mktemp("data") / "squares.npz")


@pytest.fixture(scope="module")
def bundle(data: Path) -> DataBundle:
    return open_data(str(data))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of three epochs that nothing disturbed."""
    return train(tiny_config(data, tmp_path_factory.mktemp("runs") / "whole"))


@pytest.fixture
def after_step(monkeypatch: pytest.MonkeyPatch) -> AfterStep:
    """Do something after the k-th optimiser step from now."""

    def arrange(k: int, act: Callable[[Any], None]) -> None:
        original, taken = loop._Fit._step, 0

        def step(self: Any, *arguments: Any) -> Any:
            nonlocal taken
            result = original(self, *arguments)
            taken += 1
            if taken == k:
                monkeypatch.setattr(loop._Fit, "_step", original)
                act(self)
            return result

        monkeypatch.setattr(loop._Fit, "_step", step)

    return arrange


def interrupt(_: Any) -> None:
    signal.raise_signal(signal.SIGINT)

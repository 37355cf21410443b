"""Commands in surroundings that are not as they should be: mad clocks, odd terminals or none, output that nobody takes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aib.train.run_folder import RunFolder
from faults import Server
from kills import EPOCHS, EVERY_STEP, TRAIN, Whole, check_readable, finish
from tiny import outcome, rows, same, write_folder, write_npz

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork, signals and /proc")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_npz(tmp_path_factory.mktemp("data") / "squares.npz")


@pytest.fixture(scope="module")
def whole(server: Server, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return Whole.train(server, data, tmp_path_factory.mktemp("runs") / "whole")


# --- clocks


@pytest.mark.parametrize(
    ("kind", "minutes", "most"),
    [
        ("back", 60, 2),
        pytest.param("ahead", 60, 12 + 2, marks=pytest.mark.slow),
        pytest.param("one jump ahead", 60, 2 + 1, marks=pytest.mark.slow),
        pytest.param("still", 0, 12 + 2, marks=pytest.mark.slow),
    ],
)
def test_a_mad_clock_changes_no_number_but_the_seconds(
    server: Server, data: Path, whole: Whole, tmp_path: Path, kind: str, minutes: int, most: int
) -> None:
    """Even the clock that should never jump; the checkpoints are one an epoch and at most one for each jump ahead."""
    folder, saves = RunFolder(tmp_path / "run"), tmp_path / "saves"
    start = ("train", "--data", data, *TRAIN, *EPOCHS, "--checkpoint-minutes", minutes, "--out", folder.path)
    code, out, err = server(*start, fault=("clock", kind, saves))
    assert (code, err) == (0, ""), err
    assert same(outcome(folder), outcome(whole.folder))
    assert 2 <= len(saves.read_text()) <= most
    for line in folder.metrics.read_text().splitlines():
        row = json.loads(line)
        assert 0 <= row["seconds"] < 1e12
        assert 0 <= row["images_per_second"] < 1e12
    assert "nan" not in out


# --- terminals


@pytest.mark.parametrize(
    "how", ["terminal closed", pytest.param("SIGHUP", marks=pytest.mark.slow), pytest.param("nohup", marks=pytest.mark.slow)]
)
def test_a_hang_up_saves_the_run(server: Server, data: Path, whole: Whole, tmp_path: Path, how: str) -> None:
    folder = RunFolder(tmp_path / "run")
    start = ("train", "--data", data, *TRAIN, *EPOCHS, "--checkpoint-minutes", 60, "--out", folder.path)
    fault: tuple[object, ...] = ("ignore_hang_up",) if how == "nohup" else ()
    job = server.start(*start, fault=fault, out="own tty" if how == "terminal closed" else None)
    job.until(folder.last.exists)
    if how == "terminal closed":
        job.hang_up()
    else:
        job.send(signal.SIGHUP)
    code, _, err = job.wait()
    if how == "nohup":
        assert (code, err) == (0, ""), err
        assert same(outcome(folder), outcome(whole.folder))
        return
    assert code == 130, err
    if how == "SIGHUP":
        (line,) = err.splitlines()
        assert line.startswith("aib train: stopped after")
    assert 6 < check_readable(folder) < 12  # inside an epoch: it was saved because of the signal
    finish(server, folder, whole)


TERMINALS: list[dict[str, str | None]] = [
    {"COLUMNS": "1"}, {"COLUMNS": "0", "LINES": "0"}, {"COLUMNS": "none"}, {"TERM": None}, {"TERM": "dumb", "NO_COLOR": "1"},
]  # fmt: skip


@pytest.mark.parametrize(
    "variables", [TERMINALS[0], *(pytest.param(one, marks=pytest.mark.slow) for one in TERMINALS[1:])], ids=str
)
@pytest.mark.parametrize("where", [None, pytest.param("tty", marks=pytest.mark.slow)])
def test_any_terminal_will_do(server: Server, variables: dict[str, str | None], where: str | None) -> None:
    fault = ("surroundings", variables)
    for words in (("--help",), ("train", "--help"), ("recipes",)):
        code, out, err = server(*words, out=where, fault=fault)
        assert (code, err) == (0, ""), err
        assert out
    code, _, err = server("train", "--epochz", 3, out=where, fault=fault)
    said = "aib train: unrecognized options: --epochz, 3 (did you mean --epochs?); see aib train --help\n"
    assert (code, err) == (2, said)


@pytest.mark.slow
def test_names_that_the_terminal_cannot_show(server: Server, tmp_path: Path) -> None:
    photos = write_folder(tmp_path / "phötos")
    for name, other in (("blue", "blåu"), ("green", "grün"), ("red", "赤")):
        (photos / name).rename(photos / other)
    folder, fault = tmp_path / "rün", ("surroundings", {}, "ascii")
    start = ("train", "--data", photos, *TRAIN, "--epochs", 1, "--out", folder)
    explain = ("explain", folder, photos / "赤" / "000.png", "--out", tmp_path / "out")
    for words in (start, ("eval", folder), explain):
        code, out, err = server(*words, fault=fault)
        assert (code, err) == (0, ""), err
        assert out.isascii()
    assert (tmp_path / "out" / "000.json").exists()


# --- output


@pytest.mark.parametrize("where", ["pipe", "/dev/full", pytest.param("closed", marks=pytest.mark.slow)])
def test_an_output_that_nobody_takes_does_no_harm(server: Server, data: Path, whole: Whole, tmp_path: Path, where: str) -> None:
    """Runs go on to their end; that a disk had no room for what was printed is said, and is an error."""
    folder = RunFolder(tmp_path / "run")
    start = ("train", "--data", data, *TRAIN, *EPOCHS, *EVERY_STEP, "--out", folder.path)
    for words in (("--help",), ("train", "--help"), ("recipes",), ("eval", whole.folder.path), start):
        code, _, err = server(*words, out=where)
        if where == "/dev/full":
            assert (code, err) == (2, "aib: the output could not be written: No space left on device\n")
        else:
            assert (code, err) == (0, ""), err
    assert same(outcome(folder), outcome(whole.folder))


@pytest.mark.slow
def test_no_stdin_is_needed(server: Server, data: Path, whole: Whole, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    code, _, err = server("train", "--data", data, *TRAIN, *EPOCHS, "--out", folder.path, fault=("close_stdin",))
    assert (code, err) == (0, ""), err
    assert rows(folder) == rows(whole.folder)


def test_a_reader_that_leaves_does_no_harm(data: Path, tmp_path: Path) -> None:
    """A real process, as typed; the first line comes after the first epoch."""
    train = f"train --data {data} --model vgg_xs --epochs 2 --batch-size 16 --device cpu --out {tmp_path / 'run'}"
    script = f"{sys.executable} -m aib {train} < /dev/null | head -n 1; echo ${{PIPESTATUS[0]}}"
    found = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=200, check=True)
    assert found.stdout.startswith("epoch 1/2")
    assert (found.stdout.splitlines()[1:], found.stderr) == (["0"], "")
    assert len(rows(RunFolder(tmp_path / "run"))) == 2  # the run went on to its end
    assert (tmp_path / "run" / "model.safetensors").exists()

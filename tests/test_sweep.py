"""A sweep trains every cell, goes on where it was stopped, keeps failures apart and compares with paired intervals."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import torch

from aib.cli import main
from aib.commands.sweep import SweepOptions, plan, summarize
from aib.interpret import mean_interval, paired_difference
from aib.report.plots import sweep_plot
from aib.train.checkpoint import load_checkpoint, save_checkpoint
from aib.train.loop import train
from aib.train.sweep import _Processes, grid, run_all, visible_devices
from tiny import write_npz

SHORT = ("model=vgg_xs_aib_qt", "anchors=8", "epochs=1", "batch_size=32", "device=cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_npz(tmp_path_factory.mktemp("data") / "squares.npz")


def words(data: Path, out: Path, *more: str, short: tuple[str, ...] = SHORT) -> list[str]:
    return ["sweep", "--set", f"data={data}", *short, "--vary", "beta=0,0.01", "--seeds", "0", "1", "--out", str(out), *more]


def test_the_grid_has_every_combination_once() -> None:
    assert grid({}) == [{}]
    cells = grid({"beta": ["0", "1"], "anchors": ["8", "9", "10"]})
    assert len({tuple(cell.items()) for cell in cells}) == len(cells) == 6
    assert cells[0] == {"beta": "0", "anchors": "8"}


def test_a_run_of_the_plan_is_that_of_its_options(data: Path, tmp_path: Path) -> None:
    options = SweepOptions(set=(f"data={data}", "model=vgg_xs_aib_qt", "channels_last=true", "compile=false"), out=tmp_path,
                           vary=("batch-size=4,8", "flip=true"), seeds=(3,))  # fmt: skip
    runs = plan(options)
    assert [run.config.optim.batch_size for run in runs] == [4, 8]
    assert {(r.config.run.seed, r.config.data.flip, r.config.run.channels_last, r.config.run.compile) for r in runs} == {
        (3, True, True, False)
    }
    assert len({run.path for run in runs}) == 2


def test_a_sweep_records_what_ends_names_what_fails_and_is_done_the_second_time(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, table = tmp_path / "sweep", tmp_path / "runs.csv"

    def sweep(vary: str, *more: str) -> list[str]:
        return ["sweep", "--set", f"data={data}", *SHORT, "--vary", vary, "--seeds", "3", "--out", str(out), *more]

    assert main(sweep("lr=0.1,1000", "--record", str(table), "--jobs", "2")) == 2
    captured = capsys.readouterr()
    assert "[1/2]" in captured.out
    assert "1 of 2 runs failed; the first, lr=1000 seed=3: aib train: " in captured.err
    assert "is not a finite number" in captured.err
    with table.open(newline="") as file:
        (recorded,) = csv.DictReader(file)
    assert (recorded["seed"], recorded["model"], "--lr 0.1" in recorded["command"]) == ("3", "vgg_xs_aib_qt", True)
    (row,) = json.loads((out / "sweep.json").read_text())
    assert row["values"] == {"lr": "0.1"}
    assert row["error"][0] == pytest.approx(float(recorded["error"]))
    assert (out / "sweep.png").stat().st_size > 5000
    (weights,) = (path for path in out.rglob("model.safetensors") if "lr=0.1" in str(path))
    before = weights.stat().st_mtime_ns
    later = tmp_path / "later.csv"  # runs that were evaluated before are recorded too
    assert main(sweep("lr=0.1", "--record", str(later))) == 0
    assert "1 of 1 runs are done already" in capsys.readouterr().out
    assert later.read_text() == table.read_text()
    assert weights.stat().st_mtime_ns == before
    assert main([*sweep("lr=0.1"), "--set", f"data={data}", *SHORT, "momentum=0.8"]) == 2
    assert "holds a run with other options" in capsys.readouterr().err


def test_a_sweep_that_is_stopped_goes_on(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    arguments = [*words(data, out, short=(*SHORT[:2], "epochs=40", "batch_size=8", "lr=0.005", "device=cpu"))]
    process = subprocess.Popen(
        [sys.executable, "-m", "aib", *arguments], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    metrics = out / "beta=0" / "seed-0" / "metrics.jsonl"
    wait_for(metrics, 2)
    process.send_signal(signal.SIGSTOP)  # as Ctrl-Z does: afterwards any thread may get the signal, and the main one has to act
    process.send_signal(signal.SIGINT)  # to the sweep alone: it has to tell its runs
    process.send_signal(signal.SIGCONT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "every run is saved; the same command goes on" in said
    first = metrics.parent / "checkpoints" / "last.ckpt"
    assert first.exists()
    (run, *_) = plan(SweepOptions(set=(f"data={data}", *SHORT[:2], "epochs=40", "batch_size=8", "lr=0.005", "device=cpu"),
                                  vary=("beta=0,0.01",), seeds=(0, 1), out=out))  # fmt: skip
    assert run.state() == "begun"
    log = next((out / "logs").iterdir()).read_text()
    assert "go on with: aib train --resume" in log


def test_a_log_that_is_ahead_of_its_checkpoint_is_no_end(data: Path, tmp_path: Path) -> None:
    (run,) = plan(SweepOptions(set=(f"data={data}", *SHORT), seeds=(0,), out=tmp_path / "sweep"))
    folder = train(run.config)
    assert run.state() == "trained"
    state = load_checkpoint(folder.last)
    save_checkpoint(folder.last, {**state, "state": {**state["state"], "epoch": 0}})  # killed between the two
    assert run.state() == "begun"
    folder.last.write_bytes(folder.last.read_bytes()[:1000])
    assert run.state() == "begun"  # that it is damaged is said where it is resumed, of this run alone
    folder.last.unlink()  # to save room
    assert run.state() == "trained"


def wait_for(metrics: Path, lines: int) -> None:
    """Until a training has written so many epochs."""
    began = time.monotonic()
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= lines):
        assert time.monotonic() - began < 300, f"{metrics} does not grow"
        time.sleep(0.1)


@pytest.mark.slow
def test_the_runs_of_a_killed_sweep_save_themselves_and_the_same_command_goes_on_at_once(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sweep"
    arguments = words(data, out, "--jobs", "2", short=(*SHORT[:2], "epochs=20", "batch_size=8", "lr=0.005", "device=cpu"))
    with subprocess.Popen([sys.executable, "-m", "aib", *arguments], stdout=subprocess.DEVNULL) as process:
        for cell in ("beta=0", "beta=0.01"):
            wait_for(out / cell / "seed-0" / "metrics.jsonl", 1)
        process.kill()
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "failed" not in said.out + said.err
    rows = json.loads((out / "sweep.json").read_text())
    assert [row["seeds"] for row in rows] == [[0, 1], [0, 1]]
    for cell in ("beta=0", "beta=0.01"):
        assert "go on with: aib train --resume" in (out / "logs" / f"{cell}-seed-0.log").read_text()
        epochs = [json.loads(line)["epoch"] for line in (out / cell / "seed-0" / "metrics.jsonl").read_text().splitlines()]
        assert epochs == list(range(1, 21))


@pytest.mark.slow
def test_a_run_that_another_process_trains_is_waited_for(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sweep"
    given = SweepOptions(set=(f"data={data}", *SHORT), seeds=(0,), out=out)
    (run,) = plan(given)
    folder = train(run.config)

    class Elsewhere(Thread):
        def run(self) -> None:
            with folder.locked():
                held.set()
                looked_at.wait(60)

    held, looked_at = Event(), Event()
    other = Elsewhere()
    other.start()
    held.wait()
    (folder.path / "model.safetensors").rename(tmp_path / "not yet")

    def say(line: str) -> None:
        lines.append(line)
        if "waiting" in line:  # the other process ends its run meanwhile
            (tmp_path / "not yet").rename(folder.path / "model.safetensors")
            looked_at.set()

    lines: list[str] = []
    assert run_all([run], log=out / "logs", say=say) == {}
    assert lines[0] == f"seed=0: {folder.path} is being trained by another process, waiting for it"
    assert "error" in lines[1]
    other.join()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--vary", "betta=0,1"], "did you mean --beta?"),
        (["--vary", "beta"], "'beta' is not of the form option=value"),
        (["--vary", "beta=0", "--set", "beta=1"], "beta is given twice"),
        (["--vary", "seed=0,1"], "seed is given twice, or has an option of its own (--seeds"),
        (["--seeds", "1", "1"], "seeds are (1, 1); give one or more different numbers"),
        (["--jobs", "0"], "jobs is 0; it must be at least 1"),
        (["--vary", "beta=1,1"], "--vary gives beta=1 twice"),
        (["--vary", "beta=1,1.0"], "--vary gives beta=1 twice, the second time as beta=1.0"),
        (["--vary", "data=a/x.npz,b/x.npz"], "data=a/x.npz and data=b/x.npz would share the folder"),
        (["--vary", "data=clutter,svhn", "--set", "root=nowhere"], "svhn is neither in"),
        (["--gpus", "99", "--set", "data=svhn", "root=nowhere"], "gpus names 99; "),  # else the runs would be the CPU's
        (["--vary", "model=vgg_s,vgg_ss"], "unknown model 'vgg_ss'; did you mean vgg_s"),
        (["--vary", "model=vgg_aib_qt,vgg_dvib", "anchors=8,16"], "vgg_dvib has no option 'anchors'"),
        (["--vary", "width=0.5,0.001", "--set", "model=vgg"], "width"),
        (["--out", f"{__file__}/sweep"], f"{__file__} is a file; it must be a folder"),
    ],
)
def test_mistakes_are_one_line(given: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--out", str(tmp_path / "sweep"), *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / "sweep").exists()


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_training_that_a_signal_killed_is_told_by_it(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run,) = plan(SweepOptions(set=(f"data={data}", *SHORT), seeds=(0,), out=tmp_path))
    die = "import os, signal; print('epoch 1/3  train loss 1.7', flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    call = _Processes.call
    monkeypatch.setattr(_Processes, "call", lambda self, words, *rest: call(self, [sys.executable, "-c", die], *rest))
    assert run_all([run], log=tmp_path / "logs") == {run.name: "killed by signal 9 (SIGKILL); is there too little memory?"}


def test_a_folder_that_becomes_another_run_fails_that_run_alone(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a recipe is changed while the sweep goes on: what it says then holds for the runs that have not begun."""
    runs = plan(SweepOptions(set=(f"data={data}", *SHORT), seeds=(0, 1), out=tmp_path))
    call, said = _Processes.call, []

    def changed(self: _Processes, words: list[str], *rest: Any) -> int:
        return call(self, [*words, "--lr", "0.02"] if "train" in words and "0" in words[-3:] else words, *rest)

    monkeypatch.setattr(_Processes, "call", changed)
    failed = run_all(runs, log=tmp_path / "logs", say=said.append)
    assert list(failed) == [runs[0].name]
    assert "holds a run with other options" in failed[runs[0].name]
    assert "[1/2]" in next(line for line in said if "failed" in line)
    assert runs[1].state() == "evaluated"


def test_runs_get_devices_of_those_that_a_scheduler_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert visible_devices((0, 2)) == ["0", "2"]
    for index in (7, -1):
        with pytest.raises(ValueError, match=f"gpus names {index}; this machine has 3 CUDA devices, so indices must be below 3"):
            visible_devices((0, index))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="gpus names 0; this machine has no CUDA device"):
        visible_devices((0,))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 3,GPU-5f")
    assert visible_devices((0, 2)) == ["2", "GPU-5f"]
    assert visible_devices(()) == []
    with pytest.raises(ValueError, match="gpus names 3; CUDA_VISIBLE_DEVICES is '2, 3,GPU-5f', which leaves indices below 3"):
        visible_devices((0, 3))


def test_a_mean_over_seeds_has_a_t_interval() -> None:
    mean, low, high = mean_interval([1.0, 2.0, 4.0])
    # t with 2 degrees of freedom at 97.5 % is 4.302653; the deviation is sqrt(7/3)
    assert mean == pytest.approx(7 / 3)
    assert high - mean == pytest.approx(4.302653 * math.sqrt(7 / 3) / math.sqrt(3), rel=1e-6)
    assert mean - low == pytest.approx(high - mean)
    assert mean_interval([0.5])[0] == 0.5
    assert math.isnan(mean_interval([0.5])[1])
    for bad in ([], [math.nan], [[1.0]]):
        with pytest.raises(ValueError, match="values"):
            mean_interval(bad)


class Finished:
    """What `summarize` asks of a run."""

    def __init__(self, model: str, seed: int, error: float, **more: float) -> None:
        self.values, self.seed, self._result = {"model": model}, seed, {"error": error, **more}

    def result(self) -> dict[str, Any]:
        return self._result


def test_cells_are_compared_over_the_seeds_they_share(tmp_path: Path) -> None:
    runs: Any = [Finished("vgg", 0, 0.2), Finished("vgg", 1, 0.3), Finished("aib", 1, 0.25, rate_bits=9.0)]
    rows = summarize(runs)
    assert rows[0]["rate_bits"] is None
    assert rows[1]["error_minus_first"][0] == pytest.approx(-0.05)  # seed 1 alone
    assert rows[1]["error_minus_first"][1:] == [None, None]
    more = summarize([*runs, Finished("aib", 2, 0.4), Finished("vgg", 2, 0.2)])  # in whatever order they ended
    assert more[1]["error_minus_first"] == pytest.approx(paired_difference([0.25, 0.4], [0.3, 0.2]), abs=1e-6)
    for ending in ("png", "pdf", "svg"):  # cells without a number between them
        sweep_plot(rows, tmp_path / f"plot.{ending}")
        assert (tmp_path / f"plot.{ending}").stat().st_size > 1000

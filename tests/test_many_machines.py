"""The real commands of docs/many_machines.md, with gloo on one machine: started, killed, stopped and resumed. Minutes long."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from aib.train.checkpoint import load_checkpoint
from aib.train.run_folder import RunFolder
from ranks import free_port
from tiny import rows, write_npz

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found in /proc"),
]

DOCUMENT = Path(__file__).parents[1] / "docs" / "many_machines.md"
AIB = [sys.executable, "-m", "aib"]
OPTIONS = ("--model", "vgg_xs_aib_qt", "--anchors", "8", "--batch-size", "25", "--crop-padding", "2", "--device", "cpu")
LONG = ("--epochs", "400", "--checkpoint-minutes", "0")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_npz(tmp_path_factory.mktemp("data") / "squares.npz", val=25)


def torchrun(processes: int, *more: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), *more, "-m", "aib"]


def start(command: Sequence[object], folder: Path, name: str = "top", **environment: str) -> subprocess.Popen[bytes]:
    with (folder / f"{name}.out").open("wb") as out, (folder / f"{name}.err").open("wb") as err:
        return subprocess.Popen(
            [str(word) for word in command], stdout=out, stderr=err, cwd=folder, env={**os.environ, **environment}
        )


def family(pid: int) -> dict[int, dict[str, str]]:
    """A process and its descendants, with their environments."""
    parents, found = {}, {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                fields = (place / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents[int(place.name)] = int(fields[1])
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        try:
            words = Path(f"/proc/{one}/environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        found[one] = dict(word.split("=", 1) for word in words if "=" in word)
        waiting += [child for child, parent in parents.items() if parent == one]
    return found


def of_rank(members: dict[int, dict[str, str]], rank: int) -> int:
    return next(pid for pid, environment in members.items() if environment.get("RANK") == str(rank))


def until_step(process: subprocess.Popen[bytes], run: Path, limit: float = 240.0) -> None:
    """Wait until a run has saved itself in mid-epoch."""
    began = time.monotonic()
    while not (run / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None, (run.parent / "top.err").read_text()
        assert time.monotonic() - began < limit
        time.sleep(0.1)
    time.sleep(0.5)


def all_gone(members: dict[int, dict[str, str]], limit: float = 60.0) -> None:
    began = time.monotonic()
    while left := [pid for pid in members if alive(pid)]:
        assert time.monotonic() - began < limit, left
        time.sleep(0.2)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def lines(folder: Path, name: str = "top") -> list[str]:
    return [line for line in (folder / f"{name}.err").read_text().splitlines() if line.startswith("aib train: ")]


def in_training(
    command: list[str], data: Path, folder: Path, run: Path
) -> tuple[subprocess.Popen[bytes], dict[int, dict[str, str]]]:
    """Two processes that have taken a step of ``run``: the one that was started, and all of its family."""
    several = ("--devices", "2") if command == AIB else ()
    process = start([*command, "train", "--data", data, *OPTIONS, *LONG, *several, "--out", run], folder)
    until_step(process, run)
    return process, family(process.pid)


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("by_torchrun", [False, True], ids=["devices", "torchrun"])
def test_a_killed_process_ends_the_others_within_a_minute_and_the_run_goes_on(
    data: Path, tmp_path: Path, victim: int, by_torchrun: bool
) -> None:
    run, command = tmp_path / "run", torchrun(2, "--standalone") if by_torchrun else AIB
    process, members = in_training(command, data, tmp_path, run)
    os.kill(process.pid if victim == 0 and not by_torchrun else of_rank(members, victim), signal.SIGKILL)
    process.wait(60)
    all_gone(members)
    assert process.returncode == ({0: -9, 1: 2}[victim] if not by_torchrun else 1)
    (line,) = lines(tmp_path)
    assert f"process {victim} of 2 is gone" in line
    assert line.endswith(f"go on from the last checkpoint with: aib train --resume {run}")
    step = load_checkpoint(run / "checkpoints" / "last.ckpt")["state"]["step"]
    assert step >= 1
    # with as many processes as before, then with one
    for how in ([*command, "train", "--resume", run], [*AIB, "train", "--resume", run, "--devices", "1"]):
        process = start(how, tmp_path)
        began, reached = time.monotonic(), step
        while reached <= step:
            assert process.poll() is None, (tmp_path / "top.err").read_text()
            assert time.monotonic() - began < 240
            time.sleep(0.5)
            reached = load_checkpoint(run / "checkpoints" / "last.ckpt")["state"]["step"]
        members = family(process.pid)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        all_gone(members)
        (line,) = lines(tmp_path)
        assert "stopped after" in line
        step = load_checkpoint(run / "checkpoints" / "last.ckpt")["state"]["step"]


@pytest.mark.parametrize("who", ["all", "one", "launcher killed"])
@pytest.mark.parametrize("by_torchrun", [False, True], ids=["devices", "torchrun"])
def test_a_stop_saves_whoever_is_told(data: Path, tmp_path: Path, who: str, by_torchrun: bool) -> None:
    if who == "launcher killed" and not by_torchrun:
        pytest.skip("it is process 0, see above")
    run, command = tmp_path / "run", torchrun(2, "--standalone") if by_torchrun else AIB
    process, members = in_training(command, data, tmp_path, run)
    if who == "all":  # as Ctrl-C does; torchrun passes it on once more
        for pid in members:
            os.kill(pid, signal.SIGINT)
    elif who == "one":
        os.kill(of_rank(members, 1), signal.SIGTERM)
    else:
        process.kill()
    process.wait(60)
    all_gone(members)
    (line,) = lines(tmp_path)
    assert re.fullmatch(rf"aib train: stopped after \d+ of \d+ steps, saved; go on with: aib train --resume {run}", line)
    if not by_torchrun:
        assert process.returncode == 130
    told = int(line.split("stopped after ")[1].split()[0])
    assert load_checkpoint(run / "checkpoints" / "last.ckpt")["state"]["step"] == told


def complete(run: Path) -> None:
    """All steps of two epochs, and every image counted once."""
    log = rows(RunFolder.open(run))
    assert [row["step"] for row in log] == [3, 6]
    for row in log:
        assert (row["train"]["error"] * 75) % 1 == pytest.approx(0, abs=1e-9)
        assert (row["val"]["error"] * 25) % 1 == pytest.approx(0, abs=1e-9)
    assert RunFolder.open(run).read_json("environment.json")["processes"] == 2


def ended(*processes: subprocess.Popen[bytes], limit: float = 300.0) -> Iterator[int]:
    for process in processes:
        yield process.wait(limit)


def test_two_machines_that_meet_by_torchrun(data: Path, tmp_path: Path) -> None:
    meeting = ("--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--rdzv-id", "test")
    command = [*torchrun(1, *meeting), "train", "--data", data, *OPTIONS, "--epochs", "2", "--out", tmp_path / "run"]
    found = list(ended(*(start(command, tmp_path, f"machine-{i}") for i in range(2))))
    assert found == [0, 0], (tmp_path / "machine-0.err").read_text()
    complete(tmp_path / "run")
    assert sum("saved in" in (tmp_path / f"machine-{i}.out").read_text() for i in range(2)) == 1


def slurm(rank: int, size: int, port: int) -> dict[str, str]:
    """What srun leaves to a task of one machine."""
    return {
        "SLURM_JOB_ID": "1234", "SLURM_STEP_NUM_TASKS": str(size), "SLURM_STEP_TASKS_PER_NODE": str(size),
        "SLURM_NTASKS": str(size), "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0",
        "SLURM_STEP_NODELIST": "localhost", "MASTER_PORT": str(port),
    }  # fmt: skip


def test_tasks_of_srun_and_a_run_refused_by_all_with_one_line(data: Path, tmp_path: Path) -> None:
    for expected in (0, 2):  # the second time the folder is there
        port = free_port()
        command = [*AIB, "train", "--data", data, *OPTIONS, "--epochs", "2", "--out", tmp_path / "run"]
        tasks = [start(command, tmp_path, f"task-{rank}", **slurm(rank, 2, port)) for rank in range(2)]
        if expected:
            assert tasks[0].wait(300) == 2
            tasks[1].kill()  # srun --kill-on-bad-exit
            assert "exists and is not empty" in lines(tmp_path, "task-0")[0]
            tasks[1].wait(60)
            assert lines(tmp_path, "task-1") == []
        else:
            assert list(ended(*tasks)) == [0, 0], (tmp_path / "task-0.err").read_text()
            complete(tmp_path / "run")


SRUN = """#!{python}
# a stand-in: the tasks of one machine, which get the signals that SLURM would send to the step
import os, signal, subprocess, sys
words = [word for word in sys.argv[1:] if not word.startswith("--kill-on-bad-exit")]
tasks = []
for rank in range(2):
    place = dict(SLURM_STEP_NUM_TASKS="2", SLURM_STEP_TASKS_PER_NODE="2", SLURM_NTASKS="2", SLURM_PROCID=str(rank),
                 SLURM_LOCALID=str(rank), SLURM_STEP_NODELIST="localhost")
    tasks.append(subprocess.Popen(words, env={{**os.environ, **place}}))
signal.signal(signal.SIGTERM, lambda number, frame: [task.send_signal(number) for task in tasks])
sys.exit(max(task.wait() for task in tasks))
"""


def test_the_batch_script_saves_in_time_and_goes_on_when_it_is_queued_again(data: Path, tmp_path: Path) -> None:
    (script,) = re.findall(r"```bash\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    given = "--data photos --model resnet18 --attend layer3"
    assert script.count(given) == 1
    options = " ".join(map(str, ("--data", data, *OPTIONS, *LONG)))
    (tmp_path / "job.sh").write_text(script.replace(given, options))
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "srun").write_text(SRUN.format(python=sys.executable))
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol.txt\n')
    (tools / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    run, steps = tmp_path / "runs" / "photos-77", [0]
    for turn in range(2):
        environment = {"PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_ID": "77", "MASTER_PORT": str(free_port())}
        process = start(["bash", "job.sh"], tmp_path, **environment)
        began = time.monotonic()
        while not (run / "checkpoints" / "last.ckpt").exists() or (
            load_checkpoint(run / "checkpoints" / "last.ckpt")["state"]["step"] <= steps[-1]
        ):
            assert process.poll() is None, (tmp_path / "top.err").read_text()
            assert time.monotonic() - began < 240
            time.sleep(0.3)
        members = family(process.pid)
        os.kill(next(pid for pid in members if pid != process.pid), signal.SIGTERM)  # to the step, not to the batch script
        assert process.wait(60) == 130
        all_gone(members)
        steps.append(load_checkpoint(run / "checkpoints" / "last.ckpt")["state"]["step"])
        assert (tmp_path / "scontrol.txt").read_text() == "requeue 77\n" * (turn + 1)
    assert steps == sorted(set(steps))


def test_processes_that_start_together_open_the_data_one_after_the_other(tmp_path: Path) -> None:
    """What the first one downloads the others find."""
    from dataclasses import replace

    from aib.train import run_data
    from aib.train.config import DataConfig
    from ranks import run_ranks

    def opened(data: str, *, root: Path, **_: object) -> None:
        with (tmp_path / "log.txt").open("a") as log:
            if (root / "there").exists():
                log.write("found\n")
                return
            time.sleep(0.5)
            log.write("fetched\n")
            log.flush()
            (root / "there").touch()

    def act(rank: int) -> None:
        run_data.open_data = opened  # type: ignore[assignment]
        run_data.open_training_data(replace(DataConfig(), data="cifar10", root=str(tmp_path / "root"), download=True))

    assert [code for code, _ in run_ranks(3, act, tmp_path)] == [0, 0, 0]
    assert sorted((tmp_path / "log.txt").read_text().splitlines()) == ["fetched", "found", "found"]

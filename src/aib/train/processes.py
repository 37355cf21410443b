"""The processes of a run: how many share it, which one this is, and starting the others on this machine.

They come from torchrun, from SLURM's srun, or from ``--devices N``, which starts the same command N - 1 times more. Whoever starts
them, each finds its place in the variables of torchrun.
"""

from __future__ import annotations

import atexit
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

import __main__

__all__ = ["Children", "World", "follow_launcher", "read_world", "start_processes"]

OWN = "aib"
"""Run id in torchrun's variables of processes that this program started."""

SECONDS_TO_END = 20.0
"""How long the processes that this one started may take to end after it, before they are told to."""


@dataclass(frozen=True)
class World:
    """The processes that share a run.

    Attributes:
        size: number of processes.
        rank: of this one, from 0; the first one writes and speaks.
        per_machine: processes on each machine.
        launcher: who started them, in the words of a message; empty for a process of its own.
    """

    size: int = 1
    rank: int = 0
    per_machine: int = 1
    launcher: str = ""

    @property
    def machines(self) -> int:
        return self.size // self.per_machine

    def check(self, devices: int | None) -> None:
        """Refuse what contradicts the launcher.

        Raises:
            ValueError: ``devices`` is not the number of processes that were started here, or the machines have different numbers.
        """
        if devices not in (None, self.per_machine):
            raise ValueError(
                f"devices is {devices}, but {self.launcher} started {self.per_machine} here; leave --devices out, or start as many"
            )
        if self.size % self.per_machine:
            raise ValueError(
                f"{self.launcher} started {self.size} processes, {self.per_machine} of them here; each machine needs as many"
            )


def read_world(environment: Mapping[str, str]) -> World:
    """The processes that torchrun or srun started, from the variables it leaves, or one of its own.

    A step of one task, as a batch script without srun is, is a process of its own.

    Raises:
        ValueError: srun started another number of processes on every machine.
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        size, rank, here = (int(environment[name]) for name in ("WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE"))
        return World(size, rank, here, "torchrun" if environment["TORCHELASTIC_RUN_ID"] != OWN else "this program")
    size = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if size == 1:
        return World()
    tasks = environment.get("SLURM_STEP_TASKS_PER_NODE", str(size))  # such as 4(x2), or 3,2
    counts = {int(count) for count in re.findall(r"(?:^|,)(\d+)", tasks)}
    if len(counts) != 1:
        raise ValueError(f"srun started {tasks} processes on its machines; each machine needs as many: use --ntasks-per-node")
    return World(size, int(environment["SLURM_PROCID"]), counts.pop(), "srun")


def follow_launcher(world: World) -> None:
    """Take the place in ``world``: tell Fabric of it, and end, saved if the run has begun, when the launcher is gone."""
    if world.launcher == "srun":
        from lightning_fabric.plugins.environments import SLURMEnvironment

        nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ["SLURM_JOB_NODELIST"]
        os.environ.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(nodes))
        os.environ.setdefault("MASTER_PORT", str(15000 + int(os.environ["SLURM_JOB_ID"]) % 10000))
        _enter(os.environ, world.size, world.rank, int(os.environ["SLURM_LOCALID"]), world.per_machine)
    if world.rank == 0 and os.environ.get("TORCHELASTIC_RUN_ID") == OWN:
        return  # the one that started the others; its parent is the user's shell
    threading.Thread(target=_follow, args=(os.getppid(),), daemon=True, name="follow-launcher").start()


def _follow(parent: int) -> None:
    """Ask this process to stop once its parent is no more."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)


def start_processes(count: int) -> Children:
    """Run this program ``count - 1`` times more, as the other processes of a run that this one is the first of.

    Raises:
        ValueError: this is no program that can be run again, but a notebook or a prompt.
    """
    if not hasattr(__main__, "__file__"):
        raise ValueError(f"devices is {count}, but only a program can be started {count} times: write a script, or use torchrun")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": OWN}
    command = [sys.executable, *sys.orig_argv[1:]]
    processes = []
    for rank in range(1, count):
        environment = dict(os.environ)
        _enter(environment, count, rank, rank, count)
        processes.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL))
    _enter(os.environ, count, 0, 0, count)
    return Children(processes)


def _enter(environment: MutableMapping[str, str], size: int, rank: int, local: int, here: int) -> None:
    """Write a process's place into ``environment``, in the variables of torchrun."""
    numbers = {"WORLD_SIZE": size, "RANK": rank, "LOCAL_RANK": local, "LOCAL_WORLD_SIZE": here, "GROUP_RANK": rank // here}
    environment.update({name: str(number) for name, number in numbers.items()})


class Children:
    """The processes that this one started. None outlives it for long, and none is waited for that has ended before the start."""

    def __init__(self, processes: list[subprocess.Popen[bytes]]) -> None:
        self.processes = processes
        self.joined = threading.Event()
        atexit.register(self.end)
        threading.Thread(target=self._guard, daemon=True, name="guard-start").start()

    def _guard(self) -> None:
        """End everything when a process ends before all have met; from then on `aib.train.watch` does."""
        while not self.joined.wait(0.5):
            for rank, process in enumerate(self.processes, 1):
                if (code := process.poll()) is not None:
                    total = len(self.processes) + 1
                    print(f"aib train: process {rank} of {total} ended before the training began (code {code})", file=sys.stderr)
                    self.end(0.0)
                    os._exit(2)

    def end(self, patience: float = SECONDS_TO_END) -> None:
        """Wait for the processes, and stop those that do not end by themselves."""
        for act in (None, subprocess.Popen.terminate, subprocess.Popen.kill):
            until = time.monotonic() + patience
            for process in self.processes:
                if process.poll() is None and act is not None:
                    act(process)
            for process in self.processes:
                try:
                    process.wait(max(0.0, until - time.monotonic()))
                except subprocess.TimeoutExpired:
                    continue
            patience = min(patience or 5.0, 5.0)

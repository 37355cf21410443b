"""The processes of a run, forked from the test that wants them: no program to start, no import to repeat."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def place(rank: int, size: int, port: int) -> dict[str, str]:
    """The variables that torchrun gives a process, of one machine."""
    numbers = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size, "GROUP_RANK": 0, "MASTER_PORT": port}
    return {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in numbers.items()}}


def run_ranks(size: int, act: Callable[[int], None], folder: Path, seconds: float = 120.0) -> list[tuple[int, str]]:
    """Call ``act(rank)`` in processes of their own, which find themselves where torchrun would have put them.

    Returns:
        Exit code (minus the signal for a killed one) and stderr of each, with what ends a command in exit code 2 as its line.
    """
    port = free_port()

    def body(rank: int) -> None:
        sys.stdin.close()
        for number in (1, 2):
            os.dup2(os.open(folder / f"{rank}-{number}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        os.environ |= place(rank, size, port)
        torch.set_num_threads(1)
        code = 0
        try:
            act(rank)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        except (ValueError, OSError) as error:
            os.write(2, f"{error}\n".encode())
            code = 2
        except BaseException:
            os.write(2, traceback.format_exc().encode())
            code = 1
        os._exit(code)

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=body, args=(rank,)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(seconds)
    late = [process for process in processes if process.is_alive()]
    for process in late:
        process.kill()
        process.join()
    assert not late, f"{len(late)} of {size} processes did not end within {seconds:.0f} s"
    return [(int(process.exitcode or 0), (folder / f"{rank}-2.txt").read_text()) for rank, process in enumerate(processes)]

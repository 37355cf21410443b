"""Stopping a run from outside without losing it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

__all__ = ["TIED", "Interrupted", "StopRequest", "end_with_starter", "stop_signals"]

TIED = "AIB_ENDS_WITH_STARTER"
"""Environment variable with which a process is started that is to end when its standard input, a pipe, is closed."""


class Interrupted(Exception):  # noqa: N818 (not an error: the work is saved and can go on)
    """Something was stopped from outside, after saving; the message says how to go on."""


class StopRequest:
    """Context in which Ctrl-C, SIGTERM and a closed terminal ask for a stop instead of making one.

    A second Ctrl-C stops at once; other signals may come several times, as from a sweep and from the terminal they share. A
    process that was started to outlive its terminal (``nohup``) does. Outside the main thread signals cannot be caught, and nothing
    is changed.

    Args:
        say: called with a line for the user when a stop is asked for.
        echo: seconds in which another signal is the same one: what starts several processes passes on what they got already.
    """

    def __init__(self, say: Callable[[str], None], echo: float = 0.0) -> None:
        self.say, self.echo = say, echo
        self.asked = False
        self._pressed_at: float | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in stop_signals()}
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: object) -> None:
        if number == signal.SIGINT:
            now = time.monotonic()
            if self._pressed_at is None:
                self._pressed_at = now
            elif now - self._pressed_at >= self.echo:
                raise KeyboardInterrupt
        if not self.asked:
            self.asked = True
            with contextlib.suppress(Exception):  # the signal may have come in the middle of anything, and the run matters more
                self.say("stopping after this step; press Ctrl-C again to stop without saving")


def stop_signals() -> list[signal.Signals]:
    """What asks a process to end: SIGINT, SIGTERM, and where there are terminals SIGHUP, unless it is to be ignored."""
    found = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        found.append(signal.SIGHUP)
    return found


def end_with_starter() -> None:
    """Get SIGTERM when the process that started this one, and holds the other end of its standard input, is gone.

    However that one ends, the system closes its end of the pipe. What is in training saves itself (`StopRequest`), the rest ends.
    """
    os.environ.pop(TIED, None)  # not those that this one starts
    source = sys.stdin.fileno()

    def watch() -> None:
        while os.read(source, 1):  # past Python's own buffer, whose lock would be in the way when the interpreter ends
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="ends with its starter").start()

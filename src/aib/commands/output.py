"""What a command prints, whoever listens: a reader that leaves, a closed terminal or a full disk does not end a run of hours."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

__all__ = ["SteadyStream", "say_error", "steady_output"]

GONE = (errno.EPIPE, errno.EIO)
"""Errors of a stream whose reader has left: of a pipe (``| head``) and of a terminal that was closed."""


class SteadyStream:
    """A text stream that never fails: what cannot be written is lost, and the first reason kept.

    Args:
        stream: what to write to; everything but writing is left to it.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.failure: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write ``text``, or lose it."""
        with self._steady():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush what can be."""
        with self._steady():
            self.stream.flush()

    @contextlib.contextmanager
    def _steady(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = self.failure or error
            with contextlib.suppress(OSError):  # what is buffered goes nowhere too, also on the interpreter's way out
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self.stream.fileno())
                os.close(nowhere)


@contextlib.contextmanager
def steady_output() -> Iterator[SteadyStream]:
    """Context in which printing cannot fail, neither for want of a reader nor of a character; its value is standard output."""
    for descriptor in (0, 1, 2):  # closed ones (>&-) would be those of the next files opened, and get what libraries print
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("COLUMNS", "LINES"):
        if os.environ.get(name) == "0":  # some programs say so of a terminal whose size they do not know; nothing would be printed
            del os.environ[name]
    for each in (sys.stdout, sys.stderr):
        if isinstance(each, io.TextIOWrapper):
            with contextlib.suppress(OSError):
                each.reconfigure(errors="backslashreplace")
    with contextlib.ExitStack() as held:
        before = sys.stdout
        stream = before if before is not None else held.enter_context(open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123
        steady = SteadyStream(stream)
        sys.stdout = steady
        try:
            yield steady
        finally:
            steady.flush()
            sys.stdout = before


def say_error(line: str) -> None:
    """Print ``line`` on standard error, if it is there."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(line, file=sys.stderr)

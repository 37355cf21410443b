"""Text files and paths that may come from anywhere."""

from __future__ import annotations

import stat
from pathlib import Path

__all__ = ["MAX_TEXT_BYTES", "printable", "read_text", "typed_path"]

MAX_TEXT_BYTES = 1 << 26
"""Largest text that is read, 64 MiB: as JSON of empty lists it takes 1.5 GB of memory, and no table or log comes near it."""


def printable(text: Path | str) -> str:
    """``text`` on one line, without the control characters and broken letters that the name of a stranger's file may hold."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def typed_path(path: Path | str) -> Path:
    """``path`` as it was typed, with the home folder in the place of ``~`` and ``~name``.

    Raises:
        ValueError: nobody has that name.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:  # of Python, which no reader of a path expects
        raise ValueError(
            f"{printable(path)} begins with the home folder of a user that is not there; write ./{printable(path)} "
            "for a folder of that name"
        ) from None


def read_text(path: Path, errors: str = "strict") -> str:
    """The content of a text file in UTF-8.

    Args:
        path: of the file.
        errors: what becomes of bytes that are no UTF-8, see `bytes.decode`.

    Raises:
        FileNotFoundError: there is none.
        OSError: the system refuses it; the file is named.
        ValueError: it is no regular file (a pipe would block for ever, a device may never end), is too large or no UTF-8; the
            message gives the reason, not the path.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is a folder" if stat.S_ISDIR(status.st_mode) else "it is no regular file")
    if status.st_size > MAX_TEXT_BYTES:
        raise ValueError(f"it has {status.st_size:,} bytes; at most {MAX_TEXT_BYTES:,} are read")
    try:
        return path.read_text(encoding="utf-8", errors=errors)
    except OSError as error:  # of reading, which other than that of opening does not name the file
        raise OSError(error.errno, error.strerror, str(path)) from None

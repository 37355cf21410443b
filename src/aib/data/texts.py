"""Text files and paths that may come from anywhere."""

from __future__ import annotations

import stat
from pathlib import Path

__all__ = ["MAX_TEXT_BYTES", "MAX_TOML_BYTES", "printable", "read_text", "typed_path"]

MAX_TEXT_BYTES = 1 << 26
"""Largest text that is read, 64 MiB: as JSON of empty lists it takes 1.5 GB of memory, and no table or log comes near it."""

MAX_TOML_BYTES = 1 << 15
"""Largest recipe or configuration that is read: those of the package have 2 KiB, and for some of a stranger's Python's reader takes
a time that grows with the square of their length, 3 s for this one."""


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


def read_text(path: Path, errors: str = "strict", most: int = MAX_TEXT_BYTES) -> str:
    """The content of a text file in UTF-8.

    Args:
        path: of the file.
        errors: what becomes of bytes that are no UTF-8, see `bytes.decode`.
        most: bytes that are read.

    Raises:
        FileNotFoundError: there is none.
        OSError: the system refuses it; the file is named.
        ValueError: it is no regular file (a pipe would block for ever, a device may never end), is too large or no UTF-8; the
            message gives the reason, not the path.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is a folder" if stat.S_ISDIR(status.st_mode) else "it is no regular file")
    if status.st_size > most:
        raise ValueError(f"it has {status.st_size:,} bytes; at most {most:,} are read")
    try:
        return path.read_text(encoding="utf-8", errors=errors)
    except OSError as error:  # of reading, which other than that of opening does not name the file
        raise OSError(error.errno, error.strerror, str(path)) from None

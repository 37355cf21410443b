"""Text, JSON, maps and pictures read from the files of a run, every fault one line that names the file.

A run folder may come from a stranger: nothing is read from outside it, nothing that would never end, and nothing that is small on
the disk and takes gigabytes in memory.
"""

from __future__ import annotations

import json
import stat
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["file_inside", "json_object", "parse_json", "read_arrays", "read_map", "read_picture", "read_text", "require"]

MAX_BYTES = 1 << 26
"""Largest text or map that is read, and most that an archive's array may unpack to, times four."""

MAX_PIXELS = 110_000_000
"""Most pixels of a picture: those of the largest images that a run takes."""


def read_text(file: Path, most: int = MAX_BYTES) -> str:
    """The file's text, of at most ``most`` bytes.

    Raises:
        ValueError: it cannot be read, or is not UTF-8.
    """
    try:
        _check_regular(file, most)
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as text: {_one_line(error)}") from None


def parse_json(text: str, file: Path, first_line: int = 1) -> Any:
    """The value of ``text``, which stands in ``file`` from ``first_line`` on.

    Raises:
        ValueError: it is not JSON, is nested too deeply or has numbers of thousands of digits.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}, line {first_line + error.lineno - 1}: not valid JSON ({error.msg}); is the file cut?") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}, line {first_line}: JSON that aib does not write ({_one_line(error)})") from None


def json_object(file: Path, required: Sequence[str] = ()) -> dict[str, Any]:
    """A JSON object with at least the ``required`` keys.

    Raises:
        ValueError: it is something else, or lacks one.
    """
    value = parse_json(read_text(file), file)
    require(value, required, f"{file}, line 1")
    return value


def require(value: Any, required: Sequence[str], where: str) -> None:
    """Raise ValueError, which names ``where``, unless ``value`` is an object with the ``required`` keys."""
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected a JSON object, found {type(value).__name__}")
    missing = [key for key in required if key not in value]
    if missing:
        raise ValueError(f"{where}: lacks {', '.join(map(repr, missing))}")


def file_inside(folder: Path, name: str, where: str) -> Path:
    """The file called ``name`` in ``folder``, whichever way it is reached.

    Raises:
        ValueError: there is none, or it lies outside; the message begins with ``where``.
    """
    try:
        file = folder / name
        if file.is_file():
            if file.resolve().is_relative_to(folder.resolve()):
                return file
            raise ValueError(f"{where}: {name!r} lies outside {folder}")
    except (OSError, RuntimeError) as error:  # too long a name, links in a circle
        raise ValueError(f"{where}: {_one_line(error)}") from None
    raise ValueError(f"{where}: there is no {folder / ascii(name)[1:-1][:200]}")


def read_map(file: Path) -> NDArray[np.float32]:
    """A map (h, w) of an .npy file.

    Raises:
        ValueError: it cannot be read, or is not (h, w) numbers.
    """
    try:
        _check_regular(file)
        with np.errstate(all="ignore"):  # of the sizes in a damaged header: then it says so
            values = np.load(file, allow_pickle=False)
    except Exception as error:  # a cut file raises any of a dozen types
        raise ValueError(f"{file} cannot be read: {_one_line(error)}") from None
    if not isinstance(values, np.ndarray) or values.ndim != 2 or not values.size:
        raise ValueError(f"{file}: a map has shape {getattr(values, 'shape', None)}; expected (h, w)")
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{file}: a map is of type {values.dtype}; expected numbers")
    return values.astype(np.float32)


def read_arrays(file: Path, names: Sequence[str]) -> list[NDArray[np.int64]]:
    """Whole numbers (N,) by name from an .npz file.

    Raises:
        ValueError: it cannot be read, lacks one, or they are no such numbers.
    """
    try:
        with np.errstate(all="ignore"), np.load(file, allow_pickle=False) as archive:
            for member in archive.zip.infolist():
                # numpy writes no others; what bzip2 and LZMA unpack to in one piece has no bound
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ValueError("it is compressed in a way that numpy.savez does not know")
                if member.filename.removesuffix(".npy") in names and member.file_size > 4 * MAX_BYTES:
                    raise ValueError(f"{member.filename} would unpack to {member.file_size:,} bytes")
            found = [archive[name] for name in names]
        if any(values.ndim != 1 or values.dtype.kind not in "iu" for values in found):
            raise ValueError(f"{', '.join(names)} are no whole numbers (N,)")
        return [values.astype(np.int64) for values in found]
    except Exception as error:  # a cut archive raises any of a dozen types
        raise ValueError(f"{file} cannot be read: {_one_line(error)}") from None


def read_picture(file: Path, mode: str, what: str) -> Image:
    """A picture as ``"RGB"`` or ``"L"``; runs keep PNG files only, and no other format is tried.

    Raises:
        ValueError: it is no PNG file, cannot be read as ``what``, or has too many pixels.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings(action="ignore"), Image.open(file, formats=("PNG",)) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise ValueError(f"it has {opened.width}x{opened.height} pixels; at most {MAX_PIXELS:,} are decoded")
            return opened.convert(mode)
    except Exception as error:  # Pillow raises whatever its parser trips over
        raise ValueError(f"{file} cannot be read as {what}: {_one_line(error)}") from None


def _check_regular(file: Path, most: int = MAX_BYTES) -> None:
    """Refuse what would block for ever, never end or fill the memory.

    Raises:
        OSError: there is no such file.
        ValueError: it is no regular file, or too large.
    """
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is a folder" if stat.S_ISDIR(status.st_mode) else "it is no regular file")
    if status.st_size > most:
        raise ValueError(f"it has {status.st_size:,} bytes; at most {most:,} are read")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__

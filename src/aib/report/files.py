"""Text, JSON and maps read from files, every fault one line that names the file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["json_object", "parse_json", "read_map", "read_text", "require"]


def read_text(file: Path) -> str:
    """The file's text.

    Raises:
        ValueError: it cannot be read, or is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read as text: {' '.join(str(error).split())}") from None


def parse_json(text: str, file: Path, first_line: int = 1) -> Any:
    """The value of ``text``, which stands in ``file`` from ``first_line`` on.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}, line {first_line + error.lineno - 1}: not valid JSON ({error.msg}); is the file cut?") from None


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


def read_map(file: Path) -> NDArray[np.float32]:
    """A map (h, w) of an .npy file.

    Raises:
        ValueError: it cannot be read, or is not (h, w).
    """
    try:
        values = np.load(file, allow_pickle=False)
    except Exception as error:  # a cut file raises any of a dozen types
        raise ValueError(f"{file} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(values, np.ndarray) or values.ndim != 2:
        raise ValueError(f"{file}: a map has shape {getattr(values, 'shape', None)}; expected (h, w)")
    return values.astype(np.float32)

"""What the JSON of a run folder must look like before a report is made of it."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import Any

from aib.report.files import require

__all__ = ["ESTIMATE", "Estimate", "kept", "shaped"]

Estimate = tuple[float, float, float]
"""A mean and the ends of its 95 % interval; the ends are NaN where there is none."""

ESTIMATE = "an estimate"
"""In a shape: [mean, low, high], or in older files the mean alone, read as an `Estimate`; null, and a mean that is null or NaN, as
None."""

GREATEST = 1e18
"""Largest absolute value of a number; of what a run counts and measures nothing comes near, and axes end in infinity."""


def shaped(value: Any, shape: Any, where: str) -> Any:
    """``value`` without what ``shape`` does not name, estimates as tuples.

    Args:
        value: of `json.loads`.
        shape: ``str``, ``int``, ``float``, ``bool``, `ESTIMATE`, a list of one shape, an object of shapes by name or by any name
            (``"*"``), or a tuple of one shape, whose missing values (null, NaN) are None; a name with a ``?`` may be absent or
            null.
        where: what messages call it.

    Raises:
        ValueError: it has another shape; the message names the place in it.
    """
    if shape is ESTIMATE:
        return _estimate(value, where)
    if isinstance(shape, tuple):
        return None if _missing(value) else shaped(value, shape[0], where)
    if isinstance(shape, list):
        if not isinstance(value, list):
            raise ValueError(f"{where}: expected a list, found {type(value).__name__}")
        return [shaped(one, shape[0], f"{where}, entry {number}") for number, one in enumerate(value, start=1)]
    if isinstance(shape, Mapping):
        if "*" in shape:
            require(value, (), where)
            return {name: shaped(one, shape["*"], f"{where}, {name!r}") for name, one in value.items()}
        require(value, [name for name in shape if not name.endswith("?")], where)
        present = {name.removesuffix("?"): inner for name, inner in shape.items()}
        present = {name: inner for name, inner in present.items() if value.get(name) is not None or name in shape}
        return {name: shaped(value[name], inner, f"{where}, {name!r}") for name, inner in present.items()}
    if shape is float and isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= GREATEST:
        return float(value)
    if shape is not float and isinstance(value, shape) and not isinstance(value, bool) and (shape is str or abs(value) <= GREATEST):
        return value
    if shape is bool and isinstance(value, bool):
        return value
    expected = {float: "a number", int: "a whole number", str: "a text", bool: "true or false"}[shape]
    raise ValueError(f"{where}: expected {expected}, found {reprlib.repr(value)}")


def kept(value: Any, shape: Mapping[str, Any], where: str) -> dict[str, Any]:
    """As `shaped`, with what the shape does not name left as it is."""
    known = shaped(value, shape, where)
    names = {name.removesuffix("?") for name in shape}
    return {**{name: one for name, one in value.items() if name not in names}, **known}


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _estimate(value: Any, where: str) -> Estimate | None:
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = [value, None, None]
    if not isinstance(value, list) or len(value) != 3:
        raise ValueError(f"{where}: expected [mean, low, high] or null, found {reprlib.repr(value)}")
    mean, low, high = (None if _missing(one) else shaped(one, float, where) for one in value)
    return None if mean is None else (mean, math.nan if low is None else low, math.nan if high is None else high)

"""Files of `torch.save` from anywhere: refused where `torch.load` with ``weights_only`` would still take any amount of memory."""

from __future__ import annotations

import io
import mmap
import pickletools
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Final, cast

import torch

__all__ = ["check_saved", "load_saved"]

SPARSE = b"_rebuild_sparse"
"""In every pickle that holds a sparse tensor."""

BYTEARRAY = b"bytearray\n"
"""In every pickle that makes a bytearray, which torch makes as large as the pickle says."""

LEGACY_PICKLES = 5
"""At the start of a file that torch.save wrote before 2020: three of its version, the content and the names of the storages."""


def load_saved(path: Path, allowed: Sequence[Any] = ()) -> Any:
    """What `torch.save` wrote, on the CPU; nothing in the file is executed, and torch warns of nothing in it.

    Args:
        path: of the file.
        allowed: types that are taken beside those of tensors, see `torch.serialization.safe_globals`.

    Raises:
        ValueError: see `check_saved`.
        Exception: of many kinds, where the file is damaged or holds other types.
    """
    check_saved(path)
    with torch.serialization.safe_globals(list(allowed)), warnings.catch_warnings(action="ignore"):
        return torch.load(path, map_location="cpu", weights_only=True)


def check_saved(path: Path) -> None:
    """Refuse a file that is not laid out as `torch.save` does, before `torch.load` sees it.

    Raises:
        ValueError: it is neither a zip file nor a pickle (a tar file, as torch wrote before 2017, would be unpacked), a zip file
            with compressed or overlapping members, as decompression bombs have, or behind something else; or it holds sparse
            tensors, or what a few bytes make large (see `check_pickle`).
        Exception: of many kinds, where the zip file or a pickle is damaged.
    """
    with path.open("rb") as file:
        start = file.read(2)
        if start[:1] != b"\x80" and start != b"PK":
            raise ValueError("it begins like no file that torch.save writes")
        # torch refuses them as well, but what it notes of them for its checks would fall on the next file that it loads
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(SPARSE) >= 0:
                raise ValueError("it holds sparse tensors, of which no weights are made")
            if content.find(BYTEARRAY) >= 0:
                raise ValueError("it holds a bytearray, of which no weights are made")
            if start != b"PK":
                for _ in range(LEGACY_PICKLES):
                    check_pickle(cast("IO[bytes]", content))  # which a map is as far as it is read
                return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("it is compressed, which torch.save does not do")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ValueError("it has members that overlap")
    if min((member.header_offset for member in members), default=0):
        raise ValueError("it has something else before its first member")
    with path.open("rb") as file:  # read as torch.load does, which may find another member of that name than Python does
        check_pickle(io.BytesIO(torch._C.PyTorchFileReader(file).get_record("data.pkl")))


class _Name(str):
    """A class or function that a pickle names, as in ``"torch Size"``."""


class _Other:
    """A value on a pickle's stack that is neither a text nor a name nor a tuple."""


Value = str | _Other | tuple["Value", ...]
"""What is known of a value; texts are as they are, tuples have what is known of their parts."""

WRITTEN: Final = _Other()
"""Written out in the file at this place, and nowhere else."""

AGAIN: Final = _Other()
"""Fetched or made: a few bytes of the file can have it again and again, whatever its size."""

HOLDS: Final = _Other()
"""Written out, with such a value in it."""

MARK: Final = _Other()

ENCODE = "_codecs encode"
REBUILD = "torch._tensor _rebuild_from_type_v2"
"""Calls the function that its first argument is."""

COPIES_NOTHING = {
    *(f"torch._utils {name}" for name in (
        "_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter", "_rebuild_parameter_with_state"
    )),
    "numpy dtype",
    *(f"numpy.{core}.multiarray {name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
}  # fmt: skip
"""Functions that copy nothing of what they are given; in the place of numpy's, `aib convert` has one that keeps nothing."""


def check_pickle(file: IO[bytes]) -> None:
    """Refuse a pickle that makes more of its bytes than is written in it, as far as torch would take it; reads to its end.

    Torch calls what it takes for safe with whatever the pickle says: sets, counters, sizes and tensors copy what they are made of,
    and codecs such as hex make twice as much of it, each time for a few bytes where that is fetched from the pickle's memo or the
    result of the last one. Pickles of weights write out what they copy, and encode bytes in latin1, once each.

    Raises:
        ValueError: it does, or is no pickle.
    """
    began, encoded = file.tell(), 0
    stack: list[Value] = []
    memo: dict[object, Value] = {}
    try:
        for operation, value, _ in pickletools.genops(file):
            name = operation.name
            if name.endswith("PUT") or name == "MEMOIZE":
                memo[len(memo) if name == "MEMOIZE" else value] = stack[-1]
            elif name.endswith("GET"):
                known = memo.get(value, AGAIN)
                stack.append(known if isinstance(known, str) else AGAIN)
            elif name == "GLOBAL":
                stack.append(_Name(value))
            elif "UNICODE" in name:
                stack.append(str(value))
            elif name in ("REDUCE", "NEWOBJ"):
                given, function = stack.pop(), stack.pop()
                if not isinstance(function, _Name):
                    raise ValueError("it calls what has no name")
                if function == ENCODE:
                    encoded += _encoded(given)
                elif _copied(function, given):
                    raise ValueError("it copies what it has, as no weights are made")
                stack.append(AGAIN)
            elif name == "BUILD":
                if stack.pop() is AGAIN:
                    raise ValueError("it copies what it has, as no weights are made")
            else:
                _move(stack, operation)
    except IndexError:
        raise ValueError("it is no pickle") from None
    if encoded > file.tell() - began:
        raise ValueError("it encodes the same text again and again")


def _encoded(given: Value) -> int:
    """Length of the text that is encoded with these arguments.

    Raises:
        ValueError: they are not those with which Python pickles bytes.
    """
    if not (isinstance(given, tuple) and len(given) == 2 and type(given[0]) is type(given[1]) is str and given[1] == "latin1"):
        raise ValueError("it encodes texts as no weights are")
    return len(given[0])


def _copied(function: Value, given: Value) -> bool:
    """Whether a call may copy arguments that are not written at their place."""
    if function == REBUILD and isinstance(given, tuple) and given:
        function = given[0]
    return function not in COPIES_NOTHING and (not isinstance(given, tuple) or _has_again(given))


def _has_again(value: Value) -> bool:
    return any(map(_has_again, value)) if isinstance(value, tuple) else value in (AGAIN, HOLDS)


def _move(stack: list[Value], operation: pickletools.OpcodeInfo) -> None:
    """What an operation that calls nothing does to the stack."""
    name, taken = operation.name, list(operation.stack_before)
    values: list[Value] = []
    if name == "MARK":
        stack.append(MARK)
        return
    if pickletools.markobject in taken:
        while (value := stack.pop()) is not MARK:
            values.append(value)
        taken = taken[: taken.index(pickletools.markobject)]
    values.extend(stack.pop() for _ in taken)
    if "TUPLE" in name:
        stack.append(tuple(reversed(values)))
    elif name.startswith(("APPEND", "SETITEM", "ADDITEM")):  # into the last of them
        stack.append(HOLDS if values[-1] is WRITTEN and any(map(_has_again, values)) else values[-1])
    else:
        stack.extend([AGAIN if name == "DUP" else WRITTEN] * len(operation.stack_after))

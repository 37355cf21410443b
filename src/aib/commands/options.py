"""The options of a verb, from a dataclass: help as tyro prints it, mistakes as one line like every other error."""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

__all__ = ["check_out", "parse_options"]

T = TypeVar("T")

_RULE = re.compile(r"[─-]{5,}")

_COLOUR = re.compile(r"\x1b\[[\d;]*m")
"""What tyro colours with, if standard output is a terminal."""

_LEAST_WIDTH = 40
"""Columns for the help; in fewer than ten its layout would never end."""


def check_out(out: Path, *, folder: bool = False) -> None:
    """Refuse, before the work, a place for its result that lies below a file.

    Args:
        out: file that is to be written; its folders are made where they are absent.
        folder: it is itself to be a folder.

    Raises:
        ValueError: one of the folders is a file.
    """
    whole = out.absolute()
    beneath = next(path for path in ((whole,) if folder else ()) + tuple(whole.parents) if path.exists())
    if not beneath.is_dir():
        raise ValueError(f"out is {out}, but {beneath} is a file; it must be a folder")


def parse_options(options: type[T], verb: str, arguments: Sequence[str], default: T | None = None) -> T:
    """``arguments`` as an instance of ``options``.

    Args:
        options: a dataclass whose fields have docstrings.
        verb: what follows ``aib`` on the command line.
        arguments: what follows the verb.
        default: values of the options that are not given, instead of the fields' defaults.

    Raises:
        ValueError: an option is unknown, lacks its value or has one that it can't have.
        SystemExit: help was asked for and printed.
    """
    prog = f"aib {verb}"
    given: dict[str, Any] = {} if default is None else {"default": default}
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box), _room():
            return tyro.cli(options, prog=prog, args=list(arguments), **given)
    except SystemExit as stop:
        if not stop.code:
            raise
    raise ValueError(f"{_in_one_line(box.getvalue())}; see {prog} --help")


@contextlib.contextmanager
def _room() -> Iterator[None]:
    """Some columns to print in, also where the terminal claims to have none."""
    if shutil.get_terminal_size().columns >= _LEAST_WIDTH:
        yield
        return
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(_LEAST_WIDTH)
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _in_one_line(box: str) -> str:
    """What tyro says went wrong, without its frame, with the nearest option that exists."""
    lines = [line.strip("│╭╮╰╯ ") for line in _COLOUR.sub("", box).splitlines()]
    if len(lines) > 1 and _RULE.fullmatch(lines[1]):  # without a frame (the terminal lacks the characters) the title is underlined
        lines = lines[2:]
    body = [line for line in lines if line and (_RULE.fullmatch(line) or not line.startswith("─"))]
    ends = next((i for i, line in enumerate(body) if _RULE.fullmatch(line)), len(body))
    said = " ".join(body[:ends]).rstrip(".")
    said = re.sub(r" *\(required\)|^Error parsing config: ", "", said)
    said = re.sub(r"invalid literal for int\(\) with base 10: ('.*')", r"\1 is not a whole number", said)
    said = re.sub(r"could not convert string to float: ('.*')", r"\1 is not a number", said)
    wanted, allowed = "", []
    if unknown := re.search(r"Unrecognized options: (--?[\w-]+)", said):
        wanted, allowed = unknown[1], re.findall(r"^--[\w-]+", "\n".join(body[ends:]), re.MULTILINE)
    elif choice := re.search(r"invalid choice '([^']*)'.*one of \((.*)\)", said):
        wanted, allowed = choice[1], re.findall(r"'([^']*)'", choice[2])
    near = difflib.get_close_matches(wanted, allowed, n=1)
    said += f" (did you mean {near[0]}?)" if near else ""
    return said[:1].lower() + said[1:]

"""Writing a checkpoint so that no moment of a crash loses it, and reading one that may come from anywhere."""

from __future__ import annotations

import contextlib
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aib.saved import load_saved

__all__ = [
    "FORMAT", "is_plain", "link", "load_checkpoint", "naming", "save_checkpoint", "strip_prefixes", "write_atomically",
    "write_text",
]  # fmt: skip

FORMAT = 1
"""Version of the checkpoint's layout; another one is refused."""

TABLES: dict[str, tuple[type, ...]] = {
    "model": (Tensor,), "running": (Tensor,), "state": (int, float), "optimizer": (dict, list), "precision": (object,),
}  # fmt: skip
"""The tables that a checkpoint may have, and what is in them."""


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Have ``write`` fill a temporary file beside ``path``, flush it to the disk and put it in ``path``'s place in one step.

    Whatever happens, ``path`` holds either its old content or the whole new one.

    Raises:
        OSError: the disk is full or the folder refuses the file, which is named; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # of a stranger's folder it may be a link
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if temporary.stat().st_mode != mode:
            temporary.chmod(mode)  # that of any new file; safetensors makes one that no other user may read
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # it may be the disk that fails
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    if os.name == "posix":  # the rename itself reaches the disk with the folder
        with contextlib.suppress(OSError):  # network file systems that cannot flush a folder; the file is in place
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Context in which an error of the disk that names no file, as those of numpy and Pillow, gets the name ``path``."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        if error.errno is None:  # numpy counts what was written
            raise OSError(f"cannot write {path}; is the disk full? ({error})") from error
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_text(path: Path, text: str) -> None:
    """Write ``text`` in UTF-8, whole or not at all; see `write_atomically`."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def save_checkpoint(path: Path, state: Mapping[str, Any], *, keep_previous: bool = True) -> None:
    """Write ``state`` (tensors, numbers, texts and containers of them) to ``path``; the last one stays as ``previous.ckpt``.

    Raises:
        OSError: see `write_atomically`; the file that was there is untouched.
    """

    def write(temporary: Path) -> None:
        try:
            torch.save({"format": FORMAT, **state}, temporary)
        except RuntimeError as error:  # torch reports a full disk as a failed stream write
            raise OSError(f"cannot write {path}; is the disk full? ({str(error).splitlines()[0]})") from error
        if keep_previous and path.exists():
            link(path, path.with_name("previous.ckpt"))

    write_atomically(path, write)


def link(path: Path, other: Path) -> None:
    """Make ``other`` a second name of the file ``path`` in one step, or a copy on a file system without such links."""
    spare = other.with_name(f".{other.name}.tmp")
    spare.unlink(missing_ok=True)
    try:
        try:
            os.link(path, spare)
        except OSError:
            shutil.copyfile(path, spare)
            with spare.open("rb+") as file:
                os.fsync(file.fileno())
        spare.replace(other)
    finally:
        spare.unlink(missing_ok=True)  # renaming one name of a file to another of the same file keeps both


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state that `save_checkpoint` wrote, on the CPU; nothing in the file is executed.

    Raises:
        ValueError: there is no such file, it is cut or damaged, is no checkpoint of this package, or of another version.
    """
    if not path.is_file():
        raise ValueError(f"no checkpoint at {path}")
    try:
        whole = zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # of an archive that says that it has several disks
        whole = False
    if not whole:
        raise ValueError(f"{path} is cut or damaged")
    try:
        state = load_saved(path)
        with zipfile.ZipFile(path) as file:
            if file.testzip() is not None:  # torch does not compare the checksums: a flipped bit would be a weight
                raise zipfile.BadZipFile
    except Exception as error:
        raise ValueError(f"{path} is damaged or no checkpoint of this package ({type(error).__name__})") from None
    version = state.get("format") if isinstance(state, dict) else None
    if type(version) is not int or not 0 < version < 1000:
        raise ValueError(f"{path} is no checkpoint of this package")
    if version != FORMAT:
        raise ValueError(f"{path} has checkpoint format {version}; this version of aib reads format {FORMAT}")
    for name, kinds in TABLES.items():
        table = state.get(name, {})
        if not isinstance(table, dict) or not all(
            isinstance(key, str) and isinstance(value, kinds) and is_plain(value) for key, value in table.items()
        ):
            raise ValueError(f"{path} is damaged: its {name} is not what aib writes")
    return state


def is_plain(value: object) -> bool:
    """Whether a value, if it is a tensor, is one of numbers in memory: neither sparse nor quantised nor without data, nor with more
    numbers than there are, as one number that is called a tensor of millions."""
    if not isinstance(value, Tensor):
        return True
    if value.layout is not torch.strided or value.is_quantized or value.is_meta:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def strip_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State-dict keys without the ``module.`` and ``_orig_mod.`` that wrappers put in front."""
    return {key.replace("_orig_mod.", "").removeprefix("module."): value for key, value in state.items()}

"""Files of published data sets: are they the official ones?"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

__all__ = ["check_file", "md5_of", "odd_file", "unpack"]


def md5_of(path: Path) -> str:
    """MD5 of a file, 32 hexadecimal digits."""
    with path.open("rb") as file:
        # by name only: machines under FIPS refuse MD5 for anything but checksums
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def odd_file(files: Iterable[tuple[Path, str]]) -> str | None:
    """What is wrong with the first file, of pairs of a path and its official MD5, that is missing or differs; None if none does."""
    for path, expected in files:
        if not path.is_file():
            return f"{path} is missing"
        if (found := md5_of(path)) != expected:
            return f"{path} is damaged or another file: its MD5 is {found}, that of the official file {expected}"
    return None


def check_file(path: Path, expected: str) -> None:
    """Refuse a file that is not the official one.

    Raises:
        ValueError: it is missing, or its MD5 is not ``expected``; the message gives both.
    """
    if wrong := odd_file([(path, expected)]):
        raise ValueError(wrong)


def unpack(archive: Path, expected: str, folder: str) -> Path:
    """Check an archive and unpack its ``folder`` beside it; whole or not at all, so that half a folder is never taken for one.

    Args:
        archive: a file that torchvision can unpack (.tgz, .tar.gz, .zip).
        expected: its official MD5.
        folder: name of the folder in the archive that is wanted; the rest is dropped.

    Returns:
        The path of the folder.

    Raises:
        ValueError: see `check_file`.
        OSError: the disk is full or cannot be written.
    """
    check_file(archive, expected)
    from torchvision.datasets.utils import extract_archive

    target, beside = archive.parent / folder, archive.parent / f".{folder}.unpacking"
    shutil.rmtree(beside, ignore_errors=True)
    try:
        extract_archive(str(archive), str(beside))
        (beside / folder).rename(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return target

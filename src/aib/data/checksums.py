"""Files of published data sets: are they the official ones?"""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

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

    Only files and folders below ``folder`` are unpacked: no links, no devices, nothing outside it, whoever made the archive.

    Args:
        archive: a tar file, compressed or not.
        expected: its official MD5.
        folder: name of the folder in the archive that is wanted; the rest is dropped.

    Returns:
        The path of the folder.

    Raises:
        ValueError: see `check_file`; or it is no tar file, is damaged, or holds no such folder.
        OSError: the disk is full or cannot be written.
    """
    check_file(archive, expected)
    target, beside = archive.parent / folder, archive.parent / f".{folder}.unpacking"
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir()
        with tarfile.open(archive) as packed:
            for member, name in _below(packed, folder):
                path = beside / name
                path.parent.mkdir(parents=True, exist_ok=True)
                if member.isdir():
                    path.mkdir(exist_ok=True)
                elif (source := packed.extractfile(member)) is not None:
                    with source, path.open("wb") as file:
                        shutil.copyfileobj(source, file)
        if not (beside / folder).is_dir():
            raise ValueError(f"it holds no folder {folder}")
        (beside / folder).rename(target)
    except Exception as error:  # of a damaged archive: TarError, EOFError, zlib.error, LZMAError, ...
        if isinstance(error, OSError) and error.errno is not None:  # the disk's, not the archive's
            raise
        raise ValueError(f"{archive} cannot be unpacked: {' '.join(str(error).split()) or type(error).__name__}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return target


def _below(packed: tarfile.TarFile, folder: str) -> Iterator[tuple[tarfile.TarInfo, PurePosixPath]]:
    """The files and folders of an archive below ``folder`` with their paths, which lead nowhere else."""
    for member in packed:
        path = PurePosixPath(member.name)
        plain = (member.isfile() and not member.issparse()) or member.isdir()
        if plain and ".." not in path.parts and path.parts[:1] == (folder,):
            yield member, path

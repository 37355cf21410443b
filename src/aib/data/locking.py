"""Files that one process at a time holds."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import FileLock

__all__ = ["held"]

WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""Errors of file systems without locks, such as NFS without its lock service."""


@contextlib.contextmanager
def held(path: Path, wait: float = -1) -> Iterator[None]:
    """Hold a file while the others that ask for it wait. The system lets go of it when the process ends, however it ends.

    On a file system without locks nothing is held and nobody kept waiting: as good as before there were any.

    Args:
        path: of the file, which is made where it is absent and left there.
        wait: seconds after which the other process is not waited for any longer; below 0, for ever.

    Raises:
        TimeoutError: another process holds it.
        OSError: it cannot be written.
    """
    lock = _hard_lock(path)
    try:
        lock.acquire(wait, poll_interval=0.02)
    except NotImplementedError:
        pass
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
    try:
        yield
    finally:
        lock.release()


def _hard_lock(path: Path) -> FileLock:
    """A lock of the system, never a mere file in its place, which a killed process would leave."""
    from filelock import FileLock

    try:
        return FileLock(path, fallback_to_soft=False)
    except TypeError:  # older versions have no such option
        return FileLock(path)

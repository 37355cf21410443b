"""The C library's memory allocator, set for work that frees and takes the same large blocks in every step.

As it comes, glibc gives the pages of a large freed tensor back to the system and takes them anew, zeroed, for the next one: in the
training of a narrow network on a CPU that is 5 to 10 % of the time (docs/log.md). The setting is the process's, so only the command
line makes it; a program that imports aib keeps its own.
"""

from __future__ import annotations

import ctypes
import os

__all__ = ["keep_freed_memory"]

SETTINGS = {
    "MALLOC_TRIM_THRESHOLD_": (-1, 2**31 - 1),
    "MALLOC_MMAP_THRESHOLD_": (-3, 2**30),
    "MALLOC_TOP_PAD_": (-2, 2**26),
}
"""Environment variable of glibc to number and value of the same parameter of ``mallopt``, in bytes: free memory at the heap's end
goes back to the system from here on; a block gets pages of its own from here on; the heap grows by so much more than asked."""


def keep_freed_memory() -> bool:
    """Have malloc keep what is freed for the next step, and say whether it agreed.

    Where the C library has no ``mallopt`` that takes these (musl, macOS, Windows), or the user has set any of it in the
    environment, nothing changes.
    """
    if any(name in os.environ for name in SETTINGS) or "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no such function; no C library to look in; Windows takes no None
        return False
    agreed = [bool(set_option(number, value)) for number, value in SETTINGS.values()]  # each, whatever became of the one before
    return all(agreed)

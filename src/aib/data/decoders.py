"""The processes that decode images, when one of them is gone."""

from __future__ import annotations

__all__ = ["is_lost_decoder"]


def is_lost_decoder(error: BaseException) -> bool:
    """Whether torch says with ``error`` that a process that decodes was killed; it is raised wherever the main thread is then.

    An error inside such a process is none of these: its message begins with ``Caught`` and has its traceback.
    """
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid")

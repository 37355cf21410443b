"""The most memory that a computation holds at once."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

__all__ = ["peak_bytes"]


def peak_bytes(function: Callable[[], object], device: str = "cpu") -> int:
    """Most bytes that ``function`` holds at once, beyond what was there before.

    On CUDA it is what torch's allocator gave out. On a CPU it is the storage of all tensors that exist at once, in the forward and
    the backward pass, followed operation by operation. That is exact and the same every time, unlike the process's resident size,
    which keeps what an earlier variant freed; what kernels take for themselves while they run is not in it.

    Args:
        function: computed once.
        device: where it computes.
    """
    if device.startswith("cuda"):
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with _Storages() as storages:
        function()
    return storages.peak


class _Storages(TorchDispatchMode):
    """Counts the bytes of the storages that operations make, until nothing refers to them."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, int] = {}
        self.now = self.peak = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not: telling torch's compiler to look away would import it, for seconds, and nothing is compiled here."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_iter((args, kwargs)):  # was there before: a view of it makes nothing
            self._meet(value, counted=False)
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            self._meet(value, counted=True)
        return result

    def _meet(self, value: object, *, counted: bool) -> None:
        if not isinstance(value, Tensor):
            return
        storage = value.untyped_storage()
        key = storage._cdata
        if key in self.known:
            return
        self.known[key] = size = storage.nbytes() if counted else 0
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self.known.pop(key)

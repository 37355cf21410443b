"""What one process of a run is told or notices and all must do at the same step: stopping, and saving."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Agreement"]

MOST_STEPS = 10
"""Steps after which the processes ask each other, at most; asking costs a small collective operation."""

MOST_SECONDS = 2.0
"""How long they go without asking where steps take long."""


class Agreement:
    """Wishes of processes, followed by all after the same step; a process of its own agrees with itself after each.

    Args:
        size: number of processes.
        device: of the tensors that are summed.
        add: gives the sum of a tensor over the processes.
        step: steps done so far.
    """

    def __init__(self, size: int, device: torch.device, add: Callable[[Tensor], Tensor], step: int) -> None:
        self.size, self.device, self.add = size, device, add
        self.next, self.asked_at, self.asked_after = step + 1, time.monotonic(), step

    def is_due(self, step: int) -> bool:
        """Whether the processes ask each other after ``step``."""
        return self.size > 1 and step >= self.next

    def wishes(self, step: int, *wished: bool) -> list[bool]:
        """Which wishes to follow after ``step``: those that a process has, if it is one of the steps to ask after."""
        if self.size == 1:
            return list(wished)
        if not self.is_due(step):
            return [False for _ in wished]
        now = time.monotonic()
        seconds = (now - self.asked_at) / max(1, step - self.asked_after)
        *wanted, total = self.add(torch.tensor([*map(float, wished), seconds], device=self.device)).tolist()
        # the same for all, or one would wait for the others
        gap = MOST_SECONDS * self.size / max(total, 1e-9)
        self.next, self.asked_at, self.asked_after = step + int(min(MOST_STEPS, max(1.0, gap))), now, step
        return [wish > 0 for wish in wanted]

"""Means over the steps of an epoch, summed on the device so that no step waits for a number to reach the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from aib.functional import nats_to_bits
from aib.loss import LOSS_PARTS

__all__ = ["RunningMeans"]


class RunningMeans:
    """Sums of the loss parts, weighted by images, and the first step whose loss was not a finite number.

    Args:
        device: of the sums.
        sums: those of an interrupted epoch.
    """

    def __init__(self, device: torch.device, sums: Mapping[str, Tensor] | None = None) -> None:
        self.device = device
        self.dtype = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
        self.sums = {name: self._here(value) for name, value in (sums or {}).items()}

    def _here(self, value: Tensor) -> Tensor:
        return value.to(self.device, self.dtype if value.is_floating_point() else value.dtype)

    def add(self, parts: Mapping[str, Tensor], errors: Tensor, count: int, step: int) -> None:
        """Add one step.

        Args:
            parts: of `aib.loss.objective`.
            errors: scalar, wrong predictions among ``count`` images.
            step: its number from 0, kept if the loss is not finite.
        """
        if not self.sums:
            self.sums["bad_step"] = torch.full((), -1, dtype=torch.int64, device=self.device)
        bad = (self.sums["bad_step"] < 0) & ~parts["loss"].detach().isfinite()
        self.sums["bad_step"] = torch.where(bad, step, self.sums["bad_step"])
        values = {name: value.detach().to(self.dtype) * count for name, value in parts.items()} | {"errors": errors}
        for name, value in values.items():  # a part whose weight starts at 0 joins later
            if name not in self.sums:
                self.sums[name] = torch.zeros((), dtype=self.dtype, device=self.device)
            self.sums[name] += value
        if "images" not in self.sums:
            self.sums["images"] = torch.zeros((), dtype=self.dtype, device=self.device)
        self.sums["images"] += count

    def total(self, add: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """The sums over several processes, each of which must call this.

        One tensor in a fixed order: a process that has resumed, or has not begun the epoch, may know other names than the rest.

        Args:
            add: gives the sum of a tensor over the processes.
        """
        names = ("images", "errors", "loss", *LOSS_PARTS, "rate")
        zero = torch.zeros((), dtype=self.dtype, device=self.device)
        here = torch.stack([self.sums.get(name, zero) for name in names])
        known = torch.tensor([float(name in self.sums) for name in names], device=self.device)
        summed, known = add(here), add(known)
        found = {name: summed[i] for i, name in enumerate(names) if known[i] > 0}
        return found | {"bad_step": self.sums["bad_step"]} if "bad_step" in self.sums else found

    def bad_step(self) -> int | None:
        """Number of the first step with a loss that is not finite, or None."""
        if "bad_step" not in self.sums or (step := int(self.sums["bad_step"])) < 0:
            return None
        return step

    def means(self) -> dict[str, float]:
        """Means so far: ``loss``, its parts, ``rate_bits`` where there is a rate, and ``error``, a fraction."""
        values = {name: value.item() for name, value in self.sums.items() if name != "bad_step"}
        images = values["images"]
        found = {name: values[name] / images for name in ("loss", *LOSS_PARTS) if name in values}
        if "rate" in values:
            found["rate_bits"] = nats_to_bits(values["rate"] / images)
        return {**found, "error": values["errors"] / images}

"""Lightning Fabric as the loop uses it: devices, precision, processes."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from torch import Tensor, nn

from aib.classifier import Classifier, Details
from aib.train.config import TrainConfig
from aib.train.device import choose_device

__all__ = ["ForwardDetails", "make_fabric"]


def make_fabric(config: TrainConfig) -> Any:
    """A Fabric for the run; with several devices the other processes start here and run the same program.

    Raises:
        ValueError: the machine lacks the device, the device the precision, or a batch cannot be shared evenly.
    """
    from lightning_fabric import Fabric

    name, devices = choose_device(config.run.device), config.run.devices
    if name == "cpu" and config.run.precision == "16-mixed":
        raise ValueError("precision is '16-mixed', which the CPU lacks; use '32-true', or 'bf16-mixed' (much slower there)")
    if config.optim.batch_size % devices:
        raise ValueError(f"batch_size is {config.optim.batch_size}; it must be a multiple of the {devices} devices")
    fabric = Fabric(accelerator=name, devices=devices, precision=config.run.precision)
    if devices > 1:
        fabric.launch()
    return fabric


class ForwardDetails(nn.Module):
    """``forward_details`` as ``forward``, in a dict: what Fabric's wrappers for precision and processes can carry."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The fields of `aib.classifier.Details` that the model has."""
        details = self.model.forward_details(images)
        return {f.name: value for f in fields(Details) if (value := getattr(details, f.name)) is not None}

"""Lightning Fabric as the loop uses it: devices, precision, processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from aib.backbones import module_device_and_dtype, one_line
from aib.classifier import Classifier, Details
from aib.train.config import TrainConfig
from aib.train.device import choose_device

__all__ = ["ForwardDetails", "compiled_forward", "make_fabric"]


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
    """``forward_details`` as ``forward``, in a dict: what Fabric's wrappers for precision and processes can carry.

    Args:
        model: the classifier whose parameters train.
        forward: called in the place of its ``forward_details``, such as its compiled form.
    """

    def __init__(self, model: Classifier, forward: Callable[[Tensor], Details] | None = None) -> None:
        super().__init__()
        self.model = model
        self.details = forward or model.forward_details

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The fields of `aib.classifier.Details` that the model has."""
        details = self.details(images)
        return {f.name: value for f in fields(Details) if (value := getattr(details, f.name)) is not None}


def compiled_forward(model: Classifier, image_shape: tuple[int, int, int]) -> Callable[[Tensor], Details]:
    """The compiled form of ``forward_details``, after a check of its mean path against the eager one.

    Args:
        model: in training mode, in which it is left.
        image_shape: (C, H, W) of the images it will see.

    Raises:
        ValueError: the network cannot be compiled here, or the two differ by more than rounding.
    """
    device, _ = module_device_and_dtype(model)
    images = torch.randn(2, *image_shape, device=device)
    compiled: Callable[[Tensor], Details] = torch.compile(model.forward_details)
    model.eval()
    try:
        with torch.no_grad():
            eager = model.forward_details(images).logits
            difference = (compiled(images).logits - eager).abs().max().item()
    except Exception as error:  # of many kinds: no compiler on the machine, an operation it does not know
        raise ValueError(f"the network cannot be compiled here ({one_line(error)}); train without --compile") from error
    finally:
        model.train()
    if difference > 1e-3 * max(1.0, eager.abs().max().item()):
        raise ValueError(f"the compiled network differs from the eager one by {difference:.2g}; train without --compile")
    return compiled

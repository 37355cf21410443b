"""Lightning Fabric as the loop uses it: devices, precision, processes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from aib.backbones import module_device_and_dtype, one_line
from aib.classifier import Classifier, Details, Noise
from aib.train.config import TrainConfig
from aib.train.device import choose_device
from aib.train.processes import World, follow_launcher, start_processes

__all__ = ["ForwardDetails", "compiled_forward", "meet"]


def meet(config: TrainConfig, devices: int | None, world: World) -> tuple[World, Any]:
    """All processes of a run, started here where nobody else did, and a Fabric in which they have met.

    Args:
        config: of the run; with several devices this program starts again for each but the first.
        devices: those that were asked for now, which a launcher's processes must not contradict.
        world: what a launcher started, see `aib.train.processes.read_world`.

    Raises:
        ValueError: see `make_fabric` and `World.check`.
    """
    children = None
    if world.launcher:
        world.check(devices)
    elif (here := config.run.devices or 1) > 1:
        world = World(here, 0, here)
    if config.optim.batch_size < world.size:  # before anything is started
        raise ValueError(f"batch_size is {config.optim.batch_size}; {world.size} processes need an image each")
    check_devices(config, world)
    if world.launcher:
        follow_launcher(world)
    elif world.size > 1:
        children = start_processes(world.size)
    fabric = make_fabric(config, world)
    if children is not None:
        children.joined.set()
    return world, fabric


def check_devices(config: TrainConfig, world: World) -> None:
    """Refuse what this machine lacks.

    Raises:
        ValueError: the machine lacks the device, as many of them, or the device the precision.
    """
    name = choose_device(config.run.device)
    if name == "cpu" and config.run.precision == "16-mixed":
        raise ValueError("precision is '16-mixed', which the CPU lacks; use '32-true', or 'bf16-mixed' (much slower there)")
    present = torch.cuda.device_count() if name == "cuda" else 1
    if name != "cpu" and world.per_machine > present:
        raise ValueError(f"{world.per_machine} processes need as many devices; this machine has {present} of {name}")


def make_fabric(config: TrainConfig, world: World) -> Any:
    """A Fabric for the run, after `check_devices`; with several processes it returns when all of ``world`` have met."""
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import ClusterEnvironment, LightningEnvironment, TorchElasticEnvironment

    # named, or Fabric would take a batch job of SLURM for a process of many
    place: ClusterEnvironment = TorchElasticEnvironment() if world.size > 1 else LightningEnvironment()
    fabric = Fabric(
        accelerator=choose_device(config.run.device), devices=world.per_machine, num_nodes=world.machines,
        precision=config.run.precision, plugins=[place], strategy="ddp" if world.size > 1 else "auto",
    )  # fmt: skip
    if world.size > 1:
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it greets on every start
        fabric.launch()
    return fabric


class ForwardDetails(nn.Module):
    """``forward_details`` as ``forward``, in a dict: what Fabric's wrappers for precision and processes can carry.

    Args:
        model: the classifier whose parameters train.
        forward: called in the place of its ``forward_details``, such as its compiled form.
    """

    def __init__(self, model: Classifier, forward: Callable[..., Details] | None = None) -> None:
        super().__init__()
        self.model = model
        self.details = forward or model.forward_details

    def forward(self, images: Tensor, noise: Noise | None = None) -> dict[str, Tensor]:
        """The fields of `aib.classifier.Details` that the model has; ``noise`` where the model does not draw it."""
        details = self.details(images) if noise is None else self.details(images, noise=noise)
        return {f.name: value for f in fields(Details) if (value := getattr(details, f.name)) is not None}


def compiled_forward(model: Classifier, image_shape: tuple[int, int, int]) -> Callable[..., Details]:
    """The compiled form of ``forward_details``, after a check of its mean path against the eager one.

    Args:
        model: in training mode, in which it is left.
        image_shape: (C, H, W) of the images it will see.

    Raises:
        ValueError: the network cannot be compiled here, or the two differ by more than rounding.
    """
    device, _ = module_device_and_dtype(model)
    images = torch.randn(2, *image_shape, device=device)
    compiled: Callable[..., Details] = torch.compile(model.forward_details)
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

"""Lightning Fabric as the loop uses it: devices, precision, processes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from aib.backbones import module_device_and_dtype, one_line
from aib.classifier import Classifier, Details, Noise
from aib.loss import objective
from aib.train.config import TrainConfig
from aib.train.device import choose_device
from aib.train.processes import World, follow_launcher, start_processes

__all__ = ["ForwardDetails", "compiled_forward", "meet"]

TOLERANCE, GRADIENT_TOLERANCE, MIXED_TOLERANCE = 1e-3, 1e-2, 5e-2
"""Largest difference of the compiled network, as a share of the largest value: of logits, of gradients (which jump where a rounding
moves a ReLU or a pooling across its edge; the fewer the images the more), and of both where half precision rounds."""


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
        ValueError: the machine lacks the device, as many of them, or the device the precision; or a mode is given to a compiler
            that is not asked for.
    """
    name = choose_device(config.run.device)
    if name == "cpu" and config.run.precision == "16-mixed":
        raise ValueError("precision is '16-mixed', which the CPU lacks; use '32-true', or 'bf16-mixed' (much slower there)")
    if config.run.compile_mode != "default" and not config.run.compile:
        raise ValueError(f"compile_mode is {config.run.compile_mode!r}, but nothing is compiled; add --compile")
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


def compiled_forward(
    model: Classifier,
    image_shape: tuple[int, int, int, int],
    mode: str = "default",
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Callable[..., Details]:
    """The compiled form of ``forward_details``, after a check of a training pass, noise and gradients included.

    It draws the random numbers of the eager network, so that a seed means the same with and without it.

    Args:
        model: in training mode; its weights, running statistics and gradients are left as they are.
        image_shape: (N, C, H, W) of the batches it will see: for another shape it would be compiled once more.
        mode: of `torch.compile`; ``"reduce-overhead"`` replays CUDA graphs.
        autocast: context in which it will run.

    Raises:
        ValueError: the network cannot be compiled here, or the two differ by more than rounding.
    """
    from torch._inductor import list_mode_options

    device, _ = module_device_and_dtype(model)
    labels = torch.arange(image_shape[0], device=device) % model.num_classes
    options = {**list_mode_options(mode), "fallback_random": True}
    compiled: Callable[..., Details] = torch.compile(model.forward_details, options=options)
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def one_pass(forward: Callable[[Tensor], Details]) -> list[Tensor]:
        """Logits and gradients, copied: CUDA graphs write the next ones into the same memory."""
        torch.manual_seed(0)
        images = torch.randn(image_shape, device=device)
        with autocast():
            details = forward(images)
        loss = objective(details, labels)["loss"]
        gradients = torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)
        for name, value in model.named_buffers():
            value.copy_(buffers[name])
        return [value.detach().clone() for value in (details.logits.float(), *gradients)]

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        eager = one_pass(model.forward_details)
        try:
            found = one_pass(compiled)
        except Exception as error:  # of many kinds: no compiler on the machine, an operation it does not know
            raise ValueError(f"the network cannot be compiled here ({one_line(error)}); train without --compile") from error
    for what, ours, theirs, allowed in (
        ("logits", found[:1], eager[:1], TOLERANCE), ("gradients", found[1:], eager[1:], GRADIENT_TOLERANCE)
    ):  # fmt: skip
        most = max(value.abs().max().item() for value in theirs)
        difference = max((a - b).abs().max().item() for a, b in zip(ours, theirs))
        if not difference <= (allowed if autocast is nullcontext else MIXED_TOLERANCE) * most:
            raise ValueError(
                f"the compiled network's {what} differ from the eager one's by {difference:.2g} (the largest is {most:.2g}); "
                "train without --compile"
            )
    return compiled

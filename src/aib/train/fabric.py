"""Lightning Fabric as the loop uses it: devices, precision, processes."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
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

__all__ = ["ForwardDetails", "compiled_forward", "meet", "wrong_gradients"]

TOLERANCE, MIXED_TOLERANCE = 1e-3, 5e-2
"""Largest difference of the compiled network's logits, as a share of the largest logit, and where half precision rounds."""

GRADIENT_TOLERANCE, ROUNDING_TOLERANCE, GRADIENT_FLOOR = 0.15, 10, 1e-7
"""Largest difference in the gradient of a parameter, in norms: as a share of its own; as a multiple of what rounding the images
does to it, for those that are nothing but rounding, such as a bias before BatchNorm; and as a share of the gradient of all."""

MIXED_GRADIENT_TOLERANCE = 0.5
"""The first of these where half precision rounds; of untrained networks most gradients are then nothing but rounding."""

ROUNDED_PASSES = 4


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
    image_shape: tuple[int, int, int],
    passes: Mapping[int, Noise | None],
    mode: str = "default",
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Callable[..., Details]:
    """The compiled form of ``forward_details``, after a check of each kind of training pass, noise and gradients included.

    It draws the random numbers of the eager network, so that a seed means the same with and without it.

    Args:
        model: in training mode; its weights, running statistics and gradients are left as they are.
        image_shape: (C, H, W) of the images it will see.
        passes: numbers of images it will see at once, for each of which it may be compiled once more, with the noise that is
            given then or None where the network draws it.
        mode: of `torch.compile`; ``"reduce-overhead"`` replays CUDA graphs.
        autocast: context in which it will run.

    Raises:
        ValueError: the network cannot be compiled here, or the two differ by more than rounding.
    """
    from torch._inductor import list_mode_options

    device, _ = module_device_and_dtype(model)
    mixed = autocast is not nullcontext
    options = {**list_mode_options(mode), "fallback_random": True}
    compiled: Callable[..., Details] = torch.compile(model.forward_details, options=options)
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}

    def one_pass(forward: ForwardDetails, count: int, rounded: int = 0) -> list[Tensor]:
        """Logits and gradients, copied: CUDA graphs write the next ones into the same memory."""
        torch.manual_seed(0)
        images = torch.randn((count, *image_shape), device=device)
        with autocast():
            details = Details(**forward(_rounded(images, rounded, torch.bfloat16 if mixed else images.dtype), passes[count]))
        loss = objective(details, torch.arange(count, device=device) % model.num_classes)["loss"]
        gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True, materialize_grads=True)
        for name, value in model.named_buffers():
            value.copy_(buffers[name])
        return [value.detach().clone() for value in (details.logits.float(), *gradients)]

    eager, ours = ForwardDetails(model), ForwardDetails(model, compiled)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for count in passes:
            expected = [one_pass(eager, count, rounded) for rounded in range(1 + ROUNDED_PASSES)]
            try:
                found = one_pass(ours, count)
            except Exception as error:  # of many kinds: no compiler on the machine, an operation it does not know
                raise ValueError(f"the network cannot be compiled here ({one_line(error)}); train without --compile") from error
            _check_compiled(found, expected, list(trained), mixed)
    return compiled


def _check_compiled(found: list[Tensor], expected: list[list[Tensor]], names: list[str], mixed: bool) -> None:
    """Refuse logits and gradients, in this order, that differ from those of the eager passes by more than rounding.

    Raises:
        ValueError: they do.
    """
    (logits, *_), found_logits = expected[0], found[0]
    most, difference = logits.abs().max().item(), (found_logits - logits).abs().max().item()
    if not difference <= (MIXED_TOLERANCE if mixed else TOLERANCE) * most:
        raise ValueError(
            f"the compiled network's logits differ from the eager one's by {difference:.2g} (the largest is {most:.2g}); "
            "train without --compile"
        )
    tolerance = MIXED_GRADIENT_TOLERANCE if mixed else GRADIENT_TOLERANCE
    gradients, *others = [dict(zip(names, some[1:], strict=True)) for some in (found, *expected)]
    if wrong := wrong_gradients(gradients, others, tolerance):
        (name, (difference, norm)), more = next(iter(wrong.items())), len(wrong) - 1
        raise ValueError(
            f"the compiled network's gradients differ from the eager one's, {name}'s by {difference:.2g} (its norm is {norm:.2g})"
            f"{f' and {more} more' if more else ''}; train without --compile"
        )


def _rounded(images: Tensor, seed: int, kind: torch.dtype) -> Tensor:
    """The images, each number moved to the next one of ``kind``, or not, by ``seed``; as they are for 0."""
    if not seed:
        return images
    signs = torch.randint(-1, 2, images.shape, generator=torch.Generator().manual_seed(seed))
    return images * (1 + torch.finfo(kind).eps * signs.to(images))


def wrong_gradients(
    found: Mapping[str, Tensor], expected: Sequence[Mapping[str, Tensor]], tolerance: float = GRADIENT_TOLERANCE
) -> dict[str, tuple[float, float]]:
    """Parameters whose gradients differ by more than rounding explains, the farthest first.

    Every parameter is judged by itself: next to the gradients of the first convolutions, those of anchors and of the attention's
    standard deviation are small enough to be forgotten. Several passes are expected ones, as a rounding can move a ReLU, a pooling
    or an anchor across its edge, and a gradient with it: the nearest counts, and the least that tells two apart is rounding.

    Args:
        found: gradients by the parameter's name.
        expected: at least two such, of passes that only roundings tell apart.
        tolerance: as a share of a gradient's own norm.

    Returns:
        By name the norm of the difference and that of the expected gradient.
    """
    norms = {name: value.norm().item() for name, value in expected[0].items()}
    floor = GRADIENT_FLOOR * math.hypot(*norms.values())
    wrong: dict[str, tuple[float, float]] = {}
    for name, norm in norms.items():
        rounding = min((one[name] - other[name]).norm().item() for one, other in itertools.combinations(expected, 2))
        difference = min((found[name] - one[name]).norm().item() for one in expected)
        if not difference <= max(tolerance * norm, ROUNDING_TOLERANCE * rounding, floor):
            wrong[name] = difference, norm
    return dict(sorted(wrong.items(), key=lambda item: item[1][1] / item[1][0]))

"""Where attention can be attached: the feature maps inside any network, found by running it once and leaving it untouched."""

from __future__ import annotations

import copy
import difflib
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from aib.backbones import create_backbone, declared_input_size, image_size, module_device_and_dtype, one_line

__all__ = ["Call", "Layout", "Site", "find_site", "list_sites", "network_input_size", "trace_calls", "untouched"]

Layout = Literal["NCHW", "NHWC", "tokens"]

DEFAULT_SIZES = ((224, 224), (32, 32))
"""Image sizes tried, in this order, for a network that declares none."""

CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.GroupNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)


@dataclass(frozen=True)
class Site:
    """A module of a network whose output is a feature map.

    Attributes:
        name: of the module, as in ``network.get_submodule(name)``.
        channels, height, width: of the feature map; height * width > 1.
        stride: pixels of the image a position, vertically, rounded.
        layout: ``"NCHW"``, ``"NHWC"`` or ``"tokens"`` (N, prefix_tokens + height * width, channels), row by row.
        prefix_tokens: tokens before those of the grid, such as the class token; 0 for the other layouts.
        aliases: modules inside this one that return the very same tensor; `find_site` takes these names too.
    """

    name: str
    channels: int
    height: int
    width: int
    stride: int
    layout: Layout = "NCHW"
    prefix_tokens: int = 0
    aliases: tuple[str, ...] = field(default=(), compare=False, repr=False)


class Call(NamedTuple):
    """One execution of a module.

    Attributes:
        name: of the module; ``""`` is the network itself.
        module: itself.
        shape: of the tensor it returned; None where it returned something else.
        tensor: which tensor, and its version then: equal for calls that returned the very same values in one object.
    """

    name: str
    module: nn.Module
    shape: tuple[int, ...] | None
    tensor: tuple[int, int] | None


def list_sites(model: nn.Module | str, input_size: int | tuple[int, int] | None = None, in_channels: int = 3) -> list[Site]:
    """The places of a network where attention can be attached, in order of execution.

    A site is a submodule that runs exactly once a forward pass and returns a feature map of more than one position: (N, C, H, W);
    (N, H, W, C); or, for networks with timm's patch grid, tokens (N, T, D). A container that returns the very tensor of its last
    child is listed once, under the shorter name. The network runs once, on zeros, in eval mode without gradients, and is left as
    it was: parameters, buffers, flags, hooks and torch's random numbers.

    Args:
        model: a network, or the name of a timm model (built with fresh weights).
        input_size: side or (height, width) in pixels; by default what the network declares, else 224, else 32.
        in_channels: channels of the images.

    Raises:
        ValueError: the timm name is unknown, or the network does not run on such images.
    """
    if isinstance(model, str):
        with torch.random.fork_rng(devices=[]):
            model = create_backbone(model, in_channels=in_channels, input_size=input_size)
    height, width = network_input_size(model, input_size, in_channels)
    calls = trace_calls(model, (height, width), in_channels)
    runs = Counter(call.name for call in calls)
    listed: list[tuple[Site, Call]] = []
    for i, call in enumerate(calls):
        site = _as_site(call, model, (height, width)) if runs[call.name] == 1 else None
        same = [other for other in calls[:i] if other.tensor == call.tensor]
        inner = [other for other in same if other.name.startswith(call.name + ".")]
        # a module that only hands its input on (dropout in eval mode), and the weights of an attention layer, are no sites
        if site is None or (same and not inner) or any(isinstance(other.module, nn.Softmax) for other in [call, *same]):
            continue
        covered = [entry for entry in listed if entry[1] in inner]
        aliases = tuple(name for old, _ in covered for name in (*old.aliases, old.name))
        listed = [entry for entry in listed if entry not in covered]
        listed.append((replace(site, aliases=aliases), call))
    return [site for site, _ in listed]


def find_site(sites: Sequence[Site], name: str) -> Site:
    """The site called ``name``, or that returns the tensor of the module called so.

    Raises:
        ValueError: there is none; the message gives the nearest names and some of the outermost ones.
    """
    for site in sites:
        if name == site.name or name in site.aliases:
            return site
    if not sites:
        raise ValueError(f"no site {name!r}: the network has no module that runs once and returns a feature map")
    names = [site.name for site in sites]
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.6)
    shallow = sorted(names, key=lambda known: known.count("."))  # stable: in order of execution within a depth
    # the last of them: late sites are the usual choice, and a network of one long Sequential has too many to print
    outer = [known for known in names if known.count(".") <= shallow[min(2, len(names) - 1)].count(".") and known not in near]
    shown = outer[-(10 - len(near)) :]
    hint = f"did you mean {', '.join(near)}? " if near else ""
    which = "outermost sites" if len(shown) == len(outer) else f"the last {len(shown)} of {len(outer)} outermost sites"
    raise ValueError(f"no site {name!r}; {hint}{which}: {', '.join(shown) or 'no others'}")


def network_input_size(network: nn.Module, input_size: int | tuple[int, int] | None, in_channels: int = 3) -> tuple[int, int]:
    """(height, width) to run ``network`` on: as asked, else as it declares, else the first of 224 and 32 it runs on.

    Raises:
        ValueError: ``input_size`` is malformed, or the network declares nothing and runs on neither.
    """
    if input_size is not None:
        return image_size(input_size)
    declared = declared_input_size(network)
    if declared is not None:
        return declared
    for size in DEFAULT_SIZES[:-1]:
        try:
            trace_calls(network, size, in_channels)
        except ValueError:
            continue
        return size
    return DEFAULT_SIZES[-1]


def trace_calls(network: nn.Module, size: tuple[int, int], in_channels: int = 3) -> list[Call]:
    """Run ``network`` once on one image of zeros: every execution of its modules in order of completion, the network's own last.

    The network is left `untouched`, and no feature map is kept.

    Raises:
        ValueError: the network does not run on a (1, in_channels, height, width) input; its error is quoted.
    """
    if any(nn.parameter.is_lazy(p) for p in [*network.parameters(), *network.buffers()]):
        raise ValueError("the network has lazy modules without weights yet; run it once on a batch of images first")
    calls: list[Call] = []
    seen: dict[int, tuple[weakref.ref[Tensor], int]] = {}

    def record(name: str, module: nn.Module, output: Any) -> None:
        if not isinstance(output, Tensor):
            calls.append(Call(name, module, None, None))
            return
        known = seen.get(id(output))
        # an id may be that of a tensor gone since
        number = known[1] if known is not None and known[0]() is output else len(calls)
        seen[id(output)] = (weakref.ref(output), number)
        calls.append(Call(name, module, tuple(output.shape), (number, output._version)))

    device, dtype = module_device_and_dtype(network)
    shape = (1, in_channels, *size)
    with untouched(network):
        for name, module in network.named_modules():
            module.register_forward_hook(lambda module, _, output, name=name: record(name, module, output))
        try:
            network(torch.zeros(shape, device=device, dtype=dtype))
        except Exception as error:
            raise ValueError(
                f"the network does not run on images of shape {shape}: {one_line(error)}; set input_size and in_channels"
            ) from error
    return calls


@contextmanager
def untouched(network: nn.Module) -> Iterator[None]:
    """Eval mode without gradients inside; afterwards, whatever happens, the network is as it was.

    Put back are the attributes of every module (training flags, hooks, parameters, submodules, lists and dicts one level deep),
    the values of buffers, and torch's random state on the CPU and on the network's CUDA devices.
    """
    modules = list(network.modules())
    attributes = [dict(vars(module)) for module in modules]
    values = [value for saved in attributes for value in saved.values()]
    containers = [(value, copy.copy(value)) for value in values if isinstance(value, dict | list | set)]
    buffers = [(buffer, buffer._version, buffer.detach().clone()) for buffer in network.buffers()]
    devices = {tensor.device for tensor in network.parameters() if tensor.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=list(devices)), torch.no_grad():
            for module in modules:
                # the flag itself: eval() may be overridden to do more
                module.training = False
            yield
    finally:
        for module, saved in zip(modules, attributes, strict=True):
            vars(module).clear()
            vars(module).update(saved)
        for container, content in containers:
            container.clear()
            (container.extend if isinstance(container, list) else container.update)(content)
        with torch.no_grad():
            for buffer, version, value in buffers:
                if buffer._version != version:
                    buffer.copy_(value)


def _as_site(call: Call, network: nn.Module, size: tuple[int, int]) -> Site | None:
    """The feature map a call returned, if it is one."""
    shape = call.shape
    if not call.name or shape is None or isinstance(call.module, nn.Identity) or len(shape) not in (3, 4) or shape[0] != 1:
        return None
    grid = _patch_grid(network, size)
    prefix = int(getattr(network, "num_prefix_tokens", 0) or 0)
    if len(shape) == 3:
        if grid is None or grid[0] * grid[1] < 2 or shape[1] - grid[0] * grid[1] not in (0, prefix):
            return None
        return Site(call.name, shape[2], *grid, round(size[0] / grid[0]), "tokens", shape[1] - grid[0] * grid[1])
    _, a, b, c = shape
    if grid is not None and b == c == grid[0] * grid[1] + prefix:
        return None  # the weights of an attention layer between tokens, one map a head
    layout = _layout(call.module, (a, b, c), size, getattr(network, "output_fmt", None) == "NHWC")
    if layout is None:
        return None
    channels, height, width = (a, b, c) if layout == "NCHW" else (c, a, b)
    return Site(call.name, channels, height, width, round(size[0] / height), layout) if height * width > 1 else None


def _layout(module: nn.Module, shape: tuple[int, int, int], size: tuple[int, int], channels_last: bool) -> Layout | None:
    """Which two of three dimensions are space: those of the image's proportions, the convention of the network in doubt."""
    first, last = _proportional(shape[1:], size), _proportional(shape[:2], size)
    if isinstance(module, CHANNELS_FIRST) or (first and not (last and channels_last)):
        return "NCHW"
    return "NHWC" if last else None


def _proportional(map_size: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether a map can be the image scaled down: the same proportions, up to rounding by one position."""
    height, width = map_size
    return height <= size[0] and width <= size[1] and abs(height * size[1] - width * size[0]) < max(size)


def _patch_grid(network: nn.Module, size: tuple[int, int]) -> tuple[int, int] | None:
    """(rows, columns) of timm's patch embedding for images of ``size``; None where the network has no such grid."""
    embed = getattr(network, "patch_embed", None)
    if embed is not None and getattr(network, "dynamic_img_size", False) and hasattr(embed, "dynamic_feat_size"):
        return tuple(embed.dynamic_feat_size(size))
    grid = getattr(embed, "grid_size", None)
    return tuple(grid) if grid is not None else None

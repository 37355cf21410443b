"""Multiply-accumulates of a network, counted from its convolutions and linear layers as they run."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

__all__ = ["count_macs"]


def count_macs(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of all convolution and linear modules for one image on the mean path.

    Each execution is counted once, whatever names a module goes by. Attention products of transformers, normalisation and
    activations are not counted (the convention of the paper's table 4).

    Args:
        model: left as it was.
        image_shape: (channels, height, width).
    """
    total = 0

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            kernel = module.in_channels // module.groups * math.prod(module.kernel_size)
            total += output.numel() * kernel
        elif isinstance(module, nn.Linear):
            total += output.numel() * module.in_features

    twin = copy.deepcopy(model).eval()
    for module in twin.modules():
        module.register_forward_hook(count)
    parameter = next(twin.parameters())
    with torch.no_grad():
        twin(torch.zeros(1, *image_shape, device=parameter.device, dtype=parameter.dtype))
    return total

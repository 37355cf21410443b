"""Convolutions and linear layers of a network, called alone with what they saw in a training step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["LAYERS", "BareLayers"]

LAYERS = (nn.Conv2d, nn.Linear)
"""The layers that any network of these shapes has to pay for."""


class BareLayers:
    """The convolutions and linear layers of one training step, without anything between them.

    Inputs and the gradients of outputs are those of the step, in their memory order, and frozen. `run` calls every layer forward in
    the order of the step and then backward in the opposite one, so that all outputs are held in between, as in the step. Gradients
    are computed for weights and biases, and for an input where the step needs its gradient: not for the images.

    Args:
        model: the network.
        step: makes a forward and a backward pass of it.
    """

    def __init__(self, model: nn.Module, step: Callable[[], object]) -> None:
        self.calls: list[tuple[nn.Module, Tensor]] = []
        gradients: dict[int, Tensor] = {}

        def record(module: nn.Module, inputs: Any, output: Tensor) -> None:
            place = len(self.calls)
            self.calls.append((module, inputs[0].detach().clone().requires_grad_(inputs[0].requires_grad)))
            if output.requires_grad:
                output.register_hook(lambda gradient: gradients.update({place: gradient.detach().clone()}))

        hooks = [module.register_forward_hook(record) for module in model.modules() if isinstance(module, LAYERS)]
        try:
            step()
        finally:
            for handle in hooks:
                handle.remove()
        self.gradients = gradients

    def run(self) -> None:
        """All layers forward, then backward."""
        outputs = [module(inputs) for module, inputs in self.calls]
        for place in reversed(range(len(outputs))):
            module, inputs = self.calls[place]
            wanted: list[Tensor] = [parameter for parameter in module.parameters() if parameter.requires_grad]
            if inputs.requires_grad:
                wanted.append(inputs)
            output = outputs.pop()
            if wanted and place in self.gradients:
                torch.autograd.grad(output, wanted, self.gradients[place])

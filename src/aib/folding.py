"""Batch normalisation folded into the layer before it: an evaluation copy that computes the same with fewer operations.

In eval mode a batch normalisation is a fixed scale and shift a channel, which the weights and biases of the layer before it can
take over. Which layer that is, and that nothing else sees what it returns, is not read from names: one forward pass is watched,
down to torch's operations.
"""

from __future__ import annotations

import copy
import sys
from collections import defaultdict
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from aib.classifier import Classifier, Details

__all__ = ["fold_batch_norm"]

LAYERS = {nn.Conv1d: 3, nn.Conv2d: 4, nn.Conv3d: 5, nn.Linear: 2}
"""Layers that can take a normalisation over, exactly these types, and the dimensions of an output whose second is the channels."""

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
"""Exactly these types (and timm's normalisation with an activation inside): what inherits from them may do more."""

TOLERANCE = 1e-3
"""Largest difference of the logits on the watched images, as a share of the largest of them; rounding makes about 1e-6."""


def fold_batch_norm(model: Classifier, images: Tensor) -> Classifier:
    """A copy of ``model`` in eval mode with every `BatchNorm` that directly follows a convolution or linear layer folded into it.

    Layers are folded where the normalisation takes the very tensor that the layer returned, nothing else uses it, and neither is
    used twice or has hooks. The copy's results differ by rounding; it is for inference and not for training or saving.

    Args:
        model: in eval mode; it is left untouched.
        images: (N, C, H, W), normalised, one is enough: the forward pass that is watched, and on which both are compared.

    Raises:
        ValueError: the model is in training mode, has nothing to fold, or cannot do without its normalisations.
    """
    if model.training:
        raise ValueError("the model is in training mode, where batch normalisation follows each batch; call eval() before folding")
    folded = copy.deepcopy(model)
    with torch.no_grad():
        pairs, details = _watch(folded, images)
        if not pairs:
            raise ValueError("the model has nothing to fold: no batch normalisation directly follows a convolution or linear layer")
        names = {module: name for name, module in folded.named_modules()}
        for layer, norm in pairs:
            layer.weight, layer.bias = fuse_conv_bn_weights(
                layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
            folded.set_submodule(names[norm], _what_is_left(norm).eval())
        try:
            difference = (folded.forward_details(images).logits - details.logits).abs().max().item()
        except AttributeError as error:  # a network that reads the numbers of a normalisation that is gone
            raise ValueError(f"the model cannot do without its batch normalisations ({error}); use it as it is") from error
    if not difference <= TOLERANCE * max(1.0, details.logits.abs().max().item()):
        raise ValueError(f"the model's logits change by {difference:.2g} when its batch normalisations are folded; use it as it is")
    return folded


def _watch(model: Classifier, images: Tensor) -> tuple[list[tuple[Any, Any]], Details]:
    """The pairs of layer and normalisation that can be folded, in order of execution, and what the watched pass gave."""
    candidates = [module for module in model.modules() if (type(module) in LAYERS or _is_norm(module)) and not _has_hooks(module)]
    uses = _Uses()
    calls: dict[nn.Module, int] = defaultdict(int)
    outputs: dict[int, tuple[nn.Module, Tensor]] = {}  # by identity; held, so that none takes the place of another
    pairs: list[tuple[nn.Module, nn.Module, Tensor]] = []

    def start(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        calls[module] += 1
        if _is_norm(module) and inputs and id(inputs[0]) in outputs:
            layer, output = outputs[id(inputs[0])]
            pairs.append((layer, module, output))
        uses.running.append(module)

    def stop(module: nn.Module, _: Any, output: Any) -> None:
        uses.running.pop()
        if type(module) in LAYERS and output.ndim == LAYERS[type(module)]:
            outputs[id(output)] = (module, output)

    handles = [module.register_forward_pre_hook(start) for module in candidates]
    handles += [module.register_forward_hook(stop) for module in candidates]
    try:
        with uses:
            details = model.forward_details(images)
    finally:
        for handle in handles:
            handle.remove()
    uses.note((getattr(details, field.name) for field in fields(details)), by=model)

    def alone(layer: nn.Module, norm: nn.Module, output: Tensor) -> bool:
        return (
            calls[layer] == calls[norm] == 1
            and uses.by(output) <= {layer, norm}
            and all(uses.by(own) <= {module} for module in (layer, norm) for own in [*module.parameters(), *module.buffers()])
        )

    return [(layer, norm) for layer, norm, output in pairs if alone(layer, norm, output)], details


class _Uses(TorchDispatchMode):
    """Which modules' operations took which memory, views of a tensor included.

    Attributes:
        running: the modules of interest that are at work, the innermost last.
    """

    def __init__(self) -> None:
        super().__init__()
        self.running: list[nn.Module] = []
        self._users: dict[int, set[nn.Module | None]] = defaultdict(set)
        self._held: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.note((args, kwargs), by=self.running[-1] if self.running else None)
        result = func(*args, **(kwargs or {}))
        self._held += [value for value in tree_iter(result) if isinstance(value, Tensor)]
        return result

    def note(self, values: Any, by: nn.Module | None) -> None:
        """Enter that ``by``, or none of the modules of interest, used every tensor in ``values``."""
        for value in tree_iter(tuple(values)):
            if isinstance(value, Tensor):
                self._users[value.untyped_storage()._cdata].add(by)

    def by(self, tensor: Tensor) -> set[nn.Module | None]:
        """Modules that used the memory of ``tensor``, and None where something outside of them did."""
        return self._users[tensor.untyped_storage()._cdata]


def _is_norm(module: nn.Module) -> bool:
    """Whether it is a batch normalisation with fixed statistics."""
    known = type(module) in NORMS or _activates(module)
    return known and not module.training and getattr(module, "running_mean", None) is not None


def _has_hooks(module: nn.Module) -> bool:
    """Whether somebody watches or changes what goes through the module."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "parametrizations")
    return any(getattr(module, kind, None) for kind in kinds)


def _activates(module: nn.Module) -> bool:
    """Whether it is timm's batch normalisation with an activation inside; there is none where timm was not imported."""
    if "timm" not in sys.modules:
        return False
    from timm.layers import BatchNormAct2d

    return type(module) is BatchNormAct2d


def _what_is_left(norm: Any) -> nn.Module:
    """What of a normalisation is still to be done once it is folded."""
    return nn.Identity() if type(norm) in NORMS else nn.Sequential(norm.drop, norm.act)

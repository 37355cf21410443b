"""Explainers: a model's own attention map and Grad-CAM behind one verb, ``attribute(images, target)``.

Every explainer leaves its model as it found it: weights, their ``.grad``, buffers, training flags and hooks.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from aib.classifier import Classifier, PlainClassifier, Target, target_classes

__all__ = ["AttentionMap", "Explainer", "GradCAM", "Target", "conv_layers", "evaluating", "find_layer", "target_classes"]

_CONVS_AND_NORMS = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
_UNUSED = ("Forward hook did not obtain", "not have been used in the graph")


@runtime_checkable
class Explainer(Protocol):
    """What the metrics, the figures and the scores ask of an explainer, ours or another's."""

    def attribute(self, images: Tensor, target: Target = None) -> Tensor:
        """Maps (N, 1, h, w) float32 of normalised images (N, C, H, W), at the explainer's own resolution.

        `aib.functional.resize_maps` brings them to another size. Explainers of a map that does not depend on the class ignore
        ``target``.
        """
        ...


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """``model`` in eval mode inside the block; afterwards every submodule has the training flag it had."""
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in flags.items():
            module.training = training


class AttentionMap:
    """A model's own attention, on the mean path: deterministic, and one map for all classes but where the model has one for each.

    Args:
        model: an attentive classifier.
        kind: ``"map"`` is the map that modulated the features (anchor values where there are anchors), ``"mean"`` the continuous
            mean in (0, 1) before the anchors.

    Raises:
        ValueError: ``kind`` is neither of the two, or the model is a plain one; `attribute` raises it if the model gives no map.
    """

    def __init__(self, model: Classifier, kind: Literal["map", "mean"] = "map") -> None:
        if kind not in ("map", "mean"):
            raise ValueError(f"kind is {kind!r}; it must be 'map' or 'mean'")
        if not model.has_map:
            raise ValueError(f"{type(model).__name__} has no attention map; explain it with GradCAM")
        self.model = model
        self.kind = kind

    @torch.no_grad()
    def attribute(self, images: Tensor, target: Target = None) -> Tensor:
        """Maps (N, 1, h, w) float32 at the resolution of the attention.

        ``target`` chooses among the class activation maps of `aib.models.vgg_gap`; it changes no other model's map.
        """
        with evaluating(self.model):
            details = self.model.forward_details(images, target=target)
        attention = details.map if self.kind == "map" else details.attention_mean
        if attention is None:
            raise ValueError(f"{type(self.model).__name__} gives no attention {self.kind}; explain it with GradCAM")
        return attention.float()


class GradCAM:
    """Grad-CAM (Selvaraju et al. 2017) at one layer, through captum.

        map = ReLU(sum_k  mean_positions(d logit_target / d A_k) * A_k),    A the output (N, K, h, w) of the layer

    Of a network that is convolution, global average pooling and a linear layer, this is class activation mapping. The gradient is
    that of the logit, not of the probability, so a confident prediction does not fade the map.

    Args:
        model: images to logits (N, classes).
        layer: a submodule of ``model`` with output (N, K, h, w), or its name; `conv_layers` lists good ones. Of a layer that is
            called several times in one pass, the last call counts.

    Raises:
        ValueError: the model has no such layer (near names are given); `attribute` raises it for a layer without an output of four
            dimensions, and for a target that is no class.
    """

    def __init__(self, model: nn.Module, layer: nn.Module | str) -> None:
        self.name, self.layer = find_layer(model, layer)
        self.model = model

    def attribute(self, images: Tensor, target: Target = None) -> Tensor:
        """Maps (N, 1, h, w) float32 >= 0 at the layer's resolution, of ``target`` or the predicted class."""
        from captum.attr import LayerGradCam

        if images.ndim != 4 or not len(images):
            raise ValueError(f"images have shape {tuple(images.shape)}; expected (N, C, H, W) with N >= 1")

        def chosen(inputs: Tensor) -> Tensor:
            logits = self.model(inputs)
            return logits.gather(1, target_classes(target, logits)[:, None]).squeeze(1)

        # a caller's no_grad or inference_mode must not reach the gradient Grad-CAM needs
        with torch.inference_mode(False), torch.enable_grad(), evaluating(self.model):
            try:
                maps = LayerGradCam(chosen, self.layer).attribute(images.detach().clone(), relu_attributions=True)
            except (AssertionError, RuntimeError) as error:
                if not any(text in str(error) for text in _UNUSED):
                    raise
                raise ValueError(f"the logits do not depend on layer {self.name!r}; conv_layers lists layers to explain") from None
        if not isinstance(maps, Tensor) or maps.ndim != 4:
            shape = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
            raise ValueError(f"layer {self.name!r} gives a map of shape {shape}; Grad-CAM needs an output (N, K, h, w)")
        return maps.detach().float()


def find_layer(model: nn.Module, layer: nn.Module | str) -> tuple[str, nn.Module]:
    """The name and the module of a layer given as either.

    Raises:
        ValueError: the model has no such layer; near names are given.
    """
    layers = {name: module for name, module in model.named_modules() if name}
    if isinstance(layer, str):
        if layer not in layers:
            near = difflib.get_close_matches(layer, layers, n=3, cutoff=0.5) or list(layers)[:3]
            raise ValueError(f"the model has no layer {layer!r}; near names are {', '.join(near)}")
        return layer, layers[layer]
    names = [name for name, module in layers.items() if module is layer]
    if not names:
        raise ValueError(f"this {type(layer).__name__} is not a layer of the model; expected one of its submodules")
    return names[0], layers[names[0]]


@torch.no_grad()
def conv_layers(model: nn.Module, image_shape: tuple[int, int, int]) -> list[tuple[str, tuple[int, int, int]]]:
    """Layers worth a Grad-CAM, for a search of the best one: the last at every spatial resolution, in forward order, of those with
    several channels where there are such.

    Candidates are convolutions, normalisations and activations, and blocks that compute on their output themselves (a residual
    sum); what only pools or passes on is none. Of a plain classifier the attention site ``"features"`` is added. Left out are 1x1
    maps, which locate nothing, and the attention module, whose layers explain the attention and not the class.

    Args:
        image_shape: (C, H, W) of an image.

    Returns:
        (name, (channels, height, width) of its output) of every layer.

    Raises:
        ValueError: ``image_shape`` is not three positive numbers.
    """
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(f"image_shape is {image_shape}; expected (channels, height, width) such as (3, 32, 32)")
    attention = model.attention_parts() if isinstance(model, Classifier) else []
    inside_attention = {part for module in attention for part in module.modules()}
    shapes: dict[str, tuple[int, int, int]] = {}
    latest: list[Any] = [None]

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            # a container that passes its last child's output on returns that very tensor, a block that computes a new one
            container = next(module.children(), None) is not None
            wanted = output is not latest[0] if container else _is_conv_norm_or_activation(module)
            if (wanted or name == site) and isinstance(output, Tensor) and output.ndim == 4 and output.shape[-2:].numel() > 1:
                shapes.pop(name, None)
                shapes[name] = (output.shape[1], output.shape[2], output.shape[3])
            latest[0] = output

        return hook

    site = "features" if isinstance(model, PlainClassifier) else None
    watched = [(name, module) for name, module in model.named_modules() if name and module not in inside_attention]
    hooks = [module.register_forward_hook(watch(name)) for name, module in watched]
    like = next(model.parameters(), torch.empty(0))
    try:
        with evaluating(model):
            model(torch.zeros(1, *image_shape, device=like.device, dtype=like.dtype))
    finally:
        for handle in hooks:
            handle.remove()
    # a layer of one channel scores positions, as attention does, and has no channels to weigh: it counts where there is no other
    ranked = sorted(shapes.items(), key=lambda item: item[1][0] > 1)
    last = {shape[1:]: name for name, shape in ranked}
    return [(name, shape) for name, shape in shapes.items() if name == site or name == last[shape[1:]]]


def _is_conv_norm_or_activation(module: nn.Module) -> bool:
    return isinstance(module, _CONVS_AND_NORMS) or type(module).__module__ == "torch.nn.modules.activation"

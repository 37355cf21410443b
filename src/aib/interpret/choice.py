"""Explainers by name, with the layers they look at by default, so that all are made on the same footing."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from aib.classifier import Classifier
from aib.interpret.attribution import IntegratedGradients, Occlusion
from aib.interpret.explainers import AttentionMap, Explainer, GradCAM, conv_layers, evaluating
from aib.interpret.iba import BottleneckAttribution

__all__ = ["EXPLAINERS", "bottleneck_layer", "cam_layer", "make_explainer"]

EXPLAINERS = {
    "own": "the model's own attention map",
    "gradcam": "Grad-CAM (Selvaraju et al. 2017) at one layer",
    "integrated_gradients": "integrated gradients (Sundararajan et al. 2017) from the mean image",
    "occlusion": "occlusion (Zeiler and Fergus 2014) by windows of the mean colour",
    "iba": "per-sample information bottleneck (Schulz et al. 2020) at one layer",
}
"""What each name stands for."""

AT_A_LAYER = ("gradcam", "iba")
"""Explainers that look at one layer, which ``NAME@LAYER`` chooses."""

_LEAST_SIDE = 7
"""Positions that a map of Grad-CAM has at least, in height and width: those of the last layer of most networks at 224 pixels. Where
small images give a coarser last layer, it hardly locates anything."""


def make_explainer(
    name: str,
    model: nn.Module,
    image_shape: tuple[int, int, int],
    calibration: Tensor | Iterable[Tensor] | None = None,
    seed: int = 0,
) -> Explainer:
    """An explainer of `EXPLAINERS` with its default settings.

    Args:
        name: of the explainer; ``gradcam@LAYER`` and ``iba@LAYER`` choose the layer, by default `cam_layer` and
            `bottleneck_layer`.
        model: images to logits; ``own`` needs one with a map.
        image_shape: (C, H, W) of the images it will explain.
        calibration: normalised images, (N, C, H, W) or batches of them, whose statistics ``iba`` takes for noise; others ignore
            them. Images of the training set, a few hundred or more.
        seed: of the noise of ``iba``.

    Raises:
        ValueError: the name is unknown (the nearest is given), a layer is named for an explainer without one, ``iba`` has no
            images, and whatever the explainer raises, such as a plain model asked for its ``own`` map.
    """
    kind, at, layer = name.partition("@")
    if kind not in EXPLAINERS:
        near = difflib.get_close_matches(kind, EXPLAINERS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"no explainer {name!r}; {hint}explainers are {', '.join(EXPLAINERS)}")
    if at and kind not in AT_A_LAYER:
        raise ValueError(f"{name!r} names a layer, which {kind} does not have; those with one are {', '.join(AT_A_LAYER)}")
    if kind == "own":
        if not isinstance(model, Classifier):
            raise ValueError(f"{type(model).__name__} has no attention map; explain it with {', '.join(list(EXPLAINERS)[1:])}")
        return AttentionMap(model)
    if kind == "gradcam":
        return GradCAM(model, layer if at else cam_layer(model, image_shape))
    if kind == "integrated_gradients":
        return IntegratedGradients(model)
    if kind == "occlusion":
        return Occlusion(model)
    if calibration is None:
        raise ValueError("iba measures its noise on images; give some of the training set as calibration")
    return BottleneckAttribution(model, layer if at else bottleneck_layer(model, image_shape), seed=seed).estimate(calibration)


def cam_layer(model: nn.Module, image_shape: tuple[int, int, int]) -> str:
    """The layer Grad-CAM looks at by default: of `conv_layers` with at least 7x7 positions, the last of the coarsest.

    Where all are coarser, the last of those with the most positions. Layers of one channel, gates and scores, are passed over
    where there are others. A default, not the best: `conv_layers` serves to search that.

    Raises:
        ValueError: the model has no such layer, or ``image_shape`` is malformed.
    """
    layers = _layers(model, image_shape)
    fine = [height * width for _, (_, height, width) in layers if min(height, width) >= _LEAST_SIDE]
    wanted = min(fine) if fine else max(height * width for _, (_, height, width) in layers)
    return [name for name, (_, height, width) in layers if height * width == wanted][-1]


def bottleneck_layer(model: nn.Module, image_shape: tuple[int, int, int]) -> str:
    """The layer the information bottleneck restricts by default: one that everything passes through, at the resolution to compare.

    That is the resolution of the model's own map; of a model without one, that of the middle of `conv_layers`, the earlier of two.
    Of the layers of this resolution, or else of the nearest (the ratio of the sides), the last of `conv_layers` is taken, then the
    last of the others.

    Noise in a branch of a residual block restricts nothing, since the class can be told from what goes around it, so layers that
    are bypassed are passed over. Whether one is, is tried out: given what the layer made of another image, an image must have the
    logits of that other.

    Raises:
        ValueError: the model has no layer that everything passes through, or ``image_shape`` is malformed.
    """
    layers = dict(_layers(model, image_shape))
    one, other = _images(model, image_shape).split(1)
    if isinstance(model, Classifier) and model.has_map:
        wanted = tuple(AttentionMap(model).attribute(one).shape[2:])
    else:
        wanted = list(layers.values())[(len(layers) - 1) // 2][1:]
    outputs, expected = _outputs(model, one)

    def preference(at: int) -> tuple[float, bool, int]:
        sides = zip(outputs[names[at]].shape[2:], wanted, strict=True)
        return round(sum(abs(math.log(side / its)) for side, its in sides), 6), names[at] not in layers, -at

    names = list(outputs)
    for name in (names[at] for at in sorted(range(len(names)), key=preference)):
        if _everything_passes(model, name, outputs[name], other, expected):
            return name
    raise ValueError(f"{type(model).__name__} has no layer that everything passes through; name one, as in iba@LAYER")


def _layers(model: nn.Module, image_shape: tuple[int, int, int]) -> list[tuple[str, tuple[int, int, int]]]:
    layers = conv_layers(model, image_shape)
    if not layers:
        raise ValueError(f"{type(model).__name__} has no convolution with a map to explain; name a layer, as in gradcam@LAYER")
    return [(name, shape) for name, shape in layers if shape[0] > 1] or layers


def _images(model: nn.Module, image_shape: tuple[int, int, int]) -> Tensor:
    """Two images of noise for the model."""
    like = next(model.parameters(), torch.empty(0))
    return torch.randn(2, *image_shape, generator=torch.Generator().manual_seed(0)).to(like)


@torch.no_grad()
def _outputs(model: nn.Module, image: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """What each module with an output (1, C, h, w) gave, in order of completion, and the logits (1, classes).

    Left out are modules that run more than once, and those of the attention, which everything goes around.
    """
    parts = model.attention_parts() if isinstance(model, Classifier) else []
    attention = {part for module in parts for part in module.modules()}
    outputs: dict[str, Tensor] = {}
    runs: Counter[str] = Counter()

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            runs[name] += 1
            if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:].numel() > 1:
                outputs[name] = output.clone()  # a layer that follows may work in place

        return hook

    watched = [(name, module) for name, module in model.named_modules() if name and module not in attention]
    hooks = [module.register_forward_hook(watch(name)) for name, module in watched]
    try:
        with evaluating(model):
            logits = model(image)
    finally:
        for handle in hooks:
            handle.remove()
    return {name: output for name, output in outputs.items() if runs[name] == 1}, logits


@torch.no_grad()
def _everything_passes(model: nn.Module, name: str, output: Tensor, image: Tensor, expected: Tensor) -> bool:
    """Whether ``image`` has the logits ``expected`` of another image once the layer gives the ``output`` it gave for that one."""
    with evaluating(model):
        apart = (model(image) - expected).abs().max()
        with model.get_submodule(name).register_forward_hook(lambda *_: output.clone()):
            left = (model(image) - expected).abs().max()
    # two passes of the same values may differ by rounding
    return bool(left <= 1e-3 * apart + 1e-6 * expected.abs().max())

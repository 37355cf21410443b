"""Maps of this package in other people's tools: pytorch-grad-cam, Quantus and captum.

Each adapter takes an explainer, or an attentive classifier, whose own map is then meant. None of the three packages is imported
here, and of these only captum is a dependency of this one.

All three want maps at the size of the images: ours are resized bilinearly, half-pixel convention.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard, cast

import numpy as np
import torch
from torch import Tensor, nn

from aib.classifier import Classifier
from aib.functional import resize_maps
from aib.interpret.choice import make_explainer
from aib.interpret.explainers import AttentionMap, Explainer, Target

if TYPE_CHECKING:
    from captum.attr import Attribution

__all__ = ["CamAdapter", "as_cam", "captum_attribution", "quantus_explain_func"]


class CamAdapter:
    """An explainer called like the CAM objects of pytorch-grad-cam; `as_cam` makes it.

        with as_cam(model) as cam:
            grey = cam(input_tensor=images, targets=[ClassifierOutputTarget(3)])    # (N, H, W)

    Their convention is followed: negative values become 0, and each map is scaled from its least and greatest value to [0, 1] at
    the size of the images; a constant map becomes 0. So the values of two images cannot be compared: keep the explainer's own for
    that.

    Attributes:
        explainer: whose maps these are.
        model: the network that it explains, or None if it tells none.
    """

    def __init__(self, explainer: Explainer) -> None:
        self.explainer = explainer
        self.model: nn.Module | None = getattr(explainer, "model", None)

    def __call__(
        self,
        input_tensor: Tensor,
        targets: Sequence[Any] | Tensor | int | None = None,
        aug_smooth: bool = False,
        eigen_smooth: bool = False,
    ) -> np.ndarray:
        """Maps (N, H, W) float32 in [0, 1] of normalised images (N, C, H, W).

        Args:
            input_tensor: the images; they are brought to the model's device.
            targets: for each image a class or an object with ``category`` such as their ``ClassifierOutputTarget``, of which only
                the category counts: the logit is explained. One class for all, or None for the predicted ones.
            aug_smooth, eigen_smooth: must be False; they are here because callers pass them.

        Raises:
            ValueError: a target without a category, as many targets as there are no images, a smoothing, and whatever the
                explainer raises.
        """
        if aug_smooth or eigen_smooth:
            raise ValueError("aug_smooth and eigen_smooth are not supported; leave both False")
        images = input_tensor if self.model is None else input_tensor.to(_like(self.model).device)
        maps = _resized(self.explainer, images, _categories(targets), positive=True)
        low, high = maps.amin((1, 2, 3), keepdim=True), maps.amax((1, 2, 3), keepdim=True)
        scaled = (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)
        return scaled.squeeze(1).numpy()

    def __enter__(self) -> CamAdapter:
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing to release, and no exception is swallowed."""


def as_cam(model_or_explainer: nn.Module | Explainer) -> CamAdapter:
    """A callable like the CAM objects of pytorch-grad-cam, for its metrics and pictures; see `CamAdapter`.

    Raises:
        ValueError: neither an explainer nor a classifier with a map.
    """
    return CamAdapter(_explainer(model_or_explainer))


def quantus_explain_func(
    model: nn.Module,
    inputs: np.ndarray,
    targets: np.ndarray,
    *,
    explainer: str | Explainer | Callable[[nn.Module], Explainer] = "own",
    calibration: Tensor | None = None,
    device: str | torch.device | None = None,
) -> np.ndarray:
    """Maps as Quantus wants them of an ``explain_func``; its metrics pass on what follows by ``explain_func_kwargs``.

        metric = quantus.PixelFlipping()
        metric(model, x_batch, y_batch, explain_func=quantus_explain_func, explain_func_kwargs={"explainer": "gradcam"})

    Metrics that randomise a network pass copies of it as ``model``, so an explainer is made anew for each: by name, or by a
    function of the model. One that is made already serves for the model it was made for only.

    Args:
        model: images to logits.
        inputs: (N, C, H, W) normalised images, channels first.
        targets: (N,) classes.
        explainer: a name of `aib.interpret.choice.EXPLAINERS`, a function from model to explainer, or an explainer.
        calibration: images for ``iba`` by name, which measures them again on every call.
        device: where the model is; by default found out.

    Returns:
        (N, 1, H, W) float32.

    Raises:
        ValueError: inputs that are no images, a model on another device than ``device``, an explainer of another model, and
            whatever the explainer raises.
    """
    if inputs.ndim != 4 or not inputs.size:
        raise ValueError(f"inputs have shape {inputs.shape}; expected (N, C, H, W) with N >= 1")
    like = _like(model)
    if device is not None and not _same_device(torch.device(device), like.device):
        raise ValueError(f"the model is on {like.device} and device is {str(device)!r}; move the model there first")
    if isinstance(explainer, str):
        channels, height, width = inputs.shape[1:]
        made = make_explainer(explainer, model, (channels, height, width), calibration)
    elif _is_explainer(explainer):
        if getattr(explainer, "model", model) is not model:
            raise ValueError("the explainer is that of another model; give its name or a function that makes it for a model")
        made = explainer
    else:
        made = cast(Callable[[nn.Module], Explainer], explainer)(model)
    images = torch.as_tensor(inputs).to(device=like.device, dtype=like.dtype)
    return _resized(made, images, torch.as_tensor(targets)).numpy()


def captum_attribution(model_or_explainer: nn.Module | Explainer) -> Attribution:
    """An ``Attribution`` of captum, for its metrics: ``attribute(inputs, target=None, additional_forward_args=None)``.

    As captum's attributions it has the shape of the inputs (N, C, H, W), on their device: every channel holds the map. Inputs in a
    tuple of one give a tuple of one. ``target`` is a class, one an image (a tensor or list), or None for the predicted class.
    ``additional_forward_args`` must be None.

    Raises:
        ValueError: neither an explainer nor a classifier with a map.
    """
    return _captum_class()(_explainer(model_or_explainer))


@functools.cache
def _captum_class() -> type[Any]:
    """The subclass of captum's ``Attribution``, made on first use since importing captum takes seconds."""
    from captum.attr import Attribution

    class MapAttribution(Attribution):
        """Maps of an explainer at the size of the inputs; see `aib.interpret.adapters.captum_attribution`."""

        def __init__(self, explainer: Explainer) -> None:
            super().__init__(getattr(explainer, "model", None))
            self.explainer = explainer

        def attribute(
            self,
            inputs: Tensor | tuple[Tensor, ...],
            target: Any = None,
            additional_forward_args: Any = None,
        ) -> Tensor | tuple[Tensor, ...]:
            if additional_forward_args is not None:
                raise ValueError("additional_forward_args are given; the model takes images only, so they must be None")
            images = inputs[0] if isinstance(inputs, tuple) else inputs
            if isinstance(inputs, tuple) and len(inputs) != 1:
                raise ValueError(f"inputs are a tuple of {len(inputs)}; the model takes one tensor of images")
            # captum lets a tensor of one class stand for all images
            whole = isinstance(target, Tensor) and target.numel() == 1
            maps = _resized(self.explainer, images, target.reshape(()) if whole else _categories(target))
            attributions = maps.to(images.device).expand_as(images).contiguous()
            return (attributions,) if isinstance(inputs, tuple) else attributions

    return MapAttribution


def _explainer(model_or_explainer: nn.Module | Explainer) -> Explainer:
    if isinstance(model_or_explainer, Classifier):
        return AttentionMap(model_or_explainer)
    if _is_explainer(model_or_explainer):
        return model_or_explainer
    raise ValueError(f"got {type(model_or_explainer).__name__}; expected an explainer or a classifier with an attention map")


def _is_explainer(value: object) -> TypeGuard[Explainer]:
    """Whether ``value`` is an explainer; a class of explainers has the method too, and is a function that makes them."""
    return isinstance(value, Explainer) and not isinstance(value, type)


def _resized(explainer: Explainer, images: Tensor, target: Target, positive: bool = False) -> Tensor:
    """Maps (N, 1, H, W) float32 on the CPU at the size of the images; ``positive`` ones have 0 for what is below."""
    if images.ndim != 4 or not images.numel():
        raise ValueError(f"images have shape {tuple(images.shape)}; expected (N, C, H, W) with N >= 1")
    maps = explainer.attribute(images, target)
    if maps.ndim != 4 or maps.shape[:2] != (len(images), 1):
        raise ValueError(f"{type(explainer).__name__} gives maps {tuple(maps.shape)}; expected ({len(images)}, 1, h, w)")
    # in float64, so that a constant map stays one: scaled to its own range, rounding would become a picture
    maps = maps.detach().cpu().double()
    return resize_maps(maps.clamp_min(0) if positive else maps, (images.shape[2], images.shape[3])).float()


def _categories(targets: Sequence[Any] | Tensor | int | None) -> Target:
    """Targets in the form of any of the packages as one of ours."""
    if targets is None or isinstance(targets, Tensor | int):
        return targets
    if not isinstance(targets, Sequence | np.ndarray) or isinstance(targets, str):
        raise ValueError(f"targets are {type(targets).__name__}; expected a class, a list of one an image, or None")
    classes = [getattr(one, "category", one) for one in targets]
    for one in classes:
        if not isinstance(one, int | np.integer) and not (isinstance(one, Tensor) and one.ndim == 0):
            raise ValueError(f"a target is {type(one).__name__}; expected a class or an object with a category")
    return torch.tensor([int(one) for one in classes])


def _like(model: nn.Module) -> Tensor:
    """A tensor of the type and on the device of the model's weights."""
    return next(model.parameters(), torch.empty(0))


def _same_device(wanted: torch.device, found: torch.device) -> bool:
    return wanted.type == found.type and wanted.index in (None, found.index)

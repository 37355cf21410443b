"""Attributions to pixels: integrated gradients and occlusion, through captum, behind the verb ``attribute(images, target)``.

Both explain the logit of a class, not its probability, and know nothing of what is inside the network. An image is explained in
passes of its own, always of the same size, so its map does not depend on the images beside it. The models are left as they were
found: weights, their ``.grad``, buffers, training flags and hooks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from aib.interpret.explainers import Target, evaluating, target_classes

__all__ = ["IntegratedGradients", "Occlusion", "black_image"]

_WINDOWS = 64
"""Occluded copies of an image that go through the network at once."""

_UNUSED = ("have been used in the graph", "does not require grad")


class IntegratedGradients:
    """Integrated gradients (Sundararajan, Taly and Yan 2017), through captum.

        a_i = (x_i - b_i) * integral over t in [0, 1] of  d logit_target / d x_i  at  b + t (x - b),    b the baseline

    The attributions of an image add up to logit_target(x) - logit_target(b), the completeness of the paper, up to the error of the
    integral; `signed` gives them. A pixel that equals the baseline gets nothing, so a mean baseline hides grey objects and a black
    one black objects. The integral is a Gauss-Legendre quadrature.

    Args:
        model: images to logits (N, classes).
        baseline: the image without information, on the scale of the normalised images: a number, or a tensor that broadcasts to
            one image (C, H, W). 0 is the mean of the data set; `black_image` gives the black one.
        steps: points of the quadrature; as many copies of an image go through the network at once.

    Raises:
        ValueError: ``steps`` is below 1; `attribute` raises it for images that are none, a baseline that does not fit them, logits
            that do not depend on them, and a target that is no class.
    """

    def __init__(self, model: nn.Module, baseline: float | Tensor = 0.0, steps: int = 50) -> None:
        if steps < 1:
            raise ValueError(f"steps is {steps}; it must be at least 1")
        self.model = model
        self.baseline = baseline
        self.steps = steps

    def attribute(self, images: Tensor, target: Target = None) -> Tensor:
        """Maps (N, 1, H, W) float32 >= 0: the absolute attributions, summed over the channels.

        Of ``target`` or the predicted class. Signs are dropped, since a channel's would cancel another's; `signed` keeps both.
        """
        return self.signed(images, target).abs().sum(1, keepdim=True)

    def signed(self, images: Tensor, target: Target = None) -> Tensor:
        """The attributions themselves, (N, C, H, W) float32 of either sign, in units of the logit."""
        from captum.attr import IntegratedGradients as Captum

        with _explaining(self.model, images, target) as (copies, classes), torch.enable_grad():
            baseline = _one_image(self.baseline, "baseline", copies)
            method = Captum(self.model)
            try:
                # one image at a time: every pass has ``steps`` images, whatever the size of the batch
                parts = [
                    method.attribute(image, baselines=baseline, target=chosen, n_steps=self.steps)
                    for image, chosen in zip(copies.split(1), classes)
                ]
            except RuntimeError as error:
                if not any(text in str(error) for text in _UNUSED):
                    raise
                raise ValueError("the logits have no gradient with respect to the images; nothing can be attributed") from None
        return torch.cat(parts).detach().float()


class Occlusion:
    """Occlusion (Zeiler and Fergus 2014), through captum: what a grey window in front of a place costs the class.

        m(p) = mean over the windows w that cover p of  logit_target(x) - logit_target(x with w filled)

    Windows start at the image's first row and column and then every ``stride`` pixels until all of it is covered; the last of a row
    or column may be cut by the border. Positive where the content speaks for the class, negative where it speaks against it.

    Args:
        model: images to logits (N, classes).
        window: side of the window in pixels; by default a quarter of the image's shorter side.
        stride: pixels between windows; by default half the window. An image takes about (side / stride)^2 passes.
        fill: what a window shows, on the scale of the normalised images: a number, or a tensor that broadcasts to one image
            (C, H, W). 0 is the mean of the data set.

    Raises:
        ValueError: a window or stride below 1, or a stride that leaves gaps between windows; `attribute` raises it for images that
            are none or smaller than the window, a fill that does not fit them, and a target that is no class.
    """

    def __init__(self, model: nn.Module, window: int | None = None, stride: int | None = None, fill: float | Tensor = 0.0) -> None:
        if window is not None and window < 1:
            raise ValueError(f"window is {window}; it must be at least 1 pixel")
        if stride is not None and stride < 1:
            raise ValueError(f"stride is {stride}; it must be at least 1 pixel")
        if window is not None and stride is not None and stride > window:
            raise ValueError(f"stride is {stride}; it must be at most the window, {window}, or pixels between windows are left out")
        self.model = model
        self.window = window
        self.stride = stride
        self.fill = fill

    def attribute(self, images: Tensor, target: Target = None) -> Tensor:
        """Maps (N, 1, H, W) float32 of either sign, in units of the logit, of ``target`` or the predicted class."""
        from captum.attr import Occlusion as Captum

        with _explaining(self.model, images, target) as (copies, classes):
            channels, height, width = copies.shape[1:]
            window = max(1, min(height, width) // 4) if self.window is None else self.window
            stride = max(1, window // 2) if self.stride is None else self.stride
            if window > min(height, width):
                raise ValueError(f"window is {window}; it must be at most {min(height, width)} for {height}x{width} images")
            if stride > window:
                raise ValueError(f"stride is {stride}; it must be at most the window, {window} for {height}x{width} images")
            fill = _one_image(self.fill, "fill", copies)
            parts = [
                Captum(self.model).attribute(
                    image, (channels, window, window), (channels, stride, stride), fill, chosen, perturbations_per_eval=_WINDOWS
                )
                for image, chosen in zip(copies.split(1), classes)
            ]
        # a window covers all channels, so every channel has the same map
        return torch.cat(parts)[:, :1].float()


def black_image(mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """The black image once normalised, (C, 1, 1) float32: ``-mean / std``, the values for images scaled to [0, 1].

    Raises:
        ValueError: ``mean`` and ``std`` are not as many, or a std is not positive.
    """
    if len(mean) != len(std) or not mean or min(std) <= 0:
        raise ValueError(f"mean has {len(mean)} values and std is {tuple(std)}; expected as many positive stds as means")
    return -(torch.tensor(mean) / torch.tensor(std))[:, None, None]


@contextmanager
def _explaining(model: nn.Module, images: Tensor, target: Target) -> Iterator[tuple[Tensor, list[int]]]:
    """Copies of the images and the class explained for each, with the model in eval mode and whatever the caller turned off on."""
    if images.ndim != 4 or not images.numel():
        raise ValueError(f"images have shape {tuple(images.shape)}; expected (N, C, H, W) with N >= 1")
    # a caller's inference_mode must not reach what captum computes
    with torch.inference_mode(False), evaluating(model):
        copies = images.detach().clone()
        with torch.no_grad():
            classes = target_classes(target, model(copies)).tolist()
        yield copies, classes


def _one_image(value: float | Tensor, name: str, images: Tensor) -> Tensor:
    """``value`` as one image (1, C, H, W) like ``images``."""
    shape = images.shape[1:]
    given = torch.as_tensor(value).to(images)
    try:
        return given.detach().expand(shape)[None].clone()
    except RuntimeError:
        raise ValueError(f"{name} has shape {tuple(given.shape)}; it must broadcast to an image {tuple(shape)}") from None

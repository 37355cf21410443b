"""Maps that know nothing of the model: what a score is worth is how far it stands above theirs.

Every control takes a tensor (N, C, H, W), images or maps, and gives maps (N, 1, H, W) float32 on its device.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from aib.interpret.ablation import derangement

__all__ = ["blurred_random", "centred_gaussian", "chance", "edge_map", "other_image", "uniform"]


def uniform(like: Tensor) -> Tensor:
    """One everywhere: all positions tie."""
    _check(like)
    return torch.ones((), device=like.device).expand(len(like), 1, *like.shape[2:])


def centred_gaussian(like: Tensor, sigma: float | None = None) -> Tensor:
    """A Gaussian bump on the middle of the image, 1 at its top: "the object is in the centre".

    Args:
        like: (N, C, H, W).
        sigma: standard deviation in pixels; H / 4 by default.

    Raises:
        ValueError: ``sigma`` is not positive.
    """
    _check(like)
    height, width = like.shape[2:]
    sigma = _positive(height / 4 if sigma is None else sigma)
    rows = torch.arange(height, device=like.device) - (height - 1) / 2
    columns = torch.arange(width, device=like.device) - (width - 1) / 2
    bump = torch.exp(-(rows[:, None].square() + columns.square()) / (2 * sigma**2))
    return bump.expand(len(like), 1, height, width)


def edge_map(images: Tensor) -> Tensor:
    """Sobel gradient magnitude of the grey image, the mean of its channels (N, C, H, W); the border is replicated."""
    _check(images)
    grey = F.pad(images.float().mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    # smoothed one way by 1 2 1, then differences the other way: convolutions of one channel and norms of two are slow on a CPU
    rows, columns = grey[..., 1:, :] + grey[..., :-1, :], grey[..., 1:] + grey[..., :-1]
    rows, columns = rows[..., 1:, :] + rows[..., :-1, :], columns[..., 1:] + columns[..., :-1]
    across, down = rows[..., 2:] - rows[..., :-2], columns[..., 2:, :] - columns[..., :-2, :]
    return (across.square() + down.square()).sqrt()


def other_image(maps: Tensor, seed: int = 0) -> Tensor:
    """The maps (N, 1, H, W) of other images, at random: neighbours in a data set are often of one class, or one scene.

    Raises:
        ValueError: there is no other image.
    """
    _check(maps)
    if len(maps) < 2:
        raise ValueError(f"there are {len(maps)} maps; the map of another image needs at least 2")
    return maps[derangement(len(maps), torch.Generator().manual_seed(seed)).to(maps.device)].float()


def blurred_random(like: Tensor, seed: int = 0, sigma: float | None = None) -> Tensor:
    """White noise blurred by a Gaussian, each map scaled to [0, 1]: smooth as an attention map, and about nothing.

    The blur wraps around, so no place is favoured: on average its maximum lies in a mask as often as chance says.

    Args:
        like: (N, C, H, W).
        seed: of the noise.
        sigma: standard deviation of the blur in pixels; H / 8 by default.

    Raises:
        ValueError: ``sigma`` is not positive.
    """
    _check(like)
    count, _, height, width = like.shape
    sigma = _positive(height / 8 if sigma is None else sigma)
    noise = torch.randn(count, 1, height, width, generator=torch.Generator().manual_seed(seed))
    maps = torch.fft.irfft2(torch.fft.rfft2(noise) * _blur(height, width, sigma), s=(height, width))
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return ((maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)).to(like.device)


@lru_cache(maxsize=8)
def _blur(height: int, width: int, sigma: float) -> Tensor:
    """What a Gaussian blur multiplies the frequencies by, kept: noise is drawn for a few images at a time."""
    frequency = torch.fft.fftfreq(height)[:, None].square() + torch.fft.rfftfreq(width).square()
    return torch.exp(-2 * (math.pi * sigma) ** 2 * frequency)


def chance(masks: Tensor) -> float:
    """Mean share of the image that its mask covers, over the masks (N, 1, H, W) that are not empty; NaN if all are.

    It is the pointing game and the energy of the uniform map.
    """
    _check(masks)
    share = masks.bool().flatten(1).cpu().double().mean(1)
    return share[share > 0].mean().item()


def _check(tensor: Tensor) -> None:
    if tensor.ndim != 4:
        raise ValueError(f"got shape {tuple(tensor.shape)}; expected (N, C, H, W)")


def _positive(sigma: float) -> float:
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma is {sigma}; it must be a positive number of pixels")
    return sigma

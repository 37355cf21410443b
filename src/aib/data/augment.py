"""Augmentation and normalisation of whole batches, on the device the batch lives on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

__all__ = ["Among", "alternate_flips", "channel_statistics", "flip_images", "normalize", "random_crop", "random_flip"]

Among = tuple[int, slice]
"""Which images of a batch of so many are there: each is drawn what it would be drawn in the whole batch."""


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32) -> Tensor:
    """Float images with zero mean and unit deviation a channel.

    Args:
        images: (N, C, H, W) uint8 in [0, 255].
        mean, std: C values for images scaled to [0, 1].

    Raises:
        ValueError: the number of channels is not C.
    """
    if images.shape[1] != len(mean):
        raise ValueError(f"images have {images.shape[1]} channels; the network was made for {len(mean)}")
    shift = torch.tensor(mean, dtype=dtype).mul_(255).view(1, -1, 1, 1)
    scale = torch.tensor(std, dtype=dtype).mul_(255).reciprocal_().view(1, -1, 1, 1)
    shift, scale = (value.to(images.device, non_blocking=True) for value in (shift, scale))  # made there, each would be waited for
    return images.to(dtype, copy=True).sub_(shift).mul_(scale)


def channel_statistics(batches: Iterable[Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel, for images scaled to [0, 1]; exact, one batch in memory at a time.

    A channel that never changes gets the deviation of one grey level, so that dividing by it is safe.

    Args:
        batches: tensors (N, C, H, W) uint8, at least one.

    Raises:
        ValueError: there is no batch.
    """
    counts: Tensor | None = None
    for images in batches:
        seen = torch.stack([torch.bincount(channel.reshape(-1), minlength=256) for channel in images.cpu().unbind(1)])
        counts = seen if counts is None else counts + seen
    if counts is None:
        raise ValueError("mean and deviation need at least one batch of images; there is none")
    share = counts.double() / counts.sum(1, keepdim=True)
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean = share @ levels
    variance = (share * (levels - mean[:, None]).square()).sum(1)
    return tuple(mean.tolist()), tuple(variance.sqrt().clamp_min(1 / 255).tolist())


def random_flip(images: Tensor, generator: torch.Generator | None = None, among: Among | None = None) -> Tensor:
    """Each image (N, C, H, W) mirrored left to right with probability 1/2; ``among`` where they are a share of a batch."""
    count, which = among or (len(images), slice(None))
    return flip_images(images, torch.rand(count, device=images.device, generator=generator)[which] < 0.5)


def flip_images(images: Tensor, mirrored: Tensor) -> Tensor:
    """Images (N, C, H, W) of which those that ``mirrored`` (N,) bool names are mirrored left to right."""
    return torch.where(mirrored.to(images.device, non_blocking=True).view(-1, 1, 1, 1), images.flip(3), images)


def alternate_flips(length: int, seed: int, epoch: int) -> Tensor:
    """(length,) bool, which images of a split are mirrored in an epoch: a random half of them, in every next epoch the others.

    The alternating flip of airbench94 (Jordan 2024, arXiv:2404.00498): two epochs in a row show every image both ways, where chance
    shows half of them twice the same way. A function of the arguments alone.
    """
    first = torch.rand(length, generator=torch.Generator().manual_seed(seed)) < 0.5
    return first if epoch % 2 == 0 else ~first


def random_crop(
    images: Tensor, pad: int, generator: torch.Generator | None = None, *, flip: bool | Tensor = False, among: Among | None = None
) -> Tensor:
    """Each image (N, C, H, W) padded by reflection and cropped back to (H, W) at its own random place.

    Args:
        images: of any type.
        pad: pixels on every side; 0 leaves the images as they are.
        generator: source of the draws.
        flip: mirror at random too: the same as `random_flip` afterwards, from the same draws, in one pass over the images; or (N,)
            bool, which to mirror: the same as `flip_images` afterwards.
        among: where the images are a share of a batch.

    Raises:
        ValueError: ``pad`` is not smaller than the image.
    """
    if pad == 0:
        if isinstance(flip, Tensor):
            return flip_images(images, flip)
        return random_flip(images, generator, among) if flip else images
    n, c, h, w = images.shape
    if not 0 < pad < min(h, w):
        raise ValueError(f"crop padding is {pad}; it must be between 0 and {min(h, w) - 1} for {h}x{w} images")
    # reflect padding has no uint8 kernel: every pixel is taken by index from where padding, crop and mirror put it
    device = images.device
    count, which = among or (n, slice(None))
    top = torch.randint(0, 2 * pad + 1, (count, 1), device=device, generator=generator)[which] - pad
    left = torch.randint(0, 2 * pad + 1, (count, 1), device=device, generator=generator)[which] - pad
    rows = _reflect(torch.arange(h, device=device) + top, h)
    columns = _reflect(torch.arange(w, device=device) + left, w)
    if isinstance(flip, Tensor) or flip:
        mirrored = flip if isinstance(flip, Tensor) else torch.rand(count, device=device, generator=generator)[which] < 0.5
        mirrored = mirrored.to(device, non_blocking=True)
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    pixels = rows[:, :, None] * w + columns[:, None, :]
    return images.reshape(n, c, h * w).gather(2, pixels.view(n, 1, h * w).expand(n, c, h * w)).view(n, c, h, w)


def _reflect(position: Tensor, length: int) -> Tensor:
    """Positions outside [0, length) mirrored back at the border, the border itself not repeated."""
    position = position.abs()
    return torch.where(position >= length, 2 * (length - 1) - position, position)

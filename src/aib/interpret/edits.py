"""Edits of images under which a map should stay where it is (section 4.4 of the paper): windows, and parts of the spectrum.

Every edit takes and gives pixels as float (N, C, H, W) on the scale of the images, 0 to 255.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["colour_window", "high_frequencies", "low_frequencies", "patch_window"]


def colour_window(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """A square window at a random place of each image, filled with a random colour.

    Args:
        images: (N, C, H, W) pixels, 0 to 255.
        size: side of the window in pixels.
        generator: of places and colours, on the CPU; the same state gives the same edit.

    Raises:
        ValueError: the window is empty or larger than the images.
    """
    inside, _ = _window(images, size, generator)
    colours = torch.randint(0, 256, (len(images), images.shape[1], 1, 1), generator=generator)
    return torch.where(inside.to(images.device), colours.to(images), images.float())


def patch_window(images: Tensor, size: int, others: Tensor, generator: torch.Generator) -> Tensor:
    """A square window at a random place of each image, filled with a patch of a random image of another data set.

    Args:
        images: (N, C, H, W) pixels, 0 to 255.
        size: side of the window in pixels.
        others: (M, C, H', W') pixels of the other set.
        generator: of places and patches, on the CPU.

    Raises:
        ValueError: the window is empty, larger than the images or than those of the other set, or the channels differ.
    """
    if others.shape[1] != images.shape[1]:
        raise ValueError(f"the other images have {others.shape[1]} channels and these {images.shape[1]}; they must have as many")
    if size > min(others.shape[2:]):
        raise ValueError(f"the window's side is {size}; it must be at most {min(others.shape[2:])}, the other images' side")
    inside, corner = _window(images, size, generator)
    count = len(images)
    chosen = torch.randint(0, len(others), (count,), generator=generator)
    tops = torch.randint(0, others.shape[2] - size + 1, (count,), generator=generator)
    lefts = torch.randint(0, others.shape[3] - size + 1, (count,), generator=generator)
    rows = (torch.arange(images.shape[2]) - corner[0][:, None] + tops[:, None]).clamp(0, others.shape[2] - 1)
    columns = (torch.arange(images.shape[3]) - corner[1][:, None] + lefts[:, None]).clamp(0, others.shape[3] - 1)
    moved = others.cpu()[chosen[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return torch.where(inside.to(images.device), moved.to(images.device).float(), images.float())


def low_frequencies(images: Tensor, radius: float) -> Tensor:
    """The part of each image's spectrum within ``radius`` of zero frequency (cycles an image); see `high_frequencies`."""
    return _filtered(images, radius, inside=True)


def high_frequencies(images: Tensor, radius: float) -> Tensor:
    """The part of each image's spectrum from ``radius`` on; with `low_frequencies` of the same radius it adds up to the image.

    As in Wang et al. 2020, "High-frequency component helps explain the generalization of convolutional neural networks": a circle
    around zero frequency, Euclidean distance in cycles an image. Nothing is clipped: without its mean an image is dark.

    Args:
        images: (N, C, H, W) pixels, 0 to 255.
        radius: from 0 on.

    Raises:
        ValueError: ``radius`` is negative or beyond every frequency of the images.
    """
    return _filtered(images, radius, inside=False)


def _window(images: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """(N, 1, H, W) bool, and the windows' top and left (N,)."""
    height, width = images.shape[2:]
    if not 1 <= size <= min(height, width):
        raise ValueError(f"the window's side is {size}; it must be between 1 and {min(height, width)} for {height}x{width} images")
    top = torch.randint(0, height - size + 1, (len(images),), generator=generator)
    left = torch.randint(0, width - size + 1, (len(images),), generator=generator)
    rows = torch.arange(height) - top[:, None]
    columns = torch.arange(width) - left[:, None]
    inside = ((rows >= 0) & (rows < size))[:, :, None] & ((columns >= 0) & (columns < size))[:, None, :]
    return inside[:, None], (top, left)


def _filtered(images: Tensor, radius: float, inside: bool) -> Tensor:
    height, width = images.shape[2:]
    vertical = torch.fft.fftfreq(height, 1 / height, device=images.device)
    horizontal = torch.fft.rfftfreq(width, 1 / width, device=images.device)
    distance = torch.hypot(vertical[:, None], horizontal[None, :])
    if not 0 <= radius <= distance.max().item():
        raise ValueError(f"radius is {radius}; it must be between 0 and {distance.max().item():.1f} for {height}x{width} images")
    kept = distance < radius if inside else distance >= radius
    return torch.fft.irfft2(torch.fft.rfft2(images.float()) * kept, s=(height, width))

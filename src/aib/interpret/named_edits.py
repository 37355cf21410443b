"""Edits by name and size, as the paper's table 2 lists them, for scores that take any number of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from aib.interpret.edits import colour_window, high_frequencies, low_frequencies, patch_window

__all__ = ["Edit", "frequency_edits", "window_edits"]

Apply = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Edit:
    """A modification of images. Two are equal if their names and sizes are.

    Attributes:
        name: ``"colour window"``, ``"SVHN window"``, ``"low frequencies"`` or ``"high frequencies"``, as in the paper's table 2.
        size: side of the window in pixels, or radius in cycles an image.
        apply: from pixels float (N, C, H, W) on 0 to 255 and a generator on the CPU to edited pixels of the same shape, each image
            by itself and the given ones untouched. Raises ValueError for images it does not fit.
    """

    name: str
    size: float
    apply: Apply = field(compare=False, repr=False)

    @property
    def label(self) -> str:
        """``"colour window 8"``."""
        return f"{self.name} {self.size:g}"


def window_edits(sizes: Sequence[int] = (4, 8, 12, 16), others: Mapping[str, Tensor] | None = None) -> tuple[Edit, ...]:
    """Windows of every size filled with a random colour, then with patches of other data sets.

    Args:
        sizes: sides in pixels.
        others: pixels (M, C, H', W') on 0 to 255 of other sets by name; a patch of the set ``"SVHN"`` makes an ``"SVHN window"``.

    Raises:
        ValueError: a set of other images is empty or not (M, C, H', W').
    """
    edits = [Edit("colour window", size, _colour(size)) for size in sizes]
    for name, pixels in (others or {}).items():
        if pixels.ndim != 4 or not len(pixels):
            raise ValueError(f"the images of {name} have shape {tuple(pixels.shape)}; expected (M, C, H, W) with M >= 1")
        on_cpu = pixels.cpu()  # where patches are taken from, once and not for every block of images
        edits += [Edit(f"{name} window", size, _patch(size, on_cpu)) for size in sizes]
    return tuple(edits)


def frequency_edits(low: Sequence[float] = (12,), high: Sequence[float] = (4,)) -> tuple[Edit, ...]:
    """The low frequencies of images within each radius of ``low``, then the high ones from each radius of ``high`` on.

    The paper's radii are not known; 12 and 4 are this project's choice, for 32x32 images.
    """
    edits = [Edit("low frequencies", radius, _part(low_frequencies, radius)) for radius in low]
    return tuple(edits + [Edit("high frequencies", radius, _part(high_frequencies, radius)) for radius in high])


def _colour(size: int) -> Apply:
    return lambda images, generator: colour_window(images, size, generator)


def _patch(size: int, others: Tensor) -> Apply:
    return lambda images, generator: patch_window(images, size, others, generator)


def _part(spectrum: Callable[[Tensor, float], Tensor], radius: float) -> Apply:
    return lambda images, generator: spectrum(images, radius)

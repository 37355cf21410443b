"""How alike a source's maps of edited images are to those of the images as they were, and of the images before them."""

from __future__ import annotations

import torch
from torch import Tensor

from aib.interpret.map_sources import centred, cosine, directions

__all__ = ["MapTrack"]


class MapTrack:
    """Cosines and correlations of one source, group after group of images in their order.

    Args:
        name: of the source, for messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.cosines, self.correlations = _Pairs(), _Pairs()

    def add(self, maps: Tensor, versions: int, count: int) -> None:
        """Take maps (versions * B, 1, h, w), of which the first ``count`` of each version are of images.

        Raises:
            ValueError: a map is not finite.
        """
        flat = directions(maps, self.name).unflatten(0, (versions, -1))[:, :count]
        self.cosines.add(flat)
        self.correlations.add(centred(flat))


class _Pairs:
    """Cosines of vectors with those of the same image and of the one before it."""

    def __init__(self) -> None:
        self._own: list[Tensor] = []
        self._other: list[Tensor] = []
        self.start = torch.empty(0)
        """(E, P) the edited vectors of the very first image, whose other image is the last."""
        self.last = torch.empty(0)
        """(1, P) the latest image's vector."""

    def add(self, flat: Tensor) -> None:
        """Take vectors (1 + E, B, P), those of the images as they are first."""
        original, edited = flat[0], flat[1:]
        self._own.append(cosine(edited, original).cpu())
        if not self._other:
            self.start, self.last = edited[:, 0].clone(), original[:1]  # the second stands in for the last image, yet unknown
        self._other.append(cosine(edited, torch.cat([self.last, original[:-1]])).cpu())
        self.last = original[-1:].clone()

    def own(self) -> Tensor:
        """(E, N), in the order of the images."""
        return torch.cat(self._own, 1)

    def other(self) -> Tensor:
        """(E, N), in the order of the images."""
        return torch.cat([cosine(self.start, self.last).cpu()[:, None], torch.cat(self._other, 1)[:, 1:]], 1)

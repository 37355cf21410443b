"""Sources of maps, judged by one score on the same footing: explainers, other networks and controls. And the cosine of two maps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from aib.interpret.controls import blurred_random, centred_gaussian, edge_map, uniform
from aib.interpret.explainers import Explainer

__all__ = [
    "OWN_MAP", "MapSource", "RandomMaps", "centred", "control_maps", "control_name", "control_sources", "cosine", "derived_seed",
    "directions", "from_control", "from_explainer", "image_noise", "map_cosine",
]  # fmt: skip

FLAT = 1e-6
"""Variation of a map, as a share of its greatest magnitude, up to which it is rounding."""

OWN_MAP = "own map"
"""What the map of the scored model itself is called among the sources."""

MapSource = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From pixels (M, C, H, W) float on 0 to 255, the same images normalised, and the classes (M,) predicted for the *original* images,
to maps (M, 1, h, w) at a resolution of the source's own. M varies; a map depends on its own row alone."""


@dataclass(frozen=True)
class RandomMaps:
    """The source whose maps are blurred noise, fresh for every image and every edit of it: `aib.interpret.controls.blurred_random`.

    It is no plain `MapSource` because the noise is a function of the seed and of which image and edit it is for.

    Attributes:
        seed: of the noise.
        size: (h, w) of the maps; the images' own by default.
    """

    seed: int = 0
    size: tuple[int, int] | None = None

    def draw(self, versions: Tensor, names: Sequence[str], start: int, length: int) -> Tensor:
        """Maps (V * B, 1, h, w) for V versions of B images.

        Args:
            versions: (V, B, C, H, W).
            names: of the V versions.
            start: number of the first block of images among all.
            length: of a block; B is a multiple of it.
        """
        shape = versions.shape[-2:] if self.size is None else self.size
        like = versions.new_empty(1).expand(length, 1, *shape)
        blocks = range(start, start + versions.shape[1] // length)
        return torch.cat([blurred_random(like, derived_seed("noise", self.seed, name, i)) for name in names for i in blocks])


def from_explainer(explainer: Explainer, at_once: int = 128) -> MapSource:
    """Maps of an explainer, for the class predicted before the edit. ``AttentionMap(network)`` gives those of another network.

    Args:
        explainer: `aib.interpret.explainers.AttentionMap`, `aib.interpret.explainers.GradCAM` or another's.
        at_once: images explained at a time; a gradient keeps all activations in memory, a forward pass does not.

    Raises:
        ValueError: ``at_once`` is below 1.
    """
    if at_once < 1:
        raise ValueError(f"at_once is {at_once}; it must be at least 1")

    def source(pixels: Tensor, images: Tensor, target: Tensor) -> Tensor:
        parts = zip(images.split(at_once), target.split(at_once))
        return torch.cat([explainer.attribute(some, classes) for some, classes in parts])

    return source


def from_control(control: Callable[[Tensor], Tensor], size: tuple[int, int] | None = None) -> MapSource:
    """Maps that know nothing of the model, from pixels (M, C, H, W): those of `aib.interpret.controls`.

    Args:
        control: from pixels to maps (M, 1, H, W).
        size: (h, w) that the maps are averaged down to, to compare with a model's map at its own resolution.
    """

    def source(pixels: Tensor, images: Tensor, target: Tensor) -> Tensor:
        maps = control(pixels)
        if size is None:
            return maps
        if not maps.stride(0):  # one map for all images
            return F.adaptive_avg_pool2d(maps[:1], size).expand(len(maps), 1, *size)
        return F.adaptive_avg_pool2d(maps, size)

    return source


def control_sources(size: tuple[int, int] | None = None, seed: int = 0) -> dict[str, MapSource | RandomMaps]:
    """The controls every score stands beside: ``"uniform"``, ``"centre"``, ``"edges"`` and ``"random"``; see `from_control`."""
    return {
        "uniform": from_control(uniform, size),
        "centre": from_control(centred_gaussian, size),
        "edges": from_control(edge_map, size),
        "random": RandomMaps(seed, size),
    }


def control_maps(pixels: Tensor, size: tuple[int, int] | None = None, seed: int = 0) -> dict[str, Tensor]:
    """The maps of `control_sources` for pixels (N, C, H, W), one for each image, at the resolution asked for."""
    like = pixels if size is None else pixels.new_empty(1).expand(len(pixels), 1, *size)

    def sized(maps: Tensor) -> Tensor:
        return maps if size is None else F.adaptive_avg_pool2d(maps, size)

    return {
        "uniform": uniform(like), "centre": sized(centred_gaussian(pixels)), "edges": sized(edge_map(pixels)),
        "random": blurred_random(like, seed),
    }  # fmt: skip


def image_noise(images: Tensor, size: tuple[int, int], seed: int = 0) -> Tensor:
    """Blurred noise (N, 1, h, w) drawn from the seed and every image's own values: any change of the image gives other noise."""
    like = images.new_empty(1).expand(1, 1, *size)
    drawn = [blurred_random(like, derived_seed("noise", seed, image.detach().cpu().numpy().tobytes().hex())) for image in images]
    return torch.cat(drawn)


def control_name(control: str, of: str) -> str:
    """What a control made for one source is called: ``"untrained"`` of the own map, ``"untrained@gradcam"`` of an explainer."""
    return control if of == OWN_MAP else f"{control}@{of}"


def map_cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of each pair of flattened maps (N, 1, h, w), (N,) float32; NaN where one of the two is zero everywhere.

    Raises:
        ValueError: the shapes differ or are not (N, 1, h, w), or a map is not finite.
    """
    if first.shape != second.shape or first.ndim != 4 or first.shape[1] != 1:
        raise ValueError(f"maps have shapes {tuple(first.shape)} and {tuple(second.shape)}; expected (N, 1, h, w) twice")
    return cosine(directions(first, "first"), directions(second, "second"))


def directions(maps: Tensor, name: str) -> Tensor:
    """Maps (N, 1, h, w) as vectors (N, h * w) float32, each divided by its greatest magnitude: no square overflows or vanishes.

    Raises:
        ValueError: a map is not finite; the message speaks of the source by ``name``.
    """
    flat = maps.detach().flatten(1).float()
    top = flat.abs().amax(1, keepdim=True)
    if not bool(top.isfinite().all()):
        raise ValueError(f"{int((~top.isfinite()).sum())} of {len(flat)} maps of {name!r} are not finite")
    return torch.where(top > 0, flat / top, 0.0)


def centred(vectors: Tensor) -> Tensor:
    """Vectors (..., P) of `directions` less their means; those without variation beyond rounding are exactly 0."""
    less = vectors - vectors.mean(-1, keepdim=True)
    return torch.where(less.abs().amax(-1, keepdim=True) > FLAT, less, 0.0)


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of vectors (..., P) that broadcast, of `directions`: (...) in [-1, 1], 1 for equal ones, NaN where one is zero."""
    squares = first.square().sum(-1) * second.square().sum(-1)
    return torch.where(squares > 0, ((first * second).sum(-1) / squares.sqrt()).clamp(-1, 1), torch.nan)


def derived_seed(*parts: object) -> int:
    """A seed of 56 bits for a generator that is to depend on the parts (numbers, names) and on nothing else."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:7], "big")

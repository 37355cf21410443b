"""Does the network use its map? Its error with the map shuffled, flattened or replaced.

The skip path ``features * (1 + map)`` lets a network ignore its map; a picture of a map that is ignored explains nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from aib.classifier import Classifier
from aib.interpret.explainers import evaluating

__all__ = ["derangement", "hardly_used", "map_ablation"]


def derangement(length: int, generator: torch.Generator | None = None) -> Tensor:
    """(length,) int64 random permutation that moves every position (one cycle through all of them).

    Raises:
        ValueError: ``length`` is below 2, where none exists.
    """
    if length < 2:
        raise ValueError(f"length is {length}; moving every position takes at least 2")
    order = torch.randperm(length, generator=generator)
    moved = torch.empty_like(order)
    moved[order] = order.roll(1)
    return moved


@torch.no_grad()
def map_ablation(model: Classifier, batches: Iterable[tuple[Tensor, Tensor]], seed: int = 0) -> dict[str, float]:
    """Error of a classifier whose map gates its features, on the mean path, with its map and with the map replaced.

    ``"original"``            the map itself,
    ``"shuffled_images"``     each image under the map of another image of its batch (a derangement),
    ``"shuffled_positions"``  the positions of each map permuted, each map by a permutation of its own,
    ``"mean"``                each map flattened to its own mean,
    ``"constant"``            each map flattened to the mean over the batch.

    The map is that which modulates the features, after the anchors. An image alone in its batch has no other map to take: it
    counts everywhere but in ``"shuffled_images"``.

    Args:
        model: a classifier that is ``gated``; its training flags are restored.
        batches: (images (N, C, H, W) normalised, labels (N,)) on the model's device, N of at least 2 somewhere; in random order,
            since a batch of one class has no map of another.
        seed: of the permutations.

    Returns:
        Error of each, a fraction in [0, 1].

    Raises:
        ValueError: the model has no map, a batch's labels do not fit its images, or there is no batch of two images.
    """
    if not model.gated:
        raise ValueError(f"{type(model).__name__} has no map that takes part in its prediction; there is nothing to ablate")
    generator = torch.Generator().manual_seed(seed)
    replacements = _replacements(generator)
    wrong = dict.fromkeys(replacements, 0)
    seen = dict.fromkeys(replacements, 0)
    with evaluating(model):
        for images, labels in batches:
            if labels.shape != images.shape[:1]:
                raise ValueError(f"{len(images)} images but labels of shape {tuple(labels.shape)}; expected ({len(images)},)")
            for name, replace in replacements.items():
                if name == "shuffled_images" and len(images) < 2:
                    continue
                logits = model.forward_details(images, replace_map=replace).logits
                wrong[name] += int((logits.argmax(1) != labels).sum())
                seen[name] += len(images)
    if not seen["shuffled_images"]:
        raise ValueError(f"{seen['original']} images, none with another in its batch; shuffling maps needs batches of at least 2")
    return {name: wrong[name] / seen[name] for name in replacements}


def _replacements(generator: torch.Generator) -> dict[str, Callable[[Tensor], Tensor] | None]:
    """How each ablation changes maps (N, 1, H, W); random orders are drawn on the CPU, alike for every device."""

    def shuffled_images(maps: Tensor) -> Tensor:
        return maps[derangement(len(maps), generator).to(maps.device)]

    def shuffled_positions(maps: Tensor) -> Tensor:
        flat = maps.flatten(1)
        order = torch.rand(flat.shape, generator=generator).argsort(1).to(maps.device)
        return flat.gather(1, order).reshape(maps.shape)

    return {
        "original": None,
        "shuffled_images": shuffled_images,
        "shuffled_positions": shuffled_positions,
        "mean": lambda maps: maps.mean((1, 2, 3), keepdim=True).expand_as(maps),
        "constant": lambda maps: maps.mean().expand_as(maps),
    }


def hardly_used(ablation: Mapping[str, float], points: float = 5.0) -> bool:
    """Whether shuffling the maps across images costs less than ``points`` percentage points of accuracy.

    Args:
        ablation: of `map_ablation`.

    Raises:
        ValueError: ``ablation`` lacks an error this compares.
    """
    for name in ("original", "shuffled_images"):
        if name not in ablation:
            raise ValueError(f"the ablation has {', '.join(ablation) or 'nothing'}; it needs 'original' and 'shuffled_images'")
    # fractions of counts: a cost of exactly ``points`` must not fall below it by rounding
    return 100 * (ablation["shuffled_images"] - ablation["original"]) < points - 1e-9

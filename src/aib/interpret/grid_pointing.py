"""Asked for one of four classes in a grid of four images, does a map find its image? (Boehle, Fritz and Schiele 2021)

"Convolutional dynamic alignment networks for interpretable classifications" puts images of different classes side by side and asks
for each class where it is. The score is the share of the map's positive mass inside the tiles of that class, averaged over the
classes of the grid. It needs no annotation, and it is about the class: tiles of other classes are just as good places otherwise.

A map that does not depend on the class, an attention map for instance, cannot do better than chance or worse: over the classes its
shares add up to one. 1/4 for it is no failure but the definition; the game compares explainers of a class.

Networks are made for one object; what they answer to four at half the size is outside of what they were trained for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aib.data.augment import normalize
from aib.data.bundle import Split
from aib.interpret.controls import blurred_random, edge_map, uniform
from aib.interpret.explainers import Target
from aib.interpret.faithfulness import cell_means, pixel_batches
from aib.interpret.imputation import seeded_generator
from aib.interpret.intervals import bootstrap_mean
from aib.interpret.map_sources import control_name
from aib.interpret.margins import margins
from aib.interpret.sensitivity import checked_maps

__all__ = ["CONTROLS", "GridPointing", "grid_pointing_game"]

CONTROLS = ("uniform", "edges", "random")
"""Played alongside: `aib.interpret.controls` of the grid, the last drawn anew for every class."""

TILES = 4


@dataclass(frozen=True)
class GridPointing:
    """Scores of every explainer and control in every grid, on the CPU.

    Attributes:
        scores: by name, (grids,) float64 in [0, 1].
        chance: what a map that does not depend on the class gets in every grid: 1 / number of classes in it.
        positions: (grids, 4) int64 of the images in the tiles, row by row.
        classes: (grids, 4) int64 class of each tile.
    """

    scores: Mapping[str, Tensor]
    chance: float
    positions: Tensor
    classes: Tensor

    def numbers(self, seed: int = 0, controls: Mapping[str, Sequence[str]] | None = None) -> dict[str, Any]:
        """``{"n", "images", "chance", "maps": {name: [mean, low, high]}}`` of plain numbers.

        Intervals are 95 % bootstrap intervals over grids; of few images, that stand in many grids, they are too narrow.
        ``"images"`` is how many different ones there are. With ``controls``, the names of each explainer's, there is ``"above"``:
        how far it stands above the best of them; see `aib.interpret.margins.above_best`.
        """
        maps = {name: list(bootstrap_mean(values.numpy(), seed)) for name, values in self.scores.items()}
        found = {"n": len(self.positions), "images": len(self.positions.unique()), "chance": self.chance, "maps": maps}
        if controls is not None:
            values = {name: one.numpy() for name, one in self.scores.items()}
            above = margins({"grid": values}, controls, seed=seed)
            found["above"] = {name: metrics["grid"] for name, metrics in above.items()}
        return found


def grid_pointing_game(
    explainers: Mapping[str, Callable[[Tensor, Target], Tensor]],
    images: Tensor | Split,
    labels: Tensor,
    predictions: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    others: Sequence[str] = (),
    grids: int = 250,
    seed: int = 0,
    images_at_once: int = 128,
    device: torch.device | str | None = None,
) -> GridPointing:
    """The grid pointing game on grids of images that the network classifies correctly, and `CONTROLS` beside.

    A grid has the size of one image; its 2 x 2 tiles are images of different classes averaged down to half their size, all drawn
    from the seed and the grid's number. Where only three classes have a correct image one of them has two tiles, where two have one
    each has two: the score of a class is then the share in all of its tiles, and chance 1/3 and 1/2. Negative values have no mass,
    and a map without any counts as uniform.

    On the CPU an explainer is asked for the classes of one grid at a time, whatever ``images_at_once`` is, so that the result does
    not depend on that bit for bit.

    Args:
        explainers: name to what gives maps (n, 1, h, w) of normalised images (n, C, H, W) and classes (n,):
            `Explainer.attribute` of any explainer, or a function.
        images: (N, C, H, W) pixels, 0 to 255, uint8 or float, with even sides; or a split.
        labels, predictions: (N,) int64 each, true and predicted classes.
        mean, std: C numbers each, the normalisation of the model, for images scaled to [0, 1].
        others: names of explainers whose maps of the grid before are played too, as ``"other image@NAME"``: the map of other images
            for the class asked for in its place.
        grids: number of grids. An image may stand in several.
        seed: of the grids and the random control, from 0 on.
        images_at_once: most images held at once, at least 4.
        device: where the explainers want their images; where they are by default.

    Raises:
        ValueError: no explainer, or one with the name of a control; labels or predictions that are not as many as the images;
            fewer than two classes with a correct image; odd sides; ``grids`` below 1 or ``images_at_once`` below 4; a negative
            seed; or maps that are not finite or not (n, 1, h, w).
    """
    if not explainers:
        raise ValueError("there is no explainer to play with; give at least one, by name")
    for name in explainers:
        if name in CONTROLS:
            raise ValueError(f"an explainer is called {name!r}, which is the name of a control; these are {', '.join(CONTROLS)}")
    for name in others:
        if name not in explainers:
            raise ValueError(f"there is no explainer {name!r} whose other maps to play; there are {', '.join(explainers)}")
    if grids < 1 or images_at_once < TILES:
        raise ValueError(f"grids is {grids} and images_at_once {images_at_once}; they must be at least 1 and {TILES}")
    if not labels.shape == predictions.shape == (len(images),):
        shapes = f"{tuple(labels.shape)} and {tuple(predictions.shape)}"
        raise ValueError(f"{len(images)} images but labels and predictions of shapes {shapes}; expected as many of each")
    positions, classes = _layout(labels.cpu(), predictions.cpu(), grids, seed)
    asked = torch.stack([row.unique() for row in classes])
    shares: dict[str, list[Tensor]] = {name: [] for name in [*explainers, *CONTROLS]}
    source, start = images[positions.flatten().to(images.device)] if isinstance(images, Tensor) else images, 0
    for pixels, _ in pixel_batches(source, positions.flatten(), images_at_once // TILES * TILES, device):
        if pixels.shape[2] % 2 or pixels.shape[3] % 2:
            raise ValueError(f"images are {pixels.shape[2]}x{pixels.shape[3]}; two tiles fit a side only if it is even")
        tiles = F.avg_pool2d(pixels, 2).unflatten(0, (-1, 2, 2))
        whole = torch.cat([torch.cat([row[:, 0], row[:, 1]], 3) for row in (tiles[:, 0], tiles[:, 1])], 2)
        rows = slice(start, start + len(whole))
        start += len(whole)
        each = asked.shape[1]
        shown, target = whole.repeat_interleave(each, 0), asked[rows].flatten().to(pixels.device)
        at_once = each if pixels.device.type == "cpu" else images_at_once
        maps = {name: checked_maps(one, normalize(shown, mean, std), target, at_once) for name, one in explainers.items()}
        seeds = [int(seeded_generator(seed, i, 3).integers(2**31)) for i in range(rows.start, rows.stop)]
        maps["random"] = torch.cat([blurred_random(some, i) for some, i in zip(shown.cpu().split(each), seeds)])
        maps |= {"uniform": uniform(shown), "edges": edge_map(shown)}
        for name, one in maps.items():
            shares[name].append(_shares(one, each))
    inside = classes[:, None] == asked[:, :, None]
    every = {name: torch.cat(parts) for name, parts in shares.items()}
    every |= {control_name("other image", name): every[name].roll(1, 0) for name in others}
    scores = {name: (one * inside).sum(2).mean(1) for name, one in every.items()}
    return GridPointing(scores, 1 / asked.shape[1], positions, classes)


def _layout(labels: Tensor, predictions: Tensor, grids: int, seed: int) -> tuple[Tensor, Tensor]:
    """Positions and classes (grids, 4) of the tiles."""
    right = labels == predictions
    pools = {c: (right & (labels == c)).nonzero().flatten().numpy() for c in labels[right].unique().tolist()}
    if len(pools) < 2:
        raise ValueError(f"{len(pools)} classes have a correctly classified image; a grid needs at least two of them")
    positions, classes = [], []
    for number in range(grids):
        rng = seeded_generator(seed, number, 4)
        chosen = rng.permutation(list(pools))[:TILES]
        # cyclically, so that of two classes each has two tiles and of three the first
        tiles = rng.permutation(np.resize(chosen, TILES))
        images = np.empty(TILES, dtype=np.int64)
        for c in chosen.tolist():
            wanted = int((tiles == c).sum())
            images[tiles == c] = rng.choice(pools[c], wanted, replace=wanted > len(pools[c]))
        positions.append(images)
        classes.append(tiles)
    return torch.from_numpy(np.stack(positions)), torch.from_numpy(np.stack(classes))


def _shares(maps: Tensor, asked: int) -> Tensor:
    """(grids, asked, 4) share of the mass of maps (grids * asked, 1, h, w) in each tile."""
    mass = cell_means(maps.clamp_min(0), (2, 2)).double().flatten(1).unflatten(0, (-1, asked))
    total = mass.sum(2, keepdim=True)
    return torch.where(total > 0, mass / total, 1 / TILES)

"""Does a map lie on the object? Pointing game, energy and IoU against a ground-truth mask, fair to maps full of ties.

A quantised map takes few values, so its maximum and its ranks are shared by many pixels. Counting a hit when any tied maximum is
inside would let every constant map win; here the tied pixels share.

Maps come at their own resolution and are first brought to that of the masks, in float64, then rounded to float32: interpolating
equal values gives equal values again, so rounding neither breaks a tie nor makes one.

``mode="bilinear"`` scores the picture people look at. Its weights are non-negative and its pixel centres aligned, so no pixel
exceeds the hottest cell and the maxima of a single hot cell lie inside that cell. Interpolation lowers the peak of a cell towards
its neighbours, though, but not beyond the centre of a border cell, where there is none: of two equal cells the one at the border,
or with the warmer neighbours, wins. Maps of noise therefore point at the middle of the image less often than chance.
``mode="nearest"`` scores the cells themselves: every pixel of a cell has its value, all equal cells tie, no place is favoured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from aib.functional import resize_maps
from aib.interpret.controls import blurred_random, centred_gaussian, edge_map, other_image, uniform
from aib.interpret.intervals import bootstrap_mean, share_interval
from aib.interpret.margins import margins

__all__ = ["METRICS", "energy", "iou", "localization_scores", "localize", "pointing_game"]

METRICS = ("pointing_game", "energy", "iou")

ResizeMode = Literal["bilinear", "nearest"]

_PIXELS = 1 << 22
"""Pixels scored at once, to bound the memory of large images."""


def pointing_game(maps: Tensor, masks: Tensor, mode: ResizeMode = "bilinear") -> Tensor:
    """Share of the pixels with the greatest value that lie inside the mask: the chance to hit by pointing at one of them.

    Args:
        maps: (N, 1, h, w) of any finite values and any size.
        masks: (N, 1, H, W) bool.
        mode: how the maps are brought to the masks' size; see the module.

    Returns:
        (N,) float64 in [0, 1] on the CPU, NaN where the mask is empty. A constant map gives the share the mask covers.

    Raises:
        ValueError: shapes that do not belong together, masks that are not bool, or a map that is not finite.
    """
    return _pointing_game(*_prepare(maps, masks, mode))


def energy(maps: Tensor, masks: Tensor, mode: ResizeMode = "bilinear") -> Tensor:
    """Share of the map's mass inside the mask.

    Negative values, after resizing, have no mass; a map without any counts as uniform. The energy depends on the map's zero: a
    floor under the whole map draws it towards the share the mask covers. Arguments, returned tensor and errors as in
    `pointing_game`.
    """
    return _energy(*_prepare(maps, masks, mode))


def iou(maps: Tensor, masks: Tensor, mode: ResizeMode = "bilinear", *, draws: int = 8, seed: int = 0) -> Tensor:
    """Intersection over union of the mask with as many of the map's highest pixels as the mask has, ties broken at random.

    Args:
        maps, masks, mode: as in `pointing_game`.
        draws: number of random orders of the tied pixels, averaged.
        seed: of those orders.

    Returns:
        (N,) float64 in [0, 1] on the CPU, NaN where the mask is empty.

    Raises:
        ValueError: as in `pointing_game`, or ``draws`` is below 1.
    """
    return _iou(*_prepare(maps, masks, mode), _check_draws(draws), np.random.default_rng(seed))


def localization_scores(
    maps: Tensor, masks: Tensor, mode: ResizeMode = "bilinear", *, draws: int = 8, seed: int = 0
) -> dict[str, Tensor]:
    """Every metric of `METRICS` for every image, (N,) each; the maps are resized once and a block at a time.

    Arguments and errors are those of `iou`.
    """
    _check(maps, masks)
    rng = np.random.default_rng(seed)
    _check_draws(draws)
    block = max(1, _PIXELS // masks.shape[2:].numel())
    scores: dict[str, list[Tensor]] = {name: [] for name in METRICS}
    for some_maps, some_masks in zip(maps.split(block), masks.split(block)):
        values, inside = _prepare(some_maps, some_masks, mode)
        scores["pointing_game"].append(_pointing_game(values, inside))
        scores["energy"].append(_energy(values, inside))
        scores["iou"].append(_iou(values, inside, draws, rng))
    return {name: torch.cat(parts) for name, parts in scores.items()}


def localize(
    maps: Mapping[str, Tensor],
    masks: Tensor,
    images: Tensor | None = None,
    mode: ResizeMode = "bilinear",
    *,
    seed: int = 0,
    draws: int = 8,
    controls: Mapping[str, Tensor] | None = None,
    controls_of: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """The localisation of named maps beside maps that know nothing, in the form of the run folder's ``"localization"``.

    The controls: ``"uniform"``, ``"centre"`` (a centred Gaussian), ``"random"`` (blurred noise), ``"other image"`` (the first named
    map, each on another image; from two images on), ``"edges"`` where ``images`` are given, and ``"chance"`` in closed form: the
    share a mask covers, and for the IoU that of a set of the mask's size with the overlap expected at random.

    Args:
        maps: name to (N, 1, h, w); every map may have its own resolution.
        masks: (N, 1, H, W) bool.
        images: (N, C, h, w) for the edge map, in any scale.
        mode, draws: as in `iou`.
        seed: of the tie-breaking, the random control and the bootstrap.
        controls: maps to take for controls instead of those above; chance stays.
        controls_of: by named map, the names of its controls.

    Returns:
        ``{"n", "excluded", "maps": {name: {metric: [mean, low, high]}}}`` of plain numbers, with 95 % intervals over images:
        Wilson's for the pointing game, else a bootstrap's. ``n`` counts all images, ``excluded`` those with an empty mask, which no
        mean includes. With ``controls_of`` there is ``"above"``: how far each map stands above its best control in each metric;
        see `aib.interpret.margins.margins`.

    Raises:
        ValueError: no map, a map with the name of a control, masks that are all empty, and whatever `iou` raises.
    """
    reserved = ("uniform", "centre", "random", "edges", "other image", "chance") if controls is None else (*controls, "chance")
    if not maps:
        raise ValueError("there is no map to localise; give at least one, by name")
    for name in maps:
        if name in reserved:
            raise ValueError(f"a map is called {name!r}, which is the name of a control; these are {', '.join(reserved)}")
    for one in (*maps.values(), *(controls or {}).values()):
        _check(one, masks)
    share = masks.detach().cpu().flatten(1).double().mean(1)
    covered = share > 0
    if not bool(covered.any()):
        raise ValueError(f"all {len(masks)} masks are empty; localisation needs at least one image with a mask")
    if controls is not None:
        named = {**maps, **controls}
    else:
        named = dict(maps) | {"centre": centred_gaussian(masks), "uniform": uniform(masks), "random": blurred_random(masks, seed)}
        if len(masks) > 1:
            named["other image"] = other_image(next(iter(maps.values())), seed)
        if images is not None:
            named["edges"] = edge_map(images)
    scores = {name: localization_scores(one, masks, mode, draws=draws, seed=seed) for name, one in named.items()}
    share = share.where(covered, torch.nan)
    scores["chance"] = {"pointing_game": share, "energy": share, "iou": share / (2 - share)}
    summary = {
        name: {
            metric: list(share_interval(values.numpy()) if metric == "pointing_game" else bootstrap_mean(values.numpy(), seed))
            for metric, values in metrics.items()
        }
        for name, metrics in scores.items()
    }
    found = {"n": len(masks), "excluded": int((~covered).sum()), "maps": summary}
    if controls_of is not None:
        metrics = {metric: {name: one[metric].numpy() for name, one in scores.items()} for metric in METRICS}
        found["above"] = margins(metrics, controls_of, shares=("pointing_game",), seed=seed)
    return found


def _prepare(maps: Tensor, masks: Tensor, mode: ResizeMode) -> tuple[Tensor, Tensor]:
    """Values (N, H * W) float32 and inside (N, H * W) bool, on the CPU (not every device has float64)."""
    _check(maps, masks)
    size = (masks.shape[2], masks.shape[3])
    values = resize_maps(maps.detach().cpu().double(), size, mode).float().flatten(1)
    if not bool(values.isfinite().all()):
        where = (~values.isfinite()).any(1).nonzero().flatten()
        raise ValueError(f"{len(where)} of {len(maps)} maps are not finite (the first is number {int(where[0])})")
    return values, masks.detach().cpu().flatten(1)


def _pointing_game(values: Tensor, inside: Tensor) -> Tensor:
    top = values == values.amax(1, keepdim=True)
    return _excluding((top & inside).sum(1).double() / top.sum(1), inside)


def _energy(values: Tensor, inside: Tensor) -> Tensor:
    mass = values.double().clamp_min(0)
    total = mass.sum(1, keepdim=True)
    mass = torch.where(total > 0, mass, 1.0)
    return _excluding((mass * inside).sum(1) / mass.sum(1), inside)


def _iou(values: Tensor, inside: Tensor, draws: int, rng: np.random.Generator) -> Tensor:
    size = inside.sum(1)
    ordered = values.sort(dim=1, descending=True).values
    threshold = ordered.gather(1, (size - 1).clamp_min(0)[:, None])
    above, tied = values > threshold, values == threshold
    wanted = (size - above.sum(1)).clamp_min(0)
    # under a random order the tied pixels that are taken are a random subset: how many of them are inside is hypergeometric, and
    # drawing that number stands for drawing the order
    good, bad = (tied & inside).sum(1).numpy(), (tied & ~inside).sum(1).numpy()
    hits = (above & inside).sum(1).numpy() + rng.hypergeometric(good, bad, wanted.numpy(), (draws, len(values)))
    union = (2 * size).clamp_min(1).numpy() - hits
    return _excluding(torch.from_numpy((hits / union).mean(0)), inside)


def _excluding(scores: Tensor, inside: Tensor) -> Tensor:
    return scores.where(inside.any(1), torch.nan)


def _check(maps: Tensor, masks: Tensor) -> None:
    if masks.ndim != 4 or masks.shape[1] != 1 or masks.dtype != torch.bool:
        raise ValueError(f"masks are {tuple(masks.shape)} {masks.dtype}; expected (N, 1, H, W) torch.bool")
    if maps.ndim != 4 or maps.shape[1] != 1:
        raise ValueError(f"maps have shape {tuple(maps.shape)}; expected (N, 1, h, w)")
    if len(maps) != len(masks):
        raise ValueError(f"{len(maps)} maps but {len(masks)} masks")
    if not len(masks):
        raise ValueError("there are no maps; expected at least one")


def _check_draws(draws: int) -> int:
    if draws < 1:
        raise ValueError(f"draws is {draws}; it must be at least 1")
    return draws

"""Do the places a map marks matter to the network? Cells of the image are removed in the map's order, and the network asked again.

Every map is brought to the same grid of cells, 8 x 8 whatever the image's size unless told otherwise: a cell gets the map's mean
over it (`cell_means`). Cells are ranked, equal ones in an order drawn for each image from the seed and its position, the same for
all maps; with one order an image, means over many images are means over the ties too. The cells are then removed an eighth at a
time, the most important first (MoRF) and the least important first (LeRF), and filled in the ways of `aib.interpret.imputation`.

Recorded are the probability p of the class the network predicts for the whole image, and whether its answer is the label:

deletion    area under p of MoRF over the share removed: low where the cells removed first are those the network needs.
insertion   area under p as the most important cells come first onto the image with everything removed: onto the blurred image,
            as in Petsiuk et al. 2018, or by the other fills onto the mean colour. What is then still missing are the least
            important cells: it is the curve of LeRF read backwards, with the same area, and is computed once.
srg         symmetric relevance gain, insertion - deletion = area of LeRF - area of MoRF (Bluecher et al. 2024, "Decoupling pixel
            flipping and occlusion strategy for consistent XAI benchmarks"). What a fill does to p wherever it is put cancels;
            deletion and insertion alone are as much about the fill and the network.
polarity    share of images whose p falls more by removing the most attended quarter than by removing the least attended one.
accuracy    with the attended and with the unattended quarter, half and three quarters removed.

A constant map, like any random order, has an srg of 0 and a polarity of 1/2 in expectation. Turning a map without ties upside down
turns the signs: srg becomes -srg, polarity 1 - polarity. Deletion, insertion and the accuracies by themselves depend on how cells
lie too: scattered ones leave more of anything than a patch, so a map without order gains in insertion what it loses in deletion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from aib.data.augment import normalize
from aib.data.bundle import Split, batch_indices
from aib.interpret.explainers import evaluating
from aib.interpret.imputation import FILLS, Fill, impute, impute_each, seeded_generator
from aib.interpret.removal_curves import STEPS, Faithfulness, RemovalCurves

__all__ = ["cell_means", "image_positions", "pixel_batches", "removal_faithfulness", "removal_order"]

_VARIANTS = 2 * (STEPS - 1)
"""Images made of one image under one map and one fill: two orders, without the first and the last step, which all maps share."""


def removal_faithfulness(
    model: Callable[[Tensor], Tensor],
    images: Tensor | Split,
    maps: Mapping[str, Tensor],
    mean: Sequence[float],
    std: Sequence[float],
    labels: Tensor | None = None,
    *,
    positions: Tensor | None = None,
    fills: Sequence[Fill] = FILLS,
    grid: int = 8,
    seed: int = 0,
    images_at_once: int = 224,
    device: torch.device | str | None = None,
) -> Faithfulness:
    """How a classifier's answer changes as images are removed in the order of each map.

    It takes 14 passes for every image, map and fill, and two for every image as it is and blurred. On the CPU the network gets
    those of one image, map and fill together, which is as fast as more at once: the curves of an image are the same bit for bit
    whatever else is scored and whatever ``images_at_once`` is. Other devices get as many as are held, and results agree up to
    rounding.

    Args:
        model: normalised images (n, C, H, W) to logits (n, classes); a module runs in eval mode and is left as found.
        images: (N, C, H, W) pixels, 0 to 255, uint8 or float; or a split.
        maps: name to (N, 1, h, w), in the order of the images; every map may have its own resolution.
        mean, std: C numbers each, the normalisation of the model, for images scaled to [0, 1]. The mean is also a fill.
        labels: (N,) int64; those of a split by default.
        positions: (N,) int64, which images of a split, by default all of them. Of images in a tensor it only says where they come
            from, 0 to N - 1 by default: noise and ties depend on the seed and an image's position.
        fills: some of `FILLS`.
        grid: cells along each side of an image, or one a pixel where those are fewer.
        seed: of the noise and the ties, from 0 on.
        images_at_once: most images held, and shown to the network, at once; at least 14.
        device: where the images go; that of the model's parameters by default, or where they are if it has none.

    Raises:
        ValueError: no image, map or fill; shapes that do not belong together; maps or logits that are not finite; fewer than 8
            cells; an unknown fill, or one given twice; a negative seed or position; ``images_at_once`` below 14.
    """
    if images_at_once < _VARIANTS:
        raise ValueError(f"images_at_once is {images_at_once}; it must be at least {_VARIANTS}, the variants of one image")
    if not fills or len(set(fills)) < len(fills):
        raise ValueError(f"fills are {tuple(fills)}; expected one or more of {FILLS}, each once")
    where = image_positions(images, positions)
    truth = _labels(images, labels, where)
    _check_maps(maps, len(where))
    if device is None and isinstance(model, nn.Module):
        device = next((parameter.device for parameter in model.parameters()), None)
    orders: dict[str, Tensor] = {}
    found: dict[tuple[Fill, str], list[tuple[Tensor, Tensor]]] = {(fill, name): [] for fill in fills for name in maps}
    predicted: list[Tensor] = []
    start = 0

    def ask(shown: Tensor, at_once: int) -> Tensor:
        """Logits (n, classes) float64 on the CPU of pixels (n, C, H, W)."""
        logits = torch.cat([model(some) for some in normalize(shown, mean, std).split(at_once)])
        if logits.ndim != 2 or len(logits) != len(shown) or not bool(logits.isfinite().all()):
            raise ValueError(f"{len(shown)} images gave logits {tuple(logits.shape)}; expected (n, classes) of finite numbers")
        return logits.double().cpu()

    with torch.no_grad(), evaluating(model) if isinstance(model, nn.Module) else nullcontext():
        for pixels, numbers in pixel_batches(images, where, images_at_once // _VARIANTS, device):
            height, width = pixels.shape[2:]
            on_cpu = pixels.device.type == "cpu"
            if not orders:
                cells = _grid(grid, height, width)
                orders = {name: removal_order(cell_means(one, cells), where, seed) for name, one in maps.items()}
                everything = torch.ones(1, 1, height, width, dtype=torch.bool, device=pixels.device)
                nothing = ask(impute(pixels[:1], everything, "mean", mean), 1)
            # all that is left of an image depends on it by the blur only
            gone = dict.fromkeys(fills, nothing)
            if "blur" in fills:
                left = impute(pixels, everything.expand(len(pixels), -1, -1, -1), "blur", mean)
                gone["blur"] = ask(left, 1 if on_cpu else images_at_once)
            whole = ask(pixels, 1 if on_cpu else images_at_once)
            answers, rows = whole.argmax(1), slice(start, start + len(pixels))
            predicted.append(answers)
            for name, order in orders.items():
                removed = _removed(order[rows], cells, height, width).to(pixels.device)
                for fill in fills:
                    filled = impute_each(pixels, removed, fill, mean, seed=seed, positions=numbers).flatten(0, 1)
                    between = ask(filled, _VARIANTS if on_cpu else images_at_once).unflatten(0, (-1, 2, STEPS - 1))
                    ends = [end[:, None, None].expand(len(pixels), 2, 1, -1) for end in (whole, gone[fill])]
                    logits = torch.cat([ends[0], between, ends[1]], 2)
                    chosen = answers[:, None, None, None].expand(-1, 2, STEPS + 1, 1)
                    p = logits.softmax(-1).gather(-1, chosen).squeeze(-1)
                    found[fill, name].append((p, logits.argmax(-1) == truth[rows, None, None]))
            start += len(pixels)
    shares = _counts(cells).double() / (cells[0] * cells[1])

    def curves(parts: list[tuple[Tensor, Tensor]]) -> RemovalCurves:
        p, right = (torch.cat(part) for part in zip(*parts))
        return RemovalCurves(shares, p[:, 0], p[:, 1], right[:, 0], right[:, 1])

    scored = {fill: {name: curves(found[fill, name]) for name in maps} for fill in fills}
    return Faithfulness(scored, torch.cat(predicted), truth, cells)


def cell_means(maps: Tensor, cells: tuple[int, int]) -> Tensor:
    """Mean of each map over each cell of a grid; a map is constant within each of its own pixels, as large as they come out.

    Nothing is interpolated: a cell inside one pixel of a coarser map has that pixel's value, and no place is favoured. The mean is
    taken in float64 and then rounded to float32, so that equal values give equal means.

    Args:
        maps: (N, 1, h, w) of any size.
        cells: (rows, columns).

    Returns:
        (N, rows, columns) float32 on the CPU.

    Raises:
        ValueError: the maps have another shape.
    """
    if maps.ndim != 4 or maps.shape[1] != 1:
        raise ValueError(f"maps have shape {tuple(maps.shape)}; expected (N, 1, h, w)")

    def weights(pixels: int, count: int) -> Tensor:
        edges, bounds = torch.arange(count + 1).double() / count, torch.arange(pixels + 1).double() / pixels
        overlap = torch.minimum(edges[1:, None], bounds[1:]) - torch.maximum(edges[:-1, None], bounds[:-1])
        return overlap.clamp_min(0) * count

    rows, columns = weights(maps.shape[2], cells[0]), weights(maps.shape[3], cells[1])
    # one map at a time: a product of matrices may be rounded differently within a larger one
    return torch.stack([rows @ one.squeeze(0).clone() @ columns.T for one in maps.detach().cpu().double()]).float()


def removal_order(values: Tensor, positions: Tensor, seed: int = 0) -> Tensor:
    """Cells of every image from the most to the least important, ties in an order drawn from the seed and the image's position.

    Args:
        values: (N, rows, columns).
        positions: (N,) int64, from 0 on.
        seed: from 0 on.

    Returns:
        (N, rows * columns) int64 cell numbers, row by row.
    """
    flat = values.flatten(1)
    drawn = np.stack([seeded_generator(seed, i, 1).permutation(flat.shape[1]) for i in positions.tolist()])
    shuffled = torch.from_numpy(drawn)
    return shuffled.gather(1, flat.gather(1, shuffled).sort(dim=1, descending=True, stable=True).indices)


def image_positions(images: Tensor | Split, positions: Tensor | None) -> Tensor:
    """(N,) int64 on the CPU: ``positions``, or by default all of the images.

    Raises:
        ValueError: there are no images, a position that is none, or images in a tensor that are not as many as the positions.
    """
    if isinstance(images, Tensor) and images.ndim != 4:
        raise ValueError(f"images have shape {tuple(images.shape)}; expected (N, C, H, W)")
    where = torch.arange(len(images)) if positions is None else positions.cpu()
    if where.ndim != 1 or not len(where):
        raise ValueError(f"positions have shape {tuple(where.shape)}; expected (N,) with N >= 1")
    if isinstance(images, Tensor) and len(images) != len(where):
        raise ValueError(f"{len(images)} images but {len(where)} positions")
    if int(where.min()) < 0 or (not isinstance(images, Tensor) and int(where.max()) >= len(images)):
        raise ValueError(f"positions go from {int(where.min())} to {int(where.max())}; the split has {len(images)} images")
    return where


def pixel_batches(
    images: Tensor | Split, positions: Tensor, count: int, device: torch.device | str | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pixels (n, C, H, W) float32, 0 to 255, with their positions (n,) int64, ``count`` at a time and the last ones fewer.

    Args:
        images: (N, C, H, W) uint8 or float, or a split.
        positions: (N,) int64; of a split the images wanted, of a tensor where its images come from.
        count: images at a time.
        device: where they are wanted; where they are by default.
    """
    if isinstance(images, Tensor):
        for some, numbers in zip(images.split(count), positions.split(count)):
            yield some.to(device).float(), numbers
    else:
        for batch in images.batches(batch_indices(positions, count)):
            yield batch.images.to(device).float(), batch.positions


def _grid(grid: int, height: int, width: int) -> tuple[int, int]:
    cells = min(grid, height), min(grid, width)
    if min(cells) < 1 or cells[0] * cells[1] < STEPS:
        raise ValueError(f"grid is {grid} for {height}x{width} images; it must give at least {STEPS} cells")
    return cells


def _counts(cells: tuple[int, int]) -> Tensor:
    """(STEPS + 1,) int64 number of cells removed at each step."""
    return (torch.arange(STEPS + 1) * cells[0] * cells[1] + STEPS // 2) // STEPS


def _removed(order: Tensor, cells: tuple[int, int], height: int, width: int) -> Tensor:
    """(n, 14, H, W) bool, what is removed at the steps between, by MoRF and then by LeRF, in `removal_order`'s (n, cells)."""
    rank = order.argsort(1)
    counts = _counts(cells)[1:-1, None]
    gone = torch.cat([rank[:, None] < counts, rank[:, None] >= rank.shape[1] - counts], 1).unflatten(2, cells)
    rows = torch.arange(height) * cells[0] // height
    columns = torch.arange(width) * cells[1] // width
    return gone[:, :, rows[:, None], columns]


def _labels(images: Tensor | Split, labels: Tensor | None, positions: Tensor) -> Tensor:
    """(N,) on the CPU."""
    if labels is None and isinstance(images, Tensor):
        raise ValueError("images in a tensor have no labels of their own; give labels (N,)")
    chosen = images.labels[positions] if labels is None else labels.cpu()  # type: ignore[union-attr]
    if chosen.shape != positions.shape:
        raise ValueError(f"{len(positions)} images but labels of shape {tuple(chosen.shape)}; expected ({len(positions)},)")
    return chosen


def _check_maps(maps: Mapping[str, Tensor], count: int) -> None:
    if not maps:
        raise ValueError("there is no map to score; give at least one, by name")
    for name, one in maps.items():
        if one.ndim != 4 or one.shape[1] != 1 or len(one) != count:
            raise ValueError(f"map {name!r} has shape {tuple(one.shape)}; expected ({count}, 1, h, w)")
        if not bool(one.isfinite().all()):
            raise ValueError(f"map {name!r} is not finite")

"""Removing pixels: what stands in their place, so that a network can be asked for its answer without them.

``"mean"``          the data set's mean colour: nothing of the image, but edges that no photograph has.
``"blur"``          the value of the blurred image: no edges, but the coarse content is still there. The whole image is blurred
                    once, before anything is removed: what a pixel becomes does not depend on what is kept, and with everything
                    removed the blurred image is left (Fong and Vedaldi 2017, "Interpretable explanations of black boxes by
                    meaningful perturbation"; insertion starts from there in Petsiuk et al. 2018, "RISE").
``"noisy_linear"``  each removed pixel the weighted mean of its neighbours, and a little noise (Rong et al. 2022, "A consistent and
                    efficient evaluation strategy for attribution methods", ROAD): smooth, and only what the kept pixels tell. The
                    shape of the removed region hardly shows, so it cannot be what a network answers to. Where nothing is kept
                    there is nothing to continue: then it is the mean colour.

The Gaussian's deviation is an eighth of the image's shorter side, a cell of the 8 x 8 grid of `aib.interpret.faithfulness`: a
narrower one would leave what a cell holds. On photographs of 224 pixels Fong and Vedaldi take 10 pixels, 1/22 of the side, and
RISE a kernel of 11 pixels cut from a deviation of 5; on 32x32 pixels that is one or two. A network trained on `clutter`, right on
98 % of 500 whole images and on 10 % by chance, was still right on 97 % of the blurred ones at 1/45 of the side, on 75 % at 1/22 and
on 33 % at 1/16; at 1/11 and at 1/8 on 7 %.

For the noisy linear fill, with N(p) the 8 neighbours of p inside the image and w = 1/6 for those at a side and 1/12 at a corner,

    x_p = sum_N(p) w_q x_q / sum_N(p) w_q    for removed p,    x_p the image's for kept p,

a sparse linear system for each image and mask. It is solved for many at once by conjugate gradients with a multigrid
preconditioner, to within `TOLERANCE`: as twelve times the weights are the binomial filter [1 2 1] x [1 2 1] but for its centre, the
same system reads "the filter leaves x unchanged on removed pixels", and all it takes is a few additions of shifted images.

Only elementwise operations that are rounded once are used there, and every image stops by its own error: the result for an image is
the same bit for bit whatever else is in the batch.
"""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

__all__ = ["FILLS", "TOLERANCE", "Fill", "impute", "impute_each", "seeded_generator"]

Fill = Literal["mean", "blur", "noisy_linear"]

FILLS: tuple[Fill, ...] = get_args(Fill)

TOLERANCE = 0.05
"""Largest error of the noisy linear fill before its noise, in grey levels of 255, of images at least two pixels high and wide."""

_STOP = 0.03
"""Energy norm of the error in grey levels at which an image is done; the largest error of 750 hard cases was then 0.02."""

_STEPS = 50
"""Most steps of conjugate gradients; 6 to 13 are needed from 32x32 to 448x448."""

_ELEMENTS = 1 << 19
"""Numbers in an array of one call of the solver: enough to hide the calls, few enough for a processor's cache."""


def impute(
    images: Tensor,
    removed: Tensor,
    fill: Fill,
    mean: Sequence[float],
    *,
    seed: int = 0,
    positions: Tensor | None = None,
    blur: float = 1 / 8,
    noise: float = 2.55,
) -> Tensor:
    """Images with their removed pixels replaced. Kept pixels are those of the image, bit for bit.

    Where every pixel of an image is removed it becomes the blurred image by the blur, else the mean colour.

    Args:
        images: (N, C, H, W) float pixels, 0 to 255.
        removed: (N, 1, H, W) bool.
        fill: one of `FILLS`.
        mean: C numbers, the mean colour of the data set for images scaled to [0, 1] (that of its `DataBundle`).
        seed: of the noise, from 0 on.
        positions: (N,) int64 position of each image in its split; its noise depends on that and the seed alone. 0 to N - 1 by
            default.
        blur: standard deviation of the Gaussian as a share of the image's shorter side. Over the border there is nothing: the
            weights that are left add up to one.
        noise: standard deviation of the noise of the noisy linear fill in grey levels; values may leave 0 to 255 by it.

    Returns:
        (N, C, H, W) float32 on the images' device.

    Raises:
        ValueError: an unknown fill, tensors whose types or shapes are not those above, pixels that are not finite, a mean outside
            [0, 1], a position or seed below 0, or a ``blur`` or ``noise`` that is none.
    """
    if removed.ndim != 4 or removed.shape[1] != 1:
        raise ValueError(f"removed has shape {tuple(removed.shape)}; expected (N, 1, H, W), or use impute_each")
    return impute_each(images, removed, fill, mean, seed=seed, positions=positions, blur=blur, noise=noise).squeeze(1)


@torch.no_grad()
def impute_each(
    images: Tensor,
    removed: Tensor,
    fill: Fill,
    mean: Sequence[float],
    *,
    seed: int = 0,
    positions: Tensor | None = None,
    blur: float = 1 / 8,
    noise: float = 2.55,
) -> Tensor:
    """Every image under M masks of its own; all M get the same noise.

    Args:
        removed: (N, M, H, W) bool.

    Returns:
        (N, M, C, H, W) float32. The other arguments and the errors are those of `impute`.
    """
    _check(images, removed, fill, mean, blur, noise)
    numbers = range(len(images)) if positions is None else positions.tolist()
    if len(numbers) != len(images):
        raise ValueError(f"{len(images)} images but {len(numbers)} positions")
    pixels = images.detach().float()
    colour = 255 * torch.tensor(list(mean), dtype=torch.float32, device=pixels.device)[:, None, None]
    where = removed[:, :, None]
    if fill == "mean":
        inside: Tensor = colour
    elif fill == "blur":
        inside = _gaussian(pixels, blur * min(pixels.shape[2:]))[:, None]
    else:
        inside = _linear(pixels, removed)
        if noise > 0:
            shape = tuple(pixels.shape[1:])
            drawn = [seeded_generator(seed, number).standard_normal(shape, dtype=np.float32) for number in numbers]
            inside = inside + noise * torch.from_numpy(np.stack(drawn)).to(pixels.device)[:, None]
        inside = torch.where(where.flatten(3).all(3)[..., None, None], colour, inside)
    return torch.where(where, inside, pixels[:, None])


def seeded_generator(*seeds: int) -> np.random.Generator:
    """A generator that depends on ``seeds`` alone, such as (seed, position of an image): of any number of them, mixed.

    Torch's generators on the CPU take the lowest 32 bits of one number, and numpy's tell (2**32, 1) not from (0, 1, 1).

    Raises:
        ValueError: a seed is below 0.
    """
    if min(seeds) < 0:
        raise ValueError(f"the seeds are {seeds}; seeds and positions go from 0 on")
    return np.random.default_rng(int.from_bytes(hashlib.sha256("/".join(map(str, seeds)).encode()).digest(), "big"))


def _gaussian(images: Tensor, sigma: float) -> Tensor:
    """Images blurred; a pixel's weights add up to one inside the image."""

    def weights(side: int) -> Tensor:
        place = torch.arange(side, device=images.device)
        bells = torch.exp(-(place[:, None] - place).square() / (2 * sigma**2))
        return bells / bells.sum(1, keepdim=True)

    rows, columns = weights(images.shape[2]), weights(images.shape[3]).T.contiguous()
    # one image at a time: a product of matrices may be rounded differently within a larger one
    return torch.stack([rows @ image.clone() @ columns for image in images])


# --- the linear system ---------------------------------------------------------------------------------------------------------
#
# Inside the solver arrays are (H, W, columns), a column being one channel of one image under one mask: shifted images are then long
# runs of memory. A x = 0 on removed pixels, A = diag(S 1) - S and S the binomial filter with nothing outside the image.


def _linear(images: Tensor, removed: Tensor) -> Tensor:
    """The weighted means (N, M, C, H, W), right on removed pixels; of images (N, C, H, W) and masks (N, M, H, W)."""
    count, channels, height, width = images.shape
    masks = removed.shape[1]
    at_once = max(1, _ELEMENTS // (channels * height * width))
    flat = removed.flatten(0, 1)
    which = torch.arange(count, device=images.device).repeat_interleave(masks)
    solved = [_solve(images[some], mask) for some, mask in zip(which.split(at_once), flat.split(at_once))]
    return torch.cat(solved).unflatten(0, (count, masks))


def _solve(images: Tensor, removed: Tensor) -> Tensor:
    """The weighted means of images (B, C, H, W) on removed (B, H, W) pixels, elsewhere 0."""
    batch, channels, height, width = images.shape
    # the middle grey halves the numbers and with them the rounding
    columns = (images - 127.5).permute(2, 3, 0, 1).reshape(height, width, -1)
    unknown = removed.permute(1, 2, 0)[..., None].expand(-1, -1, -1, channels).reshape(height, width, -1).to(columns)
    levels = _coarser(unknown)
    solution = _conjugate_gradients(levels, unknown * _binomial(columns * (1 - unknown)))
    return (solution + 127.5).reshape(height, width, batch, channels).permute(2, 3, 0, 1)


def _conjugate_gradients(levels: list[tuple[Tensor, Tensor]], residual: Tensor) -> Tensor:
    """x with A x = ``residual`` on the unknown pixels and 0 elsewhere, from x = 0; every column takes its own steps."""
    unknown = levels[0][0]
    diagonal = unknown * _binomial(torch.ones_like(unknown[..., :1]))
    solution = torch.zeros_like(residual)
    direction = before = solution
    for step in range(_STEPS):
        corrected = _cycle(levels, residual)
        square = _dot(residual, corrected)
        going = square > _STOP**2
        if not bool(going.any()):
            break
        # a column that is done takes no step any more; its 0 / 0 must not either
        direction = corrected if step == 0 else direction.mul_(torch.where(going, square / before, 0.0)).add_(corrected)
        applied = (diagonal * direction).sub_(_binomial(direction).mul_(unknown))
        length = torch.where(going, square / _dot(direction, applied), 0.0)
        solution += length * direction
        residual = residual - applied.mul_(length)
        before = square
    return solution


def _cycle(levels: list[tuple[Tensor, Tensor]], residual: Tensor) -> Tensor:
    """One multigrid cycle on A e = ``residual``: symmetric and positive, as conjugate gradients need it.

    The smoother e <- S e / S 1 is Jacobi's, damped by 3/4: at the centre of the filter.
    """
    unknown, inverse = levels[0]
    error = inverse * residual
    if len(levels) == 1:
        for _ in range(4):
            error = _binomial(error).add_(residual).mul_(inverse)
        return error
    # after the first sweep what is left of the residual is S e
    coarse = _halve(_halve(_binomial(error).mul_(unknown), 0), 1)
    finer = _double(_double(_cycle(levels[1:], coarse), 0, error.shape[0]), 1, error.shape[1])
    error += finer.mul_(unknown)
    return _binomial(error).add_(residual).mul_(inverse)


def _coarser(unknown: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Unknown pixels as ones, and 1 / S 1 on them, at every level; a coarse pixel is unknown if all pixels inside it are."""
    levels = []
    while True:
        levels.append((unknown, unknown / _binomial(torch.ones_like(unknown[..., :1]))))
        if max(unknown.shape[:2]) <= 2:
            return levels
        for dim in (0, 1):
            first, second = _pairs(unknown, dim, 1.0)
            unknown = first * second


def _binomial(values: Tensor) -> Tensor:
    """[1 2 1] along both of the first two dimensions, with nothing outside."""
    for dim in (0, 1):
        side = values.shape[dim]
        sums = values.new_empty(*values.shape[:dim], side + 1, *values.shape[dim + 1 :])
        torch.add(values.narrow(dim, 1, side - 1), values.narrow(dim, 0, side - 1), out=sums.narrow(dim, 1, side - 1))
        sums.select(dim, 0).copy_(values.select(dim, 0))
        sums.select(dim, side).copy_(values.select(dim, side - 1))
        values = sums.narrow(dim, 1, side) + sums.narrow(dim, 0, side)
    return values


def _double(values: Tensor, dim: int, side: int) -> Tensor:
    """Linear interpolation to ``side`` pixels, twice as many or one less: 3/4 of the nearest and 1/4 of the next."""
    count = values.shape[dim]
    near, far = 0.75 * values, 0.25 * values
    finer = values.new_empty(*values.shape[:dim], count, 2, *values.shape[dim + 1 :])
    first, second = finer.select(dim + 1, 0), finer.select(dim + 1, 1)
    torch.add(near.narrow(dim, 1, count - 1), far.narrow(dim, 0, count - 1), out=first.narrow(dim, 1, count - 1))
    torch.add(near.narrow(dim, 0, count - 1), far.narrow(dim, 1, count - 1), out=second.narrow(dim, 0, count - 1))
    first.select(dim, 0).copy_(values.select(dim, 0))
    second.select(dim, count - 1).copy_(values.select(dim, count - 1))
    return finer.flatten(dim, dim + 1).narrow(dim, 0, side)


def _halve(values: Tensor, dim: int) -> Tensor:
    """The transpose of `_double`."""
    first, second = _pairs(values, dim, 0.0)
    count = first.shape[dim]
    coarse = 0.75 * (first + second)
    coarse.narrow(dim, 0, count - 1).add_(0.25 * first.narrow(dim, 1, count - 1))
    coarse.narrow(dim, 1, count - 1).add_(0.25 * second.narrow(dim, 0, count - 1))
    coarse.select(dim, 0).add_(0.25 * first.select(dim, 0))
    coarse.select(dim, count - 1).add_(0.25 * second.select(dim, count - 1))
    return coarse


def _pairs(values: Tensor, dim: int, outside: float) -> tuple[Tensor, Tensor]:
    """Every second pixel from the first and from the second on; past the last of an odd number lies ``outside``."""
    if values.shape[dim] % 2:
        values = torch.cat([values, torch.full_like(values.narrow(dim, 0, 1), outside)], dim)
    pairs = values.unflatten(dim, (-1, 2))
    return pairs.select(dim + 1, 0), pairs.select(dim + 1, 1)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """(columns,) scalar products, added up in an order that does not depend on their number."""
    products = (a * b).flatten(0, 1)
    while len(products) > 1:
        half = len(products) // 2
        sums = products[:half] + products[half : 2 * half]
        if len(products) % 2:
            sums[0] += products[-1]
        products = sums
    return products[0]


# --- checks --------------------------------------------------------------------------------------------------------------------


def _check(images: Tensor, removed: Tensor, fill: str, mean: Sequence[float], blur: float, noise: float) -> None:
    if fill not in FILLS:
        near = difflib.get_close_matches(str(fill), FILLS, n=1, cutoff=0.5)
        raise ValueError(f"fill is {fill!r}; " + (f"did you mean {near[0]!r}? " if near else "") + f"It must be one of {FILLS}")
    if images.ndim != 4 or not images.is_floating_point() or not len(images):
        raise ValueError(f"images are {tuple(images.shape)} {images.dtype}; expected (N, C, H, W) of floats with N >= 1")
    if removed.dtype != torch.bool or removed.ndim != 4:
        raise ValueError(f"removed is {tuple(removed.shape)} {removed.dtype}; expected (N, M, H, W) torch.bool")
    if (len(removed), *removed.shape[2:]) != (len(images), *images.shape[2:]) or not removed.shape[1]:
        raise ValueError(f"images have shape {tuple(images.shape)} and removed {tuple(removed.shape)}; N, H and W must agree")
    if not bool(images.isfinite().all()):
        raise ValueError("images hold NaN or infinite pixels; expected 0 to 255")
    if len(mean) != images.shape[1] or not all(0 <= m <= 1 for m in mean):
        raise ValueError(f"mean is {tuple(mean)}; expected {images.shape[1]} numbers from 0 to 1, for images scaled to [0, 1]")
    if not (math.isfinite(blur) and blur > 0):
        raise ValueError(f"blur is {blur}; it must be a positive share of the image's side")
    if not (math.isfinite(noise) and noise >= 0):
        raise ValueError(f"noise is {noise}; it must be 0 or a positive number of grey levels")

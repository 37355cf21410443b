"""The equations of the paper, pure and numbered; every other module only arranges them.

Numbers refer to "Information Bottleneck Approach to Spatial Attention Learning" (IJCAI 2021). Rates and divergences are in nats
here; a name ending in ``_bits`` is in bits. Statistics are computed in float32 whatever the precision of the features.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "STD_FLOOR",
    "STD_OFFSET",
    "KLKind",
    "Modulation",
    "autocast_off",
    "gaussian_kl",
    "modulate",
    "nats_to_bits",
    "nearest_anchor",
    "positive_std",
    "reparameterize",
    "resize_maps",
    "straight_through",
]

KLKind = Literal["paper", "reference"]
Modulation = Literal["residual", "plain"]

STD_OFFSET = -5.0
"""Shift of the softplus that makes a fresh standard deviation small: softplus(-5) = 0.0067."""

STD_FLOOR = 1e-6
"""Smallest standard deviation, so that its logarithm stays finite for any input."""

FEW_SCORES = 1 << 14
"""Below this number of scores a binary search is as fast as cells."""

CELLS_PER_EDGE = 4

MOST_IN_CELL = 3
"""Edges in one cell with which cells are still faster than a binary search."""

REFERENCE_LOG_SCALE_MAX = 40.0
"""Largest logarithm of the scale in the reference divergence, whose square would overflow float32 from 44 on."""


def autocast_off(device: torch.device) -> AbstractContextManager[object]:
    """Context without autocast on ``device``; does nothing on devices that have none, such as ``meta``."""
    return torch.autocast(device.type, enabled=False) if torch.amp.is_autocast_available(device.type) else nullcontext()


def positive_std(raw: Tensor, offset: float = STD_OFFSET) -> Tensor:
    """Standard deviation ``max(softplus(raw + offset), STD_FLOOR)``, in float32.

    Args:
        raw: unconstrained values of any shape.
        offset: shift before the softplus; with the default, ``raw = 0`` gives 0.0067.
    """
    return F.softplus(raw.float() + offset).clamp_min(STD_FLOOR)


def reparameterize(mean: Tensor, std: Tensor, noise: Tensor) -> Tensor:
    """Draw ``mean + std * noise`` (the reparametrisation above eq. 20); shapes broadcast."""
    return mean + std * noise


def gaussian_kl(mean: Tensor, std: Tensor, kind: KLKind = "paper") -> Tensor:
    """KL(N(mean, std^2) || N(0, I)) in nats, summed over the last dimension (second term of eq. 8 and 20).

    Args:
        mean: (..., K) means.
        std: (..., K) positive standard deviations, those the sampler uses.
        kind: ``"paper"`` is the divergence of the distribution that is sampled. ``"reference"`` reproduces the published code,
            which takes ``exp(std)`` for the scale here while it samples with ``std``; its least value is at zero noise.

    Returns:
        (...) divergences, at least 0.

    Raises:
        ValueError: ``kind`` is neither of the two.
    """
    mean, std = mean.float(), std.float()
    if kind == "paper":
        log_scale, scale = std.log(), std
    elif kind == "reference":
        log_scale = std.clamp_max(REFERENCE_LOG_SCALE_MAX)
        scale = log_scale.exp()
    else:
        raise ValueError(f"kl is {kind!r}; it must be 'paper' or 'reference'")
    return (0.5 * (mean.square() + scale.square() - 1.0) - log_scale).sum(-1)


def nats_to_bits(nats: float) -> float:
    """Information in bits from information in nats."""
    return nats / math.log(2.0)


def nearest_anchor(scores: Tensor, anchors: Tensor) -> Tensor:
    """Index of the anchor nearest to each score (eq. 9), in at most O(log Q) a score and without a (scores, Q) table.

    The anchors are sorted and the scores located among their midpoints; anchors need not come sorted. A score exactly between
    two anchors takes the smaller one. Comparisons are in float32, so that bfloat16 scores pick the anchor their float32 copy picks.

    Args:
        scores: (...) attention scores.
        anchors: (Q,) anchor values.

    Returns:
        (...) int64 indices into ``anchors``.

    Raises:
        ValueError: ``anchors`` is not one-dimensional or is empty.
    """
    if anchors.ndim != 1 or anchors.numel() == 0:
        raise ValueError(f"anchors have shape {tuple(anchors.shape)}; expected (Q,) with Q >= 1")
    ordered, order = anchors.detach().float().sort()
    midpoints = (ordered[:-1] + ordered[1:]) / 2
    places = _count_below(scores.detach().float().reshape(-1), midpoints)
    return order.index_select(0, places).view(scores.shape)


def _count_below(scores: Tensor, edges: Tensor) -> Tensor:
    """(N,) int32, how many of the sorted ``edges`` lie below each of ``scores`` (N,): ``torch.bucketize``, on a CPU in less time.

    The branches of a binary search are what a processor guesses worst. So the line is cut into cells first, and a score compared
    only with the edges in its own cell: as `cell` never falls where its argument grows, edges in cells before lie below the score
    and edges in cells behind do not, rounding or not. Where edges crowd in one cell, where scores are few, and elsewhere than on
    a CPU, where asking for the largest count would wait for the device, it is the binary search.
    """
    if len(scores) < FEW_SCORES or not len(edges) or scores.device.type != "cpu" or torch.compiler.is_compiling():
        return torch.bucketize(scores, edges, out_int32=True)
    cells = CELLS_PER_EDGE * len(edges)
    scale = cells / (edges[-1] - edges[0])
    if not 0 < float(scale) < math.inf:  # edges all alike, beyond float32, or not numbers
        return torch.bucketize(scores, edges, out_int32=True)

    def cell(values: Tensor) -> Tensor:
        # one cell more than edges reach, for what lies above all of them; a search puts NaN there, too
        return ((values - edges[0]) * scale).nan_to_num_(cells + 1, cells + 1, 0).clamp_(0, cells + 1).to(torch.int32)

    counts = torch.bincount(cell(edges), minlength=cells + 2)
    if (crowd := int(counts.max())) > MOST_IN_CELL:
        return torch.bucketize(scores, edges, out_int32=True)
    before = (counts.cumsum(0) - counts).int().index_select(0, cell(scores))
    edges = F.pad(edges, (0, crowd), value=math.inf)
    return sum((scores > edges[i:].index_select(0, before) for i in range(crowd)), start=before)


def straight_through(scores: Tensor, quantized: Tensor) -> Tensor:
    """``quantized`` in the forward pass, with the gradient handed to ``scores`` unaltered (section 3.3).

    The values are exactly those of ``quantized``: ``scores - scores.detach()`` is an exact zero.
    """
    return quantized.detach() + (scores - scores.detach())


def modulate(features: Tensor, attention: Tensor, kind: Modulation = "residual") -> Tensor:
    """Attention-modulated features: ``features * (1 + attention)`` (residual) or ``features * attention`` (plain).

    Args:
        features: (N, C, H, W).
        attention: (N, 1, H, W); cast to the dtype of the features.

    Raises:
        ValueError: ``kind`` is neither of the two.
    """
    if kind == "residual":
        return features * (1.0 + attention).to(features.dtype)
    if kind == "plain":
        return features * attention.to(features.dtype)
    raise ValueError(f"modulation is {kind!r}; it must be 'residual' or 'plain'")


def resize_maps(maps: Tensor, size: tuple[int, int], mode: Literal["bilinear", "nearest"] = "bilinear") -> Tensor:
    """Maps at another size, pixel centres aligned (half-pixel convention), so that a hot cell lands where it was.

    Args:
        maps: (N, 1, H, W).
        size: (height, width) wanted.
        mode: ``"bilinear"`` for pictures, ``"nearest"`` to keep the anchor values.

    Raises:
        ValueError: ``mode`` is neither of the two.
    """
    if mode == "nearest":
        return F.interpolate(maps, size, mode="nearest-exact")
    if mode == "bilinear":
        return F.interpolate(maps, size, mode="bilinear", align_corners=False)
    raise ValueError(f"mode is {mode!r}; it must be 'bilinear' or 'nearest'")

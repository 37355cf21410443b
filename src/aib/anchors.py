"""Attention scores snapped to a few learnable anchors (section 3.3, eq. 9)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from aib.functional import nearest_anchor, straight_through

__all__ = ["AnchorQuantizer", "AnchorUsage", "QuantizedMap", "anchor_usage"]


class QuantizedMap(NamedTuple):
    """What the quantiser returns for scores of shape (...).

    Attributes:
        quantized: (...) anchor values in the forward pass; their gradient goes to the scores alone.
        anchor_values: (...) the same values; their gradient goes to the anchors alone.
        indices: (...) int64, which anchor.
    """

    quantized: Tensor
    anchor_values: Tensor
    indices: Tensor


class AnchorQuantizer(nn.Module):
    """Replace each score by the nearest of ``num_anchors`` learnable scalars.

    Anchors start evenly spaced on [low, high], both ends included; training may move them past each other or out of the interval.
    Memory is linear in the number of scores and independent of the number of anchors.

    Args:
        num_anchors: Q, at least 2.
        low, high: the interval the anchors start on.

    Raises:
        ValueError: fewer than two anchors.
    """

    def __init__(self, num_anchors: int, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        if num_anchors < 2:
            raise ValueError(f"anchors is {num_anchors}; a quantised map needs at least 2 (None leaves the map continuous)")
        self.anchors = nn.Parameter(torch.linspace(low, high, num_anchors))

    @property
    def num_anchors(self) -> int:
        return self.anchors.numel()

    def forward(self, scores: Tensor) -> QuantizedMap:
        """Quantise ``scores`` of any shape; see `QuantizedMap`."""
        indices = nearest_anchor(scores, self.anchors)
        # not self.anchors[indices]: on several threads the backward pass of that adds up in an order of its own each time
        anchor_values = self.anchors.float().index_select(0, indices.flatten()).view(indices.shape)
        return QuantizedMap(straight_through(scores, anchor_values), anchor_values, indices)

    def extra_repr(self) -> str:
        return f"num_anchors={self.num_anchors}"


class AnchorUsage(NamedTuple):
    """How a set of quantised maps uses its anchors.

    Attributes:
        counts: (Q,) int64, positions that took each anchor.
        used: number of anchors with at least one position.
        perplexity: exp of the entropy of the usage, between 1 and Q.
        smallest_gap: least distance between two anchors; 0 means that two have merged.
    """

    counts: Tensor
    used: int
    perplexity: float
    smallest_gap: float


def anchor_usage(counts: Tensor, anchors: Tensor) -> AnchorUsage:
    """Usage statistics from (Q,) position counts and (Q,) anchor values."""
    counts = counts.cpu()  # in float64, which MPS does not have
    share = counts.double() / counts.sum().clamp_min(1)
    entropy = -torch.xlogy(share, share).sum().item()
    gaps = anchors.detach().float().sort().values.diff()
    return AnchorUsage(counts, int((counts > 0).sum()), math.exp(entropy), gaps.min().item())

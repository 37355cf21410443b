"""The variational spatial attention module (section 3.2; the graph X -> A of the paper)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from aib.functional import STD_OFFSET, autocast_off, positive_std

__all__ = ["AttentionStatistics", "SpatialAttention"]


class AttentionStatistics(NamedTuple):
    """Mean (N, 1, H, W) in (0, 1) and standard deviation (N, 1, H, W) > 0 of p(a | x), both float32."""

    mean: Tensor
    std: Tensor


class SpatialAttention(nn.Module):
    """Statistics of one attention score a position, from features (N, C, H, W).

        mean = sigmoid(head(features)),    std = softplus(conv3x3(mean) + std_offset) + min_std

    The standard deviation sees the mean map only, as published. Everything after the head runs in float32, under autocast too.

    As published the noise can be trained away, and then only ratios within a map matter: a later layer undoes a factor. ``min_std``
    keeps a noise of known size in training, so that a score has to stand above it to be of use.

    Args:
        channels: C, used by the default head.
        head: module from (N, C, H, W) to (N, 1, H, W) raw scores; a 3x3 convolution by default.
        std_offset: shift of the softplus; -5 starts with a standard deviation of 0.0067.
        min_std: least standard deviation, at least 0; 0 as published.

    Raises:
        ValueError: ``min_std`` is negative.
    """

    def __init__(self, channels: int, head: nn.Module | None = None, std_offset: float = STD_OFFSET, min_std: float = 0.0) -> None:
        super().__init__()
        if not min_std >= 0:
            raise ValueError(f"min_std is {min_std}; it must be at least 0")
        self.head = head if head is not None else nn.Conv2d(channels, 1, 3, padding=1)
        self.std_head = nn.Conv2d(1, 1, 3, padding=1)
        self.std_offset = std_offset
        self.min_std = min_std

    def forward(self, features: Tensor) -> AttentionStatistics:
        raw = self.head(features)
        with autocast_off(features.device):
            mean = raw.float().sigmoid()
            std = positive_std(self.std_head(mean.to(self.std_head.weight.dtype)), self.std_offset) + self.min_std
        return AttentionStatistics(mean, std)

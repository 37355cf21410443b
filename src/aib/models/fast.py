"""A plain network chosen for accuracy per operation on 32x32 images, and its attentive twins.

Arrangement after airbench94 (Jordan 2024) and the ResNet-9 line of David Page: a frozen 2x2 convolution that whitens image patches,
then three blocks of two 3x3 convolutions with batch normalisation and GELU, pooled early so that most work happens on small maps.
The convolutions start as the identity where they can, and normalisation learns shifts only (faster, with `norm_bias_lr_scale`).
The attentive models attend between the first block and the second, on features (N, 64, 15, 15). The whitening filters come from the
training images (`WhiteningConv.calibrate`, called once before training).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aib.anchors import AnchorQuantizer
from aib.attention import SpatialAttention
from aib.bottleneck import LatentBottleneck, deep_decoder
from aib.classifier import AttentiveClassifier, PlainClassifier, SplitBackbone
from aib.functional import Modulation
from aib.models.registry import register

__all__ = ["WhiteningConv", "fast", "fast_aib", "fast_aib_qt"]

WIDTHS = (64, 256, 256)
ANCHORS = 20
LATENT_DIM = 128
WHITENING_EPSILON = 5e-4
STATISTICS_MOMENTUM = 0.4
LOGIT_SCALE = 1 / 9
"""Of airbench94. The attentive networks need none: the linear layers before their logits shrink what passes through them."""


class WhiteningConv(nn.Module):
    """2x2 convolution whose frozen filters whiten patches: the eigenvectors of their covariance and the negatives of these.

    Args:
        in_channels: C; there are 8 * C filters.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.out_channels = 8 * in_channels
        self.conv = nn.Conv2d(in_channels, self.out_channels, 2, bias=True)
        self.conv.weight.requires_grad_(False)

    @torch.no_grad()
    def calibrate(self, images: Tensor) -> None:
        """Set the filters from normalised images (N, C, H, W)."""
        channels = images.shape[1]
        patches = F.unfold(images.float().cpu(), 2).transpose(1, 2).reshape(-1, 4 * channels)
        values, vectors = torch.linalg.eigh(patches.T.cov())
        filters = (vectors / (values.clamp_min(0) + WHITENING_EPSILON).sqrt()).T.reshape(-1, channels, 2, 2)
        self.conv.weight.copy_(torch.cat([filters, -filters]))

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images)


class _ScaledLinear(nn.Linear):
    """A linear layer whose outputs are `LOGIT_SCALE` times as large: maxima of 256 channels make logits too sure of themselves."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) * LOGIT_SCALE


def _conv(channels: int, width: int) -> nn.Conv2d:
    """3x3 convolution that starts by passing its input on: the first filters are the identity, the others as usual."""
    conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(conv.weight[: min(channels, width)])
    return conv


def _norm(width: int) -> nn.BatchNorm2d:
    """Batch normalisation with a short memory, for short trainings, that learns its shifts and keeps its scales at 1."""
    norm = nn.BatchNorm2d(width, momentum=STATISTICS_MOMENTUM)
    norm.weight.requires_grad_(False)
    return norm


def _block(channels: int, width: int) -> nn.Sequential:
    """Convolution, halving, convolution, each with batch normalisation and GELU."""
    return nn.Sequential(
        _conv(channels, width), nn.MaxPool2d(2), _norm(width), nn.GELU(),
        _conv(width, width), _norm(width), nn.GELU(),
    )  # fmt: skip


def _features(in_channels: int) -> nn.Sequential:
    """(N, C, 32, 32) to (N, 64, 15, 15)."""
    whiten = WhiteningConv(in_channels)
    return nn.Sequential(whiten, nn.GELU(), _block(whiten.out_channels, WIDTHS[0]))


def _encoder() -> nn.Sequential:
    """(N, 64, 15, 15) to (N, 256, 1, 1)."""
    return nn.Sequential(_block(WIDTHS[0], WIDTHS[1]), _block(WIDTHS[1], WIDTHS[2]), nn.AdaptiveMaxPool2d(1))


def _attention_head(channels: int) -> nn.Sequential:
    """Raw scores from features and their surroundings: (N, C, H, W) to (N, 1, H, W)."""
    return nn.Sequential(
        nn.Conv2d(channels, channels // 2, 3, padding=2, dilation=2, bias=False), nn.BatchNorm2d(channels // 2), nn.GELU(),
        nn.Conv2d(channels // 2, 1, 3, padding=1),
    )  # fmt: skip


@register
def fast(num_classes: int, in_channels: int = 3) -> PlainClassifier:
    """The plain network: 1.97 M parameters, 0.12 GMAC an image."""
    return PlainClassifier(_features(in_channels), _encoder(), _ScaledLinear(WIDTHS[2], num_classes), num_classes)


@register
def fast_aib(
    num_classes: int,
    in_channels: int = 3,
    latent_dim: int = LATENT_DIM,
    anchors: int | None = None,
    modulation: Modulation = "residual",
) -> AttentiveClassifier:
    """`fast` with continuous attention on 15x15 positions."""
    return AttentiveClassifier(
        SplitBackbone(_features(in_channels), _encoder()),
        SpatialAttention(WIDTHS[0], head=_attention_head(WIDTHS[0])),
        LatentBottleneck(WIDTHS[2], latent_dim),
        deep_decoder(latent_dim, num_classes),
        num_classes=num_classes,
        quantizer=None if anchors is None else AnchorQuantizer(anchors),
        modulation=modulation,
    )


@register
def fast_aib_qt(
    num_classes: int,
    in_channels: int = 3,
    latent_dim: int = LATENT_DIM,
    anchors: int | None = ANCHORS,
    modulation: Modulation = "residual",
) -> AttentiveClassifier:
    """`fast` with attention snapped to anchors."""
    return fast_aib(num_classes, in_channels, latent_dim, ANCHORS if anchors is None else anchors, modulation)

"""Wide residual network WRN-28-10 for 32x32 images (Zagoruyko and Komodakis 2016) and its attentive twins.

The attentive models attend after the second of three groups, on features (N, 320, 16, 16). Their attention branch is that of
attention branch networks (Fukui et al. 2019): the third group at stride 1, one channel a class, one map.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from aib.anchors import AnchorQuantizer
from aib.attention import SpatialAttention
from aib.bottleneck import LatentBottleneck, shallow_decoder
from aib.classifier import AttentiveClassifier, PlainClassifier, SplitBackbone
from aib.functional import Modulation
from aib.models.registry import register

__all__ = ["wrn", "wrn_aib", "wrn_aib_qt"]

DEPTH = 28
WIDTH = 10
DROPOUT = 0.3
WIDTHS = (16, 16 * WIDTH, 32 * WIDTH, 64 * WIDTH)


class BasicBlock(nn.Module):
    """Pre-activation block: BN, ReLU, conv, BN, ReLU, dropout, conv, plus a 1x1 shortcut where the width changes."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(DROPOUT)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.shortcut = None if channels == width else nn.Conv2d(channels, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        # where the width changes the shortcut starts after the shared activation, as in the authors' network
        skip = x if self.shortcut is None else self.shortcut(out)
        out = self.conv2(self.dropout(F.relu(self.bn2(self.conv1(out)))))
        return skip + out


def group(channels: int, width: int, stride: int, blocks: int = (DEPTH - 4) // 6) -> nn.Sequential:
    """``blocks`` basic blocks, the first with ``stride``."""
    return nn.Sequential(*(BasicBlock(channels if i == 0 else width, width, stride if i == 0 else 1) for i in range(blocks)))


def wrn_features(in_channels: int) -> nn.Sequential:
    """First convolution and groups 1-2: (N, 3, 32, 32) to (N, 320, 16, 16)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, WIDTHS[0], 3, 1, 1, bias=False), group(WIDTHS[0], WIDTHS[1], 1), group(WIDTHS[1], WIDTHS[2], 2)
    )


def wrn_encoder() -> nn.Sequential:
    """Group 3, BN, ReLU and pooling: (N, 320, 16, 16) to (N, 640, 1, 1)."""
    return nn.Sequential(group(WIDTHS[2], WIDTHS[3], 2), nn.BatchNorm2d(WIDTHS[3]), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1))


def attention_branch(num_classes: int) -> nn.Sequential:
    """Group 3 at stride 1, then one channel a class, then raw scores: (N, 320, 16, 16) to (N, 1, 16, 16)."""
    return nn.Sequential(
        group(WIDTHS[2], WIDTHS[3], 1),
        nn.BatchNorm2d(WIDTHS[3]),
        nn.Conv2d(WIDTHS[3], num_classes, 1, bias=False),
        nn.BatchNorm2d(num_classes),
        nn.ReLU(inplace=True),
        nn.Conv2d(num_classes, 1, 3, padding=1, bias=False),
        nn.BatchNorm2d(1),
    )


def wrn_init(model: nn.Module) -> None:
    """He initialisation by fan-out, the authors' start; linear biases at zero."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


@register
def wrn(num_classes: int, in_channels: int = 3) -> PlainClassifier:
    """The plain WRN-28-10: 36.48 M parameters, 5.24 GMAC an image (10 classes)."""
    model = PlainClassifier(wrn_features(in_channels), wrn_encoder(), nn.Linear(WIDTHS[3], num_classes), num_classes)
    wrn_init(model)
    return model


@register
def wrn_aib(
    num_classes: int,
    in_channels: int = 3,
    latent_dim: int = 512,
    anchors: int | None = None,
    modulation: Modulation = "residual",
) -> AttentiveClassifier:
    """WRN-aib: continuous attention from an attention branch, K = 512. 65.00 M parameters."""
    model = AttentiveClassifier(
        SplitBackbone(wrn_features(in_channels), wrn_encoder()),
        SpatialAttention(WIDTHS[2], head=attention_branch(num_classes)),
        LatentBottleneck(WIDTHS[3], latent_dim),
        shallow_decoder(latent_dim, num_classes),
        num_classes=num_classes,
        quantizer=AnchorQuantizer(anchors) if anchors is not None else None,
        modulation=modulation,
    )
    wrn_init(model)
    return model


@register
def wrn_aib_qt(
    num_classes: int,
    in_channels: int = 3,
    latent_dim: int = 512,
    anchors: int | None = None,
    modulation: Modulation = "residual",
) -> AttentiveClassifier:
    """WRN-aib-qt: attention snapped to anchors; by default 50 of them, 20 from 100 classes on, as published."""
    if anchors is None:
        anchors = 20 if num_classes >= 100 else 50
    return wrn_aib(num_classes, in_channels, latent_dim, anchors, modulation)

"""Wide residual network WRN-28-10 for 32x32 images (Zagoruyko and Komodakis 2016) and its attentive twins.

The attentive models attend after the second of three groups, on features (N, 320, 16, 16). Their attention branch is that of
attention branch networks (Fukui et al. 2019): the third group at stride 1, one channel a class, one map. All take a ``width``, a
factor on the channels: 0.1 is WRN-28-1.
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
from aib.models.dropout import Dropout
from aib.models.registry import register

__all__ = ["wrn", "wrn_aib", "wrn_aib_qt"]

DEPTH = 28
WIDTH = 10
DROPOUT = 0.3
LATENT = 512


def wrn_channels(width: float) -> tuple[int, int, int, int]:
    """Channels of the first convolution and of groups 1 to 3 in a WRN-28 of ``width`` times the published 10.

    Raises:
        ValueError: ``width`` makes less than WRN-28-1, or is above 4.
    """
    if not 1 / WIDTH <= width <= 4:
        raise ValueError(f"width is {width}; it must lie between {1 / WIDTH} and 4, in multiples of the published width")
    factor = WIDTH * width
    return 16, round(16 * factor), round(32 * factor), round(64 * factor)


class BasicBlock(nn.Module):
    """Pre-activation block: BN, ReLU, conv, BN, ReLU, dropout, conv, plus a 1x1 shortcut where the width changes."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.dropout = Dropout(DROPOUT)
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


def wrn_features(in_channels: int, width: float = 1.0) -> nn.Sequential:
    """First convolution and groups 1-2: (N, 3, 32, 32) to (N, 320, 16, 16)."""
    start, first, second, _ = wrn_channels(width)
    return nn.Sequential(nn.Conv2d(in_channels, start, 3, 1, 1, bias=False), group(start, first, 1), group(first, second, 2))


def wrn_encoder(width: float = 1.0) -> nn.Sequential:
    """Group 3, BN, ReLU and pooling: (N, 320, 16, 16) to (N, 640, 1, 1)."""
    *_, second, third = wrn_channels(width)
    return nn.Sequential(group(second, third, 2), nn.BatchNorm2d(third), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1))


def attention_branch(num_classes: int, width: float = 1.0) -> nn.Sequential:
    """Group 3 at stride 1, then one channel a class, then raw scores: (N, 320, 16, 16) to (N, 1, 16, 16)."""
    *_, second, third = wrn_channels(width)
    return nn.Sequential(
        group(second, third, 1),
        nn.BatchNorm2d(third),
        nn.Conv2d(third, num_classes, 1, bias=False),
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
def wrn(num_classes: int, in_channels: int = 3, width: float = 1.0) -> PlainClassifier:
    """The plain WRN-28-10: 36.48 M parameters, 5.24 GMAC an image (10 classes)."""
    head = nn.Linear(wrn_channels(width)[3], num_classes)
    model = PlainClassifier(wrn_features(in_channels, width), wrn_encoder(width), head, num_classes)
    wrn_init(model)
    return model


@register
def wrn_aib(
    num_classes: int,
    in_channels: int = 3,
    latent_dim: int = LATENT,
    anchors: int | None = None,
    modulation: Modulation = "residual",
    width: float = 1.0,
) -> AttentiveClassifier:
    """WRN-aib: continuous attention from an attention branch, K = 512. 65.00 M parameters."""
    *_, channels, encoded = wrn_channels(width)
    model = AttentiveClassifier(
        SplitBackbone(wrn_features(in_channels, width), wrn_encoder(width)),
        SpatialAttention(channels, head=attention_branch(num_classes, width)),
        LatentBottleneck(encoded, latent_dim),
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
    latent_dim: int = LATENT,
    anchors: int | None = None,
    modulation: Modulation = "residual",
    width: float = 1.0,
) -> AttentiveClassifier:
    """WRN-aib-qt: attention snapped to anchors; by default 50 of them, 20 from 100 classes on, as published."""
    if anchors is None:
        anchors = 20 if num_classes >= 100 else 50
    return wrn_aib(num_classes, in_channels, latent_dim, anchors, modulation, width)

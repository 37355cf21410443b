"""VGG for 32x32 images and its attentive twins.

The network of "Learn to Pay Attention" (Jetley et al. 2018): thirteen 3x3 convolutions with bias, batch normalisation and ReLU, no
pooling inside the first three blocks. The attentive models attend after block 3 and its pooling, on features (N, 256, 16, 16). All
take a ``width``, a factor on the channels: 0.125 suits CPUs.
"""

from __future__ import annotations

from torch import nn

from aib.anchors import AnchorQuantizer
from aib.attention import SpatialAttention
from aib.bottleneck import LatentBottleneck, deep_decoder
from aib.classifier import AttentiveClassifier, PlainClassifier, SplitBackbone
from aib.functional import Modulation
from aib.models.registry import register

__all__ = ["vgg", "vgg_aib", "vgg_aib_qt"]

CHANNELS = (64, 128, 256, 512)
"""Channels of blocks 1, 2 and 3 and of all behind them, as published."""
LATENT = 256


def conv_block(channels: int, width: int, count: int = 1) -> list[nn.Module]:
    """``count`` times 3x3 convolution, batch normalisation and ReLU."""
    layers: list[nn.Module] = []
    for i in range(count):
        layers += [nn.Conv2d(channels if i == 0 else width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return layers


def scaled(channels: int, width: float) -> int:
    """``channels`` of the published network in one of ``width`` times its width.

    Raises:
        ValueError: ``width`` leaves fewer than 4 channels to the first block, or is above 4.
    """
    if not 1 / 16 <= width <= 4:
        raise ValueError(f"width is {width}; it must lie between 0.0625 and 4, in multiples of the published width")
    return max(1, round(channels * width))


def vgg_channels(width: float) -> tuple[int, int, int, int]:
    """Channels of blocks 1, 2 and 3 and of all behind them in a VGG of ``width`` times the published one."""
    first, second, third, last = (scaled(channels, width) for channels in CHANNELS)
    return first, second, third, last


def vgg_features(in_channels: int, width: float = 1.0) -> nn.Sequential:
    """Blocks 1-3 at full resolution and the first pooling: (N, 3, 32, 32) to (N, 256, 16, 16)."""
    first, second, third, _ = vgg_channels(width)
    blocks = conv_block(in_channels, first, 2) + conv_block(first, second, 2) + conv_block(second, third, 3)
    return nn.Sequential(*blocks, nn.MaxPool2d(2))


def vgg_encoder(width: float = 1.0) -> nn.Sequential:
    """Blocks 4-6 and the 1x1 convolution: (N, 256, 16, 16) to (N, 512, 1, 1)."""
    *_, third, last = vgg_channels(width)
    return nn.Sequential(
        *conv_block(third, last, 3), nn.MaxPool2d(2),
        *conv_block(last, last, 3), nn.MaxPool2d(2),
        *conv_block(last, last), nn.MaxPool2d(2),
        *conv_block(last, last), nn.MaxPool2d(2),
        nn.Conv2d(last, last, 1),
    )  # fmt: skip


def xavier_init(model: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for every convolution and linear layer; batch normalisation starts at 1.

    The published code's start (its VGG-backbone-32/initialize.py) is Xavier-uniform too, but with gain sqrt(2), and the weights of
    its batch normalisation are drawn uniformly between 0 and 1.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


@register
def vgg(num_classes: int, in_channels: int = 3, width: float = 1.0) -> PlainClassifier:
    """The plain VGG: 19.71 M parameters, 3.79 GMAC an image (10 classes)."""
    head = nn.Linear(scaled(512, width), num_classes)
    model = PlainClassifier(vgg_features(in_channels, width), vgg_encoder(width), head, num_classes)
    xavier_init(model)
    return model


@register
def vgg_aib(
    num_classes: int,
    in_channels: int = 3,
    latent_dim: int = LATENT,
    anchors: int | None = None,
    modulation: Modulation = "residual",
    width: float = 1.0,
) -> AttentiveClassifier:
    """VGG-aib: continuous attention, K = 256. 20.04 M parameters."""
    _, _, channels, encoded = vgg_channels(width)
    model = AttentiveClassifier(
        SplitBackbone(vgg_features(in_channels, width), vgg_encoder(width).append(nn.ReLU(inplace=True))),
        SpatialAttention(channels),
        LatentBottleneck(encoded, latent_dim),
        deep_decoder(latent_dim, num_classes),
        num_classes=num_classes,
        quantizer=AnchorQuantizer(anchors) if anchors is not None else None,
        modulation=modulation,
    )
    xavier_init(model)
    return model


@register
def vgg_aib_qt(
    num_classes: int,
    in_channels: int = 3,
    latent_dim: int = LATENT,
    anchors: int | None = None,
    modulation: Modulation = "residual",
    width: float = 1.0,
) -> AttentiveClassifier:
    """VGG-aib-qt: attention snapped to anchors; by default 20 of them, 50 from 100 classes on, as published."""
    if anchors is None:
        anchors = 50 if num_classes >= 100 else 20
    return vgg_aib(num_classes, in_channels, latent_dim, anchors, modulation, width)

"""Small VGGs for CPUs, named by width (`vgg_xs` 8, `vgg_s` 16, `vgg_m` 32 channels at full resolution), and their attentive twins.

The paper's arrangement at a few thousandths of its cost: 3x3 convolutions with batch normalisation and ReLU, two at the image's
resolution, two at half of it and one each at a quarter and an eighth. The attention sits behind the first of them and a 1x1
convolution, where a feature knows a pixel and its neighbours only: what the network is to see of an object has to be let through
where the object is. A 3x3 convolution there would see too little to tell an object from its surroundings, so the attention has a
branch of its own, as the published models on residual networks and on CUB have: `ContextHead`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aib.anchors import AnchorQuantizer
from aib.attention import SpatialAttention
from aib.bottleneck import LatentBottleneck, deep_decoder, xavier_linear
from aib.classifier import AttentiveClassifier, PlainClassifier, SplitBackbone
from aib.functional import Modulation
from aib.models.registry import register
from aib.models.vgg import conv_block

__all__ = ["ContextHead"]

WIDTH = {"xs": 8, "s": 16, "m": 32}
ANCHORS = 50
LATENT_PER_WIDTH = 4
"""Latent dimensions for each channel of width: 64 for vgg_s."""


OPEN = 2.0
"""Raw score that the attention starts from: sigmoid(2) = 0.88."""


class ContextHead(nn.Module):
    """Raw attention scores (N, 1, H, W) from features (N, C, H, W) and their surroundings at a half and a quarter of their size.

    Args:
        channels: C.
        width: channels of the branch at half resolution.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.near = nn.Sequential(nn.MaxPool2d(2), *conv_block(channels, width))
        self.far = nn.Sequential(nn.MaxPool2d(2), *conv_block(width, 2 * width, 2))
        self.merge = nn.Sequential(*conv_block(3 * width, width))
        self.mix = nn.Sequential(*conv_block(channels + width, width // 2))
        self.score = nn.Conv2d(width // 2, 1, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        near = self.near(features)
        merged = self.merge(_beside(near, self.far(near)))
        scores = self.score(self.mix(_beside(features, merged)))
        # a mean over neighbours: one bright pixel alone would otherwise be the map's maximum
        return nn.functional.avg_pool2d(scores, 3, stride=1, padding=1, count_include_pad=False)


def _beside(fine: Tensor, coarse: Tensor) -> Tensor:
    """``coarse`` enlarged to the size of ``fine``, stacked behind its channels."""
    return torch.cat([fine, nn.functional.interpolate(coarse, fine.shape[2:], mode="bilinear", align_corners=False)], 1)


def _features(width: int, in_channels: int) -> nn.Sequential:
    """(N, in_channels, H, W) to (N, width, H, W)."""
    pointwise = [nn.Conv2d(width, width, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*conv_block(in_channels, width), *pointwise)


def _encoder(width: int) -> nn.Sequential:
    """(N, width, H, W) to (N, 4 * width, 1, 1)."""
    return nn.Sequential(
        *conv_block(width, width),
        nn.MaxPool2d(2), *conv_block(width, 2 * width, 2),
        nn.MaxPool2d(2), *conv_block(2 * width, 4 * width),
        nn.MaxPool2d(2), *conv_block(4 * width, 4 * width),
        nn.AdaptiveMaxPool2d(1),
    )  # fmt: skip


def _init(model: nn.Module) -> None:
    """He initialisation of the convolutions, Xavier's of the linear layers, and an attention that starts open.

    Half open, it closes altogether with some seeds before the network has learned what to let through.
    """
    xavier_linear(model)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    for module in model.modules():
        if isinstance(module, ContextHead):
            nn.init.xavier_uniform_(module.score.weight)
            assert module.score.bias is not None
            nn.init.constant_(module.score.bias, OPEN)


def _register_family(size: str, width: int) -> None:
    """Enter `vgg_SIZE`, `vgg_SIZE_aib` and `vgg_SIZE_aib_qt`."""

    def plain(num_classes: int, in_channels: int = 3) -> PlainClassifier:
        model = PlainClassifier(_features(width, in_channels), _encoder(width), nn.Linear(4 * width, num_classes), num_classes)
        _init(model)
        return model

    def aib(
        num_classes: int,
        in_channels: int = 3,
        latent_dim: int = LATENT_PER_WIDTH * width,
        anchors: int | None = None,
        modulation: Modulation = "residual",
        min_std: float = 0.0,
    ) -> AttentiveClassifier:
        model = AttentiveClassifier(
            SplitBackbone(_features(width, in_channels), _encoder(width)),
            SpatialAttention(width, head=ContextHead(width, width), min_std=min_std),
            LatentBottleneck(4 * width, latent_dim),
            deep_decoder(latent_dim, num_classes),
            num_classes=num_classes,
            quantizer=None if anchors is None else AnchorQuantizer(anchors),
            modulation=modulation,
        )
        _init(model)
        return model

    def aib_qt(
        num_classes: int,
        in_channels: int = 3,
        latent_dim: int = LATENT_PER_WIDTH * width,
        anchors: int = ANCHORS,
        modulation: Modulation = "residual",
        min_std: float = 0.0,
    ) -> AttentiveClassifier:
        return aib(num_classes, in_channels, latent_dim, anchors, modulation, min_std)

    for builder, name, what in (
        (plain, f"vgg_{size}", f"The plain network of {width} channels."),
        (aib, f"vgg_{size}_aib", f"`vgg_{size}` with continuous attention."),
        (aib_qt, f"vgg_{size}_aib_qt", f"`vgg_{size}` with attention snapped to anchors, {ANCHORS} by default."),
    ):
        builder.__name__ = builder.__qualname__ = name
        builder.__doc__ = what
        register(builder)


for _size, _width in WIDTH.items():
    _register_family(_size, _width)

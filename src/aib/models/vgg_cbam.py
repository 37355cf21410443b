"""VGG with the spatial gate of CBAM (Woo et al. 2018, "Convolutional Block Attention Module"): what people would pick today."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aib.models.gated import GatedClassifier
from aib.models.registry import register
from aib.models.vgg import scaled, vgg_encoder, vgg_features, xavier_init

__all__ = ["SpatialGate", "vgg_cbam"]


class SpatialGate(nn.Module):
    """Map (N, 1, H, W) in (0, 1) from features (N, C, H, W): sigmoid(BN(conv7x7([max over channels; mean over channels])))."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.bn = nn.BatchNorm2d(1)

    def forward(self, features: Tensor) -> Tensor:
        pooled = torch.cat([features.amax(1, keepdim=True), features.mean(1, keepdim=True)], 1)
        return self.bn(self.conv(pooled)).sigmoid()


@register
def vgg_cbam(num_classes: int, in_channels: int = 3, width: float = 1.0) -> GatedClassifier:
    """VGG gated after block 3 and its pooling, where `vgg_aib` attends: F * map, as in CBAM."""
    head = nn.Linear(scaled(512, width), num_classes)
    model = GatedClassifier(
        vgg_features(in_channels, width), SpatialGate(), vgg_encoder(width), head, num_classes, modulation="plain"
    )
    xavier_init(model)
    return model

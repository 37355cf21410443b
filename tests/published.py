"""The published networks written once more from their description, as plain modules with the published names: the truth of the
conversion. Only the mean path is here."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Published(nn.Module):
    """The mean path that both families share; they define the modules."""

    features: nn.Module

    def finish(self, latent: int, anchors: int | None) -> None:
        self.latent = latent
        self.att_module_std = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1))
        self.emb = nn.ParameterDict({"weight": torch.rand(1, anchors)}) if anchors else None

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        features = self.before(images)
        mean = self.att_module_mu(features)
        used = mean
        if self.emb is not None:
            anchors = self.emb["weight"][0]
            used = anchors[(mean[..., None] - anchors).abs().argmin(-1)]
        statistics = self.encode(features + features * used)
        latent_mean, raw = statistics[:, : self.latent], statistics[:, self.latent :]
        return {
            "attention_mean": mean, "attention_std": F.softplus(self.att_module_std(mean) - 5), "map": used,
            "latent_mean": latent_mean, "latent_std": F.softplus(raw - 5), "logits": self.decode(latent_mean.clone()),
        }  # fmt: skip


class PublishedVgg(Published):
    def __init__(self, classes: int = 10, latent: int = 256, anchors: int | None = None) -> None:
        super().__init__()

        def block(channels: int, width: int, count: int, pool: bool = False) -> nn.Module:
            layers: list[nn.Module] = []
            for i in range(count):
                layers += [nn.Conv2d(width if i else channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                layers += [nn.MaxPool2d(2)] if pool else []
            return nn.Sequential(OrderedDict(op=nn.Sequential(*layers)))

        self.features = nn.Sequential(block(3, 64, 2), block(64, 128, 2), block(128, 256, 3), nn.MaxPool2d(2))
        self.encode = nn.Sequential(
            block(256, 512, 3), nn.MaxPool2d(2), block(512, 512, 3), nn.MaxPool2d(2), block(512, 512, 2, pool=True),
            nn.Conv2d(512, 512, 1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 2 * latent),
        )  # fmt: skip
        self.att_module_mu = nn.Sequential(nn.Conv2d(256, 1, 3, padding=1), nn.Sigmoid())
        self.decode = nn.Sequential(nn.Linear(latent, latent), nn.ReLU(), nn.Linear(latent, classes))
        self.finish(latent, anchors)

    def before(self, images: Tensor) -> Tensor:
        return self.features(images)


class WideBlock(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        if channels != width:
            self.convShortcut = nn.Conv2d(channels, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.bn1(x).relu()
        skip = self.convShortcut(active) if hasattr(self, "convShortcut") else x
        return skip + self.conv2(self.bn2(self.conv1(active)).relu())


class PublishedWrn(Published):
    def __init__(self, classes: int = 10, latent: int = 512, anchors: int | None = None) -> None:
        super().__init__()

        def group(channels: int, width: int, stride: int) -> nn.Module:
            blocks = [WideBlock(width if i else channels, width, 1 if i else stride) for i in range(4)]
            return nn.Sequential(OrderedDict(layer=nn.Sequential(*blocks)))

        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.block1, self.block2, self.block3 = group(16, 160, 1), group(160, 320, 2), group(320, 640, 2)
        self.bn1 = nn.BatchNorm2d(640)
        self.att_block3, self.bn_att = group(320, 640, 1), nn.BatchNorm2d(640)
        self.att_conv, self.bn_att2 = nn.Conv2d(640, classes, 1, bias=False), nn.BatchNorm2d(classes)
        self.att_conv3, self.bn_att3 = nn.Conv2d(classes, 1, 3, padding=1, bias=False), nn.BatchNorm2d(1)
        self.att_module_mu = nn.Sequential(
            self.att_block3, self.bn_att, self.att_conv, self.bn_att2, nn.ReLU(), self.att_conv3, self.bn_att3, nn.Sigmoid()
        )
        self.encode = nn.Sequential(
            self.block3, self.bn1, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(640, 2 * latent)
        )  # fmt: skip
        self.decode = nn.Sequential(nn.ReLU(), nn.Linear(latent, classes))
        self.finish(latent, anchors)

    def before(self, images: Tensor) -> Tensor:
        return self.block2(self.block1(self.conv1(images)))


def published(name: str, **sizes: Any) -> Published:
    """The published network of that name, with its published number of anchors for 10 classes."""
    anchors = {"vgg_aib_qt": 20, "wrn_aib_qt": 50}.get(name)
    return (PublishedVgg if name.startswith("vgg") else PublishedWrn)(**{"anchors": anchors, **sizes})


def lived_in(network: Published) -> Published:
    """Random affine numbers, and running statistics of one batch: nothing is left at a start that would hide an exchange."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
            module.momentum = None
    with torch.no_grad():
        network.train().maps(torch.randn(1, 3, 32, 32))
    return network.eval()


def hollow(name: str, **sizes: Any) -> dict[str, Tensor]:
    """A state dict of the right keys, shapes and types that takes no memory."""
    with torch.device("meta"):
        state = published(name, **sizes).state_dict()
    return {key: torch.zeros((), dtype=value.dtype).expand(value.shape) for key, value in state.items()}

"""The networks for CUB-200-2011: torchvision's VGG16 and wide ResNet-50-2 on 224x224 images, from ImageNet's weights.

The attentive models attend at 14x14, on the last convolutions of VGG16 (N, 512, 14, 14) or behind the third group of the wide
ResNet (N, 1024, 14, 14). The paper gives the sizes of its own two; the baselines put the same heads as on 32x32 images on these
networks.

Deviations from the published code (its CUB-experiments/model_qt.py): new layers start by Xavier with gain 1, there with sqrt(2) in
the VGG, by He's normal of fan-out for convolutions of the wide ResNet and by torch's start for its linear layers; and the attention
branch of the wide ResNet, see `wrn_aib_cub`.
"""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

from torch import nn

from aib.anchors import AnchorQuantizer
from aib.attention import SpatialAttention
from aib.backbones import check_real, one_line
from aib.bottleneck import LatentBottleneck, deep_decoder
from aib.classifier import AttentiveClassifier, Classifier, PlainClassifier, SplitBackbone
from aib.functional import Modulation
from aib.models.registry import register
from aib.models.vgg import LATENT, xavier_init
from aib.models.vgg_att import CompatibilityClassifier
from aib.models.vgg_dvib import LatentClassifier
from aib.models.vgg_gap import GapClassifier
from aib.models.vgg_pan import ProgressiveClassifier
from aib.saved import load_saved

__all__ = [
    "vgg_aib_cub", "vgg_aib_qt_cub", "vgg_att2_cub", "vgg_att3_cub", "vgg_cub", "vgg_dvib_cub", "vgg_gap_cub", "vgg_pan_cub",
    "wrn_aib_cub", "wrn_aib_qt_cub", "wrn_cub",
]  # fmt: skip

ANCHORS = 20
POOLED = 3
"""Side of the grid that VGG's features are averaged to before the linear layer."""
IMAGENET_FILES = {"vgg16": "vgg16-397923af.pth", "wide_resnet50_2": "wide_resnet50_2-95faca4d.pth"}
"""By network, torchvision's file of the weights that ``pretrained="yes"`` fetches; the eight digits begin its SHA-256."""
GAP_WIDTH = 1024
"""Channels of the convolution that class activation maps are read from (Zhou et al. 2016)."""


def _imagenet(name: str, pretrained: str | None, in_channels: int) -> Any:
    """torchvision's network ``name``; ``pretrained`` is None, ``"yes"`` to fetch ImageNet's weights or a file with them.

    Raises:
        ValueError: the weights cannot be had, read or do not fit, a file has the name of torchvision's but not its content, or the
            images are not RGB.
    """
    import torchvision

    if in_channels != 3:
        raise ValueError(f"in_channels is {in_channels}; the networks for CUB take RGB images")
    build = getattr(torchvision.models, name)
    if pretrained is None:
        return build(weights=None)
    if pretrained == "yes":
        try:
            return build(weights="IMAGENET1K_V1")
        except Exception as error:  # of urllib, of the hash check, of the disk
            raise ValueError(
                f"cannot get torchvision's weights of {name} ({one_line(error, 120)}); check the network connection, or give their "
                "file: --pretrained path/to/weights.pth"
            ) from error
    network, path = build(weights=None), Path(pretrained)
    if not path.is_file():
        raise ValueError(f"pretrained weights {pretrained!r} are not a file; 'yes' fetches torchvision's")
    try:
        _check_digest(path)
        weights = load_saved(path)
        check_real(weights)
        network.load_state_dict(weights)
    except Exception as error:
        raise ValueError(f"cannot load torchvision's {name} from {pretrained!r} ({one_line(error)})") from error
    return network


def _check_digest(path: Path) -> None:
    """Refuse another file by the name of torchvision's: by that name a run counts as one of ImageNet's weights."""
    if path.name not in IMAGENET_FILES.values():
        return
    wanted = path.stem.rpartition("-")[2]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()[: len(wanted)]
    if found != wanted:
        raise ValueError(f"its SHA-256 begins with {found}, torchvision's with {wanted}; fetch it again, or rename your own file")


def _vgg16(pretrained: str | None, in_channels: int) -> nn.Sequential:
    """All of VGG16's convolutions: (N, 3, 224, 224) to (N, 512, 14, 14)."""
    return nn.Sequential(*list(_imagenet("vgg16", pretrained, in_channels).features)[:-1])


def _pooled(channels: int = 512) -> tuple[nn.Sequential, int]:
    """(N, C, h, w) to (N, 9 C), and 9 C."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(POOLED), nn.Flatten()), channels * POOLED * POOLED


def _start(model: Classifier, *new: nn.Module) -> Any:
    """``model`` with Xavier's start in its ``new`` parts; the others keep theirs."""
    for part in new:
        xavier_init(part)
    return model


@register
def vgg_cub(num_classes: int, in_channels: int = 3, pretrained: str | None = None) -> PlainClassifier:
    """VGG16's convolutions, averaged to 3x3, and a linear layer."""
    encoder, encoded = _pooled()
    head = nn.Linear(encoded, num_classes)
    return _start(PlainClassifier(_vgg16(pretrained, in_channels), encoder, head, num_classes), head)


@register
def vgg_gap_cub(num_classes: int, in_channels: int = 3, pretrained: str | None = None) -> GapClassifier:
    """VGG16's convolutions, one more 3x3 convolution of 1024 channels and class activation maps at 14x14.

    The network of Zhou et al., "VGGnet-GAP". The paper gives no size of its own to compare with.
    """
    last = nn.Conv2d(512, GAP_WIDTH, 3, padding=1)
    model = GapClassifier(_vgg16(pretrained, in_channels).extend([last, nn.ReLU(inplace=True)]), GAP_WIDTH, num_classes)
    return _start(model, last, model.head)


@register
def vgg_dvib_cub(
    num_classes: int, in_channels: int = 3, latent_dim: int = LATENT, pretrained: str | None = None
) -> LatentClassifier:
    """`vgg_aib_cub` without its attention."""
    encoder, encoded = _pooled()
    bottleneck, decoder = LatentBottleneck(encoded, latent_dim), deep_decoder(latent_dim, num_classes)
    backbone = nn.Sequential(_vgg16(pretrained, in_channels), encoder)
    return _start(LatentClassifier(backbone, bottleneck, decoder, num_classes), bottleneck, decoder)


@register
def vgg_pan_cub(num_classes: int, in_channels: int = 3, pretrained: str | None = None) -> ProgressiveClassifier:
    """VGG16 with gates behind blocks 3 and 4, at 28x28 and 14x14, and attentive pooling behind block 5."""
    layers = list(_vgg16(pretrained, in_channels))
    stages = [nn.Sequential(*layers[:17]), nn.Sequential(*layers[17:24]), nn.Sequential(*layers[24:])]
    model = ProgressiveClassifier(stages, [256, 512, 512], 128, num_classes)
    return _start(model, model.scores, model.head)


def _compatibility(levels: int, num_classes: int, in_channels: int, pretrained: str | None) -> CompatibilityClassifier:
    layers = list(_vgg16(pretrained, in_channels))
    blocks = [nn.Sequential(*layers[:16]), nn.Sequential(*layers[16:23]), nn.Sequential(*layers[23:]), nn.AdaptiveAvgPool2d(1)]
    model = CompatibilityClassifier(blocks, levels, (256, 512), num_classes)
    return _start(model, model.scores, model.head, *([model.lift] if model.lift is not None else []))


@register
def vgg_att2_cub(num_classes: int, in_channels: int = 3, pretrained: str | None = None) -> CompatibilityClassifier:
    """VGG16 with attention over blocks 4 and 5."""
    return _compatibility(2, num_classes, in_channels, pretrained)


@register
def vgg_att3_cub(num_classes: int, in_channels: int = 3, pretrained: str | None = None) -> CompatibilityClassifier:
    """VGG16 with attention over blocks 3, 4 and 5."""
    return _compatibility(3, num_classes, in_channels, pretrained)


def _attentive(
    backbone: SplitBackbone,
    attention: SpatialAttention,
    encoded: int,
    num_classes: int,
    latent_dim: int,
    anchors: int | None,
    modulation: Modulation,
) -> AttentiveClassifier:
    """The attentive classifier of either network, with Xavier's start behind its encoder."""
    model = AttentiveClassifier(
        backbone, attention, LatentBottleneck(encoded, latent_dim), deep_decoder(latent_dim, num_classes), num_classes=num_classes,
        quantizer=AnchorQuantizer(anchors) if anchors is not None else None, modulation=modulation,
    )  # fmt: skip
    return _start(model, attention.std_head, model.bottleneck, model.decoder)


@register
def vgg_aib_cub(
    num_classes: int,
    in_channels: int = 3,
    latent_dim: int = LATENT,
    anchors: int | None = None,
    modulation: Modulation = "residual",
    pretrained: str | None = None,
) -> AttentiveClassifier:
    """VGG-aib on VGG16: 24.28 M parameters, 16.74 GMAC an image (200 classes)."""
    layers: list[nn.Module] = []
    for _ in range(3):
        layers += [nn.Conv2d(512, 512, 3, padding=1), nn.ReLU(inplace=True)]
    head = nn.Sequential(*layers, nn.Conv2d(512, 1, 3, padding=1))
    encoder, encoded = _pooled()
    parts = SplitBackbone(_vgg16(pretrained, in_channels), encoder), SpatialAttention(512, head=head)
    return _start(_attentive(*parts, encoded, num_classes, latent_dim, anchors, modulation), head)


@register
def vgg_aib_qt_cub(
    num_classes: int,
    in_channels: int = 3,
    latent_dim: int = LATENT,
    anchors: int = ANCHORS,
    modulation: Modulation = "residual",
    pretrained: str | None = None,
) -> AttentiveClassifier:
    """VGG-aib-qt on VGG16, with 20 anchors."""
    return vgg_aib_cub(num_classes, in_channels, latent_dim, anchors, modulation, pretrained)


def _wide_resnet(pretrained: str | None, in_channels: int) -> tuple[nn.Sequential, nn.Module]:
    """The network up to its third group, (N, 3, 224, 224) to (N, 1024, 14, 14), and its fourth, to (N, 2048, 7, 7)."""
    network = _imagenet("wide_resnet50_2", pretrained, in_channels)
    stem = [network.conv1, network.bn1, network.relu, network.maxpool]
    return nn.Sequential(*stem, network.layer1, network.layer2, network.layer3), network.layer4


@register
def wrn_cub(num_classes: int, in_channels: int = 3, pretrained: str | None = None) -> PlainClassifier:
    """The plain wide ResNet-50-2."""
    features, layer4 = _wide_resnet(pretrained, in_channels)
    head = nn.Linear(2048, num_classes)
    return _start(PlainClassifier(features, nn.Sequential(layer4, nn.AdaptiveAvgPool2d(1)), head, num_classes), head)


@register
def wrn_aib_cub(
    num_classes: int,
    in_channels: int = 3,
    latent_dim: int = LATENT,
    anchors: int | None = None,
    modulation: Modulation = "residual",
    pretrained: str | None = None,
) -> AttentiveClassifier:
    """WRN-aib on the wide ResNet-50-2: 19.62 GMAC an image (200 classes).

    109.99 M parameters. The published 130.73 M count 20,736,000 more: a copy of the third group that the published code builds and
    keeps as ``self.tmp_layer`` on its way to the attention branch, and never runs.

    Deviation: the branch, the fourth group at stride 1, starts as a copy of that group, from ImageNet's weights where they are
    given. The published code builds it anew (``att_layer4``), and its ImageNet weights leave it as it starts.
    """
    features, layer4 = _wide_resnet(pretrained, in_channels)
    branch: Any = copy.deepcopy(layer4)  # its start is the fourth group's, also where that comes from ImageNet
    branch[0].conv2.stride = branch[0].downsample[0].stride = (1, 1)
    score = nn.Conv2d(2048, 1, 3, padding=1)
    backbone = SplitBackbone(features, nn.Sequential(layer4, nn.AdaptiveAvgPool2d(1)))
    attention = SpatialAttention(1024, head=nn.Sequential(branch, score))
    return _start(_attentive(backbone, attention, 2048, num_classes, latent_dim, anchors, modulation), score)


@register
def wrn_aib_qt_cub(
    num_classes: int,
    in_channels: int = 3,
    latent_dim: int = LATENT,
    anchors: int = ANCHORS,
    modulation: Modulation = "residual",
    pretrained: str | None = None,
) -> AttentiveClassifier:
    """WRN-aib-qt on the wide ResNet-50-2, with 20 anchors."""
    return wrn_aib_cub(num_classes, in_channels, latent_dim, anchors, modulation, pretrained)

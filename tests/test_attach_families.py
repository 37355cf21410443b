"""Attention attached to the families of timm: shapes, determinism, and draws that equal single runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from aib.attaching import AttachedClassifier, attach
from attached import assert_draws_equal_single_runs

FAMILIES = [
    # timm name, site, side, whether draws share one pass
    ("resnet18", "layer3", 64, True),
    ("resnet50", "layer2", 32, True),
    ("convnext_atto", "stages.1", 64, True),
    pytest.param("vgg16_bn", "features.23", 32, True, marks=pytest.mark.slow),  # 120 M parameters to initialise
    pytest.param("wide_resnet50_2", "layer3", 32, True, marks=pytest.mark.slow),
    ("efficientnet_b0", "blocks.3", 64, True),
    ("mobilenetv3_small_100", "blocks.2", 64, True),
    ("vit_tiny_patch16_224", "blocks.5", 64, True),
    ("swin_tiny_patch4_window7_224", "layers.1", 64, True),
    # inside a residual branch: the shortcut goes around the site
    ("resnet18", "layer1.0.conv1", 64, False),
    ("vit_tiny_patch16_224", "blocks.3.attn", 64, False),
]


@pytest.mark.parametrize(("name", "at", "side", "shares"), FAMILIES)
def test_timm_families(name: str, at: str, side: int, shares: bool) -> None:
    check_family(attach(name, at, 5, anchors=4, latent_dim=16, input_size=side).eval(), side, shares)


@pytest.mark.parametrize(
    ("name", "at", "options"),
    [("vgg16_bn", "features.23", {"mlp_ratio": 0.02}), ("wide_resnet50_2", "layer3", {"layers": (1, 1, 2, 1)})],
)
def test_large_timm_families_given_as_smaller_modules(name: str, at: str, options: dict[str, Any]) -> None:
    import timm

    network = timm.create_model(name, num_classes=3, **options)
    check_family(attach(network, at, 5, anchors=4, latent_dim=16, input_size=32).eval(), 32, True)


def check_family(model: AttachedClassifier, side: int, shares: bool) -> None:
    assert model.shares_features is shares
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        assert model(images).shape == (2, 5)
        assert torch.equal(model(images), model(images))
    site = model.site
    with torch.no_grad():
        details = model.forward_details(images)
    assert details.features is not None
    assert details.indices is not None
    assert details.features.shape == (2, site.channels, site.height, site.width)
    assert details.indices.shape == (2, site.height, site.width)
    model.quantizer = None  # close draws would share anchors
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # timm starts residual branches at zero: nothing inside would show
    assert_draws_equal_single_runs(model, images)
    # the encoding depends on the map: other maps, other latents
    with torch.no_grad():
        details = model.forward_details(images)
        changed = model.forward_details(images, replace_map=lambda maps: torch.rand_like(maps) * 3)
    assert details.latent_mean is not None
    assert changed.latent_mean is not None
    assert not torch.allclose(details.latent_mean, changed.latent_mean, atol=1e-6)

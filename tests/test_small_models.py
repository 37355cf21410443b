"""The networks for CPUs: shapes, what the attention sees, its noise, whitening, and the pairing with the baselines."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from aib.classifier import AttentiveClassifier, PlainClassifier
from aib.functional import STD_FLOOR
from aib.models import create_model
from aib.models.fast import WHITENING_EPSILON, WhiteningConv


@pytest.mark.parametrize(
    ("name", "site"), [("vgg_xs", (8, 32, 32)), ("vgg_s", (16, 32, 32)), ("vgg_m", (32, 32, 32)), ("fast", (64, 15, 15))]
)
def test_twins_share_their_features_and_encoder(name: str, site: tuple[int, int, int]) -> None:
    images = torch.randn(2, 3, 32, 32)
    plain, attentive = create_model(name, 10).eval(), create_model(f"{name}_aib_qt", 10).eval()
    assert isinstance(plain, PlainClassifier)
    assert isinstance(attentive, AttentiveClassifier)
    shapes = [
        {key: value.shape for key, value in module.state_dict().items()}
        for module in (plain.features, plain.encoder, attentive.backbone.features, attentive.backbone.encoder)
    ]
    assert shapes[0] == shapes[2]
    assert shapes[1] == shapes[3]
    details = attentive.forward_details(images)
    assert details.features is not None
    assert details.map is not None
    assert details.features.shape == (2, *site)
    assert details.map.shape == (2, 1, *site[1:])
    assert create_model(f"{name}_aib", 10).quantizer is None


@pytest.mark.parametrize("name", ["fast", "fast_aib_qt"])
def test_the_fast_networks_begin_unsure(name: str) -> None:
    """Maxima of 256 channels make large logits; a network that is sure of random classes first has to unlearn that."""
    torch.manual_seed(0)
    logits = create_model(name, 10).train()(torch.randn(64, 3, 32, 32))
    assert F.cross_entropy(logits, torch.arange(64) % 10).item() < 2.5  # ln 10 = 2.3 of one that is not


@pytest.mark.parametrize("size", [16, 32, 48, 64])
def test_small_vggs_take_images_of_other_sizes(size: int) -> None:
    assert create_model("vgg_xs_aib_qt", 4).eval()(torch.randn(2, 3, size, size)).shape == (2, 4)


def test_the_attention_keeps_its_least_noise() -> None:
    images = torch.randn(2, 3, 32, 32)
    small, published = create_model("vgg_xs_aib_qt", 10, min_std=0.12), create_model("vgg_aib_qt", 10)
    for model in (small, published):
        torch.nn.init.constant_(model.attention.std_head.bias, -1000.0)  # type: ignore[union-attr, arg-type]
    kept, gone = small.forward_details(images).attention_std, published.forward_details(images).attention_std
    assert kept is not None
    assert gone is not None
    assert kept.min() >= 0.12
    assert gone.max() == STD_FLOOR


def test_the_small_vggs_attend_to_a_pixel_and_its_neighbours() -> None:
    features = create_model("vgg_s", 10).eval().features  # type: ignore[union-attr]
    images = torch.randn(1, 3, 32, 32, requires_grad=True)
    features(images)[0, :, 10, 20].sum().backward()  # type: ignore[operator]
    assert images.grad is not None
    seen = images.grad.abs().sum((0, 1)).nonzero()
    assert seen.min(0).values.tolist() == [9, 19]
    assert seen.max(0).values.tolist() == [11, 21]


def test_whitening_filters_whiten() -> None:
    mixing = torch.tensor([[1.0, 0.9, 0.8], [0.0, 0.3, 0.2], [0.0, 0.0, 0.1]])
    smooth = F.avg_pool2d(torch.randn(64, 3, 20, 20), 3, 1)
    images = torch.einsum("nchw,cd->ndhw", smooth, mixing) * 5
    layer = WhiteningConv(3)
    before = layer.conv.weight.clone()
    layer.calibrate(images)
    layer.conv.bias.data.zero_()
    filters = layer.out_channels // 2
    outputs = layer(images)[:, :filters].transpose(0, 1).reshape(filters, -1)
    variance = outputs.cov()
    assert (variance - torch.diag(variance.diag())).abs().max() < 0.02
    patches = F.unfold(images, 2).transpose(1, 2).reshape(-1, 12)
    values = torch.linalg.eigvalsh(patches.T.cov())
    torch.testing.assert_close(
        variance.diag().sort().values, (values / (values + WHITENING_EPSILON)).sort().values, atol=0.02, rtol=0
    )
    assert torch.equal(layer.conv.weight[filters:], -layer.conv.weight[:filters])
    assert not layer.conv.weight.requires_grad
    layer.conv.weight.data.copy_(before)
    raw = layer(images)[:, :filters].transpose(0, 1).reshape(filters, -1).cov()
    assert (raw - torch.diag(raw.diag())).abs().max() > 0.02  # random filters do not


def test_calibrate_reaches_the_whitening_layer_of_a_classifier() -> None:
    model = create_model("fast_aib_qt", 10)
    before = model.backbone.features[0].conv.weight.clone()
    model.calibrate(torch.randn(32, 3, 32, 32))
    assert not torch.equal(model.backbone.features[0].conv.weight, before)
    plain = create_model("vgg_xs", 10)
    state = {k: v.clone() for k, v in plain.state_dict().items()}
    plain.calibrate(torch.randn(4, 3, 32, 32))
    assert all(torch.equal(state[k], v) for k, v in plain.state_dict().items())

"""Explainers: planted truths, an analytic Grad-CAM, and models left exactly as they were."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aib.anchors import AnchorQuantizer
from aib.attention import SpatialAttention
from aib.bottleneck import LatentBottleneck
from aib.classifier import AttentiveClassifier, PlainClassifier, SplitBackbone
from aib.interpret import AttentionMap, Explainer, GradCAM, conv_layers, iou, pointing_game
from aib.models import create_model


class Pooled(nn.Module):
    """Convolution, whatever follows it, global average pooling, linear."""

    def __init__(self, *after: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.after = nn.Sequential(*after)
        self.spare = nn.Conv2d(3, 6, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.after(self.conv(images)).mean((2, 3)))


def looker(quantizer: AnchorQuantizer | None = None) -> AttentiveClassifier:
    """A network built to look where the image is bright: a map of sigmoid(100 * brightness - 50) at half the resolution."""
    attention = SpatialAttention(1, head=nn.Conv2d(1, 1, 1))
    nn.init.constant_(attention.head.weight, 100.0)
    nn.init.constant_(attention.head.bias, -50.0)
    backbone = SplitBackbone(nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1))
    return AttentiveClassifier(backbone, attention, LatentBottleneck(1, 2), nn.Linear(2, 3), num_classes=3, quantizer=quantizer)


def bright_patches(count: int = 5, size: int = 16) -> tuple[Tensor, Tensor]:
    """Images with one bright 4x4 patch each, and its masks."""
    masks = torch.zeros(count, 1, size, size, dtype=torch.bool)
    for i in range(count):
        masks[i, 0, 2 * i : 2 * i + 4, 10 - 2 * i : 14 - 2 * i] = True
    return masks.float(), masks


def test_attention_map_shows_the_place_a_planted_network_looks_at() -> None:
    images, masks = bright_patches()
    for model, kind in ((looker(), "map"), (looker(), "mean"), (looker(AnchorQuantizer(2)), "map")):
        maps = AttentionMap(model, kind).attribute(images)
        assert maps.shape == (5, 1, 8, 8)
        torch.testing.assert_close(maps, F.avg_pool2d(masks.float(), 2))
        for mode in ("bilinear", "nearest"):
            assert pointing_game(maps, masks, mode).tolist() == [1.0] * 5
        assert iou(maps, masks, "nearest").tolist() == [1.0] * 5


def test_attention_map_gives_anchor_values_or_the_mean_before_them() -> None:
    torch.manual_seed(0)
    model, images = looker(AnchorQuantizer(3)), 0.5 + 0.02 * torch.randn(4, 1, 16, 16)
    quantized, mean = AttentionMap(model).attribute(images), AttentionMap(model, "mean").attribute(images)
    assert set(quantized.unique().tolist()) <= {0.0, 0.5, 1.0}
    assert mean.unique().numel() > 100
    assert float((quantized - mean).abs().max()) <= 0.25


def test_attention_map_is_deterministic_and_leaves_flags_gradients_and_generator_alone() -> None:
    model, images = looker(), torch.rand(3, 1, 16, 16)
    model.train()
    model.backbone.eval()
    flags = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    first, second = (AttentionMap(model).attribute(images, target=i) for i in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert not first.requires_grad
    assert [module.training for module in model.modules()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())


def test_attention_map_refuses_what_has_no_map() -> None:
    plain = PlainClassifier(nn.Identity(), nn.Flatten(), nn.Linear(12, 2), 2)
    with pytest.raises(ValueError, match="PlainClassifier has no attention map"):
        AttentionMap(plain)
    with pytest.raises(ValueError, match="'map' or 'mean'"):
        AttentionMap(looker(), "std")  # type: ignore[arg-type]


def test_both_explainers_answer_the_protocol() -> None:
    assert isinstance(AttentionMap(looker()), Explainer)
    assert isinstance(GradCAM(Pooled(), "conv"), Explainer)


@pytest.mark.parametrize("target", [None, 2, torch.tensor([3, 0, 1, 1, 2])])
def test_grad_cam_equals_the_hand_derived_map(target: int | Tensor | None) -> None:
    """d logit_c / d A_k is w_ck / (h w) everywhere, so the map is ReLU(sum_k w_ck A_k) / (h w)."""
    model, images = Pooled(), torch.randn(5, 3, 7, 9)
    with torch.no_grad():
        activations = model.conv(images)
        classes = model(images).argmax(1) if target is None else torch.as_tensor(target).expand(5)
        expected = torch.einsum("nk,nkhw->nhw", model.head.weight[classes], activations).relu()[:, None] / (7 * 9)
    maps = GradCAM(model, "conv").attribute(images, target)
    torch.testing.assert_close(maps, expected)
    assert float(maps.max()) > 0
    torch.testing.assert_close(GradCAM(model, model.conv).attribute(images, target), expected)


def test_grad_cam_of_a_layer_followed_by_an_in_place_one_is_that_layers_own() -> None:
    images = torch.randn(3, 3, 8, 8)
    in_place, plain = Pooled(nn.ReLU(inplace=True)), Pooled(nn.ReLU())
    expected = GradCAM(plain, "conv").attribute(images, 1)
    torch.testing.assert_close(GradCAM(in_place, "conv").attribute(images, 1), expected)
    assert not torch.allclose(GradCAM(plain, "after.0").attribute(images, 1), expected)


def test_grad_cam_leaves_the_model_as_it_was() -> None:
    model, images = Pooled(nn.BatchNorm2d(6), nn.Dropout(0.5)), torch.randn(4, 3, 8, 8)
    model.train()
    model.after[0].eval()
    model.head.weight.grad = torch.ones_like(model.head.weight)
    model.conv.requires_grad_(False)
    before, flags = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    first, second = (GradCAM(model, "conv").attribute(images) for _ in range(2))
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert [module.training for module in model.modules()] == flags
    assert not any(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks for module in model.modules())
    assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))
    assert all(parameter.grad is None for name, parameter in model.named_parameters() if name != "head.weight")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert images.grad is None
    assert not images.requires_grad


def test_grad_cam_leaves_no_hook_when_the_pass_fails() -> None:
    model = Pooled()
    model.train()
    with pytest.raises(RuntimeError):
        GradCAM(model, "conv").attribute(torch.randn(2, 5, 8, 8))
    assert not any(module._forward_hooks for module in model.modules())
    assert model.training


def test_grad_cam_works_inside_no_grad_and_inference_mode_and_of_a_frozen_model() -> None:
    model = Pooled().requires_grad_(False)
    images = torch.randn(2, 3, 8, 8)
    expected = GradCAM(model, "conv").attribute(images)
    assert float(expected.max()) > 0
    with torch.no_grad():
        assert torch.equal(GradCAM(model, "conv").attribute(images), expected)
    with torch.inference_mode():
        assert torch.equal(GradCAM(model, "conv").attribute(images * 1), expected)


def test_grad_cam_finds_the_object_of_a_planted_network() -> None:
    """Class 1 is brightness: its map is the bright patch, and class 0 (darkness) has nothing to show."""
    model = PlainClassifier(nn.Conv2d(1, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Linear(1, 2), 2)
    with torch.no_grad():
        for module, weight in ((model.features, [[[[1.0]]]]), (model.head, [[-1.0], [1.0]])):
            module.weight.copy_(torch.tensor(weight))
            module.bias.zero_()
    images, masks = bright_patches()
    assert iou(GradCAM(model, "features").attribute(images), masks).tolist() == [1.0] * 5
    assert float(GradCAM(model, "features").attribute(images, 0).max()) == 0.0


@pytest.mark.parametrize(
    ("layer", "images", "target", "message"),
    [
        ("conw", (1, 3, 8, 8), None, "no layer 'conw'; near names are conv"),
        (nn.Conv2d(3, 3, 1), (1, 3, 8, 8), None, "not a layer of the model"),
        ("spare", (1, 3, 8, 8), None, "do not depend on layer 'spare'"),
        ("head", (1, 3, 8, 8), None, r"needs an output \(N, K, h, w\)"),
        ("conv", (3, 8, 8), None, "expected"),
        ("conv", (0, 3, 8, 8), None, "N >= 1"),
        ("conv", (2, 3, 8, 8), 4, "classes go from 0 to 3"),
        ("conv", (2, 3, 8, 8), torch.tensor([0, 1, 2]), r"expected one class or \(2,\)"),
    ],
)
def test_grad_cam_refuses_in_one_line(layer: nn.Module | str, images: tuple[int, ...], target: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        GradCAM(Pooled(), layer).attribute(torch.zeros(images), target)
    assert "\n" not in str(caught.value)


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.act(self.conv(features))


def test_conv_layers_gives_the_last_layer_of_every_resolution_and_the_site() -> None:
    features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2))
    encoder = nn.Sequential(
        nn.Conv2d(4, 5, 3, padding=1), Residual(5), nn.Dropout(), nn.MaxPool2d(2),
        nn.Sequential(nn.Conv2d(5, 6, 1), nn.GELU()), nn.AvgPool2d(2), nn.Conv2d(6, 6, 2), nn.AdaptiveAvgPool2d(1),
    )  # fmt: skip
    model = PlainClassifier(features, encoder, nn.Linear(6, 2), 2)
    model.train()
    statistics = model.features[1].running_mean.clone()
    assert conv_layers(model, (3, 16, 24)) == [
        ("features.2", (4, 16, 24)),
        ("features", (4, 8, 12)),
        ("encoder.1", (5, 8, 12)),
        ("encoder.4.1", (6, 4, 6)),
        ("encoder.6", (6, 1, 2)),
    ]
    assert model.training
    assert torch.equal(model.features[1].running_mean, statistics)
    assert not any(module._forward_hooks for module in model.modules())
    for name, shape in conv_layers(model, (3, 16, 24)):
        assert GradCAM(model, name).attribute(torch.randn(2, 3, 16, 24)).shape == (2, 1, *shape[1:])


def test_conv_layers_of_an_attentive_model_leaves_its_attention_out() -> None:
    """The attention's convolutions are the last at the site's resolution here, and still not candidates."""
    twin = looker()
    twin.backbone.features = nn.Sequential(nn.Conv2d(1, 1, 1), nn.MaxPool2d(2), nn.Conv2d(1, 1, 1))
    assert conv_layers(twin, (1, 16, 16)) == [("backbone.features.0", (1, 16, 16)), ("backbone.features.2", (1, 8, 8))]


def test_conv_layers_of_the_papers_vgg_offers_every_resolution() -> None:
    assert conv_layers(create_model("vgg", 10), (3, 32, 32)) == [
        ("features.20", (256, 32, 32)),
        ("features", (256, 16, 16)),
        ("encoder.8", (512, 16, 16)),
        ("encoder.18", (512, 8, 8)),
        ("encoder.22", (512, 4, 4)),
        ("encoder.26", (512, 2, 2)),
    ]


@pytest.mark.parametrize("shape", [(32, 32), (3, 0, 32)])
def test_conv_layers_refuses_a_shape_that_is_none(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="image_shape"):
        conv_layers(Pooled(), shape)

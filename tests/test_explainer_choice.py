"""Explainers by name: what each name makes, at which layer, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from aib.classifier import AttentiveClassifier
from aib.interpret.attribution import IntegratedGradients, Occlusion
from aib.interpret.choice import EXPLAINERS, bottleneck_layer, cam_layer, make_explainer
from aib.interpret.explainers import AttentionMap, Explainer, GradCAM, conv_layers
from aib.interpret.iba import BottleneckAttribution
from aib.models import create_model, model_names
from aib.models.registry import takes

SHAPE = (3, 16, 16)
TYPES = {
    "own": AttentionMap,
    "gradcam": GradCAM,
    "integrated_gradients": IntegratedGradients,
    "occlusion": Occlusion,
    "iba": BottleneckAttribution,
}


def calibration() -> Tensor:
    return torch.randn(12, *SHAPE, generator=torch.Generator().manual_seed(3))


class Stack(nn.Module):
    """Convolutions at the given sides, one after another, then a linear layer."""

    def __init__(self, *sides: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for side in sides:
            layers += [nn.AdaptiveAvgPool2d(side), nn.Conv2d(3, 3, 1)]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).mean((2, 3)))


@pytest.mark.parametrize("name", EXPLAINERS)
def test_every_name_makes_its_explainer(small_model: Callable[..., AttentiveClassifier], name: str) -> None:
    model, images = small_model(), torch.randn(3, *SHAPE)
    model.train()
    explainer = make_explainer(name, model, SHAPE, calibration())
    assert isinstance(explainer, TYPES[name])
    assert isinstance(explainer, Explainer)
    maps = explainer.attribute(images, 1)
    assert maps.shape[:2] == (3, 1)
    assert maps.dtype == torch.float32
    assert bool(maps.isfinite().all())
    again = make_explainer(name, model, SHAPE, iter(calibration().split(5)))
    torch.testing.assert_close(again.attribute(images, 1), maps, atol=1e-4, rtol=1e-3)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_the_names_are_those_tested() -> None:
    assert list(EXPLAINERS) == list(TYPES)


@pytest.mark.parametrize(("kind", "layer"), [("gradcam", "backbone.encoder.0"), ("iba", "backbone.features.0")])
def test_a_layer_can_be_named(small_model: Callable[..., AttentiveClassifier], kind: str, layer: str) -> None:
    model = small_model()
    explainer = make_explainer(f"{kind}@{layer}", model, SHAPE, calibration())
    assert explainer.name == layer  # type: ignore[attr-defined]
    sides = {"backbone.encoder.0": 4, "backbone.features.0": 16}
    assert explainer.attribute(torch.randn(1, *SHAPE)).shape == (1, 1, sides[layer], sides[layer])


@pytest.mark.parametrize(
    ("sides", "cam", "bottleneck"),
    [
        ((16, 8, 4, 2), "features.3", "features.3"),  # 8 is the last from 7 on; the earlier of two middle ones
        ((16, 7, 4), "features.3", "features.3"),
        ((8, 3, 2), "features.1", "features.3"),
        ((3, 2), "features.1", "features.1"),  # none of 7x7: the finest
        ((5,), "features.1", "features.1"),
    ],
)
def test_layers_of_a_model_without_a_map(sides: tuple[int, ...], cam: str, bottleneck: str) -> None:
    model = Stack(*sides)
    assert [shape[1] for _, shape in conv_layers(model, SHAPE)] == list(sides)
    assert cam_layer(model, SHAPE) == cam
    assert bottleneck_layer(model, SHAPE) == bottleneck


def test_the_bottleneck_is_at_the_resolution_of_the_models_own_map() -> None:
    """The papers' twins, plain and attentive, are restricted at the same place: 16x16, where the attention is."""
    attentive, plain = create_model("vgg_s_aib_qt", 10), create_model("vgg_s", 10)
    name = bottleneck_layer(attentive, (3, 32, 32))
    shapes = dict(conv_layers(attentive, (3, 32, 32)))
    own = AttentionMap(attentive).attribute(torch.zeros(1, 3, 32, 32))
    assert shapes[name][1:] == own.shape[2:]
    assert cam_layer(attentive, (3, 32, 32)).endswith(cam_layer(plain, (3, 32, 32)))


def test_a_layer_of_the_maps_resolution_goes_before_a_convolution_of_another(
    small_model: Callable[..., AttentiveClassifier],
) -> None:
    """The map has 8x8 positions, the convolutions 16x16 and 4x4; only the pooling between them gives 8x8."""
    model = small_model()
    assert [shape[1] for _, shape in conv_layers(model, SHAPE)] == [16, 4]
    assert bottleneck_layer(model, SHAPE) == "backbone.features"


class Residual(nn.Module):
    """A sum of what came in and a branch, whose last convolution is also the last of its resolution; then one at half the side."""

    def __init__(self, joined: bool = True) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True))
        self.branch = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Tanh())
        self.block = nn.Identity() if joined else nn.Module()
        self.joined = joined
        self.gate = nn.Sequential(nn.Conv2d(4, 1, 1), nn.Sigmoid())
        self.head = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        if not self.joined:
            return self.head((self.branch(features) + images[:, :1]).mean((2, 3)))
        features = self.block(self.branch(features) + features)
        return self.head((features * self.gate(features)).mean((2, 3)))


def test_the_bottleneck_is_where_nothing_goes_around_it() -> None:
    model, images = Residual(), torch.randn(4, *SHAPE)
    assert [name for name, _ in conv_layers(model, SHAPE)] == ["branch.1"]  # bypassed; the gate behind it has one channel
    assert bottleneck_layer(model, SHAPE) == "block"
    bits = {
        layer: float(make_explainer(f"iba@{layer}", model, SHAPE, calibration()).attribute(images).sum())
        for layer in ("branch.1", "block")
    }
    assert bits["branch.1"] < bits["block"]
    with pytest.raises(ValueError, match="Residual has no layer that everything passes through; name one, as in iba@LAYER"):
        bottleneck_layer(Residual(joined=False), SHAPE)
    assert not any(module._forward_hooks for module in model.modules())
    assert model.training


@pytest.mark.parametrize("name", [name for name in model_names() if not name.endswith("_cub")])
def test_grad_cam_looks_at_features_of_medium_resolution(name: str) -> None:
    """Not at the scores of one channel that compatibility and progressive attention compute last, nor at 4x4 positions."""
    model = create_model(name, 10, **({"width": 0.125} if takes(name, "width") else {}))
    shapes = dict(conv_layers(model, (3, 32, 32)))
    assert all(channels > 1 for channels, _, _ in shapes.values())
    assert shapes[cam_layer(model, (3, 32, 32))][1:] == ((7, 7) if name.startswith("fast") else (8, 8))


def test_the_seed_and_the_calibration_reach_the_bottleneck(small_model: Callable[..., AttentiveClassifier]) -> None:
    model, images = small_model(), torch.randn(2, *SHAPE)
    maps = [
        make_explainer("iba", model, SHAPE, noise, seed).attribute(images, 0)
        for noise, seed in ((calibration(), 0), (calibration(), 1), (3 * calibration(), 0))
    ]
    assert not torch.equal(maps[0], maps[1])
    assert not torch.equal(maps[0], maps[2])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gradcamm", "no explainer 'gradcamm'; did you mean gradcam\\? explainers are own, gradcam, "),
        ("integrated-gradients", "did you mean integrated_gradients"),
        ("xyz", "no explainer 'xyz'; explainers are own"),
        ("", "no explainer ''"),
        ("gradcamm@conv", "did you mean gradcam"),
        (
            "occlusion@features",
            "'occlusion@features' names a layer, which occlusion does not have; those with one are gradcam, iba",
        ),
        ("gradcam@backbone.encodre", "no layer 'backbone.encodre'; near names are backbone.encoder"),
        ("gradcam@", "no layer ''"),
        ("iba@nowhere", "no layer 'nowhere'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_near_one(
    small_model: Callable[..., AttentiveClassifier], name: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make_explainer(name, small_model(), SHAPE, calibration())
    assert "\n" not in str(caught.value)


def test_what_cannot_be_made_is_refused(small_model: Callable[..., AttentiveClassifier]) -> None:
    with pytest.raises(ValueError, match="PlainClassifier has no attention map"):
        make_explainer("own", create_model("vgg_s", 10), (3, 32, 32))
    with pytest.raises(ValueError, match="Stack has no attention map; explain it with gradcam, "):
        make_explainer("own", Stack(4), SHAPE)
    with pytest.raises(ValueError, match="iba measures its noise on images"):
        make_explainer("iba", small_model(), SHAPE)
    with pytest.raises(ValueError, match="Sequential has no convolution with a map"):
        make_explainer("gradcam", nn.Sequential(nn.Flatten(), nn.Linear(768, 2)), SHAPE)
    with pytest.raises(ValueError, match="image_shape"):
        make_explainer("gradcam", Stack(4), (3, 0, 16))

"""The baselines of the paper's table 1: their maps, what a replaced map changes, and each one's own equation in a slow form."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from aib.classifier import Classifier, Details
from aib.interpret.explainers import AttentionMap, GradCAM
from aib.loss import objective
from aib.models import create_model
from aib.models.vgg_att import CompatibilityClassifier
from aib.models.vgg_gap import GapClassifier

BASELINES = {"vgg_gap": (8, 8), "vgg_pan": (16, 16), "vgg_att2": (16, 16), "vgg_att3": (16, 16), "vgg_cbam": (16, 16)}


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=BASELINES)
def named(request: pytest.FixtureRequest) -> tuple[str, Classifier]:
    torch.manual_seed(0)
    return request.param, create_model(request.param, 10).eval()


@torch.no_grad()
def test_the_map_is_in_the_unit_interval_and_is_what_the_explainer_gives(
    named: tuple[str, Classifier], images: torch.Tensor
) -> None:
    name, model = named
    details = model.forward_details(images)
    assert details.map is not None
    assert details.map.shape == (3, 1, *BASELINES[name])
    assert 0 <= details.map.min() <= details.map.max() <= 1
    greatest = details.map.amax((1, 2, 3))
    assert bool((greatest == 1).all()) is model.relative_map
    assert torch.equal(AttentionMap(model).attribute(images), details.map)
    assert torch.equal(model(images), details.logits)
    assert details.logits.shape == (3, 10)


@torch.no_grad()
def test_a_replaced_map_changes_the_prediction_where_the_map_takes_part(
    named: tuple[str, Classifier], images: torch.Tensor
) -> None:
    name, model = named
    own = model(images)
    other = model.forward_details(images, replace_map=lambda maps: torch.rand_like(maps)).logits
    assert torch.allclose(own, other) is (not model.gated)
    assert model.gated is (name != "vgg_gap")
    torch.testing.assert_close(model.forward_details(images, replace_map=lambda maps: maps).logits, own)


@torch.no_grad()
def test_compatibility_attention_as_its_paper_writes_it(images: torch.Tensor) -> None:
    model = create_model("vgg_att3", 10).eval()
    assert isinstance(model, CompatibilityClassifier)
    assert model.lift is not None
    block3 = model.block3(images)
    block4 = model.block4(block3)
    block5 = model.block5(block4)
    shared = model.block6(block5).flatten(1)
    sums = []
    for local, score in zip((model.lift(block3), block4, block5), model.scores):
        positions = local.flatten(2)  # (N, C, P)
        weight = score.weight.flatten()
        compatibility = torch.stack([
            torch.stack([weight @ (positions[n, :, p] + shared[n]) for p in range(positions.shape[2])]) for n in range(len(images))
        ])  # fmt: skip
        sums.append(torch.einsum("np,ncp->nc", compatibility.softmax(1), positions))
    torch.testing.assert_close(model(images), model.head(torch.cat(sums, 1)), rtol=1e-4, atol=1e-5)
    maps = model.forward_details(images).level_maps
    assert maps is not None
    assert [m.shape[2:] for m in maps] == [(32, 32), (16, 16), (8, 8)]
    torch.testing.assert_close(torch.stack([m.sum((1, 2, 3)) for m in maps]), torch.ones(3, 3))


def by_name(model: Classifier, name: str) -> Callable[..., torch.Tensor]:
    """A part of a model, as a function."""
    part: Callable[..., torch.Tensor] = model.get_submodule(name)
    return part


@torch.no_grad()
def test_progressive_attention_as_its_paper_writes_it(images: torch.Tensor) -> None:
    """Seo et al. 2018, (5) to (7): gates on the way, and a weighted mean of positions at the end."""
    model = create_model("vgg_pan", 10, width=0.125).eval()
    features = images
    for level in range(3):
        features = by_name(model, f"stages.{level}")(features)
        scores = by_name(model, f"scores.{level}")(features)
        if level < 2:
            gated = torch.empty_like(features)
            for n, y, x in itertools.product(*map(range, (len(features), *features.shape[2:]))):
                gated[n, :, y, x] = features[n, :, y, x] / (1 + math.exp(-float(scores[n, 0, y, x])))
            features = gated
    pooled = torch.zeros(len(images), features.shape[1])
    for n in range(len(images)):
        weights = scores[n, 0].double().exp()
        for y, x in itertools.product(*map(range, features.shape[2:])):
            pooled[n] += features[n, :, y, x] * float(weights[y, x] / weights.sum())
    torch.testing.assert_close(model(images), by_name(model, "head")(pooled), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_spatial_gate_of_cbam_as_its_paper_writes_it(images: torch.Tensor) -> None:
    """Woo et al. 2018, (2) and (5): F * sigmoid(f7x7([mean over channels; max over channels])), normalised as in their code."""
    model = create_model("vgg_cbam", 10, width=0.125).eval()
    features = by_name(model, "features")(images)
    conv, norm = model.get_submodule("gate.conv"), model.get_submodule("gate.bn")
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    norm.bias.fill_(0.3)
    norm.weight.fill_(1.7)
    greatest = torch.stack([torch.stack([image[:, y, x].max() for y in range(16) for x in range(16)]) for image in features])
    mean = torch.stack([sum(channel for channel in image) / features.shape[1] for image in features])
    summary = F.pad(torch.stack([greatest.view(-1, 16, 16), mean], 1), (3, 3, 3, 3))
    scores = torch.zeros(len(images), 1, 16, 16)
    for y, x in itertools.product(range(16), range(16)):
        scores[:, 0, y, x] = (summary[:, :, y : y + 7, x : x + 7] * conv.weight[0]).sum((1, 2, 3))
    gate = 1 / (1 + (-(1.7 * scores / math.sqrt(1 + norm.eps) + 0.3)).exp())
    torch.testing.assert_close(model.forward_details(images).map, gate, rtol=1e-4, atol=1e-5)
    expected = by_name(model, "head")(by_name(model, "encoder")(features * gate).flatten(1))
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_attention_branch_as_its_paper_writes_it(images: torch.Tensor) -> None:
    """Fukui et al. 2019, (2): g'(x) = (1 + M(x)) * g(x); the branch's scores are the mean over positions of a channel a class."""
    model = create_model("wrn_abn", 10, width=0.1).eval()
    features = by_name(model, "features")(images)
    classes = by_name(model, "gate.classes")(features)
    attention = by_name(model, "gate.map")(classes)
    details = model.forward_details(images)
    torch.testing.assert_close(details.map, attention)
    attended = features + attention * features
    torch.testing.assert_close(details.logits, by_name(model, "head")(by_name(model, "encoder")(attended).flatten(1)))
    scores = model.get_submodule("gate.scores")
    assert isinstance(scores, nn.Conv2d)
    assert details.branch_logits is not None
    expected = torch.einsum("kc,nchw->nk", scores.weight[:, :, 0, 0], classes) / classes[0, 0].numel()
    torch.testing.assert_close(details.branch_logits, expected, rtol=1e-4, atol=1e-5)


def test_the_class_activation_map_is_grad_cam_at_its_features(images: torch.Tensor) -> None:
    # Selvaraju et al. 2017, appendix: of such a network the two are proportional
    model = create_model("vgg_gap", 10, width=0.125).eval()
    assert isinstance(model, GapClassifier)
    maps = {}
    for target in (None, 0, 5, torch.tensor([5, 0, 9])):
        cam = maps[str(target)] = AttentionMap(model).attribute(images, target)
        grad_cam = GradCAM(model, "convolutions").attribute(images, target)
        highest = grad_cam.amax((2, 3), keepdim=True)
        assert highest.max() > 0
        torch.testing.assert_close(cam, grad_cam / highest.clamp_min(1e-30), rtol=1e-4, atol=1e-5)
    assert not torch.equal(maps["0"], maps["5"])
    predicted = model(images).argmax(1)
    assert torch.equal(maps["None"], AttentionMap(model).attribute(images, predicted))
    assert torch.equal(model.forward_details(images, target=5).logits, model(images))
    with pytest.raises(ValueError, match="target holds 10 to 10; classes go from 0 to 9"):
        AttentionMap(model).attribute(images, 10)


@torch.no_grad()
def test_a_map_for_all_classes_ignores_the_target(named: tuple[str, Classifier], images: torch.Tensor) -> None:
    name, model = named
    one, other = (AttentionMap(model).attribute(images, target) for target in (0, 5))
    assert torch.equal(one, other) is (name != "vgg_gap")


def test_the_branch_of_an_attention_branch_network_has_its_own_cross_entropy() -> None:
    logits, branch = torch.randn(4, 5, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3])
    parts = objective(Details(logits=logits, branch_logits=branch), labels)
    torch.testing.assert_close(parts["branch_loss"], F.cross_entropy(branch, labels))
    torch.testing.assert_close(parts["loss"], F.cross_entropy(logits, labels) + F.cross_entropy(branch, labels))
    with torch.device("meta"):
        out = create_model("wrn_abn", 10).train().forward_details(torch.empty(2, 3, 32, 32))
    assert out.branch_logits is not None
    assert out.branch_logits.shape == (2, 10)
    assert out.map is not None
    assert out.map.shape == (2, 1, 16, 16)


def test_the_latent_without_attention_is_sampled_like_the_attentive_ones(images: torch.Tensor) -> None:
    model = create_model("vgg_dvib", 10).eval()
    assert torch.equal(model(images), model(images))
    generator = torch.Generator().manual_seed(1)
    details = model.forward_details(images, samples=(2, 3), generator=generator)
    assert details.sample_logits is not None
    assert details.sample_logits.shape == (2, 3, 3, 10)
    torch.testing.assert_close(details.logits, details.sample_logits.mean((0, 1)))
    assert details.map is None
    assert details.rate is not None
    assert details.rate.shape == (3,)
    parts = objective(model.train().forward_details(images), torch.tensor([0, 1, 2]), beta=0.5)
    torch.testing.assert_close(parts["rate_loss"], 0.5 * parts["rate"])
    assert "anchor_loss" not in parts

"""The per-sample information bottleneck: its closed form, a naive descent, planted truths, and models left exactly as they were."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from aib.classifier import AttentiveClassifier
from aib.interpret.controls import centred_gaussian, chance, uniform
from aib.interpret.explainers import Explainer
from aib.interpret.iba import STD_FLOOR_SHARE, BottleneckAttribution, _blurred, restriction_kl
from aib.interpret.localization import energy, iou, pointing_game
from test_attribution import DECOY, Looks, planted

values = st.floats(-5, 5, allow_subnormal=False)


def ready(model: nn.Module | None = None, layer: str = "conv", **options: float) -> BottleneckAttribution:
    """Of a network that sees normal noise in training."""
    noise = torch.randn(200, 3, 12, 12, generator=torch.Generator().manual_seed(2))
    return BottleneckAttribution(model or Looks(), layer, **options).estimate(noise)  # type: ignore[arg-type]


@given(alpha=st.floats(-8, 8), feature=values, mean=values, std=st.floats(0.1, 5))
def test_the_divergence_is_that_of_torch(alpha: float, feature: float, mean: float, std: float) -> None:
    """Of the two Gaussians of (2), without the algebra that leads to (4)."""
    share, feature, mean, std = (torch.tensor(value, dtype=torch.float64) for value in (alpha, feature, mean, std))
    share = torch.sigmoid(-share)
    given_image = Normal((1 - share) * feature + share * mean, share * std)
    torch.testing.assert_close(restriction_kl(share, (feature - mean) / std), kl_divergence(given_image, Normal(mean, std)))


def test_the_divergence_is_zero_for_noise_alone_and_finite_without_any() -> None:
    scores = torch.tensor([-4.0, 0.0, 100.0])
    assert restriction_kl(torch.ones(3), scores).tolist() == [0.0, 0.0, 0.0]
    assert bool((restriction_kl(torch.full((3,), 1 - 1e-7), scores / 100) >= 0).all())  # rounding goes below zero here
    for alpha in (50.0, 104.0, 1e4):
        start = torch.full((3,), alpha, requires_grad=True)
        kl = restriction_kl(torch.sigmoid(-start), scores)
        kl.sum().backward()
        assert bool(kl.isfinite().all())
        assert bool(start.grad.isfinite().all())  # type: ignore[union-attr]
    # nothing known of a feature at its mean, and 5 nats of one that lets e^-5 of its noise through
    torch.testing.assert_close(restriction_kl(torch.tensor(math.exp(-5)), torch.tensor(0.0)), torch.tensor(4.5), atol=1e-4, rtol=0)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_the_blur_is_scipys_with_a_replicated_border(sigma: float) -> None:
    images = torch.rand(2, 3, 5, 9, dtype=torch.float64)
    expected = gaussian_filter(images.numpy(), (0, 0, sigma, sigma), mode="nearest", radius=math.ceil(3 * sigma))
    torch.testing.assert_close(_blurred(images, sigma), torch.from_numpy(expected))
    torch.testing.assert_close(_blurred(torch.full((1, 1, 2, 2), 0.3), sigma), torch.full((1, 1, 2, 2), 0.3))
    assert _blurred(images, 0.0) is images


def test_the_statistics_are_those_of_all_images_however_they_come() -> None:
    model, images = Looks(), 5 + torch.rand(7, 3, 12, 12)
    expected = (images.mean(0), images.std(0))
    ways = (images, [images], images.split(3), iter(images.split(1)), [images[:6], images[6:]])
    for way in ways:
        explainer = BottleneckAttribution(model, "conv", batch_size=1).estimate(way)
        torch.testing.assert_close((explainer.mean, explainer.std), expected)
    assert not explainer.mean.requires_grad  # type: ignore[union-attr]


def test_a_dead_feature_gets_a_small_deviation() -> None:
    images = torch.rand(9, 3, 12, 12)
    images[:, :, 2] = 0
    explainer = BottleneckAttribution(Looks(), "conv").estimate(images)
    floor = STD_FLOOR_SHARE * images.var(0).mean().sqrt()
    torch.testing.assert_close(explainer.std[:, 2], floor.expand(3, 12))  # type: ignore[index]
    assert bool(explainer.attribute(torch.rand(2, 3, 12, 12)).isfinite().all())


def naive(model: Looks, image: Tensor, target: int, calibration: Tensor, beta: float, seed: int = 0) -> Tensor:
    """Bits (h, w) of one image by a descent with Adam written out, each noise draw in a pass of its own through the head."""
    features = model.conv(image[None])[0].detach()
    seen = model.conv(calibration).detach()
    mean, std = seen.mean(0), seen.std(0)
    generator = torch.Generator().manual_seed(seed)
    kernel = torch.exp(-torch.arange(-3.0, 4.0).square() / 2)
    kernel = torch.outer(kernel, kernel) / kernel.sum() ** 2

    def divergence_and_gate(alpha: Tensor) -> tuple[Tensor, Tensor]:
        gate = alpha.sigmoid()
        gate = F.conv2d(F.pad(gate[:, None], (3, 3, 3, 3), mode="replicate"), kernel[None, None]).squeeze(1)
        restricted = Normal(gate * features + (1 - gate) * mean, (1 - gate) * std)
        return kl_divergence(restricted, Normal(mean, std)), gate

    alpha, first, second = torch.full_like(features, 5.0), 0.0, 0.0
    for step in range(1, 11):
        noise = torch.randn(10, *features.shape, generator=generator)
        alpha.requires_grad_()
        divergence, gate = divergence_and_gate(alpha)
        losses = []
        for draw in noise:
            z = gate * features + (1 - gate) * (mean + std * draw)
            losses.append(F.cross_entropy(model.head(z.flatten()[None]), torch.tensor([target])))
        loss = torch.stack(losses).mean() + beta / features.numel() * divergence.sum()
        (gradient,) = torch.autograd.grad(loss, alpha)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient.square()
        step_size = first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        alpha = alpha.detach() - step_size
    return divergence_and_gate(alpha)[0].sum(0) / math.log(2)


@pytest.mark.parametrize("beta", [1.0, 10.0])
def test_the_map_is_that_of_a_naive_descent(beta: float) -> None:
    model, (images, _, _) = Looks(), planted(3)
    calibration = torch.randn(50, 3, 12, 12)
    maps = BottleneckAttribution(model, "conv", beta=beta).estimate(calibration).attribute(images, torch.tensor([1, 0, 1]))
    assert maps.shape == (3, 1, 12, 12)
    expected = torch.stack([naive(model, image, target, calibration, beta) for image, target in zip(images, (1, 0, 1))])
    torch.testing.assert_close(maps[:, 0], expected, atol=1e-6, rtol=2e-3)


def test_it_finds_the_place_a_planted_network_looks_at() -> None:
    images, place, decoy = planted()
    maps = ready().attribute(images)
    assert float(maps.min()) >= 0
    assert pointing_game(maps, place).tolist() == [1.0] * 5
    assert iou(maps, place).min() > 0.7
    # with fewer bits to pay, the descent ends nearer its goal after the same ten steps
    cheap = ready(beta=1.0).attribute(images)
    assert pointing_game(cheap, place).tolist() == [1.0] * 5
    assert energy(cheap, place).min() > 0.75
    assert energy(cheap, decoy).max() < 0.02
    for control in (uniform(images), centred_gaussian(images)):
        assert energy(control, place).max() < 2 * chance(place)
    # of a network that looks at the decoy, the same images give the decoy
    other = ready(Looks(DECOY), beta=1.0).attribute(images)
    assert energy(other, decoy).min() > 0.75
    assert energy(other, place).max() < 0.02


def test_information_costs() -> None:
    """Nothing is given away where it is free, and next to nothing left where it is dear."""
    images, _, _ = planted(2)
    bits = [float(ready(beta=beta).attribute(images, 1).sum()) for beta in (0.0, 0.1, 1.0, 10.0, 1000.0)]
    assert bits == sorted(bits, reverse=True)
    # alpha = 5 everywhere: (4) with a share of sigmoid(-5)
    untouched = restriction_kl(torch.sigmoid(torch.tensor(-5.0)), torch.zeros(()))
    assert bits[0] > 2 * 3 * 144 * float(untouched) / math.log(2)
    assert bits[-1] < 0.01 * bits[0]


def test_more_steps_leave_less_where_nothing_is_needed() -> None:
    images, place, _ = planted(2)
    shares = [float(energy(ready(iterations=steps).attribute(images), place).min()) for steps in (1, 10, 20)]
    assert shares == sorted(shares)
    assert shares[-1] > 0.5 > 2 * float(chance(place))


def test_a_map_depends_on_its_image_alone() -> None:
    images, _, _ = planted(5)
    together = ready(beta=1.0).attribute(images)
    for batch_size in (1, 2, 5):
        torch.testing.assert_close(ready(beta=1.0, batch_size=batch_size).attribute(images), together, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(ready(beta=1.0).attribute(images.flip(0)), together.flip(0), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(ready(beta=1.0).attribute(images[3:4]), together[3:4], atol=1e-6, rtol=1e-4)
    assert (together[0] - together[1]).abs().max() > 0.01


def test_the_seed_draws_the_noise() -> None:
    images, _, _ = planted(2)
    explainer = ready(beta=1.0)
    first, state = explainer.attribute(images), torch.get_rng_state()
    assert torch.equal(explainer.attribute(images), first)
    assert torch.equal(torch.get_rng_state(), state)
    other = ready(beta=1.0, seed=1).attribute(images)
    assert not torch.equal(other, first)
    # which of many equal witnesses is kept is up to the noise; where they are is not
    assert float(torch.corrcoef(torch.stack([first.flatten(), other.flatten()]))[0, 1]) > 0.8


def test_memory_does_not_grow_with_the_images(largest_tensor: Callable[[], object]) -> None:
    explainer, largest = ready(batch_size=2, iterations=1), []
    for count in (2, 8):
        with largest_tensor() as seen:  # type: ignore[attr-defined]
            explainer.attribute(torch.randn(count, 3, 12, 12))
        largest.append(seen.largest)
    assert largest[0] == largest[1]


def test_no_target_is_the_predicted_class() -> None:
    images = planted(4)[0]
    images[2:] *= -1
    explainer = ready()
    predicted = Looks()(images).argmax(1)
    assert predicted.tolist() == [1, 1, 0, 0]
    assert torch.equal(explainer.attribute(images), explainer.attribute(images, predicted))
    assert not torch.allclose(explainer.attribute(images), explainer.attribute(images, 1), atol=1e-3)


def test_a_layer_followed_by_an_in_place_one_keeps_its_own_output() -> None:
    images, _, _ = planted(2)
    assert torch.equal(ready(Looks(in_place=True)).attribute(images), ready(Looks()).attribute(images))


@pytest.mark.parametrize("layer", ["backbone.features", "backbone.features.0", "backbone.encoder.0"])
def test_layers_of_an_attentive_classifier(small_model: Callable[..., AttentiveClassifier], layer: str) -> None:
    model, images = small_model().eval(), torch.randn(3, 3, 16, 16)
    explainer = BottleneckAttribution(model, model.get_submodule(layer)).estimate(torch.randn(20, 3, 16, 16))
    assert isinstance(explainer, Explainer)
    assert explainer.name == layer
    maps = explainer.attribute(images)
    side = {"backbone.features": 8, "backbone.features.0": 16, "backbone.encoder.0": 4}[layer]
    assert maps.shape == (3, 1, side, side)
    assert bool((maps >= 0).all())
    assert float(maps.max()) > 0


def test_the_model_is_left_as_it_was(small_model: Callable[..., AttentiveClassifier]) -> None:
    model, images = small_model(), torch.randn(3, 3, 16, 16)
    model.train()
    model.backbone.features[1].eval()
    model.decoder[0].weight.grad = torch.ones_like(model.decoder[0].weight)
    model.backbone.features[0].requires_grad_(False)
    before, flags = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    state, given = torch.get_rng_state(), images.clone()
    explainer = BottleneckAttribution(model, "backbone.encoder.0").estimate(images)
    maps = explainer.attribute(images)
    assert not maps.requires_grad
    assert torch.equal(maps, explainer.attribute(images))
    assert torch.equal(images, given)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()
    for size in (16, 24):  # the second fails half-way, in the pass that is not of the size of estimate
        if size == 24:
            with pytest.raises(ValueError, match="give images of that size"):
                explainer.attribute(torch.randn(2, 3, size, size))
        assert [module.training for module in model.modules()] == flags
        assert not any(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks for module in model.modules())
    assert torch.equal(model.decoder[0].weight.grad, torch.ones_like(model.decoder[0].weight))
    assert all(parameter.grad is None for name, parameter in model.named_parameters() if name != "decoder.0.weight")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_it_works_inside_no_grad_and_inference_mode_and_of_a_frozen_model() -> None:
    images, _, _ = planted(2)
    model = Looks().requires_grad_(False)
    expected = ready(model).attribute(images)
    assert float(expected.max()) > 0
    with torch.no_grad():
        assert torch.equal(ready(model).attribute(images), expected)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        explainer = ready(model)
        assert torch.equal(explainer.attribute(images * 1), expected)
        assert torch.is_inference_mode_enabled()
    assert torch.equal(explainer.attribute(images), expected)


class Odd(nn.Module):
    """Layers the bottleneck cannot restrict."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(3, 3, 1)
        self.aside = nn.Conv2d(3, 3, 1)
        self.never = nn.Conv2d(3, 3, 1)
        self.head = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        self.aside(images)
        return self.head(self.twice(self.twice(images)).mean((2, 3)))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("twice", "'twice' runs more than once a pass"),
        ("never", "do not depend on layer 'never'"),
        ("aside", "do not depend on layer 'aside'"),
        ("head", r"layer 'head' gives an output of shape \(4, 2\); the bottleneck needs \(N, C, h, w\)"),
        ("heat", "no layer 'heat'; near names are head"),
        (nn.Conv2d(3, 3, 1), "not a layer of the model"),
    ],
)
def test_layers_that_cannot_be_restricted_are_refused(layer: str | nn.Module, message: str) -> None:
    model = Odd()
    with pytest.raises(ValueError, match=message) as caught:
        BottleneckAttribution(model, layer).estimate(torch.randn(4, 3, 6, 6)).attribute(torch.randn(2, 3, 6, 6))
    assert "\n" not in str(caught.value)
    assert not any(module._forward_hooks for module in model.modules())
    assert model.training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -1.0}, "beta is -1.0"),
        ({"beta": math.nan}, "beta is nan"),
        ({"iterations": 0}, "iterations is 0"),
        ({"samples": 0}, "samples is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"blur": -1.0}, "blur is -1.0"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BottleneckAttribution(Looks(), "conv", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.randn(1, 3, 12, 12), "1 images; the statistics of layer 'conv' need at least 2"),
        ([], "0 images"),
        (torch.ones(5, 3, 12, 12), "gives the same output for all 5 images"),
        (torch.randn(3, 12, 12), r"expected \(N, C, H, W\)"),
        ([torch.randn(2, 3, 12, 12), torch.randn(0, 3, 12, 12)], "N >= 1"),
    ],
)
def test_images_without_statistics_are_refused(images: Tensor | list[Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BottleneckAttribution(Looks(), "conv").estimate(images)


def test_images_of_two_sizes_are_refused(small_model: Callable[..., AttentiveClassifier]) -> None:
    explainer = BottleneckAttribution(small_model(), "backbone.features")
    with pytest.raises(ValueError, match=r"gives \(6, 12, 12\) for these images, and \(6, 8, 8\) for others"):
        explainer.estimate([torch.randn(2, 3, 16, 16), torch.randn(2, 3, 24, 24)])
    assert explainer.mean is None


@pytest.mark.parametrize(
    ("images", "target", "message"),
    [
        (torch.randn(3, 12, 12), None, r"expected \(N, C, H, W\)"),
        (torch.randn(0, 3, 12, 12), None, "N >= 1"),
        (torch.randn(2, 3, 12, 12), 2, "classes go from 0 to 1"),
        (torch.randn(2, 3, 12, 12), torch.tensor([0, 1, 0]), r"expected one class or \(2,\)"),
    ],
)
def test_bad_images_and_targets_are_refused(images: Tensor, target: int | Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ready().attribute(images, target)


def test_attribute_before_estimate_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="layer 'conv' has no statistics yet; call estimate with images first"):
        BottleneckAttribution(Looks(), "conv").attribute(torch.randn(1, 3, 12, 12))

"""Sensitivity to noise on maps whose change is known, against a slow loop, and what a constant map gets."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from aib.classifier import AttentiveClassifier
from aib.data.bundle import TensorSplit
from aib.interpret.explainers import AttentionMap, GradCAM, Target
from aib.interpret.imputation import seeded_generator
from aib.interpret.intervals import bootstrap_mean
from aib.interpret.sensitivity import Sensitivity, checked_maps, map_sensitivity, sensitivity_numbers

MEAN, STD = (0.5,) * 3, (0.25,) * 3


def images(count: int = 40) -> Tensor:
    return torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def grey(shown: Tensor, target: Target) -> Tensor:
    return shown.mean(1, keepdim=True)


def coarse(shown: Tensor, target: Target) -> Tensor:
    return F.avg_pool2d(grey(shown, target), 4)


def chaotic(shown: Tensor, target: Target) -> Tensor:
    """Another map for every image, however alike they are."""
    return torch.sin(1e6 * grey(shown, target))


def constant(shown: Tensor, target: Target) -> Tensor:
    return torch.full((len(shown), 1, 4, 4), 0.7)


def measure(attribute: Callable[[Tensor, Target], Tensor], **changes: Any) -> Sensitivity:
    return map_sensitivity(attribute, **{"images": images(), "mean": MEAN, "std": STD, **changes})


def test_the_maps_stand_in_the_order_of_their_noise_and_a_constant_one_is_not_among_them() -> None:
    linear, steep, noise = (measure(attribute) for attribute in (grey, lambda shown, t: torch.sin(20 * grey(shown, t)), chaotic))
    assert float(linear.share.mean()) < 0.1
    assert float(linear.share.max()) < float(steep.share.min())
    assert float(steep.share.max()) < float(noise.share.min())
    assert float(noise.share.mean()) == pytest.approx(1.0, abs=0.05)
    assert noise.numbers()["pooled"][0] == pytest.approx(1.0, abs=0.05)
    flat = measure(constant)
    assert bool(flat.share.isnan().all())
    numbers = flat.numbers()
    assert (numbers["share"], numbers["pooled"], numbers["undefined"]) == (None, None, 40)
    # by the usual measure it would win
    assert numbers["relative"] == [0.0, 0.0, 0.0]
    nothing = measure(lambda shown, target: torch.zeros(len(shown), 1, 2, 2)).numbers()
    assert (nothing["relative"], nothing["zero"], nothing["share"]) == (None, 40, None)


def test_the_steadier_map_stands_above_and_a_constant_one_is_neither_judged_nor_a_control() -> None:
    makers = {"linear": grey, "steep": lambda shown, t: torch.sin(20 * grey(shown, t)), "noise": chaotic, "flat": constant}
    found = {name: measure(attribute) for name, attribute in makers.items()}
    controls = {"linear": ["steep", "noise", "flat"], "noise": ["linear", "steep"], "steep": ["flat"], "flat": ["linear", "noise"]}
    numbers = sensitivity_numbers(found, controls, 3)
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
    assert {name for name, one in numbers.items() if "above" in one} == {"linear", "noise"}
    for name, control, sign in (("linear", "steep", 1), ("noise", "linear", -1)):
        best, pooled = numbers[name]["above"], {one: numbers[one]["pooled"][0] for one in (name, control)}
        assert best["control"] == control
        assert best["difference"][0] == pytest.approx(pooled[control] - pooled[name])
        assert min(sign * best["difference"][1], sign * best["difference"][2]) > 0
    assert {key: one for key, one in numbers["linear"].items() if key != "above"} == found["linear"].numbers(3)


def test_parts_of_the_pooled_change_have_it_for_a_mean_and_its_interval() -> None:
    """The interval of their mean is that of the ratio resampled as a whole, to first order."""
    found = measure(lambda shown, target: torch.sin(20 * grey(shown, target)), images=images(200))
    pooled = found.numbers()["pooled"]
    assert bootstrap_mean(found.pooled_parts.numpy()) == pytest.approx(pooled, rel=0.01)
    # which leaves out how the change to another image varies, and it is not small
    alone = bootstrap_mean((found.by_noise.mean(1) / found.by_image.mean()).numpy())
    assert alone[2] - alone[1] < 0.8 * (pooled[2] - pooled[1])
    assert bool(measure(constant).pooled_parts.isnan().all())


def test_parity_with_a_slow_loop() -> None:
    positions = torch.arange(40).flip(0) * 3
    found = measure(coarse, positions=positions, sigma=9.0, draws=3, seed=5)
    assert found.by_noise.shape == (40, 3)
    assert sorted(found.others.tolist()) == list(range(40))
    for i in range(40):
        noise = seeded_generator(5, int(positions[i]), 2).standard_normal((3, 3, 8, 8), dtype=np.float32)
        clean, other = (coarse((images()[k : k + 1] / 255 - 0.5) / 0.25, None) for k in (i, int(found.others[i])))
        assert i != int(found.others[i])
        changes = []
        for draw in torch.from_numpy(noise):
            noisy = coarse(((images()[i : i + 1] + 9 * draw) / 255 - 0.5) / 0.25, None)
            changes.append(math.sqrt(float((noisy - clean).double().square().sum())))
        apart, size = (math.sqrt(float(d.double().square().sum())) for d in (clean - other, clean))
        assert found.by_noise[i].tolist() == pytest.approx(changes, rel=1e-3)
        assert float(found.share[i]) == pytest.approx(sum(changes) / 3 / apart, rel=1e-3)
        assert float(found.relative[i]) == pytest.approx(sum(changes) / 3 / size, rel=1e-3)
    numbers = found.numbers()
    assert numbers["share"][0] == pytest.approx(float(found.share.mean()))
    assert numbers["pooled"][0] == pytest.approx(float(found.by_noise.mean() / found.by_image.mean()))


def test_linear_maps_change_with_sigma_as_it_says() -> None:
    """Of a linear map the change is that of the noise: sigma / 255 / 0.25 a normalised pixel, over 64 pixels of 3 channels."""
    for sigma in (1.0, 4.0, 16.0):
        expected = sigma / (255 * 0.25) / math.sqrt(3) * math.sqrt(64)
        assert float(measure(grey, sigma=sigma, draws=8).by_noise.mean()) == pytest.approx(expected, rel=0.02)


def test_the_share_knows_neither_scale_nor_offset_but_the_plain_change_does() -> None:
    plain, moved = measure(grey), measure(lambda shown, target: 100 - 3 * grey(shown, target))
    torch.testing.assert_close(plain.share, moved.share, rtol=1e-3, atol=0)
    assert float(moved.relative.mean()) < 0.1 * float(plain.relative.mean())


def test_two_levels_with_many_equal_maps_are_left_out_and_counted() -> None:
    """A quantised map: half of the pairs have the same map, and the pooled share does not lose what changes there."""

    def levels(shown: Tensor, target: Target) -> Tensor:
        return (shown[:, :1, :1, :1] > 0).float().expand(-1, 1, 3, 3)

    found = measure(levels, sigma=60.0)
    same = found.by_image == 0
    assert 5 < int(same.sum()) < 35
    assert torch.equal(found.share.isnan(), same)
    numbers = found.numbers()
    assert numbers["undefined"] == int(same.sum())
    assert numbers["share"][0] == pytest.approx(float(found.share.nanmean()))
    assert float(found.by_noise[same].sum()) > 0
    assert numbers["pooled"][0] == pytest.approx(float(found.by_noise.mean(1).sum() / found.by_image.sum()))
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
    for name in ("share", "pooled", "relative"):
        mean, low, high = numbers[name]
        assert low <= mean <= high


def test_results_do_not_depend_on_the_cap_and_models_are_left_as_found(small_model: Callable[..., AttentiveClassifier]) -> None:
    model = small_model().train()
    shown = torch.randint(0, 256, (7, 3, 16, 16), dtype=torch.uint8)
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    for explainer in (AttentionMap(model, "mean"), GradCAM(model, "backbone.features")):
        first = map_sensitivity(explainer.attribute, shown, MEAN, STD, 2, draws=3, seed=1)
        for cap in (4, 9, 1000):
            again = map_sensitivity(explainer.attribute, shown, MEAN, STD, 2, draws=3, seed=1, images_at_once=cap)
            for field in ("by_noise", "by_image", "norm", "others"):
                assert torch.equal(getattr(again, field), getattr(first, field))
        other = map_sensitivity(explainer.attribute, shown, MEAN, STD, 2, draws=3, seed=2)
        assert not torch.equal(other.by_noise, first.by_noise)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_split_is_measured_like_its_images() -> None:
    positions = torch.tensor([30, 2, 17, 5])
    split = measure(coarse, images=TensorSplit(images(), torch.zeros(40).long()), positions=positions)
    tensor = measure(coarse, images=images()[positions].float(), positions=positions)
    assert torch.equal(split.by_noise, tensor.by_noise)
    assert torch.equal(split.by_image, tensor.by_image)


@pytest.mark.parametrize("target", [None, 3, torch.arange(40) % 7])
def test_an_image_and_its_copies_are_explained_for_the_same_class(target: Target) -> None:
    asked = []

    def attribute(shown: Tensor, chosen: Target) -> Tensor:
        asked.append(chosen)
        return grey(shown, chosen)

    measure(attribute, target=target, draws=2, images_at_once=7)
    if target is None:
        assert asked == [None] * 40
    else:
        wanted = torch.as_tensor(target).expand(40)
        assert torch.equal(torch.stack(asked), wanted[:, None].expand(-1, 3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma": 0.0}, "sigma is 0.0"),
        ({"sigma": math.nan}, "sigma is nan"),
        ({"draws": 0}, "draws is 0"),
        ({"images_at_once": 4}, "at least 5"),
        ({"images": images(1)}, "at least 2"),
        ({"images": images()[0]}, "expected .N, C, H, W"),
        ({"images": images(0)}, "N >= 1"),
        ({"positions": torch.arange(39)}, "40 images but 39 positions"),
        ({"positions": torch.arange(40) - 1}, "positions go from -1"),
        ({"seed": -3}, "seeds"),
        ({"target": torch.zeros(39).long()}, "target has shape"),
        ({"mean": (0.5,)}, "3 channels"),
        ({"attribute": lambda shown, target: shown}, r"expected \(\d+, 1, h, w\)"),
        ({"attribute": lambda shown, target: shown.mean((1, 2, 3))}, "expected"),
        ({"attribute": lambda shown, target: torch.full((len(shown), 1, 2, 2), math.inf)}, "not finite"),
    ],
)
def test_bad_input_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(**{"attribute": grey, **changes})


def test_maps_in_parts_are_the_maps() -> None:
    shown = torch.rand(7, 3, 8, 8)
    torch.testing.assert_close(checked_maps(coarse, shown, None, 3), coarse(shown, None))

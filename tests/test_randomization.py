"""Networks with parts untrained: what is replaced, what stays bit for bit; statistics and similarities against slow loops."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from aib.classifier import AttentiveClassifier, Classifier, Details, Pass
from aib.interpret.localization import pointing_game
from aib.interpret.randomization import (
    attention_modules,
    execution_order,
    map_similarity,
    randomize,
    randomized_networks,
    rank_correlation,
    reestimate_statistics,
)
from aib.models import create_model

NETWORKS: list[tuple[str, dict[str, Any]]] = [("vgg_xs_aib_qt", {}), ("vgg_att3", {"width": 0.0625}), ("wrn_abn", {"width": 0.1})]


def twins(name: str, seed: int = 0, **options: Any) -> tuple[Classifier, Classifier]:
    """A "trained" network, all of whose parameters and statistics are shifted from any start, and a fresh one."""
    trained, fresh = create_model(name, 3, **options), create_model(name, 3, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for values in [*trained.parameters(), *(b for b in trained.buffers() if b.is_floating_point())]:
            values.add_(0.01 + 0.01 * torch.rand(values.shape, generator=generator))
    return trained, fresh


def pictures(count: int = 8, side: int = 32, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def taken_from(network: nn.Module, other: nn.Module) -> set[str]:
    """Names of the parameters that equal those of ``other``."""
    theirs = dict(other.named_parameters())
    return {name for name, values in network.named_parameters() if torch.equal(values, theirs[name])}


# --- what is replaced ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_each_network_takes_its_share_and_the_given_ones_stay_bit_identical(name: str, options: dict[str, Any]) -> None:
    trained, fresh = twins(name, **options)
    trained.train()
    next(trained.children()).eval()
    before, theirs, flags = state(trained), state(fresh), [module.training for module in trained.modules()]
    generator = torch.get_rng_state()
    networks = randomized_networks(trained, fresh, pictures())
    expected = ["untrained", "attention randomised", "last 25 % randomised", "last 50 % randomised", "last 75 % randomised"]
    assert list(networks) == expected
    every = set(dict(trained.named_parameters()))
    assert taken_from(networks["untrained"], fresh) == every
    shares = [taken_from(networks[f"last {p} % randomised"], fresh) for p in (25, 50, 75)]
    assert shares[0] < shares[1] < shares[2] < every
    for network in networks.values():
        new = taken_from(network, fresh)
        assert taken_from(network, trained) == every - new
        assert network.state_dict().keys() == before.keys()
        assert not {p.data_ptr() for p in network.parameters()} & {p.data_ptr() for m in (trained, fresh) for p in m.parameters()}
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(before[key], value) for key, value in trained.state_dict().items())
    assert all(torch.equal(theirs[key], value) for key, value in fresh.state_dict().items())
    assert [module.training for module in trained.modules()] == flags
    assert all(parameter.grad is None for parameter in trained.parameters())
    assert not any(module._forward_hooks for model in (trained, *networks.values()) for module in model.modules())


def test_the_cascade_counts_modules_with_parameters_from_the_output() -> None:
    trained, fresh = twins("vgg_xs_aib_qt")
    order = execution_order(trained, pictures(1))
    assert order[0] == "backbone.features.0"
    assert order[-1].startswith("decoder.")
    assert order.index("attention.std_head") < order.index("quantizer") < order.index("backbone.encoder.0")
    networks = randomized_networks(trained, fresh, pictures(), percentages=[10, 30])
    for percentage in (10, 30):
        last = order[-round(len(order) * percentage / 100) :]
        new = taken_from(networks[f"last {percentage} % randomised"], fresh)
        assert {name.rpartition(".")[0] for name in new} == set(last)


def test_with_random_attention_the_rest_is_the_trained_network() -> None:
    trained, fresh = twins("vgg_xs_aib_qt")
    network = randomized_networks(trained, fresh, pictures(), percentages=[])["attention randomised"]
    new = taken_from(network, fresh)
    assert new == {name for name in dict(trained.named_parameters()) if name.startswith(("attention.", "quantizer."))}
    assert "quantizer.anchors" in new
    assert set(attention_modules(trained)) > {"attention", "attention.head", "attention.std_head", "quantizer"}


@pytest.mark.parametrize("reestimate", [True, False])
def test_before_the_first_randomised_module_everything_is_the_trained_network(reestimate: bool) -> None:
    trained, fresh = twins("vgg_xs_aib_qt")
    networks = randomized_networks(trained, fresh, pictures(), reestimate=reestimate)
    trained.eval()
    images = pictures(4, seed=1)
    with torch.no_grad():
        details = trained.forward_details(images)
        last = networks["last 25 % randomised"].eval().forward_details(images)
        attention = networks["attention randomised"].eval().forward_details(images)
    assert torch.equal(last.map, details.map)  # the attention runs before the last quarter
    assert not torch.equal(last.logits, details.logits)
    assert torch.equal(attention.features, details.features)
    assert not torch.equal(attention.map, details.map)


def test_buffers_come_from_the_fresh_network_where_statistics_are_not_taken_anew() -> None:
    trained, fresh = twins("vgg_xs_aib_qt")
    network = randomized_networks(trained, fresh, pictures(), reestimate=False, percentages=[])["untrained"]
    assert all(torch.equal(network.state_dict()[key], value) for key, value in fresh.state_dict().items())
    network = randomized_networks(trained, fresh, pictures(), percentages=[])["untrained"]
    moved = [key for key, value in fresh.state_dict().items() if not torch.equal(network.state_dict()[key], value)]
    assert moved == [key for key in fresh.state_dict() if key.endswith(("running_mean", "running_var", "num_batches_tracked"))]


class Odd(Classifier):
    """Runs its parts in another order than it lists them, one of them twice, and uses one without calling it."""

    num_classes = 2

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 2)
        self.twice = nn.Linear(3, 3)
        self.first = nn.Conv2d(3, 3, 1)
        self.block = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
        self.same = self.twice
        self.uncalled = nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.ones(1))

    def run_pass(self, images: Tensor, how: Pass) -> Details:
        x = self.twice(self.first(images).mean((2, 3)))
        x = self.same(self.block(x)) + x @ self.uncalled.weight
        return Details(logits=self.last(x) * self.scale)


def test_modules_stand_where_they_first_run_and_shared_ones_once() -> None:
    # the root owns a parameter and ends last; what is never called stands with it
    assert execution_order(Odd(), pictures(1, 4)) == ["first", "twice", "block.0", "last", "", "uncalled"]


def test_only_what_a_module_owns_itself_is_replaced() -> None:
    trained, fresh = Odd(), Odd()
    assert taken_from(randomize(trained, fresh, ["block", ""], pictures(2, 4)), fresh) == {"scale"}
    assert taken_from(randomize(trained, fresh, ["twice"], pictures(2, 4)), fresh) == {"twice.weight", "twice.bias", "scale"}


# --- statistics ----------------------------------------------------------------------------------------------------------------


def test_statistics_are_plain_means_over_whole_batches() -> None:
    class Normalised(Classifier):
        num_classes = 3

        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3, momentum=0.3)

        def run_pass(self, images: Tensor, how: Pass) -> Details:
            return Details(logits=self.norm(images).mean((2, 3)))

    model, images = Normalised(), pictures(11, 5) * 3 + 1
    model.norm.running_mean.fill_(100.0)
    reestimate_statistics(model, images, batch_size=4)
    batches = images[:8].split(4)  # the last three are left out
    torch.testing.assert_close(model.norm.running_mean, torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0))
    torch.testing.assert_close(model.norm.running_var, torch.stack([b.var((0, 2, 3)) for b in batches]).mean(0))
    assert model.norm.momentum == 0.3
    assert model.training
    assert model.norm.training
    reestimate_statistics(model, images[:3], batch_size=4)
    torch.testing.assert_close(model.norm.running_mean, images[:3].mean((0, 2, 3)))


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_an_untrained_network_runs_where_it_would_start_its_training(name: str, options: dict[str, Any]) -> None:
    """In eval mode every normalisation then gives about zero mean and unit deviation, as a batch's own statistics would."""
    _, fresh = twins(name, **options)
    images = pictures(32)
    inputs = {}
    for when in ("before", "after"):
        if when == "after":
            reestimate_statistics(fresh, images, batch_size=32)
        found: list[float] = []

        def watch(module: nn.Module, given: tuple[Tensor, ...], output: Tensor, found: list[float] = found) -> None:
            found.append((output.var((0, 2, 3), unbiased=False).clamp_min(1e-6) / module.weight.square()).log().abs().mean().item())

        hooks = [m.register_forward_hook(watch) for m in fresh.modules() if isinstance(m, nn.BatchNorm2d)]
        with torch.no_grad():
            fresh.eval()(images)
        for hook in hooks:
            hook.remove()
        inputs[when] = float(np.mean(found))
    assert inputs["after"] < 0.1
    assert inputs["before"] > 3 * inputs["after"]


def test_statistics_repeat_with_their_seed_and_touch_no_global_generator(
    small_model: Callable[..., AttentiveClassifier],
) -> None:
    model = small_model(attention_offset=0.0)
    model.train()
    images, generator = pictures(20, 16), torch.get_rng_state()
    found = []
    for seed in (0, 0, 1):
        network = copy.deepcopy(model)
        before = {name: p.clone() for name, p in network.named_parameters()}
        reestimate_statistics(network, images, batch_size=8, seed=seed)
        assert all(torch.equal(before[name], p) for name, p in network.named_parameters())
        assert all(module.training for module in network.modules())
        found.append(torch.cat([b.flatten().float() for b in network.buffers()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])  # the noise of the attention reaches the encoder
    wide = create_model("wrn_abn", 3, width=0.1)  # with dropout
    generator = torch.get_rng_state()
    reestimate_statistics(wide, images[:4])
    assert torch.equal(torch.get_rng_state(), generator)


def test_only_the_layers_asked_for_are_taken_anew(small_model: Callable[..., AttentiveClassifier]) -> None:
    model = small_model()
    before = state(model)
    reestimate_statistics(model, pictures(8, 16), layers=["backbone.encoder.1"])
    changed = {key for key, value in model.state_dict().items() if not torch.equal(before[key], value)}
    assert {key.rpartition(".")[0] for key in changed} == {"backbone.encoder.1"}
    without = small_model(batch_norm=False)
    before = state(without)
    reestimate_statistics(without, pictures(8, 16))
    assert all(torch.equal(before[key], value) for key, value in without.state_dict().items())


# --- similarity ----------------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), levels=st.integers(2, 40), side=st.integers(2, 7))
@settings(max_examples=25, deadline=None)
def test_rank_correlation_is_that_of_scipy(seed: int, levels: int, side: int) -> None:
    from scipy.stats import spearmanr

    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randint(0, levels, (3, 1, side, side), generator=generator) / 7 for _ in range(2))
    second = torch.where(torch.rand(second.shape, generator=generator) < 0.5, first, second)
    values = rank_correlation(first, second)
    for a, b, value in zip(first, second, values.tolist()):
        if len(a.unique()) == 1 or len(b.unique()) == 1:
            assert math.isnan(value)
        else:
            assert value == pytest.approx(spearmanr(a.flatten().numpy(), b.flatten().numpy()).statistic, abs=1e-9)


def test_rank_correlation_knows_order_only() -> None:
    maps = torch.rand(4, 1, 6, 6)
    assert rank_correlation(maps, maps.exp() * 3 + 1).tolist() == [1.0] * 4
    assert rank_correlation(maps, -maps).tolist() == [-1.0] * 4
    assert abs(float(rank_correlation(torch.rand(1, 1, 100, 100), torch.rand(1, 1, 100, 100)))) < 0.05


def test_similarity_in_plain_numbers_counts_maps_that_have_none() -> None:
    maps = torch.rand(5, 1, 4, 4)
    other = maps.clone()
    other[1], other[2] = 0.3, 0.0
    result = json.loads(json.dumps(map_similarity(maps, [other]), allow_nan=False))
    assert result["n"] == 5
    assert (result["constant"], result["no_direction"]) == (2, 1)
    assert result["spearman"] == [1.0, 1.0, 1.0]
    assert 0.9 < result["cosine"][1] <= result["cosine"][0] <= 1.0
    assert result["draws"] == [1.0]
    nothing = map_similarity(maps, [torch.zeros_like(maps)])
    assert nothing == {"n": 5, "spearman": None, "draws": [None], "constant": 5, "cosine": None, "no_direction": 5}


def test_similarity_is_a_mean_over_draws_of_the_weights() -> None:
    maps = torch.rand(5, 1, 4, 4)
    found = map_similarity(maps, [maps, -maps, maps, torch.ones_like(maps)])
    assert found["draws"] == [1.0, -1.0, 1.0, None]
    assert found["spearman"] == pytest.approx([1 / 3] * 3)
    assert found["constant"] == 0  # a draw without a value leaves the others'


class Looking(Classifier):
    """Says whether a patch is red or green, by a map that is learned or by the brightness of the image, which takes no learning."""

    num_classes, has_map, gated = 2, True, True

    def __init__(self, learned: bool) -> None:
        super().__init__()
        self.learned = learned
        self.features = nn.Conv2d(3, 8, 3, padding=1)
        self.attention = nn.Conv2d(8, 1, 1)
        self.decoder = nn.Linear(8, 2)

    def attention_parts(self) -> list[nn.Module]:
        return [self.attention] if self.learned else []

    def run_pass(self, images: Tensor, how: Pass) -> Details:
        features = self.features(images).relu()
        scores = self.attention(features) if self.learned else 4 * images.mean(1, keepdim=True)
        pooled = (features * scores.flatten(2).softmax(2).view_as(scores)).sum((2, 3))
        return Details(logits=self.decoder(pooled), features=features, attention=scores.sigmoid())


def patches(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images (N, 3, 12, 12) of dim noise with two bright patches: one red (class 0) or green (class 1), one blue; where the first
    lies, (N, 1, 12, 12); and the classes."""
    generator = torch.Generator().manual_seed(seed)
    images, places = 0.3 * torch.randn(count, 3, 12, 12, generator=generator), torch.zeros(count, 1, 12, 12, dtype=torch.bool)
    labels = torch.arange(count) % 2
    for i, (row, column) in enumerate(torch.randint(0, 9, (count, 2), generator=generator).tolist()):
        for colour, top, left in ((int(labels[i]), row, column), (2, (row + 5) % 9, (column + 4) % 9)):
            images[i, colour, top : top + 4, left : left + 4] += 2.0
        places[i, 0, row : row + 4, column : column + 4] = True
    return images, places, labels


@pytest.mark.parametrize("learned", [True, False])
def test_the_sanity_check_tells_a_map_that_learned_from_one_that_did_not(learned: bool) -> None:
    """Both networks learn the colour, and only one of them where it is. The other's map is the same whatever the weights are."""
    images, _, labels = patches(128, 1)
    torch.manual_seed(1)
    trained, fresh = Looking(learned), Looking(learned)
    weights = list(trained.parameters())
    for _ in range(80):  # plain gradient descent; attention by brightness has no gradient
        loss = nn.functional.cross_entropy(trained(images), labels)
        with torch.no_grad():
            for values, gradient in zip(weights, torch.autograd.grad(loss, weights, allow_unused=True)):
                values -= 0.0 if gradient is None else 0.5 * gradient
    images, places, labels = patches(64, 2)
    networks = {"trained": trained, **randomized_networks(trained, fresh, images)}
    with torch.no_grad():
        assert float((trained.eval()(images).argmax(1) == labels).float().mean()) > 0.95
        maps = {name: network.eval().forward_details(images).map for name, network in networks.items()}
    alike = {name: map_similarity(maps["trained"], [one])["spearman"] for name, one in maps.items()}
    points = {name: float(pointing_game(one, places).mean()) for name, one in maps.items()}
    assert alike["last 25 % randomised"] == [1.0, 1.0, 1.0]  # the decoder alone, which lies behind the map
    if learned:
        assert points["trained"] > 0.95
        assert points["untrained"] < points["trained"]
        assert max(map(abs, alike["untrained"])) < 0.5
        assert max(map(abs, alike["attention randomised"])) < 0.8  # of one layer, which by chance may be much the same or turned
    else:
        assert points["trained"] == points["untrained"] < 0.7
        assert all(found == [1.0, 1.0, 1.0] for found in alike.values())
        assert "attention randomised" not in alike


# --- bad input -----------------------------------------------------------------------------------------------------------------


def test_bad_input_is_refused() -> None:
    trained, fresh = twins("vgg_xs_aib_qt")
    images = pictures(4)
    broken = torch.tensor([1.0, math.nan]).view(2, 1, 1, 1)
    bad: list[tuple[str, Callable[[], object]]] = [
        ("GapClassifier has no attention module", lambda: attention_modules(create_model("vgg_gap", 3, width=0.0625))),
        ("'backbone.features.0.weight' is .* and missing", lambda: randomized_networks(trained, create_model("vgg_xs", 3), images)),
        (r"'decoder.*' is \(3, .* and \(4, ", lambda: randomized_networks(trained, create_model("vgg_xs_aib_qt", 4), images)),
        ("a percentage of the cascade is 100", lambda: randomized_networks(trained, fresh, images, percentages=[100])),
        ("a percentage of the cascade is 0", lambda: randomized_networks(trained, fresh, images, percentages=[0])),
        ("no module 'encoder'", lambda: randomize(trained, fresh, ["encoder"], images)),
        (r"images have shape \(1, 3, 32, 32\); statistics need", lambda: randomize(trained, fresh, ["quantizer"], images[:1])),
        (r"images have shape \(3, 32, 32\)", lambda: reestimate_statistics(fresh, images[0])),
        (r"images have shape \(0, 3, 32, 32\)", lambda: execution_order(trained, images[:0])),
        ("batch_size is 1", lambda: reestimate_statistics(fresh, images, batch_size=1)),
        ("ReLU has no parameters", lambda: execution_order(nn.ReLU(), images)),
        (r"maps have shapes \(4, 3, 32, 32\)", lambda: rank_correlation(images, images)),
        ("1 of 2 maps are not finite", lambda: rank_correlation(broken, torch.ones(2, 1, 1, 1))),
        ("there are 2 maps and 0 draws", lambda: map_similarity(torch.ones(2, 1, 2, 2), [])),
        ("there are 0 maps and 1 draws", lambda: map_similarity(torch.ones(0, 1, 2, 2), [torch.ones(0, 1, 2, 2)])),
    ]  # fmt: skip
    for message, call in bad:
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)

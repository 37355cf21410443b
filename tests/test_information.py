"""Bits of the latent, the attention and quantised maps: closed forms, a channel integrated numerically, a code that is decoded."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections import Counter
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from aib.classifier import AttentiveClassifier, PlainClassifier
from aib.interpret.information import (
    CONTEXTS,
    IN_USE_BITS,
    RateMapFitter,
    code_length_bits,
    index_entropy_bits,
    latent_rates_bits,
    measure_information,
    quantized_bits,
)
from aib.models.vgg_dvib import vgg_dvib

# --- the latent ---------------------------------------------------------------------------------------------------------------


def test_the_rate_is_the_divergence_of_torch_in_bits() -> None:
    mean, std = torch.randn(7, 5), torch.rand(7, 5) + 0.01
    expected = kl_divergence(Normal(mean.double(), std.double()), Normal(0.0, 1.0)) / math.log(2)
    torch.testing.assert_close(latent_rates_bits(mean, std), expected)
    assert latent_rates_bits(torch.zeros(2, 3), torch.ones(2, 3)).tolist() == [[0.0] * 3] * 2


# --- the rate map -------------------------------------------------------------------------------------------------------------


def one_position(mean: Tensor, std: Tensor) -> float:
    """Mean bits of a single position over the images of its own moments."""
    maps = mean.reshape(-1, 1, 1, 1), std.reshape(-1, 1, 1, 1)
    return RateMapFitter().update(*maps).rate_map.bits(*maps).mean().item()


def monte_carlo(mean: Tensor, std: Tensor, draws: int = 200_000) -> tuple[float, float]:
    """I(X; A) in bits of a uniform mixture of Gaussians by its definition, and the standard error."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(len(mean), (draws,), generator=generator)
    drawn = mean[image] + std[image] * torch.randn(draws, generator=generator, dtype=torch.float64)
    log_likelihood = Normal(mean, std).log_prob(drawn[:, None])
    marginal = log_likelihood.logsumexp(1) - math.log(len(mean))
    bits = (log_likelihood.gather(1, image[:, None])[:, 0] - marginal) / math.log(2)
    return bits.mean().item(), bits.std().item() / math.sqrt(draws)


def quadrature(mean: Tensor, std: Tensor) -> float:
    """I(X; A) in bits of the same mixture, integrated on a grid."""
    grid = torch.linspace((mean - 9 * std).min().item(), (mean + 9 * std).max().item(), 20_001, dtype=torch.float64)
    log_likelihood = Normal(mean[:, None], std[:, None]).log_prob(grid)
    marginal = log_likelihood.logsumexp(0) - math.log(len(mean))
    integrand = (log_likelihood.exp() * (log_likelihood - marginal)).mean(0)
    return torch.trapezoid(integrand, grid).item() / math.log(2)


def test_two_far_images_carry_one_bit_and_the_bound_lies_above() -> None:
    mean, std = torch.tensor([0.2, 0.8], dtype=torch.float64), torch.tensor([0.02, 0.02], dtype=torch.float64)
    information, error = monte_carlo(mean, std)
    assert information == pytest.approx(1.0, abs=1e-6 + 4 * error)
    # m = 0.5 and s^2 = 0.02^2 + 0.3^2, so (4) gives ln(s / 0.02) nats
    assert one_position(mean, std) == pytest.approx(math.log2(math.hypot(0.02, 0.3) / 0.02))
    assert one_position(mean, std) > information


def test_the_bound_is_the_information_plus_the_divergence_of_the_mixture_from_its_gaussian() -> None:
    """Equation (3), each side by a way of its own."""
    mean = torch.tensor([0.1, 0.25, 0.3, 0.9], dtype=torch.float64)
    std = torch.tensor([0.05, 0.1, 0.2, 0.08], dtype=torch.float64)
    information, error = monte_carlo(mean, std)
    assert information == pytest.approx(quadrature(mean, std), abs=4 * error)
    scale = (std.square().mean() + mean.var(correction=0)).sqrt()
    grid = torch.linspace(-3, 4, 40_001, dtype=torch.float64)
    mixture = Normal(mean[:, None], std[:, None]).log_prob(grid).logsumexp(0) - math.log(4)
    excess = torch.trapezoid(mixture.exp() * (mixture - Normal(mean.mean(), scale).log_prob(grid)), grid) / math.log(2)
    assert one_position(mean, std) == pytest.approx(quadrature(mean, std) + excess.item(), abs=1e-6)


def test_the_bound_is_tight_where_the_mixture_is_gaussian() -> None:
    quantiles = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    mean, std = 0.3 * Normal(0.0, 1.0).icdf(quantiles), torch.full((2000,), 0.1, dtype=torch.float64)
    capacity = 0.5 * math.log2(1 + 0.3**2 / 0.1**2)  # of the Gaussian channel with that signal and noise
    assert one_position(mean, std) == pytest.approx(capacity, abs=2e-3)
    assert quadrature(mean[::20], std[::20]) == pytest.approx(capacity, abs=2e-2)


@given(
    st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.02, 0.5)), min_size=1, max_size=8),
    st.floats(-1.0, 1.0),
    st.floats(0.5, 2.0),
)
@settings(max_examples=40, deadline=None)
def test_no_gaussian_falls_below_the_information_and_none_is_better_than_that_of_the_moments(
    images: list[tuple[float, float]], shift: float, factor: float
) -> None:
    mean, std = torch.tensor(images, dtype=torch.float64).unbind(1)
    bits = one_position(mean, std)
    assert bits >= quadrature(mean, std) - 1e-6
    other = Normal(mean.mean() + shift, factor * (std.square().mean() + mean.var(correction=0)).sqrt())
    assert bits <= kl_divergence(Normal(mean, std), other).mean().item() / math.log(2) + 1e-9


def test_a_map_that_never_changes_carries_nothing() -> None:
    mean, std = torch.rand(1, 1, 6, 5).expand(300, 1, 6, 5), 1e-6 + 0.01 * torch.rand(1, 1, 6, 5).expand(300, 1, 6, 5)
    fitter = RateMapFitter()
    for part in (slice(0, 7), slice(7, 200), slice(200, 300)):
        fitter.update(mean[part], std[part])
    assert fitter.rate_map.bits(mean, std).max() < 1e-9
    assert RateMapFitter().update(mean[:1], std[:1]).rate_map.bits(mean[:1], std[:1]).max() < 1e-9


def test_bits_lie_where_the_map_changes_and_nowhere_else() -> None:
    mean, std = torch.full((400, 1, 4, 4), 0.5), torch.full((400, 1, 4, 4), 0.05)
    mean[:, 0, 1, 2] = torch.rand(400)
    bits = RateMapFitter().update(mean, std).rate_map.bits(mean, std).mean(0)[0]
    assert bits[1, 2] == pytest.approx(0.5 * math.log2(1 + mean[:, 0, 1, 2].var(correction=0).item() / 0.05**2), rel=1e-6)
    bits[1, 2] = 0
    assert bits.max() < 1e-9


def test_moments_are_those_of_all_images_whatever_the_batches() -> None:
    # far from zero and hardly moving: a difference of two sums in float32 would lose the variance
    mean, std = torch.rand(2, 97, 1, 3, 4, dtype=torch.float64)
    mean, std = 1000 + 1e-2 * mean, 1e-4 + 1e-3 * std
    expected = (std.square().mean(0) + mean.var(0, correction=0)).sqrt()
    for size in (1, 10, 96, 97):
        fitter = RateMapFitter()
        for first in range(0, 97, size):
            fitter.update(mean[first : first + size], std[first : first + size])
        found = fitter.rate_map
        assert found.images == 97
        torch.testing.assert_close(found.mean[0], mean.mean(0), rtol=1e-12, atol=0)
        torch.testing.assert_close(found.std[0], expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [
        (torch.zeros(2, 1, 3, 3), torch.ones(2, 1, 3, 4), "mean is (2, 1, 3, 3) and std (2, 1, 3, 4); expected (N, 1, H, W)"),
        (torch.zeros(2, 3, 3), torch.ones(2, 3, 3), "expected (N, 1, H, W) of both"),
        (torch.zeros(0, 1, 3, 3), torch.ones(0, 1, 3, 3), "not empty"),
        (torch.zeros(2, 2, 3, 3), torch.ones(2, 2, 3, 3), "the attention is (2, 2, 3, 3); expected (N, 1, 3, 3)"),
        (torch.full((2, 1, 3, 3), torch.nan), torch.ones(2, 1, 3, 3), "is not finite"),
        (torch.zeros(2, 1, 3, 3), torch.zeros(2, 1, 3, 3), "a std is not positive"),
    ],
)
def test_statistics_that_are_none_are_refused(mean: Tensor, std: Tensor, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        RateMapFitter().update(mean, std)
    assert said in str(caught.value)


def test_maps_of_another_size_are_refused_and_so_are_moments_of_nothing() -> None:
    with pytest.raises(ValueError, match="no moments yet"):
        _ = RateMapFitter().rate_map
    fitter = RateMapFitter().update(torch.zeros(2, 1, 3, 3), torch.ones(2, 1, 3, 3))
    with pytest.raises(ValueError, match=r"the attention is \(2, 1, 4, 3\); expected \(N, 1, 3, 3\)"):
        fitter.update(torch.zeros(2, 1, 4, 3), torch.ones(2, 1, 4, 3))
    with pytest.raises(ValueError, match=r"expected \(N, 1, 3, 3\)"):
        fitter.rate_map.bits(torch.zeros(1, 1, 3, 2), torch.ones(1, 1, 3, 2))
    with pytest.raises(ValueError, match=r"expected \(N, K\)"):
        latent_rates_bits(torch.zeros(3), torch.ones(3))


# --- codes of quantised maps --------------------------------------------------------------------------------------------------


class Model:
    """The adaptive code one position at a time, as a decoder has it: it is asked for probabilities, then told the index."""

    def __init__(self, shape: tuple[int, int, int], anchors: int, context: str) -> None:
        self.known = np.full(shape, -1)
        self.anchors, self.context = anchors, context
        self.counts: dict[object, Counter[int]] = {}

    def _seen(self, n: int, y: int, x: int) -> Counter[int]:
        neighbours = (self.known[n, y, x - 1] if x else None, self.known[n, y - 1, x] if y else None)
        key: object = {"none": None, "neighbours": neighbours, "place": (y, x)}[self.context]
        return self.counts.setdefault(key, Counter())

    def probabilities(self, n: int, y: int, x: int) -> list[Fraction]:
        seen = self._seen(n, y, x)
        return [Fraction(2 * seen[k] + 1, 2 * seen.total() + self.anchors) for k in range(self.anchors)]

    def learn(self, n: int, y: int, x: int, index: int) -> None:
        self._seen(n, y, x)[index] += 1
        self.known[n, y, x] = index


def encode(maps: np.ndarray, anchors: int, context: str) -> tuple[str, float]:
    """Bits of the arithmetic code with exact fractions, and the length of its interval, -log2."""
    model, low, width = Model(maps.shape, anchors, context), Fraction(0), Fraction(1)
    for place, index in np.ndenumerate(maps):
        chances = model.probabilities(*place)
        low, width = low + width * sum(chances[:index], Fraction(0)), width * chances[index]
        model.learn(*place, int(index))
    length = next(n for n in itertools.count() if Fraction(1, 2**n) <= width / 2)  # a multiple of it lies well inside
    code = -(-low * 2**length // 1)
    return f"{code:0{length}b}", math.log2(width.denominator) - math.log2(width.numerator)


def decode(bits: str, shape: tuple[int, int, int], anchors: int, context: str) -> np.ndarray:
    """The maps, from nothing but the bits and their shape."""
    value, model = Fraction(int(bits, 2), 2 ** len(bits)), Model(shape, anchors, context)
    for place in np.ndindex(shape):
        chances, index = model.probabilities(*place), 0
        while value >= chances[index]:
            value, index = value - chances[index], index + 1
        value /= chances[index]
        model.learn(*place, index)
    return model.known


def planted_maps(kind: str, count: int, size: int, anchors: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    if kind == "uniform":
        return torch.randint(anchors, (count, size, size), generator=generator)
    if kind == "constant":
        return torch.full((count, size, size), anchors - 1)
    if kind == "static":  # one busy map, the same for all images
        return torch.randint(anchors, (1, size, size), generator=generator).expand(count, -1, -1)
    phase = torch.randint(anchors, (count, 1, 1), generator=generator)  # stripes: each row is the next of the one before
    return (phase + torch.arange(size)[:, None] + torch.zeros(size, dtype=torch.long)) % anchors


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("kind", ["uniform", "constant", "static", "striped"])
def test_the_maps_come_back_from_as_many_bits(kind: str, context: str) -> None:
    maps, anchors = planted_maps(kind, 6, 3, 4), 4
    length = code_length_bits(maps, anchors, context).sum().item()
    bits, sequential = encode(maps.numpy(), anchors, context)
    assert length == pytest.approx(sequential, abs=1e-9)
    assert length <= len(bits) <= length + 2
    assert (decode(bits, (6, 3, 3), anchors, context) == maps.numpy()).all()


@given(st.data(), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(1, 6), st.sampled_from(CONTEXTS))
@settings(max_examples=60, deadline=None)
def test_every_length_is_that_of_the_sequential_model(
    data: st.DataObject, count: int, height: int, width: int, anchors: int, context: str
) -> None:
    size = count * height * width
    flat = data.draw(st.lists(st.integers(0, anchors - 1), min_size=size, max_size=size))
    maps = np.array(flat).reshape(count, height, width)
    found = code_length_bits(torch.from_numpy(maps), anchors, context)
    model = Model(maps.shape, anchors, context)
    for place, index in np.ndenumerate(maps):
        assert found[place].item() == pytest.approx(-math.log2(model.probabilities(*place)[index]), abs=1e-12)
        model.learn(*place, int(index))
    # what comes later changes nothing of what came before
    assert torch.equal(code_length_bits(torch.from_numpy(maps[:1]), anchors, context), found[:1])


@given(st.lists(st.integers(0, 4), min_size=1, max_size=200))
@settings(max_examples=60, deadline=None)
def test_the_plain_code_is_the_entropy_and_what_learning_costs(indices: list[int]) -> None:
    maps = torch.tensor(indices).reshape(-1, 1, 1)
    length, entropy = code_length_bits(maps, 5, "none").sum().item(), index_entropy_bits(maps, 5) * len(maps)
    assert entropy - 1e-9 <= length <= entropy + 2 * math.log2(len(maps)) + math.log2(5) + 1e-9


def test_constant_maps_cost_nothing_in_any_code() -> None:
    maps = planted_maps("constant", 2000, 8, 20)
    assert index_entropy_bits(maps, 20) == 0
    for context in CONTEXTS:
        lengths = code_length_bits(maps, 20, context)
        assert lengths[-1].mean() < 0.01
        assert lengths.mean() < (0.05 if context == "place" else 0.01)  # each of 64 places has to learn it


def test_indices_at_random_cost_their_logarithm_contexts_do_not_help_and_ten_thousand_maps_take_seconds() -> None:
    maps = planted_maps("uniform", 10_000, 16, 50)
    plain = code_length_bits(maps, 50, "none").mean().item()
    assert index_entropy_bits(maps, 50) <= math.log2(50) < plain < math.log2(50) + 1e-3
    began = time.process_time()
    for context in ("neighbours", "place"):
        assert plain < code_length_bits(maps, 50, context).mean().item() < 1.03 * math.log2(50)
    assert time.process_time() - began < 15  # 1.1 on one core of a small machine


def test_stripes_are_foreseen_from_the_neighbours_alone() -> None:
    maps = planted_maps("striped", 1000, 16, 8)
    found = quantized_bits(maps, 8)
    assert found["entropy"]["position"] == pytest.approx(3.0, abs=1e-2)
    assert found["codes"]["none"]["position"] == pytest.approx(3.0, abs=1e-2)
    assert found["codes"]["place"]["position"] == pytest.approx(3.0, abs=3e-2)
    # the phase of the first row is news, three bits a map; the rest follows
    assert 3.0 < found["codes"]["neighbours"]["image"][0] < 4.5


def test_a_map_that_never_changes_costs_nothing_given_the_place() -> None:
    maps = planted_maps("static", 2000, 8, 20)
    assert code_length_bits(maps, 20, "place")[-1].mean() < 0.01
    assert quantized_bits(maps, 20)["codes"]["none"]["position"] > 4


@pytest.mark.parametrize(
    ("indices", "anchors", "said"),
    [
        (torch.zeros(2, 1, 3, 3, dtype=torch.long), 4, "indices are (2, 1, 3, 3) torch.int64; expected integers (N, H, W)"),
        (torch.zeros(2, 3, 3), 4, "torch.float32; expected integers"),
        (torch.zeros(2, 3, 3, dtype=torch.bool), 4, "torch.bool; expected integers"),
        (torch.zeros(0, 3, 3, dtype=torch.long), 4, "not empty"),
        (torch.full((2, 3, 3), 4), 4, "indices go from 4 to 4; with 4 anchors they must lie in 0 to 3"),
        (torch.full((2, 3, 3), -1), 4, "indices go from -1 to -1"),
    ],
)
def test_what_is_no_index_is_refused(indices: Tensor, anchors: int, said: str) -> None:
    for function in (code_length_bits, index_entropy_bits, quantized_bits):
        with pytest.raises(ValueError) as caught:
            function(indices, anchors)
        assert said in str(caught.value)
    with pytest.raises(ValueError, match="context is 'left'; it must be one of 'none', 'neighbours', 'place'"):
        code_length_bits(torch.zeros(1, 2, 2, dtype=torch.long), 4, "left")  # type: ignore[arg-type]


# --- a model ------------------------------------------------------------------------------------------------------------------


def test_a_model_is_measured_as_its_details_say_and_left_as_it_was(small_model: Callable[..., AttentiveClassifier]) -> None:
    model = small_model(anchors=8)
    model.backbone.eval()
    flags = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    images = torch.randn(11, 3, 16, 16)
    random_state = torch.get_rng_state()
    found = measure_information(model, images.split(4))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    with torch.no_grad():
        details = model.eval().forward_details(images)
    assert details.rate is not None
    assert details.indices is not None
    torch.testing.assert_close(found.image_bits, details.rate.double() / math.log(2), rtol=1e-5, atol=1e-4)
    assert found.dimension_bits.sum().item() == pytest.approx(found.image_bits.mean().item())
    assert found.indices is not None
    assert torch.equal(found.indices.long(), details.indices)
    assert found.rate_maps is not None
    assert (found.num_anchors, found.rate_maps.shape) == (8, (11, 1, 8, 8))
    torch.testing.assert_close(measure_information(model, [images]).rate_maps, found.rate_maps, rtol=1e-4, atol=1e-6)
    summary = json.loads(json.dumps(found.summary(), allow_nan=False))
    assert summary == found.summary()
    assert set(summary) == {"images", "latent", "attention", "quantized"}
    assert summary["attention"]["image"][0] == pytest.approx(64 * summary["attention"]["position"])
    assert summary["latent"]["image"][1] <= summary["latent"]["image"][0] <= summary["latent"]["image"][2]


def test_moments_of_other_images_can_be_given(small_model: Callable[..., AttentiveClassifier]) -> None:
    model, images = small_model().eval(), torch.randn(12, 3, 16, 16)
    own = measure_information(model, [images[:6]])
    other = measure_information(model, [images[6:]])
    given_moments = measure_information(model, [images[:6]], other.rate_map)
    assert given_moments.rate_map is other.rate_map
    assert given_moments.rate_maps is not None
    assert own.rate_maps is not None
    # the images' own moments are the best Gaussian for them
    assert (given_moments.rate_maps.mean(0) >= own.rate_maps.mean(0) - 1e-9).all()


def test_dimensions_that_say_nothing_are_not_in_use(small_model: Callable[..., AttentiveClassifier]) -> None:
    model = small_model(anchors=None, latent_dim=6, latent_offset=0.0)
    with torch.no_grad():
        model.bottleneck.linear.weight.zero_()
        model.bottleneck.linear.bias.zero_()
        model.bottleneck.linear.bias[6:] = math.log(math.e - 1)  # softplus of it is 1: the prior
        model.bottleneck.linear.bias[2] = 1.0
    found = measure_information(model, [torch.randn(3, 3, 16, 16)])
    assert found.dimensions_in_use == 1
    assert found.dimension_bits[2].item() == pytest.approx(0.5 / math.log(2), rel=1e-5)
    assert found.dimension_bits.sum() - found.dimension_bits[2] < IN_USE_BITS
    assert set(found.summary()) == {"images", "latent", "attention"}


def test_there_need_not_be_attention_but_a_latent_and_images(small_model: Callable[..., AttentiveClassifier]) -> None:
    found = measure_information(vgg_dvib(10, width=1 / 16), [torch.randn(2, 3, 32, 32)])
    assert found.rate_maps is None
    assert set(found.summary()) == {"images", "latent"}
    plain = PlainClassifier(nn.Identity(), nn.Flatten(), nn.Linear(12, 2), num_classes=2)
    with pytest.raises(ValueError, match="PlainClassifier has no latent"):
        measure_information(plain, [torch.randn(2, 3, 2, 2)])
    for batches in ([], [torch.zeros(0, 3, 16, 16)]):
        with pytest.raises(ValueError, match="there are no images"):
            measure_information(small_model(), batches)

"""Benchmarks: turns, ratios, intervals, exponents, memory and shares are right on planted truths."""

from __future__ import annotations

import gc
import json
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from aib.anchors import AnchorQuantizer
from aib.bench import epoch, quantizer, watching
from aib.bench.fits import exponent
from aib.bench.layers import BareLayers
from aib.bench.memory import peak_bytes
from aib.bench.networks import make_training
from aib.bench.quantizer import TableQuantizer
from aib.bench.record import Findings, Target
from aib.bench.timing import Measured, Timings, coverage, exact, median_interval, take_turns
from aib.bench.watching import module_seconds, operation_shares
from aib.data.bundle import TensorSplit


class FakeClock:
    """A clock that moves only when told to; the machine's other work makes everything ``load`` times as long."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.load: Callable[[], float] = lambda: 1.0

    def __call__(self) -> tuple[float, float]:
        return self.seconds, self.seconds / 2

    def variant(self, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.seconds += seconds * self.load()

        return run


def timed(costs: dict[str, float], clock: FakeClock | None = None, **options: Any) -> Timings:
    clock = clock or FakeClock()
    chosen = {"repeats": 6, "least_seconds": 0, **options}
    return take_turns({name: clock.variant(cost) for name, cost in costs.items()}, next(iter(costs)), clock=clock, **chosen)


# --- turns


def test_known_ratios_come_out_whatever_the_machine_does_from_round_to_round() -> None:
    clock = FakeClock()
    rounds = iter([load for load in (1, 7, 0.3, 40, 2, 5, 3) for _ in range(3)])
    clock.load = lambda: next(rounds)
    found = timed({"a": 2.0, "b": 3.0, "c": 0.5}, clock)
    assert found.ratio("a") == pytest.approx((1, 1, 1))
    assert found.ratio("b") == pytest.approx((1.5, 1.5, 1.5))
    assert found.ratio("b", "c") == pytest.approx((6, 6, 6))
    assert found.ratio("c", processor=True) == pytest.approx((0.25, 0.25, 0.25))
    assert len(set(map(round, found.seconds["a"]))) > 1  # the times themselves are of no use


def test_every_round_runs_all_variants_once_in_its_own_order() -> None:
    calls: list[str] = []
    variants = {name: (lambda name=name: calls.append(name)) for name in "abcd"}  # type: ignore[misc]
    found = take_turns(variants, "a", repeats=20, warmup=1, seed=3, least_seconds=0, clock=FakeClock())
    # a clock that stands still cannot say how many calls make a turn
    turns = [name for i, name in enumerate(calls) if i == 0 or calls[i - 1] != name]
    assert all(sorted(order) == list("abcd") for order in found.orders)
    assert len(found.orders) == 20
    assert len({tuple(order) for order in found.orders}) > 8
    assert {order[0] for order in found.orders} == set("abcd")
    # each comes before each other as often as after it: who is first meets another machine than who is last
    assert all(later == earlier[::-1] for earlier, later in zip(found.orders[::2], found.orders[1::2]))
    assert set(turns) == set("abcd")
    again = take_turns(variants, "a", repeats=20, warmup=1, seed=3, least_seconds=0, clock=FakeClock())
    other = take_turns(variants, "a", repeats=20, warmup=1, seed=4, least_seconds=0, clock=FakeClock())
    assert again.orders == found.orders != other.orders


def test_short_calls_are_repeated_until_a_turn_is_long_enough() -> None:
    found = timed({"long": 1.0, "short": 1 / 64}, least_seconds=1 / 8, warmup=2)
    assert dict(found.calls) == {"long": 1, "short": 8}
    assert found.seconds["short"] == [1 / 64] * 6  # of one call
    assert dict(timed({"long": 1.0, "short": 1 / 64}, least_seconds=1 / 8, warmup=0).calls) == {"long": 1, "short": 1}


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_is_not_collected_inside_a_turn(enabled: bool) -> None:
    seen = []
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        take_turns({"a": lambda: seen.append(gc.isenabled())}, "a", repeats=1, warmup=0)
        assert seen == [False]
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()


def test_a_planted_slow_variant_is_slower_and_its_twin_is_not() -> None:
    clock, drawn = FakeClock(), random.Random(0)
    clock.load = lambda: math.exp(drawn.gauss(0, 0.1))
    found = timed({"a": 1.0, "slow": 1.2, "twin": 1.0}, clock, repeats=40)
    median, low, high = found.ratio("slow")
    assert 1.05 < low < median < high < 1.35
    assert Target("slow", "<=", 1.05, found.ratio("slow")).reached == "no"
    _, low, high = found.ratio("twin")
    assert low < 1 < high
    assert Target("twin", "<=", 1.0, found.ratio("twin")).reached == "unclear"


def test_a_clock_that_stands_still_gives_no_ratio() -> None:
    row = timed({"a": 0.0, "b": 1.0}, warmup=0).as_row({"case": 1})
    assert row["variants"]["b"]["ratio"] == [None, None, None]
    assert row["variants"]["b"]["ratios"] == [None] * 6
    json.dumps(row, allow_nan=False)


def test_a_row_holds_every_repeat() -> None:
    row = timed({"a": 2.0, "b": 1.0}, repeats=3).as_row({"model": "m"}, items=4, peaks={"a": 7})
    assert (row["case"], row["reference"], len(row["orders"])) == ({"model": "m"}, "a", 3)
    b = row["variants"]["b"]
    assert (b["seconds"], b["ratios"], b["processor_seconds"]) == ([1.0] * 3, [0.5] * 3, [0.5] * 3)
    assert (b["ratio"], b["per_second"], b["seconds_median"], b["peak_bytes"]) == ([0.5, None, None], 4.0, 1.0, None)
    assert row["variants"]["a"]["peak_bytes"] == 7


@pytest.mark.parametrize(
    ("options", "said"),
    [({"repeats": 0}, "repeats is 0"), ({"repeats": 1, "warmup": -1}, "warmup -1")],
)
def test_wrong_turns_are_refused(options: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        take_turns({"a": lambda: None}, "a", **options)
    with pytest.raises(ValueError, match="reference is 'c'; it must be one of a"):
        take_turns({"a": lambda: None}, "c", repeats=1)


# --- numbers


@settings(max_examples=30)
@given(st.lists(st.floats(0.1, 10), min_size=6, max_size=12), st.floats(0.1, 10))
def test_an_interval_lies_in_its_values_and_scales_with_them(values: list[float], factor: float) -> None:
    median, low, high = median_interval(values)
    assert min(values) <= low <= median <= high <= max(values)
    assert median == np.median(values)
    assert median_interval([factor * value for value in values]) == pytest.approx([factor * x for x in (median, low, high)])


@pytest.mark.parametrize("rounds", [6, 7, 9, 12, 30])
def test_intervals_cover_the_true_median_as_often_as_they_say(rounds: int) -> None:
    """Of values whose distribution is anything but normal, with the bootstrap's percentiles as the control."""
    drawn = np.random.default_rng(rounds)
    samples = np.exp(2 * drawn.standard_normal((4000, rounds)))  # median 1
    covered = np.mean([low <= 1 <= high for _, low, high in map(median_interval, samples.tolist())])
    said = coverage(rounds)
    assert said is not None
    assert said >= 0.95
    assert covered == pytest.approx(said, abs=4 * (said * (1 - said) / 4000) ** 0.5)
    if rounds <= 7:
        medians = np.median(samples[:400, drawn.integers(0, rounds, (500, rounds))], axis=2)
        low, high = np.quantile(medians, [0.025, 0.975], axis=1)
        assert np.mean((low <= 1) & (high >= 1)) < 0.93


@pytest.mark.parametrize(
    ("rounds", "place", "covered"),
    [(6, 1, 0.9688), (7, 1, 0.9844), (8, 1, 0.9922), (9, 2, 0.9609), (11, 2, 0.9883), (12, 3, 0.9614), (20, 6, 0.9586)],
)
def test_the_ends_are_those_of_the_tables_of_the_sign_test(rounds: int, place: int, covered: float) -> None:
    values = [float(value) for value in np.random.default_rng(rounds).permutation(rounds) + 1]
    _, low, high = median_interval(values)
    assert (low, high) == (place, rounds + 1 - place)
    assert coverage(rounds) == pytest.approx(covered, abs=5e-5)


def test_few_values_have_no_interval_and_no_verdict() -> None:
    assert [coverage(rounds) for rounds in range(1, 6)] == [None] * 5
    assert coverage(6) == 1 - 2 / 64
    assert median_interval([3.0, 1.0]).as_json() == [2, None, None]
    assert Target("t", "<=", 9, median_interval([1.0, 1.0, 1.0, 1.0, 1.0])).reached == "unclear"
    with pytest.raises(ValueError, match="at least one value"):
        median_interval([])


@pytest.mark.parametrize(
    ("measured", "sense", "reached"),
    [
        ((1.0, 0.9, 1.1), "<=", "yes"), ((1.3, 1.25, 1.4), "<=", "no"), ((1.15, 1.0, 1.3), "<=", "unclear"),
        ((3.0, 2.0, 4.0), ">=", "yes"), ((1.0, 0.9, 1.1), ">=", "no"), ((1.0, 0.9, 1.3), ">=", "unclear"),
        ((0.1, math.nan, math.nan), "<=", "unclear"),
    ],
)  # fmt: skip
def test_a_target_is_reached_where_the_whole_interval_is(measured: tuple[float, ...], sense: Any, reached: str) -> None:
    assert Target("t", sense, 1.2, Measured(*measured)).reached == reached
    assert Target("t", sense, 1.0, exact(1.0)).reached == "yes"


def test_exponents_are_those_of_power_laws() -> None:
    assert exponent([1, 2, 4, 8], [3 * x**1.5 for x in (1, 2, 4, 8)]) == pytest.approx((1.5, 1.5, 1.5))
    assert exponent([1, 10], [5, 5]).median == pytest.approx(0)
    assert math.isnan(exponent([1, 10], [5, 5]).low)
    sizes, costs = [16, 32, 64, 128, 256], [1.1, 2.5, 3.9, 8.8, 15.0]
    (slope, _), spread = np.polyfit(np.log(sizes), np.log(costs), 1, cov=True)
    reach = 3.182446 * spread[0, 0] ** 0.5  # Student's t, 3 degrees of freedom
    assert exponent(sizes, costs) == pytest.approx((slope, slope - reach, slope + reach))
    for wrong in (([1, 1], [2, 3]), ([1, 2], [2]), ([1, 2], [0, 3])):
        with pytest.raises(ValueError, match="a fit needs"):
            exponent(*wrong)


def test_the_peak_is_that_of_planted_tensors() -> None:
    kilo = torch.zeros(256)  # 1 KiB, there before

    def three_at_once() -> None:
        first = kilo + 1
        second = first.view(16, 16) + 1
        del first
        _ = (second.reshape(-1)[:128] + second.reshape(-1)[128:], kilo.view(16, 16), kilo[3:])

    assert peak_bytes(three_at_once) == 2048
    assert peak_bytes(lambda: [kilo + 1 for _ in range(5)]) == 5 * 1024
    assert peak_bytes(lambda: kilo.view(4, 64)) == 0
    leaf = torch.zeros(256, requires_grad=True)
    # exp keeps its result for the backward pass, where the gradient of the sum is a view of one number
    assert 2048 <= peak_bytes(lambda: torch.autograd.grad(leaf.exp().sum(), leaf)) <= 2048 + 16


# --- what is timed


@pytest.mark.parametrize("count", [2, 20, 300])
def test_the_table_quantises_as_ours_does(count: int) -> None:
    scores = torch.rand(3, 1, 5, 5)
    results = []
    for made in (TableQuantizer(count), AnchorQuantizer(count)):
        leaf = scores.clone().requires_grad_()
        quantized, values, indices = made(leaf)
        quantized.square().sum().backward(retain_graph=True)
        (values * torch.arange(75.0).view(3, 1, 5, 5)).sum().backward()
        results.append((quantized.detach(), values.detach(), indices, leaf.grad, made.anchors.grad))
    for table, ours in zip(*results, strict=True):
        torch.testing.assert_close(table, ours)


@pytest.mark.parametrize(
    ("held", "reached"),
    [
        (lambda positions, anchors: 20 * positions + 4 * anchors, ["yes", "yes"]),
        (lambda positions, anchors: 4 * positions * anchors, ["yes", "no"]),
        (lambda positions, anchors: positions**2, ["no", "yes"]),
    ],
)
def test_memory_is_linear_in_the_positions_and_independent_of_the_anchors_or_not(
    held: Callable[[int, int], int], reached: list[str]
) -> None:
    found = Findings()
    quantizer._judge_memory({(n, 16, q): held(256 * n, q) for n in (32, 128) for q in (20, 100)}, found)
    assert [target.reached for target in found.targets] == reached


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", ["vgg_aib_qt", "wrn_aib_qt"])
def test_the_bare_layers_are_those_of_the_step(name: str, channels_last: bool) -> None:
    training = make_training(name, 2, channels_last=channels_last, width=0.1)
    floor = BareLayers(training.model, training.backward)
    layers = [module for module in training.model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert sorted(map(id, layers)) == sorted(id(module) for module, _ in floor.calls)
    assert [inputs.requires_grad for _, inputs in floor.calls] == [False] + [True] * (len(layers) - 1)
    for place, (module, inputs) in enumerate(floor.calls):
        assert not module._forward_hooks
        (gradient,) = torch.autograd.grad(module(inputs), [module.weight], floor.gradients[place])
        torch.testing.assert_close(gradient, module.weight.grad, rtol=1e-3, atol=1e-6)
    wide = [inputs for _, inputs in floor.calls if inputs.ndim == 4 and min(inputs.shape[1:]) > 1 and inputs.requires_grad]
    assert all(inputs.is_contiguous(memory_format=torch.channels_last) is channels_last for inputs in wide)
    weights = [parameter.grad.clone() for parameter in training.model.parameters() if parameter.grad is not None]
    floor.run()
    assert all(torch.equal(a, b.grad) for a, b in zip(weights, (p for p in training.model.parameters() if p.grad is not None)))


class Slow(torch.autograd.Function):
    """The identity; moves the fake clock by 3 forward and by 5 backward."""

    @staticmethod
    def forward(context: Any, value: Tensor, clock: FakeClock) -> Tensor:
        context.clock = clock
        clock.seconds += 3
        return value.clone()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        context.clock.seconds += 5
        return gradients[0], None


class Part(nn.Module):
    """A slow convolution, and ``count`` times the slow identity."""

    def __init__(self, count: int, clock: FakeClock) -> None:
        super().__init__()
        self.conv, self.count, self.clock = nn.Conv2d(3, 3, 1), count, clock
        self.conv.register_forward_hook(lambda *_: self.clock.variant(100)())

    def forward(self, value: Tensor) -> Tensor:
        value = self.conv(value)
        for _ in range(self.count):
            value = Slow.apply(value, self.clock)
        return value


def test_a_modules_own_time_is_that_of_both_passes_without_its_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    monkeypatch.setattr(watching.time, "perf_counter", lambda: clock.seconds)
    network = nn.Sequential(Part(1, clock), Part(2, clock), Part(4, clock))
    images = torch.randn(2, 3, 4, 4)
    found = module_seconds({"first": [network[0]], "others": [network[1], network[2]]}, lambda: network(images).sum().backward())
    assert found == {"first": (8, 100), "others": (48, 200), "": (3 * 100 + 7 * 8, 0)}
    # the one hook that each convolution had
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules()] == [0, 0, 1, 0, 1, 0, 1]


def test_shares_of_operations_add_up() -> None:
    a = torch.randn(60, 60, requires_grad=True)
    found = operation_shares(lambda: (a @ a).exp().sum().backward(), most=2)
    assert len(found) == 3
    assert sum(found.values()) == pytest.approx(1)
    assert set(operation_shares(lambda: a.detach().exp())) >= {"exp", "others"}


def test_waiting_for_a_split_is_told_from_the_work_between(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    monkeypatch.setattr(epoch.time, "perf_counter", lambda: clock.seconds)

    class Slowly(TensorSplit):
        def batches(self, *arguments: Any, **named: Any) -> Iterator[Any]:
            for batch in super().batches(*arguments, **named):
                clock.seconds += 7
                yield batch

    watch = epoch._Watch(lambda: None)
    watch.epochs.append(dict.fromkeys(epoch.PARTS, 0.0))
    split = epoch._WatchedSplit(Slowly(torch.zeros(6, 3, 4, 4, dtype=torch.uint8), torch.arange(6)), watch)
    for _ in split.batches(list(torch.arange(6).split(2))):
        clock.seconds += 100
    assert (watch.epochs[0]["first_batch"], watch.epochs[0]["waiting"]) == (7, 14)
    assert len(split) == 6
    assert split.masks is split.names is None
    assert len(split.select(torch.tensor([1]))) == 1

"""Intervals of shares and of their paired differences: published values, coverage by simulation, and never a width of zero."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aib.interpret.intervals import (
    bootstrap_mean,
    bootstrap_means,
    correlated,
    difference_interval,
    paired_shares,
    share_interval,
    wilson_interval,
)
from aib.interpret.margins import above_best, margins


def table(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs with so many of each kind."""
    counts = [both, first, second, neither]
    return np.repeat([1, 1, 0, 0], counts), np.repeat([1, 0, 1, 0], counts)


@pytest.mark.parametrize(
    ("cells", "low", "high"),
    [((36, 12, 2, 0), 0.0569, 0.3404), ((0, 12, 2, 36), 0.0569, 0.3404), ((36, 14, 0, 0), 0.1528, 0.4167),
     ((1, 97, 1, 1), 0.8737, 0.9850), ((54, 0, 0, 0), -0.0664, 0.0664)],
)  # fmt: skip
def test_paired_shares_are_those_of_method_10(cells: tuple[int, int, int, int], low: float, high: float) -> None:
    """The first is a table of Newcombe 1998; the others follow from his formula by hand."""
    assert paired_shares(*table(*cells))[1:] == pytest.approx((low, high), abs=5e-5)


@given(cells=st.tuples(*[st.integers(0, 12)] * 4).filter(lambda cells: sum(cells) > 0))
@settings(max_examples=60, deadline=None)
def test_no_interval_of_shares_is_a_point_and_swapping_mirrors_it(cells: tuple[int, int, int, int]) -> None:
    a, b = table(*cells)
    mean, low, high = paired_shares(a, b)
    assert mean == pytest.approx(a.mean() - b.mean())
    assert -1 - 1e-12 <= low <= mean <= high <= 1 + 1e-12
    assert high - low > 0.05
    assert paired_shares(b, a) == pytest.approx((-mean, -high, -low))
    share = share_interval(a)
    assert share[1:] == wilson_interval(int(a.sum()), len(a))
    assert share[2] - share[1] > 0.05


def test_nothing_in_six_is_not_known_to_be_nothing() -> None:
    assert bootstrap_mean(np.zeros(6)) == (0.0, 0.0, 0.0)  # what this is for
    assert share_interval(np.zeros(6)) == pytest.approx((0, 0, 0.3903), abs=5e-5)
    assert paired_shares(np.zeros(7), np.ones(7))[2] == pytest.approx(-0.4988, abs=5e-4)  # all seven differ: not -1 to -1


@pytest.mark.parametrize(("share", "bootstrap"), [(0.02, 0.55), (0.95, 0.87)])
def test_wilson_holds_what_it_says_near_the_ends_and_a_bootstrap_does_not(share: float, bootstrap: float) -> None:
    """Exactly, over all counts of 40 images; resamples of k hits are binomial with k / 40."""
    hits = np.arange(41)

    def binomial(p: float) -> np.ndarray:
        return np.array([math.comb(40, k) * p**k * (1 - p) ** (40 - k) for k in hits])

    chance = binomial(share)
    low, high = (np.array([(binomial(k / 40).cumsum() < end).sum() for k in hits]) / 40 for end in (0.025, 0.975))
    assert chance[(low <= share) & (share <= high)].sum() == pytest.approx(bootstrap, abs=0.005)
    ends = np.array([wilson_interval(k, 40) for k in hits])
    assert chance[(ends[:, 0] <= share) & (share <= ends[:, 1])].sum() == pytest.approx(0.95, abs=0.005)


@pytest.mark.parametrize("count", [1, 7, 5000])
def test_columns_are_resampled_as_each_would_be_alone(count: int) -> None:
    values = np.random.default_rng(0).random((count, 3)) ** 3
    found = bootstrap_means(values, seed=4, draws=1500)  # in blocks
    for column, one in zip(values.T, found):
        assert one == pytest.approx(bootstrap_mean(column, seed=4, draws=1500), abs=1e-12)
    for bad in (values[:, 0], values[:0], np.full((2, 2), math.nan)):
        with pytest.raises(ValueError, match=r"expected \(N, K\) of finite numbers"):
            bootstrap_means(bad)


def test_intervals_cover_what_is_planted_and_a_bootstrap_does_not() -> None:
    rng = np.random.default_rng(0)
    covered = {"paired": 0, "bootstrap": 0}
    trials, n = 400, 25
    for trial in range(trials):
        shared = rng.random(n)
        a, b = shared < 0.98, np.where(rng.random(n) < 0.5, shared, rng.random(n)) < 0.96
        for name, (_, low, high) in (
            ("paired", paired_shares(a, b)), ("bootstrap", bootstrap_mean(a.astype(float) - b, trial, draws=200))
        ):  # fmt: skip
            covered[name] += low <= 0.02 <= high
    assert covered["paired"] >= 0.93 * trials
    assert covered["bootstrap"] < 0.8 * trials


def test_parts_of_one_are_shares_and_missing_ones_are_left_out() -> None:
    values = np.array([0.5, 1.0, math.nan, 0.0])
    assert share_interval(values) == pytest.approx((0.5, *wilson_interval(1.5, 3)))
    assert all(math.isnan(value) for value in share_interval(np.full(3, math.nan)))
    assert paired_shares(values, np.array([0.5, 0.5, 0.5, 0.5]))[0] == pytest.approx(0)
    assert math.isnan(paired_shares([math.nan], [1.0])[0])


def test_a_difference_is_put_together_from_both_intervals() -> None:
    assert difference_interval((1.0, 0.7, 1.4), (0.5, 0.1, 0.8)) == pytest.approx(
        (0.5, 0.5 - math.hypot(0.3, 0.3), 0.5 + math.hypot(0.4, 0.4))
    )
    assert difference_interval((1.0, 0.7, 1.4), (1.0, 0.6, 1.3), 1.0) == pytest.approx((0.0, 0.0, 0.0))
    assert correlated([1, 2, 3], [2, 4, 6]) == pytest.approx(1)
    assert correlated([1, 1, 1], [2, 4, 6]) == 0.0


def test_the_best_control_is_the_one_to_beat() -> None:
    rng = np.random.default_rng(1)
    values = {name: np.full(40, value) for name, value in (("map", 0.6), ("low", 0.1), ("none", math.nan))}
    values["high"] = 0.5 + 0.05 * rng.standard_normal(40)
    best = above_best(values, "map", ["low", "none", "high"])
    assert best["control"] == "high"
    assert best["difference"] == list(bootstrap_mean(values["map"] - values["high"]))
    assert above_best(values, "map", ["none"]) == {"control": None, "difference": None}
    found = margins({"a": values, "b": {"map": np.ones(40)}}, {"map": ["low", "absent"], "absent": ["low"]})
    assert found == {"map": {"a": above_best(values, "map", ["low"])}}


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="values go from 0 to 2; shares lie between 0 and 1"):
        share_interval([0, 2])
    with pytest.raises(ValueError, match="2 and 3 values; a paired difference needs as many of each"):
        paired_shares([0, 1], [0, 1, 1])
    with pytest.raises(ValueError, match="'map' has no control"):
        above_best({"map": [1.0]}, "map", [])
    with pytest.raises(ValueError, match="no source 'edges'; these were measured: map"):
        above_best({"map": [1.0]}, "map", ["edges"])

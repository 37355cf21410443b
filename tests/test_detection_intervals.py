"""Intervals of detection: how often they hold a known truth, and DeLong's paired difference beside a direct count of all pairs."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray

from aib.commands.score_tables import sentences
from aib.interpret import wilson_interval
from aib.interpret.detection import detection_table
from aib.interpret.roc import auroc, auroc_difference, false_positive_rate

QUANTILE = 1.6448536269514722
"""Of 0.95 of N(0, 1)."""

PAIRED = st.lists(st.tuples(st.integers(0, 5).map(float), st.integers(0, 5).map(float)), min_size=2, max_size=20)
"""Images with two scores each, with many ties."""


def below(z: float) -> float:
    """P(N(0, 1) < z)."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


# --- false positives ----------------------------------------------------------------------------------------------------------


def held(inside: int, outside: int, mean: float, spread: float, step: float, draws: int = 200) -> tuple[float, float]:
    """How often the interval, and Wilson's at the threshold found, hold the true share; scores in steps have ties."""
    rng = np.random.default_rng(3)
    threshold = math.ceil((QUANTILE - step / 2) / step) * step + step / 2 if step else QUANTILE
    truth = below((threshold - mean) / spread)
    ours = wilsons = 0
    for _ in range(draws):
        ordinary, unusual = rng.normal(size=inside), rng.normal(mean, spread, outside)
        if step:
            ordinary, unusual = np.round(ordinary / step) * step, np.round(unusual / step) * step
        value, low, high = false_positive_rate(ordinary, unusual)
        assert 0 <= low <= value <= high <= 1
        ours += low <= truth <= high
        low, high = wilson_interval(round(value * outside), outside)
        wilsons += low <= truth <= high
    return ours / draws, wilsons / draws


@pytest.mark.parametrize("step", [0.0, 0.5])
@pytest.mark.parametrize(
    ("inside", "outside", "mean", "spread"),
    [
        *((m, n, *shape) for m, n in ((30, 200), (100, 1000), (1000, 100)) for shape in ((1.0, 1.0), (6.0, 3.0), (1.645, 0.2))),
        (100, 100, -1.0, 1.0), (100, 1000, -3.0, 1.55), (1000, 1000, 20.0, 5.0),
    ],
)  # fmt: skip
def test_the_interval_of_false_positives_holds_the_truth(
    inside: int, outside: int, mean: float, spread: float, step: float
) -> None:
    """Truths of 0.0001 to 0.999; 0.95 less three standard errors."""
    assert held(inside, outside, mean, spread, step)[0] >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 200)


def test_an_interval_that_takes_the_threshold_for_known_does_not() -> None:
    assert held(100, 1000, 1.0, 1.0, 0.0)[1] < 0.5
    assert held(1000, 1000, 1.645, 0.2, 0.0)[1] < 0.3
    assert held(1000, 1000, 1.0, 1.0, 0.0)[0] < 0.99  # and ours is not merely wide


def test_few_images_inside_bound_the_threshold_from_below_only() -> None:
    rng = np.random.default_rng(0)
    outside = rng.normal(6, 1, 2000)
    assert 0.95**72 < 0.025 < 0.95**71
    assert false_positive_rate(rng.normal(size=71), outside)[2] == 1.0
    assert false_positive_rate(rng.normal(size=72), outside)[2] < 0.1


def test_a_threshold_without_doubt_leaves_the_exact_interval_of_a_share() -> None:
    """Clopper and Pearson's of 3 in 10, and of none and all."""
    _, low, high = false_positive_rate([1.0] * 500, [0.0] * 3 + [2.0] * 7)
    assert [low, high] == pytest.approx([0.0667395, 0.6524529], abs=1e-6)
    assert false_positive_rate([1.0] * 500, [2.0] * 10) == (0.0, 0.0, pytest.approx(1 - 0.025**0.1))
    assert false_positive_rate([1.0] * 500, [0.0] * 10) == (1.0, pytest.approx(0.025**0.1), 1.0)
    assert false_positive_rate(range(100), range(100), 1.0)[2] == 1.0  # the highest of all is never known


def test_only_the_order_counts_and_the_same_scores_give_the_same_interval() -> None:
    rng = np.random.default_rng(2)
    inside, outside = rng.normal(size=120), rng.normal(1, 2, 80)
    found = false_positive_rate(inside, outside)
    assert false_positive_rate(np.exp(inside[::-1]), np.exp(outside[::-1])) == found
    _, low, high = false_positive_rate(inside, outside, confidence=0.8)
    assert found[1] < low < found[0] < high < found[2]


# --- differences of AUROCs ----------------------------------------------------------------------------------------------------


def direct(one: tuple[ArrayLike, ArrayLike], other: tuple[ArrayLike, ArrayLike]) -> tuple[float, float]:
    """Difference and its variance by DeLong's 2 x 2 covariance matrices over all pairs."""

    def wins(inside: ArrayLike, outside: ArrayLike) -> NDArray[np.float64]:
        rows, columns = np.asarray(inside)[:, None], np.asarray(outside)[None, :]
        return (columns > rows) + 0.5 * (columns == rows)

    psi = np.stack([wins(*one), wins(*other)])
    covariance = np.cov(psi.mean(2)) / psi.shape[1] + np.cov(psi.mean(1)) / psi.shape[2]
    areas = psi.mean((1, 2))
    return areas[0] - areas[1], covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]


@given(PAIRED, PAIRED)
@settings(max_examples=150, deadline=None)
def test_the_difference_is_delongs_of_all_pairs(inside: list[tuple[float, float]], outside: list[tuple[float, float]]) -> None:
    one, other = (([image[k] for image in inside], [image[k] for image in outside]) for k in (0, 1))
    value, low, high = auroc_difference(one, other)
    difference, variance = direct(one, other)
    assert value == pytest.approx(difference, abs=1e-12)
    assert -1 <= low <= value + 1e-12 <= high + 2e-12 <= 1 + 2e-12
    if variance > 1e-12 and not {0.0, 1.0} & {auroc(*one)[0], auroc(*other)[0]}:
        reach = 1.959964 * math.sqrt(variance)
        np.testing.assert_allclose([low, high], np.clip([value - reach, value + reach], -1, 1), atol=1e-6)
    np.testing.assert_allclose(auroc_difference(other, one), [-value, -high, -low], atol=1e-12)


def test_it_is_so_for_many_images_and_takes_no_time() -> None:
    rng = np.random.default_rng(4)
    inside, outside = rng.normal(size=(2, 300)), rng.normal(1, 1.5, (2, 200)).round(1)
    value, low, high = auroc_difference((inside[0], outside[0]), (inside[1], outside[1]))
    difference, variance = direct((inside[0], outside[0]), (inside[1], outside[1]))
    reach = 1.959963985 * math.sqrt(variance)
    assert [value, low, high] == pytest.approx([difference, difference - reach, difference + reach], abs=1e-9)
    inside, outside = rng.normal(size=(2, 10_000)), rng.normal(1, 1, (2, 10_000))
    false_positive_rate(inside[0, :9], outside[0, :9])  # scipy is imported
    start = time.process_time()  # all pairs would take seconds
    auroc_difference((inside[0], outside[0]), (inside[1], outside[1]))
    false_positive_rate(inside[0], outside[0])
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize("step", [0.0, 0.7])
@pytest.mark.parametrize(("first", "second"), [(1.0, 1.0), (1.0, 1.5), (0.0, 1.0)])
def test_the_difference_holds_the_truth_where_overlap_would_be_too_careful(first: float, second: float, step: float) -> None:
    """Two scores that share most of their noise; where their own intervals are apart is found far more rarely."""
    rng = np.random.default_rng(5)
    grid = np.arange(-12, 16) * step
    draws, m, n = 300, 60, 80

    def area(lead: float) -> float:
        if not step:
            return below(lead / math.sqrt(2))
        chance = [[below(g + step / 2 - at) - below(g - step / 2 - at) for g in grid] for at in (0.0, lead)]
        return float(np.dot(chance[1], np.cumsum(chance[0]) - np.array(chance[0]) / 2))

    truth = area(first) - area(second)
    hits = told = apart = 0
    for _ in range(draws):
        common = rng.normal(size=m + n) * math.sqrt(0.8)
        one, other = (
            np.r_[np.zeros(m), np.full(n, lead)] + common + math.sqrt(0.2) * rng.normal(size=m + n) for lead in (first, second)
        )
        if step:
            one, other = np.round(one / step) * step, np.round(other / step) * step
        _, low, high = auroc_difference((one[:m], one[m:]), (other[:m], other[m:]))
        hits += low <= truth <= high
        told += high < 0
        apart += auroc(one[:m], one[m:])[2] < auroc(other[:m], other[m:])[1]
    assert hits / draws == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / draws))
    if second - first == 0.5:
        assert told / draws > 0.5 + apart / draws


def test_the_same_order_is_no_difference_at_all() -> None:
    rng = np.random.default_rng(6)
    for lead in (0.5, 100.0):  # wholly apart too
        inside, outside = rng.normal(size=30), rng.normal(lead, 1, 20).round(1)
        assert auroc_difference((inside, outside), (inside, outside)) == (0.0, 0.0, 0.0)
        assert auroc_difference((inside, outside), (np.arctan(inside / 99), np.arctan(outside / 99))) == (0.0, 0.0, 0.0)
    assert auroc_difference(([3.0] * 9, [3.0] * 9), ([1.0] * 9, [1.0] * 9)) == (0.0, 0.0, 0.0)


def test_sets_that_are_apart_leave_the_doubt_of_as_many_images() -> None:
    rng = np.random.default_rng(7)
    apart = [(rng.normal(size=50), rng.normal(100, 1, 80)) for _ in range(2)]
    doubt = 1.959964**2 / (50 + 1.959964**2)
    assert auroc_difference(*apart) == (0.0, pytest.approx(-doubt), pytest.approx(doubt))
    value, low, high = auroc_difference(apart[0], (apart[0][1][:50], np.r_[apart[0][0], apart[0][0][:30]]))
    assert (value, high) == (1.0, 1.0)
    assert low == pytest.approx(1 - math.sqrt(2) * doubt)
    almost = rng.normal(size=50), rng.normal(3, 1, 80)
    value, low, high = auroc_difference(apart[0], almost)
    area, least, most = auroc(*almost)
    assert value == pytest.approx(1 - area)
    assert (low, high) == (pytest.approx(value - math.hypot(doubt, most - area)), pytest.approx(value + area - least))
    # as many pairs won by each image, in another order: no variance, but no certainty either
    value, low, high = auroc_difference(([1.0, 2.0], [0.0, 3.0]), ([2.0, 1.0], [0.0, 3.0]))
    assert low < value == 0.0 < high
    assert math.isnan(auroc_difference(([1.0], [0.0, 2.0]), ([1.0], [2.0, 3.0]))[1])


def test_the_table_has_the_differences_of_the_rate() -> None:
    rng = np.random.default_rng(8)
    inside, outside = ({name: rng.normal(at, 1, n) for name in ("max_softmax", "entropy", "rate")} for at, n in ((0, 60), (1, 40)))
    table = detection_table(inside, outside)
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    assert list(table["rate_less"]) == ["max_softmax", "entropy"]
    for name, found in table["rate_less"].items():
        assert tuple(found) == auroc_difference((inside["rate"], outside["rate"]), (inside[name], outside[name]))
        assert found[0] == pytest.approx(table["scores"]["rate"]["auroc"][0] - table["scores"][name]["auroc"][0])
    assert "rate_less" not in detection_table({"entropy": inside["entropy"]}, {"entropy": outside["entropy"]})
    lone = detection_table({"rate": [1.0], "entropy": [1.0]}, {"rate": [0.0, 2.0], "entropy": [2.0, 3.0]})
    assert lone["rate_less"] == {"entropy": [-0.5, None, None]}


def test_the_terminal_has_the_differences_where_there_are_some() -> None:
    scores = {"max_softmax": {"auroc": [0.912, 0.9, 0.924]}, "rate": {"auroc": [0.987, None, None]}}
    table = {"scores": scores, "rate_less": {"max_softmax": [0.075, 0.05, 0.1]}}
    result = {"beside_controls": {"same_map": []}, "faithfulness": {}, "detection": {"outside": {"svhn": table}}}
    shown = "Told from svhn, AUROC: max softmax 0.912 [0.900, 0.924], rate 0.987."
    assert sentences(result)[-1] == f"{shown} The rate's less that of max softmax +0.075 [+0.050, +0.100], on the same images."
    del table["rate_less"]
    assert sentences(result)[-1] == shown


def test_scores_of_other_images_are_refused_in_one_line() -> None:
    with pytest.raises(
        ValueError, match=r"^one score has 2 images inside and 1 outside, the other 1 and 1; both must be of the same"
    ):
        auroc_difference(([0.0, 1.0], [1.0]), ([0.0], [1.0]))
    with pytest.raises(ValueError, match=r"confidence is 0; it must lie between 0 and 1"):
        auroc_difference(([0.0], [1.0]), ([1.0], [1.0]), confidence=0)
    with pytest.raises(ValueError, match=r"confidence is 1; it must lie between 0 and 1"):
        false_positive_rate([0.0], [1.0], confidence=1)

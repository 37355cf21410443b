"""Detection, reliability and risk against coverage: scikit-learn and slow loops, planted truths, and scores that know nothing."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import entropy
from sklearn.metrics import roc_auc_score, roc_curve

from aib.interpret import wilson_interval
from aib.interpret.detection import (
    COVERAGES,
    detection_table,
    reliability_bins,
    risk_coverage,
    risk_coverage_area,
    selective_table,
    unusualness,
)
from aib.interpret.roc import auroc, false_positive_rate

LEVELS = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=30)
"""Scores with many ties."""


def confident_logits(count: int = 400, classes: int = 5, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits that are right the more often the more certain they are, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    logits = rng.normal(size=(count, classes))
    logits[np.arange(count), labels] += rng.exponential(3, count)
    return logits, labels


# --- scores -------------------------------------------------------------------------------------------------------------------


def test_the_scores_are_those_of_the_softmax() -> None:
    logits, _ = confident_logits()
    probabilities = torch.from_numpy(logits).softmax(1).numpy()
    rate = np.linspace(0, 9, len(logits))
    found = unusualness(torch.from_numpy(logits), rate)
    assert list(found) == ["max_softmax", "entropy", "rate"]
    np.testing.assert_allclose(found["max_softmax"], 1 - probabilities.max(1), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(found["entropy"], entropy(probabilities, axis=1), rtol=1e-9)
    np.testing.assert_array_equal(found["rate"], rate)
    assert list(unusualness(logits)) == ["max_softmax", "entropy"]


def test_uniform_predictions_are_the_most_unusual_and_certain_ones_do_not_tie() -> None:
    flat = unusualness(np.zeros((1, 10)))
    assert flat["max_softmax"] == pytest.approx(0.9)
    assert flat["entropy"] == pytest.approx(math.log(10))
    # float32 probabilities, and 1 - p in float64, would all be equal here
    margins = np.array([40.0, 50.0, 60.0, 700.0])
    for scores in unusualness(np.stack([margins, 0 * margins], 1)).values():
        assert (np.diff(scores) < 0).all()
        assert (scores > 0).all()


@given(st.lists(st.lists(st.floats(-50, 50), min_size=3, max_size=3), min_size=1, max_size=20), st.floats(-100, 100))
@settings(max_examples=50, deadline=None)
def test_a_shift_of_all_logits_changes_no_score(rows: list[list[float]], shift: float) -> None:
    logits = np.array(rows)
    for before, after in zip(unusualness(logits).values(), unusualness(logits + shift).values()):
        np.testing.assert_allclose(before, after, rtol=1e-9, atol=1e-15)
    assert (unusualness(logits)["entropy"] <= math.log(3) + 1e-12).all()
    assert (unusualness(logits)["entropy"] >= 0).all()


# --- images of another kind ---------------------------------------------------------------------------------------------------


@given(LEVELS, LEVELS)
@settings(max_examples=100, deadline=None)
def test_auroc_is_that_of_pairs_and_of_scikit_learn(inside: list[float], outside: list[float]) -> None:
    value, low, high = auroc(inside, outside)
    pairs = [(b > a) + 0.5 * (b == a) for a, b in itertools.product(inside, outside)]
    assert value == pytest.approx(sum(pairs) / len(pairs))
    assert value == pytest.approx(roc_auc_score([0] * len(inside) + [1] * len(outside), inside + outside))
    assert math.isnan(low) == math.isnan(high)
    assert math.isnan(low) or 0 <= low <= value + 1e-12 <= high + 2e-12 <= 1 + 2e-12
    # the other way round is the complement, ends included
    back = auroc(outside, inside)
    np.testing.assert_allclose(back, [1 - value, 1 - high, 1 - low], atol=1e-12)


def test_the_interval_is_delongs() -> None:
    """The structural components pair by pair."""
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(size=40).round(1), rng.normal(1, 2, size=25).round(1)
    wins = (outside[None, :] > inside[:, None]) + 0.5 * (outside[None, :] == inside[:, None])
    variance = wins.mean(1).var(ddof=1) / 40 + wins.mean(0).var(ddof=1) / 25
    value, low, high = auroc(inside, outside)
    reach = 1.959964 * math.sqrt(variance) / (value * (1 - value))
    logit = math.log(value / (1 - value))
    assert [math.log(low / (1 - low)), math.log(high / (1 - high))] == pytest.approx([logit - reach, logit + reach], rel=1e-6)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    truth = 0.5 * (1 + math.erf(1.2 / 2))  # P(N(1.2, 1) > N(0, 1))
    held = 0
    for _ in range(400):
        _, low, high = auroc(rng.normal(size=40), rng.normal(1.2, 1, size=60))
        held += low <= truth <= high
    assert held / 400 == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 400))


def test_sets_that_are_apart_have_an_interval_that_is_no_point() -> None:
    assert auroc(range(50), range(100, 200)) == (1.0, pytest.approx(50 / (50 + 1.959964**2)), 1.0)
    assert auroc(range(100, 200), range(50)) == (0.0, 0.0, pytest.approx(1.959964**2 / (50 + 1.959964**2)))
    value, low, high = auroc([1.0], [0.0, 2.0])
    assert value == 0.5
    assert math.isnan(low)
    assert math.isnan(high)


def test_a_constant_score_never_wins() -> None:
    assert auroc([3.0] * 20, [3.0] * 30) == (0.5, pytest.approx(0.5), pytest.approx(0.5))
    assert false_positive_rate([3.0] * 20, [3.0] * 30)[0] == 1.0
    assert risk_coverage([3.0] * 4, [True, False, False, False]).tolist() == pytest.approx([0.25] * 4)


def test_a_rate_that_falls_is_reported_below_one_half() -> None:
    logits, _ = confident_logits()
    rate = np.random.default_rng(0).normal(20, 2, len(logits))
    table = detection_table(unusualness(logits, rate), unusualness(logits / 4, rate - 5))
    assert table["scores"]["rate"]["auroc"][0] < 0.1
    assert table["scores"]["max_softmax"]["auroc"][0] > 0.8
    assert table["scores"]["rate"]["false_positive_rate"][0] == 1.0


@given(LEVELS, LEVELS)
@settings(max_examples=100, deadline=None)
def test_the_false_positive_rate_is_that_of_the_strictest_threshold(inside: list[float], outside: list[float]) -> None:
    found, low, high = false_positive_rate(inside, outside)
    falses, trues, _ = roc_curve([1] * len(inside) + [0] * len(outside), [-s for s in inside + outside], drop_intermediate=False)
    assert found == pytest.approx(falses[trues >= 0.95 - 1e-12].min())
    assert low <= found <= high


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99, 1.0])
@pytest.mark.parametrize("count", [1, 3, 20, 60, 100])
def test_as_many_are_accepted_as_asked_for(share: float, count: int) -> None:
    least = next(k for k in range(1, count + 1) if round(1000 * share) * count <= 1000 * k)
    assert false_positive_rate(range(count), range(count), share)[0] == least / count


def test_the_table_is_plain_and_compares_like_with_like() -> None:
    logits, _ = confident_logits(120)
    rates = np.random.default_rng(0).gamma(3, 5, 120)
    inside, outside = unusualness(logits, rates), unusualness(logits[:50] / 3, rates[:50] + 9)
    table = detection_table(inside, outside)
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    assert (table["inside"], table["outside"], list(table["scores"])) == (120, 50, ["max_softmax", "entropy", "rate"])
    for name, row in table["scores"].items():
        assert tuple(row["auroc"]) == auroc(inside[name], outside[name])
        assert row["auroc"][0] > 0.5
    assert detection_table({"a": [1.0]}, {"a": [0.0, 2.0]})["scores"]["a"]["auroc"] == [0.5, None, None]


# --- calibration --------------------------------------------------------------------------------------------------------------


def test_bins_hold_what_falls_into_them_and_empty_ones_are_left_out() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.beta(5, 2, 500)
    correct = rng.random(500) < confidence
    found = reliability_bins(confidence, correct)
    assert 1 < len(found) < 15
    for row in found:
        mine = (confidence > row["low"]) & (confidence <= row["high"])
        assert row["count"] == mine.sum() > 0
        assert row["confidence"] == pytest.approx(confidence[mine].mean())
        assert row["accuracy"] == pytest.approx(correct[mine].mean())
        low, high = row["accuracy_interval"]
        assert low <= row["accuracy"] <= high
    assert sum(row["count"] for row in found) == 500
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_an_oracle_is_calibrated() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0, 1, 20000)
    for row in reliability_bins(confidence, rng.uniform(0, 1, 20000) < confidence):
        assert row["confidence"] == pytest.approx(row["accuracy"], abs=0.06)


def test_an_edge_belongs_to_the_bin_below_and_the_ends_are_inside() -> None:
    rows = reliability_bins([0.0, 0.2, 0.2000001, 1.0], np.array([True, False, True, True]), bins=5)
    assert [(row["low"], row["count"], row["accuracy"]) for row in rows] == [(0.0, 2, 0.5), (0.2, 1, 1.0), (0.8, 1, 1.0)]


# --- errors against coverage --------------------------------------------------------------------------------------------------


def slow_curve(unusual: list[float], wrong: list[bool]) -> NDArray[np.float64]:
    """Mean over every order that sorts the scores."""
    count = len(unusual)
    curves = []
    for order in itertools.permutations(range(count)):
        if all(unusual[a] <= unusual[b] for a, b in itertools.pairwise(order)):
            errors = [wrong[i] for i in order]
            curves.append([sum(errors[:k]) / k for k in range(1, count + 1)])
    return np.mean(curves, axis=0)


@given(st.lists(st.tuples(st.integers(0, 2).map(float), st.booleans()), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_the_curve_is_the_mean_over_all_orders_of_tied_images(images: list[tuple[float, bool]]) -> None:
    unusual, wrong = [score for score, _ in images], [flag for _, flag in images]
    expected = slow_curve(unusual, wrong)
    np.testing.assert_allclose(risk_coverage(unusual, np.array(wrong)), expected, rtol=1e-12)
    assert risk_coverage_area(unusual, np.array(wrong)) == pytest.approx(expected.mean())


def test_the_order_of_the_images_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    unusual, wrong = rng.integers(0, 9, 200).astype(float), rng.random(200) < 0.3
    order = rng.permutation(200)
    np.testing.assert_allclose(risk_coverage(unusual, wrong), risk_coverage(unusual[order], wrong[order]))
    assert selective_table({"a": unusual}, wrong)["scores"]["a"]["area"][0] == pytest.approx(
        selective_table({"a": unusual[order]}, wrong[order])["scores"]["a"]["area"][0]
    )


def test_the_best_score_puts_errors_last_and_the_worst_first() -> None:
    wrong = np.array([False] * 7 + [True] * 3)
    best = risk_coverage(wrong.astype(float), wrong)
    np.testing.assert_allclose(best, [0] * 7 + [1 / 8, 2 / 9, 3 / 10])
    assert risk_coverage_area(wrong.astype(float), wrong) < 0.3 < risk_coverage_area(-wrong.astype(float), wrong)


def test_the_table_agrees_with_the_curve_and_with_slow_resampling() -> None:
    logits, labels = confident_logits(90)
    wrong = logits.argmax(1) != labels
    rates = np.random.default_rng(5).integers(0, 4, 90).astype(float)  # ties, and nothing about errors
    scores = unusualness(logits, rates)
    table = selective_table(scores, wrong, seed=7, draws=40)
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    assert table["coverage"] == list(COVERAGES)
    for name, row in table["scores"].items():
        curve = risk_coverage(scores[name], wrong)
        assert row["area"][0] == pytest.approx(curve.mean())
        assert [value for value, _, _ in row["error_at"]] == pytest.approx([curve[k - 1] for k in (9, 23, 45, 68, 81, 90)])
        rng = np.random.default_rng(7)
        slow = [rng.integers(0, 90, 90) for _ in range(40)]
        curves = np.array([risk_coverage(scores[name][i], wrong[i]) for i in slow])
        np.testing.assert_allclose(row["area"][1:], np.quantile(curves.mean(1), [0.025, 0.975]))
        assert tuple(row["error_at"][2][1:]) == wilson_interval(round(45 * curve[44]), 45)
        assert all(low <= value <= high and high > 0 for value, low, high in row["error_at"])
    assert table["scores"]["max_softmax"]["error_at"][-1][0] == pytest.approx(table["error"]) == pytest.approx(wrong.mean())
    assert table["best_area"] < table["scores"]["max_softmax"]["area"][0] < table["error"]
    low, high = table["scores"]["rate"]["area"][1:]
    assert low < table["error"] < high


# --- bad input ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: unusualness([1.0, 2.0]), "logits have shape (2,)"),
        (lambda: unusualness(np.zeros((3, 1))), "at least 2 classes"),
        (lambda: unusualness(np.zeros((0, 3))), "N >= 1"),
        (lambda: unusualness([[math.nan, 0.0]]), "logits hold a value that is not finite"),
        (lambda: unusualness(np.zeros((3, 2)), [1.0, 2.0]), "3 rows of logits but 2 rates"),
        (lambda: unusualness(np.zeros((1, 2)), [math.inf]), "rate holds a value that is not finite"),
        (lambda: auroc([], [1.0]), "inside has shape (0,)"),
        (lambda: auroc([1.0], [[1.0]]), "outside has shape (1, 1)"),
        (lambda: auroc([1.0], [math.nan]), "outside holds a value that is not finite"),
        (lambda: auroc([1.0], [1.0], confidence=1.0), "confidence is 1.0; it must lie between 0 and 1"),
        (lambda: false_positive_rate([1.0], [1.0], 0.0), "true_positive_rate is 0.0; it must lie in (0, 1]"),
        (lambda: detection_table({}, {}), "scores are none inside, none outside"),
        (lambda: detection_table({"a": [1.0]}, {"b": [1.0]}), "scores are a inside, b outside; give the same"),
        (lambda: detection_table({"a": [1.0], "b": [1.0, 2.0]}, {"a": [1.0], "b": [1.0]}), "inside: 1 of a, 2 of b"),
        (lambda: reliability_bins([1.1], np.array([True])), "confidence goes from 1.1 to 1.1"),
        (lambda: reliability_bins([0.5], np.array([1])), "correct is (1,) int64; expected (1,) bool"),
        (lambda: reliability_bins([0.5], np.array([True]), bins=0), "bins is 0; it must be at least 1"),
        (lambda: risk_coverage([0.5, 0.4], np.array([True])), "wrong is (1,) bool; expected (2,) bool"),
        (lambda: risk_coverage_area([math.nan], np.array([True])), "unusual holds a value that is not finite"),
        (lambda: selective_table({}, np.array([True])), "there is no score"),
        (lambda: selective_table({"a": [1.0]}, np.array([True]), draws=0), "draws is 0"),
        (lambda: selective_table({"a": [1.0], "b": [1.0, 2.0]}, np.array([True])), "scores: 1 of a, 2 of b"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(call: object, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        call()  # type: ignore[operator]
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)

"""Removal curves on a network whose use of the image is known by construction, and against a slow loop."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from aib.classifier import AttentiveClassifier
from aib.data.bundle import TensorSplit
from aib.interpret.controls import blurred_random, uniform
from aib.interpret.faithfulness import cell_means, removal_faithfulness, removal_order
from aib.interpret.imputation import FILLS, impute, seeded_generator
from aib.interpret.intervals import bootstrap_mean, paired_shares, wilson_interval
from aib.interpret.removal_curves import SHARES, STEPS, Faithfulness, RemovalCurves
from test_imputation import blurred

MEAN, STD = (0.5,), (0.5,)
GAIN = 4.0


class Quadrant(nn.Module):
    """Looks at the brightness of the upper left quarter and at nothing else: above the middle grey it is class 1, below class 0."""

    def forward(self, images: Tensor) -> Tensor:
        half = images.shape[2] // 2
        brightness = GAIN * images[:, :, :half, :half].mean((1, 2, 3))
        return torch.stack([torch.zeros_like(brightness), brightness], 1)


def quadrants(count: int = 60, side: int = 16, seed: int = 0) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Noise whose upper left quarter is bright or dark, the classes, and maps that say so, the opposite, nothing and anything."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 1, side, side), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % 2
    half = side // 2
    images[:, :, :half, :half] = torch.where(labels == 1, 230, 25)[:, None, None, None].to(torch.uint8)
    truth = torch.zeros(count, 1, 4, 4)
    truth[:, :, :2, :2] = 1.0
    maps = {"truth": truth, "inverted": 1 - truth, "constant": uniform(truth), "random": blurred_random(truth, 1)}
    return images, labels, maps


def score(count: int = 60, model: Callable[[Tensor], Tensor] | None = None, **changes: Any) -> Faithfulness:
    images, labels, maps = quadrants(count)
    given_ = {"images": images, "maps": maps, "mean": MEAN, "std": STD, "labels": labels, **changes}
    return removal_faithfulness(Quadrant() if model is None else model, **given_)


# --- planted truth -------------------------------------------------------------------------------------------------------------


def test_curves_of_the_planted_network_are_those_of_its_formula() -> None:
    """By the mean, k of the 16 important cells removed leave (16 - k) / 16 of the brightness's distance to the middle grey."""
    found = score(fills=["mean"]).curves["mean"]
    important = torch.tensor([0, 8, 16, 16, 16, 16, 16, 16, 16]).double()
    for name, gone in (("truth", important), ("inverted", 16 - important.flip(0))):
        # 230 and 25 are 102.5 grey levels from the middle, of 127.5
        expected = torch.sigmoid(GAIN * 102.5 / 127.5 * (16 - gone) / 16).expand(60, -1)
        torch.testing.assert_close(found[name].morf, expected, atol=1e-6, rtol=0)
        opposite = "inverted" if name == "truth" else "truth"
        torch.testing.assert_close(found[opposite].lerf, expected, atol=1e-6, rtol=0)
    assert found["truth"].shares.tolist() == [k / 8 for k in range(9)]
    torch.testing.assert_close(found["inverted"].srg, -found["truth"].srg)


def test_insertion_by_blur_starts_from_the_blurred_image_and_by_the_others_from_the_mean_colour() -> None:
    """What is left of the planted brightness once all is gone: some of it by the blur, nothing by the others."""
    images, labels, _ = quadrants()
    curves = score().curves
    left = torch.stack([blurred(image.float(), 16 / 8) for image in images])[:, :, :8, :8].mean((1, 2, 3)) / 127.5 - 1
    expected = torch.sigmoid(GAIN * torch.where(labels == 1, left, -left)).double()
    assert float((expected - 0.5).abs().min()) > 0.1  # the middle grey, which it ended on once, is 1/2
    for name, one in curves["blur"].items():
        for curve in (one.morf, one.lerf):
            torch.testing.assert_close(curve[:, STEPS], expected, atol=1e-5, rtol=0, msg=name)
    for fill in ("mean", "noisy_linear"):
        assert all(bool((curve[:, STEPS] == 0.5).all()) for one in curves[fill].values() for curve in (one.morf, one.lerf))


@pytest.mark.parametrize("fill", FILLS)
def test_the_map_that_says_the_truth_is_best_and_its_inverse_worst(fill: str) -> None:
    result = score(24, fills=[fill])
    curves = result.curves[fill]
    assert result.cells == (8, 8)
    assert bool((curves["truth"].polarity == 1).all())
    assert bool((curves["inverted"].polarity == 0).all())
    for name in ("constant", "random"):
        for better, worse in (("truth", name), (name, "inverted")):
            # by the blur, of a uniform quarter, an order that is unlucky twice comes close to the worst
            assert float((curves[better].srg > curves[worse].srg).double().mean()) >= (0.9 if fill == "blur" else 1.0)
            assert float(curves[better].srg.mean()) > float(curves[worse].srg.mean()) + 0.01
            assert float(curves[better].deletion.mean()) < float(curves[worse].deletion.mean())
            assert float(curves[better].insertion.mean()) > float(curves[worse].insertion.mean())
    numbers = result.numbers()["fills"][fill]
    # three quarters without importance may go
    for share in SHARES:
        assert numbers["truth"]["unattended_removed"][share] == [1.0, *wilson_interval(24, 24)]
        assert numbers["inverted"]["attended_removed"][share] == [1.0, *wilson_interval(24, 24)]
    if fill != "blur":  # which leaves most of a uniform quarter's brightness
        assert numbers["truth"]["attended_removed"]["1/4"][0] < 0.8


def test_a_constant_map_gets_chance() -> None:
    """An srg of 0 and a polarity of 1/2 in expectation, which a fixed order of ties would not give: the first cells matter here."""
    curves = score(600, fills=["mean", "blur"]).curves
    for fill in ("mean", "blur"):
        constant = curves[fill]["constant"]
        for values, chance in ((constant.srg, 0.0), (constant.polarity, 0.5)):
            assert float(values.mean()) == pytest.approx(chance, abs=4 * float(values.std()) / math.sqrt(600))
        assert float(constant.srg.std()) > 0.001
        low, high = curves[fill]["constant"].numbers()["srg"][1:]
        assert low < 0 < high


@pytest.mark.parametrize("fill", FILLS)
def test_no_fill_lets_a_constant_map_win_and_every_fill_lets_the_truth(fill: str) -> None:
    """Above the best control in all six metrics, less deletion being more: the truth is, an order drawn at random is not.

    Removed in no order, cells lie scattered and more is left of anything: beside maps of patches that is a gain in insertion and
    with the unattended half gone, and a loss in deletion and with the attended one gone.
    """
    result = score(120, fills=[fill])
    above = result.numbers(controls={"truth": ["constant", "random"], "constant": ["random"]})["above"][fill]
    metrics = {"srg", "deletion", "insertion", "polarity", "attended_removed", "unattended_removed"}
    assert above["truth"].keys() == above["constant"].keys() == metrics
    for metric in metrics:
        # with half of a uniform quarter, or all of it blurred, the answer is still right
        tied = metric == "unattended_removed" or (fill == "blur" and metric == "attended_removed")
        mean, low, _ = above["truth"][metric]["difference"]
        assert mean >= 0 if tied else low > 0, metric
    lows = {metric: above["constant"][metric]["difference"][1] for metric in metrics}
    assert max(lows["srg"], lows["polarity"]) <= 0
    assert min(lows["deletion"], lows["insertion"]) <= 0
    assert min(lows["attended_removed"], lows["unattended_removed"]) <= 0
    deletion = {name: float(one.deletion.mean()) for name, one in result.curves[fill].items()}
    best = above["truth"]["deletion"]
    assert best["control"] == min(("constant", "random"), key=deletion.__getitem__)
    assert best["difference"][0] == pytest.approx(deletion[best["control"]] - deletion["truth"])


def test_each_map_is_compared_with_the_best_of_its_controls_image_by_image() -> None:
    result = score(fills=["mean"])
    controls = {"truth": ["inverted", "constant"], "constant": ["inverted", "random", "truth"], "inverted": ["absent"]}
    above = result.numbers(controls=controls)["above"]["mean"]
    assert set(above) == {"truth", "constant"}  # without controls nothing is compared
    curves = result.curves["mean"]
    best = above["truth"]["srg"]
    assert best["control"] == "constant"
    assert best["difference"] == list(bootstrap_mean((curves["truth"].srg - curves["constant"].srg).numpy()))
    polarities = curves["truth"].polarity.numpy(), curves["constant"].polarity.numpy()
    assert above["truth"]["polarity"] == {"control": "constant", "difference": list(paired_shares(*polarities))}
    assert above["truth"]["srg"]["difference"][1] > 0
    for metric, found in above["constant"].items():
        assert found["difference"][1] <= 0, metric  # a constant map never wins
    assert "above" not in result.numbers()


def test_a_network_that_ignores_the_image_has_only_ties() -> None:
    found = score(model=lambda images: torch.tensor([[0.0, 1.0, -2.0]]).expand(len(images), 3))
    for maps in found.curves.values():
        for curves in maps.values():
            assert bool((curves.polarity == 0.5).all())
            assert float(curves.srg.abs().max()) < 1e-12
            torch.testing.assert_close(curves.deletion, torch.full((60,), math.e / (math.e + 1 + math.e**-2)).double())


def test_equal_cells_are_removed_in_a_random_order_of_two_levels() -> None:
    """A quantised map: its high cells all go before the low ones, among themselves in any order, in another for every image."""
    values = torch.zeros(500, 4, 4)
    values[:, 1:3] = 0.7
    order = removal_order(values, torch.arange(500), 3)
    assert torch.equal(order.sort(1).values, torch.arange(16).expand(500, 16))
    assert torch.equal(order[:, :8].sort(1).values, torch.arange(4, 12).expand(500, 8))
    first = order[:, 0].bincount(minlength=16)[4:12]
    assert float((first - 62.5).abs().max()) < 5 * math.sqrt(62.5)
    assert torch.equal(removal_order(values[7:9], torch.tensor([7, 8]), 3), order[7:9])
    assert not torch.equal(removal_order(values, torch.arange(500), 4), order)
    # the same ties whatever the levels are called, and whatever the map
    assert torch.equal(removal_order(-3 + 5 * values, torch.arange(500), 3), order)


# --- cells ---------------------------------------------------------------------------------------------------------------------


def test_cell_means_of_multiples_are_means_and_of_fractions_are_copies() -> None:
    maps = torch.rand(3, 1, 16, 24)
    torch.testing.assert_close(cell_means(maps, (8, 8)), nn.functional.avg_pool2d(maps, (2, 3)).squeeze(1))
    assert torch.equal(cell_means(maps, (32, 24)), maps.squeeze(1).repeat_interleave(2, 1))
    for size in (1, 3, 7, 8, 14, 33):
        constant = cell_means(torch.full((2, 1, size, size), 0.3), (8, 8))
        assert torch.equal(constant, torch.full((2, 8, 8), 0.3))


@given(height=st.integers(1, 12), rows=st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_cell_means_are_integrals_of_a_step_function(height: int, rows: int) -> None:
    """Against counting fine samples of it, and the mean is kept."""
    maps = torch.rand(1, 1, height, 3, generator=torch.Generator().manual_seed(height))
    fine = height * rows
    steps = maps[0, 0].repeat_interleave(fine // height, 0)
    expected = steps.reshape(rows, fine // rows, 3).mean(1)
    found = cell_means(maps, (rows, 3))
    torch.testing.assert_close(found[0], expected)
    assert float(found.mean()) == pytest.approx(float(maps.mean()), abs=1e-6)


# --- parity with a slow loop ---------------------------------------------------------------------------------------------------


def slow_curve(model: nn.Module, image: Tensor, ranked: list[int], label: int, fill: str, position: int, seed: int) -> Any:
    """Probability and correctness as ``ranked`` cells of an 8 x 8 grid are removed in turn, one image at a time."""
    side = image.shape[2] // 8
    predicted = int(model((image / 255 - 0.4) / 0.25).argmax())
    p, right = [], []
    for step in range(9):
        removed = torch.zeros(1, 1, *image.shape[2:], dtype=torch.bool)
        for cell in ranked[: 8 * step]:
            row, column = divmod(cell, 8)
            removed[..., side * row : side * (row + 1), side * column : side * (column + 1)] = True
        filled = impute(image, removed, fill, (0.4,) * 3, seed=seed, positions=torch.tensor([position]))
        logits = model((filled / 255 - 0.4) / 0.25)[0].double()
        p.append(float(logits.softmax(0)[predicted]))
        right.append(int(logits.argmax()) == label)
    return p, right


def test_parity_with_a_slow_loop(small_model: Callable[..., AttentiveClassifier]) -> None:
    model = small_model().eval()
    images, labels = 255 * torch.rand(2, 3, 16, 16), torch.tensor([0, 3])
    positions, seed = torch.tensor([5, 0]), 2
    maps = {"levels": torch.rand(2, 1, 4, 4).mul(3).round(), "odd": torch.rand(2, 1, 7, 7)}
    with torch.no_grad():
        found = removal_faithfulness(model, images, maps, (0.4,) * 3, (0.25,) * 3, labels, positions=positions, seed=seed)
        for name, one in maps.items():
            for i, position in enumerate(positions.tolist()):
                # a step function sampled finely enough to be averaged over cells
                fine = one[i, 0].repeat_interleave(8, 0).repeat_interleave(8, 1)
                values = nn.functional.adaptive_avg_pool2d(fine[None].double(), 8).float().flatten().tolist()
                ties = seeded_generator(seed, position, 1).permutation(64).tolist()
                ranked = sorted(range(64), key=lambda cell, v=values, t=ties: (-v[cell], t.index(cell)))
                for fill in FILLS:
                    curves = found.curves[fill][name]
                    p, right = slow_curve(model, images[i : i + 1], ranked, int(labels[i]), fill, position, seed)
                    assert curves.morf[i].tolist() == pytest.approx(p, abs=1e-5)
                    assert curves.morf_correct[i].tolist() == right
                    p, right = slow_curve(model, images[i : i + 1], ranked[::-1], int(labels[i]), fill, position, seed)
                    assert curves.lerf[i].tolist() == pytest.approx(p, abs=1e-5)
                    assert curves.lerf_correct[i].tolist() == right


def test_areas_are_those_of_the_trapezium_and_insertion_is_lerf_backwards() -> None:
    curves = next(iter(score(4, fills=["mean"]).curves["mean"].values()))
    for i in range(4):
        deletion = sum((curves.morf[i, k] + curves.morf[i, k + 1]) / 2 / STEPS for k in range(STEPS))
        restored = curves.lerf[i].flip(0)
        insertion = sum((restored[k] + restored[k + 1]) / 2 / STEPS for k in range(STEPS))
        assert float(curves.deletion[i]) == pytest.approx(float(deletion))
        assert float(curves.insertion[i]) == pytest.approx(float(insertion))
        assert float(curves.srg[i]) == pytest.approx(float(insertion - deletion))


def test_polarity_shares_what_float32_cannot_tell_apart() -> None:
    shares, flat = torch.linspace(0, 1, 9).double(), torch.full((4, 9), 0.5).double()
    morf = flat.clone()
    morf[:, SHARES["1/4"]] += torch.tensor([-0.1, 0.1, 1e-8, -1e-8]).double()
    curves = RemovalCurves(shares, morf, flat, flat > 0, flat > 0)
    assert curves.polarity.tolist() == [1.0, 0.0, 0.5, 0.5]


# --- the same for all ----------------------------------------------------------------------------------------------------------


def same(a: Faithfulness, b: Faithfulness, rows: slice = slice(None)) -> bool:
    pairs = [(a.curves[fill][name], b.curves[fill][name]) for fill in b.curves for name in b.curves[fill]]
    fields = ("morf", "lerf", "morf_correct", "lerf_correct")
    return all(torch.equal(getattr(x, field)[rows], getattr(y, field)) for x, y in pairs for field in fields)


def test_results_depend_neither_on_the_cap_nor_on_the_other_images_and_maps(
    small_model: Callable[..., AttentiveClassifier],
) -> None:
    model = small_model()
    images, labels = torch.randint(0, 256, (9, 3, 16, 16), dtype=torch.uint8), torch.arange(9) % 4
    maps = {"a": torch.rand(9, 1, 8, 8).round(), "b": torch.rand(9, 1, 5, 5)}

    def run(rows: slice = slice(None), names: tuple[str, ...] = ("a", "b"), **how: Any) -> Faithfulness:
        some = {name: maps[name][rows] for name in names}
        return removal_faithfulness(
            model, images[rows], some, (0.4,) * 3, (0.2,) * 3, labels[rows], positions=torch.arange(9)[rows], seed=1, **how
        )

    whole = run()
    for cap in (14, 27, 43, 1000):
        assert same(run(images_at_once=cap), whole)
    assert same(whole, run(slice(4, 7)), slice(4, 7))
    assert same(whole, run(names=("b",), fills=["noisy_linear", "blur"]))
    assert not same(
        run(names=("a",)), removal_faithfulness(model, images, {"a": maps["a"]}, (0.4,) * 3, (0.2,) * 3, labels, seed=2)
    )


def test_a_split_is_scored_like_its_images(small_model: Callable[..., AttentiveClassifier]) -> None:
    model = small_model()
    images, labels = torch.randint(0, 256, (9, 3, 16, 16), dtype=torch.uint8), torch.arange(9) % 4
    positions = torch.tensor([8, 2, 5])
    maps = {"a": torch.rand(3, 1, 8, 8)}
    split = removal_faithfulness(model, TensorSplit(images, labels), maps, (0.4,) * 3, (0.2,) * 3, positions=positions)
    tensor = removal_faithfulness(
        model, images[positions].float(), maps, (0.4,) * 3, (0.2,) * 3, labels[positions], positions=positions
    )
    assert same(split, tensor)
    assert torch.equal(split.labels, labels[positions])
    with torch.no_grad():
        logits = model.eval()((images[positions] / 255 - 0.4) / 0.2)
    assert torch.equal(split.predicted, logits.argmax(1))
    torch.testing.assert_close(split.curves["blur"]["a"].morf[:, 0], logits.double().softmax(1).amax(1), atol=1e-5, rtol=0)


def test_the_image_and_its_absence_are_common_to_all_maps_and_asked_for_once() -> None:
    seen: list[int] = []

    def model(images: Tensor) -> Tensor:
        seen.append(len(images))
        return Quadrant()(images)

    found = score(5, model)
    # the mean colour once, every image as it is and blurred, and 14 of each map and fill
    assert sorted(seen) == [1] * (1 + 5 + 5) + [14] * (5 * len(FILLS) * 4)
    for fill, maps in found.curves.items():
        ends = {tuple(curve[:, end].tolist()) for c in maps.values() for curve in (c.morf, c.lerf) for end in (0, STEPS)}
        assert len(ends) == 2, fill


def test_the_model_and_the_global_generator_are_left_as_found(small_model: Callable[..., AttentiveClassifier]) -> None:
    model = small_model().train()
    model.decoder.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags, state = [module.training for module in model.modules()], torch.get_rng_state()
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    removal_faithfulness(model, images, {"a": torch.rand(2, 1, 8, 8)}, MEAN * 3, STD * 3, torch.zeros(2).long())
    assert [module.training for module in model.modules()] == flags
    # torch.rand above moved it; nothing after that did
    assert not torch.equal(torch.get_rng_state(), state)
    state = torch.get_rng_state()
    removal_faithfulness(model, images, {"a": torch.ones(2, 1, 8, 8)}, MEAN * 3, STD * 3, torch.zeros(2).long())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_numbers_are_plain_and_their_intervals_hold_the_mean() -> None:
    result = score(40, maps={"truth": quadrants(40)[2]["truth"]})
    numbers = result.numbers(3)
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
    assert numbers == result.numbers(3)
    assert {"n", "cells", "shares", "accuracy", "fills"} == set(numbers)
    assert (numbers["n"], numbers["cells"], numbers["accuracy"]) == (40, [8, 8], [1.0, *wilson_interval(40, 40)])
    assert set(numbers["fills"]) == set(FILLS)
    truth = numbers["fills"]["blur"]["truth"]
    for name in ("deletion", "insertion", "srg", "polarity"):
        mean, low, high = truth[name]
        assert low <= mean + 1e-9 <= high + 2e-9
        assert mean == pytest.approx(float(getattr(result.curves["blur"]["truth"], name).mean()))
    for name in ("morf", "lerf"):
        curve = getattr(result.curves["blur"]["truth"], name)
        assert len(truth[name]) == STEPS + 1
        for step, found in enumerate(truth[name]):
            assert found == pytest.approx(bootstrap_mean(curve[:, step].numpy(), 3), abs=1e-6)
        assert any(high > low for _, low, high in truth[name])


@pytest.mark.parametrize(("side", "grid", "cells"), [(4, 8, (4, 4)), (20, 8, (8, 8)), (20, 6, (6, 6)), (16, 5, (5, 5))])
def test_grids_that_do_not_divide_the_image_remove_as_many_cells(side: int, grid: int, cells: tuple[int, int]) -> None:
    images, labels, maps = quadrants(6, side)
    found = removal_faithfulness(Quadrant(), images, {"truth": maps["truth"]}, MEAN, STD, labels, fills=["mean"], grid=grid)
    assert found.cells == cells
    total = cells[0] * cells[1]
    shares = found.curves["mean"]["truth"].shares
    assert (shares * total).tolist() == pytest.approx([math.floor(k * total / 8 + 0.5) for k in range(9)])
    assert bool((found.curves["mean"]["truth"].srg > 0).all())


# --- bad input -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"maps": {}}, "no map"),
        ({"maps": {"a": torch.rand(59, 1, 4, 4)}}, r"'a' has shape \(59, 1, 4, 4\); expected \(60, 1, h, w\)"),
        ({"maps": {"a": torch.rand(60, 2, 4, 4)}}, "expected .60, 1, h, w"),
        ({"maps": {"a": torch.full((60, 1, 4, 4), math.nan)}}, "'a' is not finite"),
        ({"fills": []}, "fills are"),
        ({"fills": ["mean", "mean"]}, "each once"),
        ({"fills": ["blurr"]}, "did you mean 'blur'"),
        ({"grid": 2}, "at least 8 cells"),
        ({"grid": 0}, "at least 8 cells"),
        ({"images_at_once": 13}, "at least 14"),
        ({"labels": None}, "give labels"),
        ({"labels": torch.zeros(59).long()}, "labels of shape"),
        ({"images": torch.zeros(60, 16, 16)}, "expected .N, C, H, W"),
        ({"images": torch.zeros(0, 1, 16, 16), "labels": torch.zeros(0).long()}, "N >= 1"),
        ({"positions": torch.arange(59)}, "60 images but 59 positions"),
        ({"positions": torch.arange(60) - 1}, "positions go from -1"),
        ({"seed": -1}, "seeds"),
        ({"mean": (0.5, 0.5)}, "expected 1 numbers"),
        ({"model": lambda images: torch.full((len(images), 2), math.nan)}, "finite"),
        ({"model": lambda images: images.mean((1, 2, 3))}, r"expected \(n, classes\)"),
    ],
)
def test_bad_input_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(**changes)


def test_positions_outside_a_split_are_refused() -> None:
    images, labels, maps = quadrants(4)
    with pytest.raises(ValueError, match="go from 0 to 4; the split has 4 images"):
        removal_faithfulness(Quadrant(), TensorSplit(images, labels), maps, MEAN, STD, positions=torch.tensor([0, 1, 2, 4]))

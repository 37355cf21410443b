"""Localisation metrics, their controls and their intervals, against slow loops, closed forms and scipy."""

from __future__ import annotations

import itertools
import json
import math
import timeit
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aib.functional import resize_maps
from aib.interpret import (
    blurred_random,
    bootstrap_mean,
    centred_gaussian,
    chance,
    edge_map,
    energy,
    iou,
    localization_scores,
    localize,
    other_image,
    paired_difference,
    pointing_game,
    uniform,
    wilson_interval,
)
from aib.interpret.intervals import paired_shares, share_interval


def boxes(count: int = 6, size: int = 32) -> Tensor:
    """Boxes of different sizes and places, none at the middle."""
    masks = torch.zeros(count, 1, size, size, dtype=torch.bool)
    for i in range(count):
        masks[i, 0, 1 + 2 * i : 9 + 3 * i, 2 + i : 8 + i] = True
    return masks


# --- planted truth -------------------------------------------------------------------------------------------------------------


def test_a_map_that_is_the_mask_scores_one() -> None:
    masks = boxes()
    for metric in (pointing_game, energy, iou):
        assert metric(masks.float(), masks).tolist() == [1.0] * len(masks)
        assert metric((~masks).float(), masks).tolist() == [0.0] * len(masks)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize(("cells", "size"), [(8, 32), (16, 32), (7, 32), (4, 33), (14, 224), (5, 5)])
def test_a_single_hot_cell_has_its_maxima_inside_the_cell(mode: str, cells: int, size: int) -> None:
    maps = torch.eye(cells * cells).reshape(-1, 1, cells, cells)
    edges = torch.arange(cells) * size / cells
    low, high = edges.floor().long().tolist(), (edges + size / cells).ceil().long().tolist()
    masks = torch.zeros(cells * cells, 1, size, size, dtype=torch.bool)
    for i in range(cells * cells):
        masks[i, 0, low[i // cells] : high[i // cells], low[i % cells] : high[i % cells]] = True
    assert pointing_game(maps, masks, mode).tolist() == [1.0] * cells**2
    # and at an interior cell the maxima are the pixels nearest its centre, shared evenly
    middle = (cells // 2) * cells + cells // 2
    centre = torch.zeros(1, 1, size, size, dtype=torch.bool)
    pixel = int((cells // 2 + 0.5) * size / cells)
    centre[0, 0, pixel, pixel] = True
    assert float(pointing_game(maps[middle : middle + 1], centre, mode)) > 0


# --- a constant map never wins -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@given(value=st.floats(-3, 3, width=32), cells=st.integers(1, 9), size=st.integers(3, 40))
@settings(max_examples=40, deadline=None)
def test_a_constant_map_gets_the_share_of_the_mask(mode: str, value: float, cells: int, size: int) -> None:
    masks = torch.rand(3, 1, size, size, generator=torch.Generator().manual_seed(size)) < 0.3
    masks[:, :, 0, 0] = True
    share = masks.flatten(1).double().mean(1)
    maps = torch.full((3, 1, cells, cells), value)
    torch.testing.assert_close(pointing_game(maps, masks, mode), share, atol=1e-6, rtol=0)
    torch.testing.assert_close(energy(maps, masks, mode), share, atol=1e-6, rtol=0)
    expected = share / (2 - share)
    assert (iou(maps, masks, mode, draws=512) - expected).abs().max() < 0.05


def test_interpolation_in_float32_would_break_these_ties() -> None:
    """The reason for float64: a constant map is no longer constant after bilinear resizing by an odd factor."""
    resized = resize_maps(torch.full((1, 1, 7, 7), 0.3), (32, 32)).flatten()
    assert resized.unique().numel() > 1


def test_a_quantised_map_shares_its_tied_maxima() -> None:
    masks = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    masks[0, 0, :2, :2] = True
    maps = torch.tensor([[0.7, 0.1, 0.7, 0.1], [0.1, 0.1, 0.1, 0.1], [0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7]])[None, None]
    assert float(pointing_game(maps, masks)) == 0.25


# --- parity with slow loops ----------------------------------------------------------------------------------------------------


def slow_pointing_game(values: np.ndarray, inside: np.ndarray) -> float:
    hits, maxima = 0, 0
    for row in range(values.shape[0]):
        for column in range(values.shape[1]):
            if values[row, column] == values.max():
                maxima += 1
                hits += int(inside[row, column])
    return hits / maxima


def slow_iou(values: np.ndarray, inside: np.ndarray) -> float:
    """Exact mean over every way to take the tied pixels, one by one."""
    flat, truth = values.flatten(), {i for i, flag in enumerate(inside.flatten()) if flag}
    threshold = sorted(flat, reverse=True)[len(truth) - 1]
    above = {i for i in range(flat.size) if flat[i] > threshold}
    tied = [i for i in range(flat.size) if flat[i] == threshold]
    tops = [above | set(taken) for taken in itertools.combinations(tied, len(truth) - len(above))]
    return sum(len(top & truth) / len(top | truth) for top in tops) / len(tops)


@given(seed=st.integers(0, 10_000), levels=st.integers(1, 6), density=st.floats(0.05, 1.0))
@settings(max_examples=40, deadline=None)
def test_parity_with_a_slow_loop(seed: int, levels: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.integers(0, levels, (3, 4)) / 7).astype(np.float32)
    inside = rng.random((3, 4)) < density
    inside[rng.integers(3), rng.integers(4)] = True
    maps, masks = torch.from_numpy(values)[None, None], torch.from_numpy(inside)[None, None]
    assert float(pointing_game(maps, masks)) == pytest.approx(slow_pointing_game(values, inside), abs=1e-12)
    mass = values.astype(np.float64)
    expected = mass[inside].sum() / mass.sum() if mass.sum() > 0 else inside.mean()
    assert float(energy(maps, masks)) == pytest.approx(expected, abs=1e-12)
    # the mean of 20,000 draws within [0, 1] has a standard error of at most 0.0036
    assert float(iou(maps, masks, draws=20_000, seed=seed)) == pytest.approx(slow_iou(values, inside), abs=0.02)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_iou_without_ties_is_exact(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.permutation(30).reshape(5, 6).astype(np.float32)
    inside = rng.random((5, 6)) < 0.4
    inside[0, 0] = True
    maps, masks = torch.from_numpy(values)[None, None], torch.from_numpy(inside)[None, None]
    assert float(iou(maps, masks, draws=1, seed=seed)) == pytest.approx(slow_iou(values, inside), abs=1e-12)


def test_iou_averages_seeded_draws() -> None:
    masks, maps = boxes(), torch.rand(6, 1, 8, 8).mul(4).round()
    assert torch.equal(iou(maps, masks, "nearest", seed=3), iou(maps, masks, "nearest", seed=3))
    assert not torch.equal(iou(maps, masks, "nearest", seed=3), iou(maps, masks, "nearest", seed=4))


# --- edges of the input --------------------------------------------------------------------------------------------------------


def test_an_empty_mask_is_nan_and_a_full_one_is_one() -> None:
    masks = torch.zeros(3, 1, 8, 8, dtype=torch.bool)
    masks[1], masks[2, 0, 0, 0] = True, True
    for metric in (pointing_game, energy, iou):
        scores = metric(torch.rand(3, 1, 4, 4), masks)
        assert scores.isnan().tolist() == [True, False, False]
        assert float(scores[1]) == pytest.approx(1.0)


def test_negative_values_have_no_energy_and_no_mass_is_uniform() -> None:
    masks = boxes(2)
    share = masks.flatten(1).double().mean(1)
    torch.testing.assert_close(energy(torch.full((2, 1, 8, 8), -1.0), masks), share)
    torch.testing.assert_close(energy(masks.float() - 0.5, masks), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_maps_that_are_not_finite_are_refused(bad: float) -> None:
    maps = torch.rand(6, 1, 8, 8)
    maps[2, 0, 3, 3] = bad
    for metric in (pointing_game, energy, iou):
        with pytest.raises(ValueError, match=r"1 of 6 maps are not finite \(the first is number 2\)"):
            metric(maps, boxes())


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4), "torch.bool"),
        (torch.rand(2, 3, 4, 4), torch.ones(2, 1, 4, 4).bool(), "expected .N, 1, h, w"),
        (torch.rand(3, 1, 4, 4), torch.ones(2, 1, 4, 4).bool(), "3 maps but 2 masks"),
        (torch.rand(0, 1, 4, 4), torch.ones(0, 1, 4, 4).bool(), "no maps"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(maps: Tensor, masks: Tensor, message: str) -> None:
    for metric in (pointing_game, energy, iou):
        with pytest.raises(ValueError, match=message):
            metric(maps, masks)
    with pytest.raises(ValueError, match="draws is 0"):
        iou(torch.rand(1, 1, 4, 4), torch.ones(1, 1, 4, 4).bool(), draws=0)
    with pytest.raises(ValueError, match="'bilinear' or 'nearest'"):
        energy(torch.rand(1, 1, 4, 4), torch.ones(1, 1, 8, 8).bool(), "area")  # type: ignore[arg-type]


# --- controls ------------------------------------------------------------------------------------------------------------------


def test_chance_is_what_the_uniform_map_gets() -> None:
    masks = boxes()
    masks[3] = False
    assert chance(masks) == pytest.approx(float(pointing_game(uniform(masks), masks).nanmean()), abs=1e-12)
    assert math.isnan(chance(torch.zeros(2, 1, 4, 4, dtype=torch.bool)))


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 9, 12)])
def test_the_centred_gaussian_is_centred(shape: tuple[int, int, int, int]) -> None:
    bump = centred_gaussian(torch.rand(shape))
    assert bump.shape == (2, 1, *shape[2:])
    assert torch.equal(bump, bump.flip(2)) and torch.equal(bump, bump.flip(3))  # noqa: PT018
    rows = bump[0, 0, :, shape[3] // 2]
    assert float(rows.argmax()) in (shape[2] / 2, shape[2] / 2 - 1, (shape[2] - 1) / 2)
    # at a distance of one standard deviation, H / 4, along a row from the very middle
    wide = centred_gaussian(torch.rand(1, 1, 16, 9))
    assert float(wide[0, 0, 12, 4] / wide[0, 0, 8, 4]) == pytest.approx(math.exp(-(4.5**2 - 0.5**2) / 32))


def test_edges_are_sobel_and_a_flat_image_has_none() -> None:
    assert float(edge_map(torch.full((1, 3, 6, 6), 0.4)).max()) < 1e-6
    step = torch.zeros(1, 3, 6, 6)
    step[..., 3:] = 1.0
    edges = edge_map(step)[0, 0]
    assert edges[:, 2:4].eq(4).all()
    assert edges[:, [0, 1, 4, 5]].eq(0).all()
    torch.testing.assert_close(edge_map(step.transpose(2, 3))[0, 0], edges.T)
    assert torch.equal(edge_map((step * 255).byte()), edge_map(step * 255))


def test_edges_are_those_of_the_two_filters_in_a_fraction_of_their_time() -> None:
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    filters = torch.stack([across, across.T])[:, None]

    def filtered(images: Tensor) -> Tensor:
        grey = F.pad(images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
        return F.conv2d(grey, filters).norm(dim=1, keepdim=True)

    images = 255 * torch.rand(64, 3, 32, 28, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(edge_map(images), filtered(images), rtol=1e-5, atol=1e-3)
    quick, slow = (min(timeit.Timer(partial(how, images)).repeat(9, number=1)) for how in (edge_map, filtered))
    assert quick < slow / 2, f"{1e6 * quick / 64:.0f} of {1e6 * slow / 64:.0f} microseconds an image"


def test_the_map_of_another_image_is_nobodys_own() -> None:
    maps = torch.arange(400.0).reshape(400, 1, 1, 1)
    others = other_image(maps)
    assert not (others == maps).any()
    assert torch.equal(others.sort(0).values, maps)
    # in a set that is sorted by class, hardly anyone gets the map of a neighbour, of the same class or scene
    assert ((others - maps).abs() <= 5).float().mean() < 0.1
    assert torch.equal(other_image(maps), others)
    assert not torch.equal(other_image(maps, seed=1), others)
    with pytest.raises(ValueError, match="at least 2"):
        other_image(maps[:1])


def test_blurred_noise_is_seeded_smooth_and_favours_no_place() -> None:
    masks = torch.zeros(3000, 1, 16, 16, dtype=torch.bool)
    masks[..., 4:10, 5:11] = True
    maps = blurred_random(masks, seed=1)
    assert torch.equal(maps, blurred_random(masks, seed=1))
    assert not torch.equal(maps, blurred_random(masks, seed=2))
    assert float(maps.min()) == 0.0
    assert float(maps.max()) == pytest.approx(1.0)
    # neighbours are alike: a step is much smaller than a step of white noise of the same range
    assert float(maps.diff(dim=3).abs().mean()) < 0.12
    assert float(pointing_game(maps, masks).mean()) == pytest.approx(chance(masks), abs=4 * math.sqrt(0.14 * 0.86 / 3000))
    for sigma in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="sigma"):
            blurred_random(masks, sigma=sigma)


def test_noise_points_at_random_by_cells_and_towards_the_border_by_pixels() -> None:
    """What the module says of the two modes, and why the controls belong beside every number."""
    maps = torch.rand(4000, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(4000, 1, 32, 32, dtype=torch.bool)
    masks[..., 8:24, 8:24] = True
    spread = 4 * math.sqrt(0.25 * 0.75 / 4000)
    assert float(pointing_game(maps, masks, "nearest").mean()) == pytest.approx(0.25, abs=spread)
    assert float(pointing_game(maps, masks, "bilinear").mean()) < 0.25 - spread


# --- the whole table -----------------------------------------------------------------------------------------------------------


def test_localize_gives_the_table_of_the_run_folder() -> None:
    masks = boxes(40, 64)
    masks[7] = False
    noise = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    result = localize({"AIB": masks.float(), "noise": noise}, masks, masks.float())
    assert (result["n"], result["excluded"]) == (40, int((~masks.flatten(1).any(1)).sum()))
    assert result["excluded"] >= 1
    assert list(result["maps"])[:2] == ["AIB", "noise"]
    assert set(result["maps"]) == {"AIB", "noise", "centre", "uniform", "random", "other image", "edges", "chance"}
    for metrics in result["maps"].values():
        assert set(metrics) == {"pointing_game", "energy", "iou"}
        for mean, low, high in metrics.values():
            assert 0 <= low <= mean + 1e-12 <= high + 2e-12 <= 1 + 3e-12
    assert result["maps"]["AIB"]["iou"] == [1.0, 1.0, 1.0]
    shares = result["maps"]["chance"]
    assert shares["pointing_game"][0] == pytest.approx(chance(masks))
    for metric in ("pointing_game", "energy"):
        assert result["maps"]["uniform"][metric] == pytest.approx(shares[metric])
    assert result["maps"]["uniform"]["iou"] == pytest.approx(shares["iou"], abs=0.02)
    for metric, interval in ((pointing_game, share_interval), (energy, bootstrap_mean)):
        expected = list(interval(metric(noise, masks).numpy()))
        assert result["maps"]["noise"][metric.__name__] == pytest.approx(expected, abs=1e-12)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert localize({"AIB": masks.float(), "noise": noise}, masks, masks.float()) == result


def test_localize_says_how_far_maps_stand_above_the_best_of_their_controls() -> None:
    masks = boxes(40, 64)
    maps = {"truth": masks.float(), "flat": torch.ones(40, 1, 8, 8)}
    controls = {"centre": centred_gaussian(masks), "half": masks.float() + 1, "uniform": uniform(masks)}
    of = {"truth": ["centre", "half", "uniform"], "flat": ["centre", "uniform"]}
    result = localize(maps, masks, controls=controls, controls_of=of)
    assert set(result["maps"]) == {*maps, *controls, "chance"}
    found = result["above"]["truth"]["energy"]
    expected = energy(masks.float(), masks) - energy(masks.float() + 1, masks)
    assert found == {"control": "half", "difference": pytest.approx(list(bootstrap_mean(expected.numpy())))}
    assert result["above"]["truth"]["pointing_game"]["difference"] == list(
        paired_shares(*2 * [pointing_game(masks.float(), masks)])
    )
    for metric, found in result["above"]["flat"].items():
        assert found["difference"][1] <= 0, metric  # a constant map never wins
    with pytest.raises(ValueError, match="'half', which is the name of a control; these are centre, half, uniform, chance"):
        localize({"half": masks.float()}, masks, controls=controls)


def test_localize_of_one_image_has_no_other_image() -> None:
    masks = boxes(1)
    assert "other image" not in localize({"AIB": masks.float()}, masks)["maps"]


def test_localize_refuses_what_it_cannot_score() -> None:
    masks = boxes()
    with pytest.raises(ValueError, match="no map"):
        localize({}, masks)
    with pytest.raises(ValueError, match="name of a control"):
        localize({"centre": masks.float()}, masks)
    with pytest.raises(ValueError, match="all 6 masks are empty"):
        localize({"AIB": masks.float()}, torch.zeros_like(masks))


def test_scoring_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    masks, maps = boxes(), torch.rand(6, 1, 8, 8)
    whole = localization_scores(maps, masks)
    monkeypatch.setattr("aib.interpret.localization._PIXELS", 32 * 32 * 2)
    blocks = localization_scores(maps, masks)
    for name in whole:
        assert whole[name].shape == (6,)
        assert torch.equal(blocks[name], whole[name])
    assert torch.equal(whole["energy"], energy(maps, masks))


# --- intervals -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("errors", "n"), [(0, 10), (1, 7), (50, 1000), (999, 1000), (10, 10)])
@pytest.mark.parametrize(("confidence", "z"), [(0.9, 1.6448536269514722), (0.95, 1.959963984540054)])
def test_wilson_ends_solve_the_score_equation(errors: int, n: int, confidence: float, z: float) -> None:
    """The interval holds every p with |errors / n - p| <= z sqrt(p (1 - p) / n): its ends are the roots of a quadratic in p."""
    share = errors / n
    roots = np.sort(np.roots([n + z * z, -(2 * errors + z * z), n * share * share]).real)
    assert wilson_interval(errors, n, confidence) == pytest.approx(tuple(roots), abs=1e-9)


def test_wilson_equals_a_published_value() -> None:
    """Newcombe (1998), table 1: 81 of 263 gives 0.2553 to 0.3662, 0 of 20 gives 0 to 0.1611."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


@pytest.mark.parametrize(("errors", "n"), [(-1, 3), (4, 3), (0, 0)])
def test_wilson_refuses_impossible_counts(errors: int, n: int) -> None:
    with pytest.raises(ValueError, match="errors in"):
        wilson_interval(errors, n)
    with pytest.raises(ValueError, match="confidence"):
        wilson_interval(1, 3, confidence=95)


def test_bootstrap_is_seeded_leaves_nan_out_and_is_as_wide_as_theory_says() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    mean, low, high = bootstrap_mean(values, seed=1)
    assert (mean, low, high) == bootstrap_mean(values, seed=1)
    assert (low, high) != bootstrap_mean(values, seed=2)[1:]
    assert mean == pytest.approx(values.mean())
    assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(400), rel=0.1)
    assert bootstrap_mean(np.insert(values, [0, 17, 400], math.nan), seed=1) == (mean, low, high)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for i in range(200):
        _, low, high = bootstrap_mean(rng.random(60), seed=i, draws=300)
        hits += low <= 0.5 <= high
    assert 180 <= hits <= 199


def test_bootstrap_of_nothing_one_value_and_bad_input() -> None:
    assert all(math.isnan(end) for end in bootstrap_mean([math.nan, math.nan], seed=0))
    assert bootstrap_mean([0.25], seed=0) == (0.25, 0.25, 0.25)
    for values in ([[1.0, 2.0]], [math.inf, 1.0]):
        with pytest.raises(ValueError, match="values"):
            bootstrap_mean(values)
    with pytest.raises(ValueError, match="draws"):
        bootstrap_mean([1.0], draws=0)


def test_paired_difference_is_a_t_interval() -> None:
    """Differences 0.005, 0.001, 0.007 and the 97.5 % quantile of Student's t with two degrees of freedom, 4.302653."""
    mean, low, high = paired_difference([0.081, 0.079, 0.084], [0.076, 0.078, 0.077])
    reach = 4.302653 * math.sqrt(((0.005 - mean) ** 2 + (0.001 - mean) ** 2 + (0.007 - mean) ** 2) / 2 / 3)
    assert mean == pytest.approx(0.013 / 3)
    assert (low, high) == pytest.approx((mean - reach, mean + reach), rel=1e-6)
    assert low < 0 < high
    single = paired_difference([0.3], [0.1])
    assert single[0] == pytest.approx(0.2)
    assert math.isnan(single[1])
    assert math.isnan(single[2])
    for pair in (([0.1], [0.1, 0.2]), ([], []), ([math.nan], [0.1])):
        with pytest.raises(ValueError):
            paired_difference(*pair)

"""The equations against independent implementations."""

from __future__ import annotations

import math
from collections.abc import Callable
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from aib import functional
from aib.functional import (
    STD_FLOOR,
    STD_OFFSET,
    autocast_off,
    gaussian_kl,
    modulate,
    nats_to_bits,
    nearest_anchor,
    positive_std,
    reparameterize,
    resize_maps,
    straight_through,
)

floats = st.floats(-30, 30, width=32)
stds = st.floats(2**-13, 30, width=32)
SIXTY_FOURTHS = st.integers(-64, 128).map(lambda n: n / 64)  # sums and halves of these are exact in float32


def kl_to_standard_normal(mean: Tensor, std: Tensor) -> Tensor:
    mean, std = mean.double(), std.double()
    return kl_divergence(Normal(mean, std), Normal(torch.zeros_like(mean), torch.ones_like(std))).sum(-1)


# --- divergence ---------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(floats, stds), min_size=1, max_size=8))
def test_kl_is_that_of_torch_distributions(pairs: list[tuple[float, float]]) -> None:
    mean, std = torch.tensor(pairs).unbind(-1)
    torch.testing.assert_close(gaussian_kl(mean, std).double(), kl_to_standard_normal(mean, std), rtol=1e-5, atol=1e-5)


def test_kl_sums_over_the_last_dimension_only() -> None:
    mean, std = torch.randn(2, 3, 5), torch.rand(2, 3, 5) + 0.1
    assert gaussian_kl(mean, std).shape == (2, 3)
    torch.testing.assert_close(gaussian_kl(mean, std).double(), kl_to_standard_normal(mean, std), rtol=1e-5, atol=1e-5)


@given(floats, stds)
def test_kl_is_least_at_the_standard_normal(mean: float, std: float) -> None:
    here = gaussian_kl(torch.tensor([mean]), torch.tensor([std])).item()
    assert here >= -1e-6
    if abs(mean) > 0.01 or abs(std - 1) > 0.01:
        assert here > 0


def test_kl_and_its_gradient_vanish_at_the_standard_normal() -> None:
    mean, std = torch.zeros(4, requires_grad=True), torch.ones(4, requires_grad=True)
    divergence = gaussian_kl(mean, std)
    assert divergence.item() == 0
    for gradient in torch.autograd.grad(divergence, (mean, std)):
        assert gradient.abs().max() == 0


@given(st.lists(st.tuples(floats, st.floats(0, 5, width=32)), min_size=1, max_size=8))
def test_reference_kl_has_the_exponential_of_the_std_for_its_scale(pairs: list[tuple[float, float]]) -> None:
    mean, std = torch.tensor(pairs).unbind(-1)
    expected = kl_to_standard_normal(mean, std.double().exp())
    torch.testing.assert_close(gaussian_kl(mean, std, "reference").double(), expected, rtol=1e-5, atol=1e-5)


def test_reference_kl_pushes_the_noise_out_and_the_papers_pushes_it_in() -> None:
    std = torch.full((3,), 0.05, requires_grad=True)
    (reference,) = torch.autograd.grad(gaussian_kl(torch.zeros(3), std, "reference"), std)
    (paper,) = torch.autograd.grad(gaussian_kl(torch.zeros(3), std, "paper"), std)
    assert (reference > 0).all()
    assert (paper < 0).all()


def test_the_two_kinds_start_five_orders_of_magnitude_apart() -> None:
    mean, std = torch.zeros(256), positive_std(torch.zeros(256))
    assert gaussian_kl(mean, std, "paper").item() == pytest.approx(1153, abs=0.5)
    assert gaussian_kl(mean, std, "reference").item() == pytest.approx(0.0116, abs=5e-5)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"kl is 'papers'; it must be 'paper' or 'reference'"):
        gaussian_kl(torch.zeros(1), torch.ones(1), "papers")  # type: ignore[arg-type]


def test_bits() -> None:
    assert nats_to_bits(math.log(8)) == pytest.approx(3)


# --- standard deviation and draws ---------------------------------------------------------------------------------------------


def test_the_offset_is_a_softplus_of_minus_five() -> None:
    assert STD_OFFSET == -5.0
    assert positive_std(torch.zeros(1)).item() == pytest.approx(math.log1p(math.exp(-5)), rel=1e-6)
    assert positive_std(torch.zeros(1)).item() == pytest.approx(0.0067, abs=5e-5)
    assert positive_std(torch.zeros(1), offset=0.0).item() == pytest.approx(math.log(2), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["paper", "reference"])
def test_std_and_kl_stay_finite_at_extremes(dtype: torch.dtype, kind: str) -> None:
    raw = torch.tensor([-1e4, -100.0, -20.0, 0.0, 20.0, 80.0, 1e4], dtype=dtype)
    std = positive_std(raw)
    assert std.dtype == torch.float32
    assert (std >= STD_FLOOR).all()
    assert std.log().isfinite().all()
    mean, std = raw.float().requires_grad_(), std.requires_grad_()
    divergence = gaussian_kl(mean, std, kind)  # type: ignore[arg-type]
    assert divergence.isfinite()
    for gradient in torch.autograd.grad(divergence, (mean, std)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("extreme", [-1e4, 1e4])
def test_std_follows_the_softplus_at_the_ends(dtype: torch.dtype, extreme: float) -> None:
    raw = torch.tensor(extreme, dtype=dtype)
    assert positive_std(raw).item() == pytest.approx(max(raw.item() - 5, STD_FLOOR), rel=1e-6)


def test_draws_have_the_stated_mean_and_std() -> None:
    draws = reparameterize(torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0]), torch.randn(100_000, 2))
    torch.testing.assert_close(draws.mean(0), torch.tensor([2.0, -1.0]), rtol=0, atol=0.05)
    torch.testing.assert_close(draws.std(0), torch.tensor([0.5, 3.0]), rtol=0.02, atol=0)


# --- nearest anchor -----------------------------------------------------------------------------------------------------------


def nearest_by_table(scores: list[float], anchors: list[float]) -> list[float]:
    """The value of the nearest anchor, the smaller of two equally near ones."""
    return [min(anchors, key=lambda anchor: (abs(score - anchor), anchor)) for score in scores]


@given(st.lists(SIXTY_FOURTHS, min_size=1, max_size=20), st.lists(SIXTY_FOURTHS, min_size=1, max_size=12))
def test_nearest_anchor_is_the_argmin_with_ties_to_the_smaller(scores: list[float], anchors: list[float]) -> None:
    indices = nearest_anchor(torch.tensor(scores), torch.tensor(anchors))
    assert indices.dtype == torch.int64
    assert torch.tensor(anchors)[indices].tolist() == nearest_by_table(scores, anchors)


@given(st.lists(st.floats(-2, 3, width=32), min_size=1, max_size=20), st.lists(st.floats(-1, 2, width=32), min_size=1, max_size=12))
def test_no_anchor_is_nearer_than_the_nearest(scores: list[float], anchors: list[float]) -> None:
    values = torch.tensor(anchors).double()
    distance = (torch.tensor(scores).double()[:, None] - values).abs()
    chosen = distance.gather(1, nearest_anchor(torch.tensor(scores), torch.tensor(anchors))[:, None]).squeeze(1)
    assert (chosen <= distance.amin(1) + 1e-6).all()


@pytest.mark.parametrize(
    ("score", "anchors", "index"),
    [
        (0.5, [0.0, 1.0], 0),  # a tie goes to the smaller
        (0.5, [1.0, 0.0], 1),  # whatever their order
        (0.51, [1.0, 0.0], 0),
        (-7.0, [0.25], 0),
        (0.3, [0.9, 0.3, 0.3], 1),
        (float("inf"), [0.0, 2.0, 1.0], 1),
        (float("-inf"), [0.5, 0.0, 1.0], 1),
    ],
)
def test_nearest_anchor_examples(score: float, anchors: list[float], index: int) -> None:
    assert nearest_anchor(torch.tensor([score]), torch.tensor(anchors)).tolist() == [index]


def test_a_nan_score_still_indexes_an_anchor() -> None:
    assert 0 <= nearest_anchor(torch.tensor([float("nan")]), torch.tensor([0.2, 0.4])).item() <= 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_scores_pick_the_anchors_of_their_float32_copies(dtype: torch.dtype) -> None:
    # 50 anchors are closer than two neighbouring bfloat16 numbers near 1, so comparing in bfloat16 would go wrong
    scores, anchors = torch.rand(10_000).to(dtype), torch.linspace(0, 1, 50)
    expected = nearest_anchor(scores.float(), anchors)
    assert torch.equal(nearest_anchor(scores, anchors), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest_anchor(scores, anchors), expected)
    in_half = (scores[:, None] - anchors.to(dtype)).abs().argmin(1)
    if dtype == torch.bfloat16:
        assert not torch.equal(in_half, expected)


@given(
    st.lists(st.one_of(SIXTY_FOURTHS, st.floats(width=32)), min_size=1, max_size=30),
    st.lists(st.one_of(SIXTY_FOURTHS, st.floats(width=32)), min_size=1, max_size=30),
    st.sampled_from([1, 3, 100]),
)
def test_cells_count_what_a_binary_search_does(scores: list[float], edges: list[float], crowd: int) -> None:
    # the edges are among the scores: what lies on an edge is where the two could differ
    values, ordered = torch.tensor(scores + edges), torch.tensor(edges).sort().values
    with mock.patch.multiple(functional, FEW_SCORES=0, MOST_IN_CELL=crowd):
        assert torch.equal(functional._count_below(values, ordered), torch.bucketize(values, ordered, out_int32=True))


@pytest.mark.parametrize("spread", [lambda q: torch.linspace(0, 1, q), torch.rand, lambda q: torch.rand(q) ** 8, torch.ones])
@pytest.mark.parametrize("num_anchors", [1, 2, 20, 256])
def test_many_scores_find_the_anchors_that_few_do(spread: Callable[[int], Tensor], num_anchors: int) -> None:
    scores, anchors = torch.rand(2 * functional.FEW_SCORES) * 1.2 - 0.1, spread(num_anchors)
    few = torch.cat([nearest_anchor(some, anchors) for some in scores.split(1000)])
    assert torch.equal(nearest_anchor(scores, anchors), few)


def test_crowded_edges_are_left_to_the_binary_search() -> None:
    scores, even = torch.rand(functional.FEW_SCORES), torch.linspace(0, 1, 20)
    with mock.patch.object(torch, "bucketize", side_effect=torch.bucketize) as search:
        nearest_anchor(scores, even)
        assert not search.called
        nearest_anchor(scores, even**12)
        assert search.called


@pytest.mark.parametrize("num_anchors", [1, 2, 4, 20])
def test_a_nan_has_the_same_index_among_few_scores_and_many(num_anchors: int) -> None:
    scores, anchors = torch.rand(functional.FEW_SCORES), torch.linspace(0, 1, num_anchors)
    scores[::7] = math.nan
    scores[1::7] = math.inf
    scores[2::7] = -math.inf
    for spread in (anchors, torch.full_like(anchors, 0.5)):
        indices = nearest_anchor(scores, spread)
        assert torch.equal(indices, torch.cat([nearest_anchor(some, spread) for some in scores.split(1000)]))
        assert 0 <= indices.min() <= indices.max() < num_anchors


def test_nearest_anchor_keeps_the_shape_of_strided_scores() -> None:
    scores, anchors = torch.rand(3, 4, 5).permute(2, 0, 1), torch.tensor([0.7, 0.1, 0.4])
    expected = (scores[..., None] - anchors).abs().argmin(-1)
    assert torch.equal(nearest_anchor(scores, anchors), expected)


def test_nearest_anchor_makes_no_table(largest_tensor) -> None:
    scores, anchors = torch.rand(200_000), torch.rand(1024)
    with largest_tensor() as watched:
        nearest_anchor(scores, anchors)
    assert watched.largest == len(scores)
    with largest_tensor() as watched:  # the watch sees a table where there is one
        (scores[:2000, None] - anchors).abs().argmin(1)
    assert watched.largest == 2000 * 1024


@pytest.mark.parametrize("anchors", [torch.empty(0), torch.zeros(2, 2), torch.tensor(0.5)])
def test_anchors_that_are_no_list_are_refused(anchors: Tensor) -> None:
    with pytest.raises(ValueError, match=r"anchors have shape .*; expected \(Q,\) with Q >= 1"):
        nearest_anchor(torch.rand(3), anchors)


# --- straight-through ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(-(2.0**100), 2.0**100, width=32), floats), min_size=1, max_size=8))
def test_straight_through_has_exactly_the_quantised_values(pairs: list[tuple[float, float]]) -> None:
    scores, quantized = torch.tensor(pairs).unbind(-1)
    assert torch.equal(straight_through(scores.requires_grad_(), quantized), quantized)


def test_straight_through_hands_the_gradient_to_the_scores_alone() -> None:
    scores, quantized = torch.rand(6, requires_grad=True), torch.rand(6, requires_grad=True)
    upstream = torch.randn(6)
    to_scores, to_quantized = torch.autograd.grad(
        straight_through(scores, quantized), (scores, quantized), upstream, allow_unused=True
    )
    assert torch.equal(to_scores, upstream)
    assert to_quantized is None


# --- modulation ---------------------------------------------------------------------------------------------------------------


def test_modulation_residual_and_plain() -> None:
    features, attention = torch.randn(2, 3, 4, 5), torch.rand(2, 1, 4, 5)
    torch.testing.assert_close(modulate(features, attention), features + features * attention)
    torch.testing.assert_close(modulate(features, attention, "plain"), features * attention)
    assert torch.equal(modulate(features, torch.zeros_like(attention)), features)
    assert modulate(features, torch.zeros_like(attention), "plain").abs().max() == 0


@pytest.mark.parametrize("kind", ["residual", "plain"])
def test_modulation_keeps_the_dtype_of_the_features(kind: str) -> None:
    assert modulate(torch.randn(1, 2, 3, 3).bfloat16(), torch.rand(1, 1, 3, 3), kind).dtype == torch.bfloat16  # type: ignore[arg-type]


def test_an_unknown_modulation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"modulation is 'add'; it must be 'residual' or 'plain'"):
        modulate(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), "add")  # type: ignore[arg-type]


# --- resizing -----------------------------------------------------------------------------------------------------------------

SIZES = [((8, 8), (32, 32)), ((16, 16), (32, 32)), ((7, 7), (224, 224)), ((4, 6), (10, 9)), ((5, 3), (13, 31)), ((9, 9), (37, 50))]


def hot_cell(size: tuple[int, int], row: int, column: int) -> Tensor:
    maps = torch.zeros(1, 1, *size)
    maps[0, 0, row, column] = 1
    return maps


@pytest.mark.parametrize(("small", "large"), SIZES)
def test_a_hot_cell_lands_where_it_was(small: tuple[int, int], large: tuple[int, int]) -> None:
    # a pixel belongs to the cell that its centre falls into
    rows = ((torch.arange(large[0]) + 0.5) * small[0] / large[0]).floor().long()
    columns = ((torch.arange(large[1]) + 0.5) * small[1] / large[1]).floor().long()
    for row in range(small[0]):
        for column in range(small[1]):
            maps = hot_cell(small, row, column)
            cell = ((rows == row)[:, None] & (columns == column)).float()
            assert torch.equal(resize_maps(maps, large, "nearest")[0, 0], cell)
            smooth = resize_maps(maps, large)[0, 0]
            assert smooth.shape == large
            assert cell.flatten()[smooth.argmax()] == 1


@pytest.mark.parametrize("scale", [2, 4, 7])
def test_bilinear_resizing_has_half_pixel_centres(scale: int) -> None:
    def centre(maps: Tensor) -> float:
        weights = maps[0, 0].sum(0)
        return ((weights * torch.arange(len(weights))).sum() / weights.sum()).item()

    side = 6
    for column in range(1, side - 1):  # at the border the map is extended, so that its centre of mass moves
        maps, expected = hot_cell((side, side), 2, column), (column + 0.5) * scale - 0.5
        assert centre(resize_maps(maps, (side * scale, side * scale))) == pytest.approx(expected, abs=1e-3)
        shifted = F.interpolate(maps, (side * scale, side * scale), mode="bilinear", align_corners=True)
        assert column in (2, 3) or centre(shifted) != pytest.approx(expected, abs=0.1)


def test_nearest_resizing_makes_no_new_values() -> None:
    maps = torch.rand(2, 1, 5, 5)
    assert set(resize_maps(maps, (13, 17), "nearest").flatten().tolist()) == set(maps.flatten().tolist())


def test_an_unknown_resizing_mode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mode is 'bicubic'; it must be 'bilinear' or 'nearest'"):
        resize_maps(torch.zeros(1, 1, 2, 2), (4, 4), "bicubic")  # type: ignore[arg-type]


def test_autocast_off_works_on_devices_with_and_without_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16), autocast_off(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    with autocast_off(torch.device("meta")):
        assert torch.empty(1, device="meta").is_meta

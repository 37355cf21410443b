"""Fills: the noisy linear one against a dense solve of its definition, and all of them against what they promise."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aib.interpret.imputation import FILLS, TOLERANCE, impute, impute_each, seeded_generator

MEAN = (0.2, 0.5, 0.7)


def pixels(count: int = 3, height: int = 16, width: int = 16, seed: int = 0) -> Tensor:
    """Smooth colours and some noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 3, 3, generator=generator) * 200
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return smooth + 55 * torch.rand(count, 3, height, width, generator=generator)


def by_cells(scores: Tensor, share: float, height: int, width: int) -> Tensor:
    """(N, 1, H, W) bool: the given share of the cells (N, rows, columns) with the highest scores."""
    count, rows, columns = scores.shape
    top = scores.flatten(1).topk(round(share * rows * columns)).indices
    cells = torch.zeros(count, rows * columns, dtype=torch.bool).scatter_(1, top, True).unflatten(1, (rows, columns))
    return cells[:, (torch.arange(height) * rows // height)[:, None], torch.arange(width) * columns // width][:, None]


def dense(image: Tensor, removed: Tensor) -> Tensor:
    """The weighted means of one image (C, H, W) as the equations of the module's docstring, one by one."""
    channels, height, width = image.shape
    system, right = torch.eye(height * width).double(), image.double().reshape(channels, -1).T.clone()
    for row in range(height):
        for column in range(width):
            if not removed[row, column]:
                continue
            near = {}
            for i in (-1, 0, 1):
                for j in (-1, 0, 1):
                    if (i or j) and 0 <= row + i < height and 0 <= column + j < width:
                        near[(row + i) * width + column + j] = 1 / 12 if i and j else 1 / 6
            number = row * width + column
            right[number] = 0
            for other, weight in near.items():
                system[number, other] = -weight / sum(near.values())
    return torch.linalg.solve(system, right).T.reshape(image.shape)


def blurred(image: Tensor, deviation: float) -> Tensor:
    """An image (C, H, W) through a Gaussian of so many pixels, pixel by pixel; over the border there is nothing."""
    height, width = image.shape[1:]
    rows, columns = torch.arange(height).double(), torch.arange(width).double()
    found = torch.zeros_like(image, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            square = (rows[:, None] - row).square() + (columns - column).square()
            weights = (-square / (2 * deviation**2)).exp()
            found[:, row, column] = (image.double() * weights).sum((1, 2)) / weights.sum()
    return found.float()


def largest_error(images: Tensor, removed: Tensor) -> float:
    filled = impute(images, removed, "noisy_linear", MEAN, noise=0.0)
    exact = torch.stack([dense(image, mask[0]) for image, mask in zip(images, removed)])
    return float((filled - exact).abs().max())


# --- the linear system ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [1 / 64, 1 / 8, 1 / 2, 7 / 8, 63 / 64])
@pytest.mark.parametrize("kind", ["scattered", "from a corner", "from the middle"])
def test_the_linear_fill_is_the_dense_solution(kind: str, share: float) -> None:
    place = torch.arange(8.0)
    scores = {
        "scattered": torch.rand(1, 8, 8),
        "from a corner": -(place[:, None] + 1.01 * place)[None],
        "from the middle": -((place[:, None] - 3.4).square() + (place - 3.5).square())[None],
    }[kind]
    images = 255 * torch.rand(1, 3, 32, 32).round()  # black and white: the hardest to get right
    assert largest_error(images, by_cells(scores, share, 32, 32)) < TOLERANCE


@given(seed=st.integers(0, 10_000), height=st.integers(2, 19), width=st.integers(2, 19), share=st.floats(0.02, 0.98))
@settings(max_examples=40, deadline=None)
def test_any_mask_on_any_size_is_solved(seed: int, height: int, width: int, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    removed = torch.rand(2, 1, height, width, generator=generator) < share
    removed[:, :, seed % height, seed % width] = False
    assert largest_error(pixels(2, height, width, seed), removed) < TOLERANCE


def test_a_large_image_fulfils_its_equations() -> None:
    images = pixels(1, 224, 224)
    removed = by_cells(torch.rand(1, 8, 8), 0.75, 224, 224)
    filled = impute(images, removed, "noisy_linear", MEAN, noise=0.0).double()
    kernel = torch.tensor([[1.0, 2, 1], [2, 0, 2], [1, 2, 1]]).double().expand(3, 1, 3, 3) / 12
    around = torch.nn.functional.conv2d(filled, kernel, padding=1, groups=3)
    weight = torch.nn.functional.conv2d(torch.ones_like(filled), kernel, padding=1, groups=3)
    # an error of TOLERANCE in one pixel would leave as much, and float32 alone leaves 1e-5
    assert float(((around / weight - filled) * removed).abs().max()) < TOLERANCE / 50
    assert float(((around / weight - filled) * removed).abs().mean()) < TOLERANCE / 1000


def test_an_image_one_pixel_high_is_filled_too() -> None:
    images = torch.tensor([0.0, 9, 9, 60, 9, 9, 9]).reshape(1, 1, 1, 7)
    removed = torch.tensor([False, True, True, False, True, True, True]).reshape(1, 1, 1, 7)
    filled = impute(images, removed, "noisy_linear", (0.5,), noise=0.0).flatten()
    torch.testing.assert_close(filled, torch.tensor([0.0, 20, 40, 60, 60, 60, 60]), atol=0.1, rtol=0)


def test_a_single_pixel_is_the_mean_of_its_neighbours() -> None:
    images = torch.arange(9.0).reshape(1, 1, 3, 3).square()
    removed = torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    removed[..., 1, 1] = True
    found = impute(images, removed, "noisy_linear", (0.5,), noise=0.0)[0, 0, 1, 1]
    assert float(found) == pytest.approx((1 + 9 + 25 + 49) / 6 + (0 + 4 + 36 + 64) / 12, abs=1e-3)
    corner = removed.roll((-1, -1), (2, 3))
    found = impute(images, corner, "noisy_linear", (0.5,), noise=0.0)[0, 0, 0, 0]
    assert float(found) == pytest.approx((1 / 6 * (1 + 9) + 1 / 12 * 16) / (5 / 12), abs=1e-3)


def test_the_linear_fill_never_leaves_the_range_of_what_is_kept_and_continues_a_slope() -> None:
    images, removed = pixels(8), by_cells(torch.rand(8, 8, 8), 0.6, 16, 16)
    filled = impute(images, removed, "noisy_linear", MEAN, noise=0.0)
    kept = torch.where(removed, torch.nan, images).flatten(2)
    low, high = kept.nan_to_num(math.inf).amin(2), kept.nan_to_num(-math.inf).amax(2)
    assert bool((filled.flatten(2).amin(2) >= low - TOLERANCE).all())
    assert bool((filled.flatten(2).amax(2) <= high + TOLERANCE).all())
    slope = (3 * torch.arange(16.0)[:, None] + 5 * torch.arange(16.0)).expand(1, 3, 16, 16)
    inside = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    inside[..., 4:11, 3:12] = True
    assert float((impute(slope, inside, "noisy_linear", MEAN, noise=0.0) - slope).abs().max()) < TOLERANCE


# --- every fill ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", FILLS)
def test_kept_pixels_stay_bit_for_bit_and_all_removed_is_the_mean_or_the_blurred_image(fill: str) -> None:
    images, removed = pixels(4), torch.rand(4, 1, 16, 16) < 0.5
    removed[2], removed[3] = False, True
    filled = impute(images, removed, fill, MEAN)
    assert filled.dtype == torch.float32
    assert torch.equal(filled.masked_select(~removed), images.masked_select(~removed))
    assert torch.equal(filled[2], images[2])
    nothing = (255 * torch.tensor(MEAN))[:, None, None].expand(3, 16, 16)
    if fill == "blur":
        torch.testing.assert_close(filled[3], blurred(images[3], 2.0), atol=1e-3, rtol=0)
        assert float((filled[3] - nothing).abs().max()) > 10
    else:
        assert torch.equal(filled[3], nothing)
    assert not torch.equal(filled[:2], images[:2])


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("side", [16, 19])
def test_an_image_is_filled_alike_in_any_batch(fill: str, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images, removed = pixels(7, side, side), torch.rand(7, 5, side, side) < 0.6
    positions = torch.tensor([3, 1, 4, 15, 9, 2, 6])
    whole = impute_each(images, removed, fill, MEAN, seed=8, positions=positions)
    for i in range(7):
        one = slice(i, i + 1)
        assert torch.equal(impute_each(images[one], removed[one], fill, MEAN, seed=8, positions=positions[one]), whole[one])
        masked = impute(images[one], removed[one, 2:3], fill, MEAN, seed=8, positions=positions[one])
        assert torch.equal(masked, whole[one, 2])
    # masks solved together, in blocks of other sizes
    monkeypatch.setattr("aib.interpret.imputation._ELEMENTS", 3 * side * side * 4)
    assert torch.equal(impute_each(images, removed, fill, MEAN, seed=8, positions=positions), whole)


def test_the_blur_of_a_pixel_is_the_same_whatever_else_is_removed() -> None:
    """The whole image is blurred once: no hole is blurred in, and the fill of a pixel does not jump as the last one goes."""
    images = pixels(1)
    masks = torch.stack([torch.rand(16, 16) < share for share in (0.1, 0.5, 0.9, 2.0)])[None]
    filled = impute_each(images, masks, "blur", MEAN)
    for mask, one in zip(masks[0], filled[0]):
        assert torch.equal(one[:, mask], filled[0, 3][:, mask])
        assert torch.equal(one[:, ~mask], images[0][:, ~mask])


def test_the_mean_is_that_of_the_data_set() -> None:
    removed = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    removed[..., 0] = False
    filled = impute(torch.zeros(1, 3, 4, 4), removed, "mean", MEAN)
    assert filled[0, :, 2, 3].tolist() == pytest.approx([51.0, 127.5, 178.5])


def test_the_blur_is_a_gaussian_of_a_share_of_the_side() -> None:
    """Of one bright pixel far from the border, a bell of that deviation; constant images stay as they are up to the border."""
    images = torch.zeros(1, 1, 33, 65)
    images[..., 16, 32] = 100.0
    removed = torch.ones(1, 1, 33, 65, dtype=torch.bool)
    removed[..., 0, 0] = False
    bell = impute(images, removed, "blur", (0.5,), blur=3 / 33)[0, 0]
    row, column = torch.arange(33) - 16, torch.arange(65) - 32
    expected = 100 * torch.exp(-(row[:, None].square() + column.square()) / 18) / (18 * math.pi)
    torch.testing.assert_close(bell[8:25, 20:45], expected[8:25, 20:45], atol=1e-4, rtol=1e-3)
    flat = torch.full((1, 1, 33, 65), 70.0)
    torch.testing.assert_close(impute(flat, removed, "blur", (0.5,)), flat)


def test_noise_is_of_the_seed_and_the_position_alone_and_of_the_size_asked_for() -> None:
    images, removed = torch.full((6, 3, 32, 32), 90.0), torch.rand(6, 2, 32, 32) < 0.5
    removed[:, 1] = removed[:, 0]
    filled = impute_each(images, removed, "noisy_linear", MEAN, seed=1, noise=4.0)
    assert torch.equal(filled[:, 0], filled[:, 1])
    drawn = (filled - 90.0)[removed[:, :, None].expand_as(filled)]
    assert float(drawn.std()) == pytest.approx(4.0, rel=0.03)
    assert float(drawn.mean()) == pytest.approx(0.0, abs=0.15)
    again = impute_each(images[:2], removed[:2], "noisy_linear", MEAN, seed=1, noise=4.0, positions=torch.tensor([4, 0]))
    expected = torch.where(removed[1, :1], filled[0, 0] - 90, 0.0)
    both = removed[0, 0] & removed[1, 0]
    torch.testing.assert_close((again[1, 0] - 90) * both, expected * both, atol=TOLERANCE, rtol=0)
    other = impute_each(images, removed, "noisy_linear", MEAN, seed=2, noise=4.0)
    assert not torch.equal(other, filled)
    state = torch.get_rng_state()
    impute_each(images, removed, "noisy_linear", MEAN)
    assert torch.equal(torch.get_rng_state(), state)


def test_generators_differ_by_every_seed_beyond_32_bits_too() -> None:
    first = {
        tuple(seeded_generator(*seeds).integers(1 << 62, size=2)) for seeds in [(0, 1), (1, 0), (0, 2), (1 << 32, 1), (0, 1, 1)]
    }
    assert len(first) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fill": "noisy-linear"}, "did you mean 'noisy_linear'"),
        ({"fill": "zero"}, "must be one of"),
        ({"images": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, "torch.uint8"),
        ({"images": torch.zeros(3, 8, 8)}, r"expected \(N, C, H, W\)"),
        ({"images": torch.full((2, 3, 8, 8), math.nan)}, "NaN"),
        ({"images": torch.zeros(0, 3, 8, 8), "removed": torch.zeros(0, 1, 8, 8).bool()}, "N >= 1"),
        ({"removed": torch.zeros(2, 1, 8, 8)}, "torch.bool"),
        ({"removed": torch.zeros(2, 2, 8, 8).bool()}, "impute_each"),
        ({"removed": torch.zeros(1, 1, 8, 8).bool()}, "must agree"),
        ({"removed": torch.zeros(2, 1, 8, 9).bool()}, "must agree"),
        ({"mean": (0.5,)}, "expected 3 numbers"),
        ({"mean": (125.3, 123.0, 113.9)}, "from 0 to 1"),
        ({"mean": (0.1, math.nan, 0.1)}, "from 0 to 1"),
        ({"blur": 0.0}, "blur is 0.0"),
        ({"blur": math.inf}, "blur is inf"),
        ({"noise": -1.0}, "noise is -1.0"),
        ({"seed": -1}, "seeds"),
        ({"positions": torch.tensor([0, -2])}, "seeds"),
        ({"positions": torch.tensor([0])}, "2 images but 1 positions"),
    ],
)
def test_bad_input_is_refused(change: dict[str, object], message: str) -> None:
    given_ = {"images": torch.zeros(2, 3, 8, 8), "removed": torch.zeros(2, 1, 8, 8).bool(), "fill": "noisy_linear", "mean": MEAN}
    with pytest.raises(ValueError, match=message):
        impute(**{**given_, **change})  # type: ignore[arg-type]

"""Edits keep their promises: what lies outside a window is untouched, the spectrum's parts add up, a seed decides."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aib.interpret.edits import colour_window, high_frequencies, low_frequencies, patch_window


def pixels(count: int = 5, channels: int = 3, height: int = 12, width: int = 10, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (count, channels, height, width), generator=torch.Generator().manual_seed(seed)).float()


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 10), seed=st.integers(0, 10**6))
def test_a_window_is_one_square_of_one_colour_and_the_rest_is_untouched(size: int, seed: int) -> None:
    images = torch.full((4, 3, 12, 10), 300.0)  # no colour of a window
    edited = colour_window(images, size, generator(seed))
    for image in edited:
        inside = image[0] != 300
        rows, columns = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
        assert len(rows) == len(columns) == size
        assert inside.sum() == size * size
        square = image[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (square == square[:, :1, :1]).all()
        assert 0 <= square.min() <= square.max() <= 255
    assert torch.equal(edited, colour_window(images, size, generator(seed)))


def test_windows_lie_everywhere_and_differ_between_images() -> None:
    edited = colour_window(torch.full((4000, 1, 6, 6), 300.0), 2, generator(0)) != 300
    share = edited.float().mean(0)[0]
    # a corner is covered by 1 of the 25 places, an inner pixel by 4
    assert share[0, 0].item() == pytest.approx(1 / 25, abs=0.015)
    assert share[2, 3].item() == pytest.approx(4 / 25, abs=0.03)


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 8), seed=st.integers(0, 10**6))
def test_a_patch_is_a_piece_of_another_image(size: int, seed: int) -> None:
    images = torch.full((3, 3, 12, 10), 300.0)
    others = pixels(4, 3, 9, 8, seed=1)
    edited = patch_window(images, size, others, generator(seed))
    for image in edited:
        inside = image[0] != 300
        rows, columns = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
        assert inside.sum() == size * size
        patch = image[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        windows = others.unfold(2, size, 1).unfold(3, size, 1)  # (M, C, places, places, size, size)
        assert (windows == patch[None, :, None, None]).all(-1).all(-1).all(1).any()


@settings(max_examples=30, deadline=None)
@given(radius=st.floats(0, 7), height=st.integers(8, 13), width=st.integers(8, 13))
def test_low_and_high_frequencies_add_up(radius: float, height: int, width: int) -> None:
    images = pixels(2, 3, height, width)
    if radius > (((height // 2) ** 2 + (width // 2) ** 2) ** 0.5):
        return
    low, high = low_frequencies(images, radius), high_frequencies(images, radius)
    torch.testing.assert_close(low + high, images, atol=1e-3, rtol=0)
    assert (low * high).sum().abs() < 1e-3 * images.square().sum()  # they share no frequency


def test_a_wave_is_kept_or_lost_by_its_frequency() -> None:
    x = torch.arange(32) / 32
    wave = torch.cos(2 * torch.pi * 5 * x).expand(1, 1, 32, 32)  # five cycles an image
    torch.testing.assert_close(low_frequencies(wave, 6), wave, atol=1e-5, rtol=0)
    torch.testing.assert_close(low_frequencies(wave, 4), torch.zeros_like(wave), atol=1e-5, rtol=0)
    torch.testing.assert_close(high_frequencies(wave, 4), wave, atol=1e-5, rtol=0)
    torch.testing.assert_close(high_frequencies(pixels(), 1).mean((2, 3)), torch.zeros(5, 3), atol=1e-3, rtol=0)


def test_what_cannot_be_is_refused() -> None:
    images = pixels()
    with pytest.raises(ValueError, match="the window's side is 11; it must be between 1 and 10 for 12x10 images"):
        colour_window(images, 11, generator(0))
    with pytest.raises(ValueError, match="it must be at most 6, the other images' side"):
        patch_window(images, 8, pixels(2, 3, 6, 9), generator(0))
    with pytest.raises(ValueError, match="the other images have 1 channels and these 3"):
        patch_window(images, 2, pixels(2, 1), generator(0))
    for radius in (-1.0, 8.0):
        with pytest.raises(ValueError, match=r"radius is .*; it must be between 0 and 7.8 for 12x10 images"):
            low_frequencies(images, radius)

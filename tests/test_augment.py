"""Batch-wise augmentation and normalisation against numpy, on images of any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aib.data.augment import alternate_flips, channel_statistics, flip_images, normalize, random_crop, random_flip


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(n: int, c: int, h: int, w: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, c, h, w), dtype=torch.uint8, generator=generator(seed))


@given(st.integers(2, 9), st.integers(2, 9), st.integers(1, 3), st.data())
def test_random_crop_is_reflect_pad_then_crop(h: int, w: int, c: int, data: st.DataObject) -> None:
    pad = data.draw(st.integers(1, min(h, w) - 1))
    images = random_images(5, c, h, w)
    cropped = random_crop(images, pad, generator(3))
    # the places are drawn first the rows, then the columns
    g = generator(3)
    top = torch.randint(0, 2 * pad + 1, (5, 1), generator=g).flatten()
    left = torch.randint(0, 2 * pad + 1, (5, 1), generator=g).flatten()
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (pad, pad), (pad, pad)), mode="reflect")
    for i in range(5):
        expected = padded[i, :, top[i] : top[i] + h, left[i] : left[i] + w]
        assert np.array_equal(cropped[i].numpy(), expected)


def test_random_crop_reaches_every_place() -> None:
    ramp = torch.arange(16, dtype=torch.uint8).view(1, 1, 1, 16).expand(500, 1, 16, 16)
    cropped = random_crop(ramp, 2, generator(0))
    assert {tuple(row) for row in cropped[:, 0, 0, 4:6].tolist()} == {(2, 3), (3, 4), (4, 5), (5, 6), (6, 7)}


def test_no_padding_leaves_the_batch_alone() -> None:
    images = random_images(2, 3, 8, 8)
    assert random_crop(images, 0) is images


@pytest.mark.parametrize("pad", [-1, 6, 100])
def test_padding_must_be_smaller_than_the_image(pad: int) -> None:
    with pytest.raises(ValueError, match=f"crop padding is {pad}; it must be between 0 and 5 for 6x8 images"):
        random_crop(random_images(2, 1, 6, 8), pad)


@given(st.integers(3, 9), st.integers(3, 9), st.integers(0, 2), st.integers(0, 1000))
def test_crop_and_flip_in_one_pass_are_both_one_after_the_other(h: int, w: int, pad: int, seed: int) -> None:
    images, draws = random_images(6, 2, h, w, seed), generator(seed)
    expected = random_flip(random_crop(images, pad, draws), draws)
    together = generator(seed)
    assert torch.equal(random_crop(images, pad, together, flip=True), expected)
    assert torch.equal(together.get_state(), draws.get_state())
    by_position = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(random_crop(by_position, pad, generator(seed), flip=True), expected)


@given(st.integers(1, 20), st.integers(0, 1000))
def test_random_flip_mirrors_or_keeps_each_image(n: int, seed: int) -> None:
    images = random_images(n, 2, 3, 5, seed)
    flipped = random_flip(images, generator(seed))
    for before, after in zip(images, flipped):
        assert torch.equal(after, before) or np.array_equal(after.numpy(), before.numpy()[:, :, ::-1])
    assert torch.equal(flipped, random_flip(images, generator(seed)))


def test_random_flip_mirrors_about_half() -> None:
    images = torch.tensor([0, 1], dtype=torch.uint8).view(1, 1, 1, 2).expand(4000, 1, 1, 2)
    share = random_flip(images, generator(0))[:, 0, 0, 0].double().mean().item()
    assert abs(share - 0.5) < 4 * 0.5 / 4000**0.5


@given(st.integers(3, 9), st.integers(3, 9), st.integers(0, 2), st.lists(st.booleans(), min_size=6, max_size=6))
def test_crop_of_images_whose_mirroring_is_decided(h: int, w: int, pad: int, decided: list[bool]) -> None:
    images, mirrored = random_images(6, 2, h, w), torch.tensor(decided)
    expected = flip_images(random_crop(images, pad, generator(1)), mirrored)
    assert torch.equal(random_crop(images, pad, generator(1), flip=mirrored), expected)
    for before, after, one in zip(images, flip_images(images, mirrored), decided):
        assert np.array_equal(after.numpy(), before.numpy()[:, :, ::-1] if one else before.numpy())


@given(st.integers(0, 300), st.integers(0, 2**62), st.integers(0, 50))
def test_images_take_turns_to_be_mirrored(length: int, seed: int, epoch: int) -> None:
    now, then = alternate_flips(length, seed, epoch), alternate_flips(length, seed, epoch + 1)
    assert torch.equal(now, ~then)
    assert torch.equal(now, alternate_flips(length, seed, epoch + 2))


def test_who_is_mirrored_first_is_a_matter_of_the_seed() -> None:
    one, other = (alternate_flips(4000, seed, 0).double() for seed in (0, 1))
    for share in (one.mean(), other.mean(), (one == other).double().mean()):
        assert abs(share.item() - 0.5) < 4 * 0.5 / 4000**0.5


def test_statistics_are_those_of_numpy_and_normalise_to_zero_and_one() -> None:
    images = random_images(50, 3, 7, 9) // torch.tensor([1, 2, 4], dtype=torch.uint8).view(1, 3, 1, 1)
    mean, std = channel_statistics(images.split(8))
    scaled = images.numpy().astype(np.float64) / 255
    assert np.allclose(mean, scaled.mean((0, 2, 3)), atol=1e-12)
    assert np.allclose(std, scaled.std((0, 2, 3)), atol=1e-12)
    normal = normalize(images, mean, std)
    assert normal.dtype == torch.float32
    assert torch.allclose(normal.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(normal.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5)


def test_a_constant_channel_can_be_normalised() -> None:
    images = torch.full((4, 1, 3, 3), 200, dtype=torch.uint8)
    mean, std = channel_statistics([images])
    assert std == (pytest.approx(1 / 255),)
    assert normalize(images, mean, std).abs().max() < 1e-3


def test_statistics_and_normalisation_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="at least one batch"):
        channel_statistics([])
    with pytest.raises(ValueError, match="images have 3 channels; the network was made for 1"):
        normalize(random_images(1, 3, 4, 4), (0.5,), (0.2,))

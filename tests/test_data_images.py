"""Single image files of every format and mode, made here: upright, in RGB, cut to size, or refused by name."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aib.data import images
from aib.data.images import ImageError, decode_image, read_image, to_rgb, upright_size

RNG = np.random.default_rng(0)
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def photograph(width: int, height: int, colour: tuple[int, int, int] = RED) -> Image.Image:
    """A smooth picture whose left half is ``colour``: JPEG keeps it closely, and left is not right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2] = colour
    return Image.fromarray(pixels)


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    # 6: the camera was turned, the picture's top lies at the right-hand side of the file's upright
    picture = photograph(40, 24)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.jpg", "a.png", "a.tif", "a.webp"):
        picture.save(tmp_path / name, exif=exif)
        assert upright_size(tmp_path / name) == (40, 24), name
        pixels = decode_image(tmp_path / name, (40, 24)).astype(int)
        # red was on the left of the file: turned by a quarter clockwise it is on top
        assert abs(pixels[4:16] - RED).max() < 40, name
        assert abs(pixels[24:36]).max() < 40, name
    picture.save(tmp_path / "plain.jpg")
    assert upright_size(tmp_path / "plain.jpg") == (24, 40)


def test_every_mode_becomes_rgb() -> None:
    half = Image.new("RGBA", (2, 1), (*RED, 0))
    half.putpixel((1, 0), (*RED, 255))
    assert list(np.asarray(to_rgb(half)).reshape(2, 3).tolist()) == [list(WHITE), list(RED)]
    grey_alpha = Image.new("LA", (1, 1), (0, 0))
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *BLUE])
    palette.putpixel((1, 0), 1)
    assert np.asarray(to_rgb(palette)).tolist() == [[list(RED), list(BLUE)]]
    palette.info["transparency"] = 0
    assert np.asarray(to_rgb(palette)).tolist() == [[list(WHITE), list(BLUE)]]
    levels = np.array([[0, 257 * 100, 65535]])
    for image, expected in [
        (grey_alpha, [255]),
        (Image.new("1", (1, 1), 1), [255]),
        (Image.new("L", (1, 1), 77), [77]),
        (Image.new("CMYK", (1, 1), (0, 0, 0, 255)), [0]),
        (Image.fromarray(levels.astype(np.uint16)), [0, 100, 255]),
        (Image.fromarray(levels.astype(np.int32)), [0, 100, 255]),
        (Image.fromarray(np.array([[0.0, 0.2, 1.0]], np.float32)), [0, 51, 255]),
        (Image.fromarray(np.array([[0.0, 51.0, 300.0]], np.float32)), [0, 51, 255]),
    ]:
        rgb = to_rgb(image)
        assert rgb.mode == "RGB"
        assert np.asarray(rgb)[0].tolist() == [[value] * 3 for value in expected], image.mode
    with pytest.raises(ValueError, match="NaN or infinite"):
        to_rgb(Image.fromarray(np.array([[np.nan]], np.float32)))


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.gif", "a.tif", "a.ppm", "a.webp", "a.jpg", "a.JPEG", "no-suffix"])
def test_formats_that_pillow_reads(tmp_path: Path, name: str) -> None:
    options = {"format": "PNG"} if name == "no-suffix" else {"lossless": True} if name == "a.webp" else {}
    photograph(16, 16, GREEN).save(tmp_path / name, **options)
    pixels = read_image(tmp_path / name, 16)
    assert pixels.shape == (3, 16, 16)
    assert pixels.dtype == torch.uint8
    assert (pixels[:, :, :6].permute(1, 2, 0).int() - torch.tensor(GREEN)).abs().max() < (30 if "j" in name.lower() else 1)


def test_16_bit_and_animated_files(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    for name in ("deep.png", "deep.tif"):
        Image.fromarray(ramp).save(tmp_path / name)
        assert np.abs(read_image(tmp_path / name, 8)[0].numpy() - ramp / 257).max() <= 0.5
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "film.gif", 8)[:, 0, 0].tolist() == list(RED)


def test_the_centre_is_cut_and_nothing_is_stretched(tmp_path: Path) -> None:
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 200
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert (read_image(tmp_path / "wide.png", 20) == 200).all()
    assert read_image(tmp_path / "wide.png", (10, 30)).shape == (3, 10, 30)
    same = RNG.integers(0, 256, (12, 12, 3), np.uint8)
    Image.fromarray(same).save(tmp_path / "same.png")
    assert np.array_equal(decode_image(tmp_path / "same.png", (12, 12)), same)
    assert read_image(tmp_path / "same.png", 12, channels=1).shape == (1, 12, 12)


def test_large_photographs_are_decoded_small_with_the_same_look(tmp_path: Path) -> None:
    noise = Image.fromarray(RNG.integers(0, 256, (12, 16, 3), np.uint8)).resize((1600, 1200), Image.Resampling.BICUBIC)
    noise.save(tmp_path / "a.jpg", quality=95)
    noise.save(tmp_path / "a.png")
    from_jpeg, from_png = (decode_image(tmp_path / name, (64, 64)).astype(int) for name in ("a.jpg", "a.png"))
    assert abs(from_jpeg - from_png).mean() < 2


def test_random_crops_are_a_function_of_the_generator_and_keep_what_they_say(tmp_path: Path) -> None:
    rows, columns = np.mgrid[0:200, 0:200].astype(np.uint8)
    Image.fromarray(np.stack([rows, columns, columns], -1)).save(tmp_path / "ramp.png")
    shares = []
    for seed in range(60):
        pixels = decode_image(tmp_path / "ramp.png", (50, 50), np.random.default_rng(seed)).astype(float)
        again = decode_image(tmp_path / "ramp.png", (50, 50), np.random.default_rng(seed))
        assert np.array_equal(pixels, again)
        height, width = (np.diff(pixels[:, :, c], axis=c).mean() * 50 for c in (0, 1))
        assert 0.7 < width / height < 1.43
        shares.append(height * width / 200**2)
    assert 0.33 < min(shares) < 0.45
    assert 0.85 < max(shares) < 1.02


def test_unreadable_files_are_named_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photograph(64, 64).save(tmp_path / "whole.jpg")
    photograph(64, 64).save(tmp_path / "whole.png")
    for name in ("whole.jpg", "whole.png"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / f"cut-{name}").write_bytes(data[: len(data) * 2 // 3])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "gone")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, reason in [
        ("cut-whole.jpg", "[Tt]runcated"),
        ("cut-whole.png", ""),
        ("text.jpg", "not an image"),
        ("empty.jpg", "not an image"),
        ("dangling.jpg", "no such regular file"),
        ("folder.jpg", "it is a folder"),
        ("pipe.jpg", "no such regular file"),
    ]:
        with pytest.raises(ImageError, match=f"{name} cannot be read as an image: .*{reason}") as info:
            read_image(tmp_path / name, 32)
        assert "\n" not in str(info.value)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match=r"whole\.jpg .* more pixels than Pillow's limit"):
        read_image(tmp_path / "whole.jpg", 32)


def test_sizes_and_channels_are_checked(tmp_path: Path) -> None:
    photograph(8, 8).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="image_size is 0"):
        read_image(tmp_path / "a.png", 0)
    with pytest.raises(ValueError, match="channels is 4"):
        read_image(tmp_path / "a.png", 8, channels=4)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I", "I;16", "F"])
def test_a_large_image_is_converted_in_strips_without_a_trace(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (37, 20))
    if mode in ("I", "I;16", "F"):
        image = Image.fromarray(
            (values % 256).astype(np.float32) if mode == "F" else values.astype(f"{'i4' if mode == 'I' else 'u2'}")
        )
    else:
        image = Image.fromarray(np.dstack([values % 256] * 3 + [values // 256]).astype(np.uint8)).convert(mode)
        image.info |= {"transparency": 3} if mode == "P" else {}
    whole = np.asarray(to_rgb(image))
    monkeypatch.setattr(images, "STRIP_PIXELS", 100)
    assert np.array_equal(np.asarray(to_rgb(image)), whole)
    assert whole.std() > 10

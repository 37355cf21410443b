"""One image file, whatever its format, to an upright RGB array of a given size."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from aib.data.texts import printable

__all__ = [
    "MAX_PIXELS",
    "Box",
    "ImageError",
    "decode_image",
    "largest_box",
    "read_image",
    "resize_pixels",
    "silence",
    "size_pair",
    "to_rgb",
    "upright_size",
]

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""

CROP_AREA = (0.35, 1.0)
"""Share of an image's area that a random crop keeps."""

CROP_RATIO = (3 / 4, 4 / 3)
"""Aspect ratio of a random crop, relative to that of the size wanted."""

MAX_PIXELS = 110_000_000
"""Most pixels that are decoded, a little above the 102 megapixels of the largest cameras in use: they take about a gigabyte.
A larger JPEG is decoded at a fraction of its size where a small image is wanted, up to Pillow's own limit of 179 million."""

COSTLY = ("JPEG2000", "WEBP", "AVIF")
"""Formats whose decoders take up to 24 bytes a pixel where others take 8: half as many pixels are decoded."""

LARGE_PIXELS = 20_000_000
"""Pixels above which threads decode one image after another: two of the largest would take 2.6 GB."""

STRIP_PIXELS = 1 << 20
"""Pixels that are converted at a time."""

MAX_SIDE = 10_000
"""Longest side of the images wanted."""

REFUSED = ("EPS", "WMF", "BUFR", "GRIB", "HDF5", "ICNS")
"""Formats that Pillow hands to a program, to the system or to whatever was registered, instead of decoding them itself; and Apple's
icons, whose pictures are of any size whatever the file says."""


class ImageError(ValueError):
    """A file that cannot be read as an image.

    Attributes:
        path: the file.
        reason: why, on one line.
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{printable(path)} cannot be read as an image: {reason}")
        self.path = Path(path)
        self.reason = reason


def size_pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) from a pair or from the side of a square.

    Raises:
        ValueError: a side is below 1 or above `MAX_SIDE`.
    """
    pair = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    if min(pair) < 1 or max(pair) > MAX_SIDE:
        raise ValueError(f"image_size is {size}; each side must lie between 1 and {MAX_SIDE} pixels, such as 224")
    return pair


def read_image(path: Path | str, size: int | tuple[int, int], *, channels: int = 3) -> Tensor:
    """(channels, H, W) uint8: the shorter side resized and the centre cropped, as in evaluation.

    Args:
        path: an image file of any mode and format that Pillow decodes by itself (not EPS), of at most `MAX_PIXELS`.
        size: (H, W), or the side of a square.
        channels: 3 for RGB, 1 for grey.

    Raises:
        ImageError: the file is missing, truncated, not an image or too large; the message names it.
        ValueError: ``channels`` is neither 1 nor 3, or a side is below 1.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}; it must be 3 (RGB) or 1 (grey)")
    pixels = decode_image(path, size_pair(size))
    if channels == 1:
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def decode_image(
    path: Path | str, size: tuple[int, int], crop: np.random.Generator | None = None, region: Box | None = None,
    *, silenced: bool = False, turn: AbstractContextManager[object] | None = None,
) -> np.ndarray:  # fmt: skip
    """(H, W, 3) uint8, upright, resized with antialiasing to ``size`` = (H, W).

    The region resized is the largest centred one with the aspect ratio of ``size``; with ``crop`` it is a random one that keeps 35
    to 100 % of the area (less of an image much longer than wide). A ``region`` in pixels of the upright image is resized as it
    is, its aspect ratio changed to that of ``size``; what lies outside the image is cut off. Threads call it within one
    `silence` of the thread that starts them, and say so with ``silenced``; ``turn``, a lock, is held while an image of more than
    `LARGE_PIXELS` is in memory.

    Raises:
        ImageError: see `read_image`, or the region lies outside the image.
    """
    with ExitStack() as held:
        with nullcontext() if silenced else silence(), _opened(path) as image:
            if region is None:
                # lets libjpeg decode a large photograph at 1/2, 1/4 or 1/8, still at least twice the size wanted; the region is one
                # of the image at its own size
                image.draft(None, (2 * max(size), 2 * max(size)))
            _check_pixels(image)
            if turn is not None and (image.width * image.height > LARGE_PIXELS or image.format == "ICO"):
                held.enter_context(turn)
            # the file's own orientation tag is lost by a conversion: turn first
            ImageOps.exif_transpose(image, in_place=True)
            _check_pixels(image)  # again: the size of an icon is known only once it is loaded
            rgb = to_rgb(image)
            if region is not None:
                box = _inside(rgb.size, region)
            else:
                box = largest_box(rgb.size, size) if crop is None else _random_box(rgb.size, size, crop)
            pixels = _resized(rgb, size, box)
        del image, rgb  # with what the decoder holds, before the next thread has its turn
        return pixels


def resize_pixels(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 of any size brought to ``size`` = (H, W) as `decode_image` does: with antialiasing, the centre kept."""
    image = Image.fromarray(pixels)
    return _resized(image, size, largest_box(image.size, size))


def _resized(image: Image.Image, size: tuple[int, int], box: Box) -> np.ndarray:
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box))


def upright_size(path: Path | str) -> tuple[int, int]:
    """(height, width) of the image once turned upright, from the file's header.

    Raises:
        ImageError: see `read_image`.
    """
    with silence(), _opened(path) as image:
        if image.format == "TIFF":
            # Pillow turns these itself while loading, and only then do size and tag agree
            _check_pixels(image)
            image.load()
        width, height = image.size
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        return (width, height) if turned else (height, width)


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in 8-bit RGB.

    Transparent parts lie on white. Integer modes wider than 8 bits are taken as [0, 65535] whatever the image's own range, so that
    brightness stays comparable between images. Floats are taken as [0, 1] where they fit there and as [0, 255] otherwise.

    Raises:
        ValueError: the pixels are not finite, or Pillow has no way from the mode to RGB.
    """
    if image.mode.startswith("I"):
        return _by_strips(image, _from_integers).convert("RGB")
    if image.mode == "F":
        low, high = _extremes(image)
        scale = 255.0 if low >= 0.0 and high <= 1.0 else 1.0
        return _by_strips(image, lambda strip: _from_floats(strip, scale)).convert("RGB")
    if image.mode in ("La", "RGBa"):
        # premultiplied modes reach RGBA only through their plain counterpart
        image = image.convert(image.mode[:-1] + "A")
    return _by_strips(image, _on_white) if image.has_transparency_data else image.convert("RGB")


def _by_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """The image converted some rows at a time: what a large one takes on the way is then little beside itself."""
    width, height = image.size
    rows = max(1, STRIP_PIXELS // width)
    made: Image.Image | None = None
    for top in range(0, height, rows):
        strip = convert(image.crop((0, top, width, min(top + rows, height))))
        if rows >= height:
            return strip
        made = made or Image.new(strip.mode, image.size)
        made.paste(strip, (0, top))
    assert made is not None  # an image has a row at least
    return made


def _extremes(image: Image.Image) -> tuple[float, float]:
    """Least and greatest pixel.

    Raises:
        ValueError: a pixel is not finite.
    """
    low, high = math.inf, -math.inf
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        pixels = np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))
        if not np.isfinite(pixels).all():
            raise ValueError("it holds NaN or infinite pixels")
        low, high = min(low, float(pixels.min())), max(high, float(pixels.max()))
    return low, high


def _from_integers(strip: Image.Image) -> Image.Image:
    wide = np.asarray(strip).astype(np.int64).clip(0, 65535)
    return Image.fromarray(((wide + 128) // 257).astype(np.uint8))


def _from_floats(strip: Image.Image, scale: float) -> Image.Image:
    return Image.fromarray(np.rint(np.asarray(strip) * scale).clip(0, 255).astype(np.uint8))


def _on_white(strip: Image.Image) -> Image.Image:
    layer = strip.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def silence() -> AbstractContextManager[object]:
    """Context without warnings: Pillow has one, over two lines, of many pixels and of damage that it gets over; what is refused is
    ours to say. It changes what the whole process hears, and threads that enter it beside each other leave it so."""
    return warnings.catch_warnings(action="ignore")


@contextmanager
def _opened(path: Path | str) -> Iterator[Image.Image]:
    """The file opened by Pillow; whatever goes wrong while it is open becomes an `ImageError`."""
    if not Path(path).is_file():
        # a pipe would block for ever, a dangling link has no reason of its own
        raise ImageError(path, "it is a folder" if Path(path).is_dir() else "there is no such regular file")
    try:
        with Image.open(path) as image:
            if image.format in REFUSED:
                raise ValueError(f"it is {image.format}, which is not decoded; save it as PNG or JPEG")
            if 0 in image.size:
                raise ValueError("it has no pixels")
            yield image
    except UnidentifiedImageError as error:
        raise ImageError(path, "it is not an image that Pillow knows") from error
    except Image.DecompressionBombError as error:
        raise ImageError(path, "it has more pixels than Pillow's limit against decompression bombs") from error
    except Exception as error:
        # Pillow's plugins raise whatever their parser trips over: OSError, SyntaxError, struct.error, KeyError, ...
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ImageError(path, " ".join(reason.split()) or type(error).__name__) from error


def _check_pixels(image: Image.Image) -> None:
    """Refuse an image whose pixels, as they would be decoded now, are too many.

    Raises:
        ValueError: there are more than `MAX_PIXELS`, or half of that in a format of `COSTLY`.
    """
    width, height = image.size
    most = MAX_PIXELS // 2 if image.format in COSTLY else MAX_PIXELS
    if width * height > most:
        raise ValueError(f"it has {width}x{height} pixels; at most {most:,} are decoded")


def largest_box(image: tuple[int, int], size: tuple[int, int], across: float = 0.5, down: float = 0.5) -> Box:
    """The largest region of an image (width, height) with the aspect ratio of ``size`` (height, width), centred by default."""
    scale = min(image[0] / size[1], image[1] / size[0])
    return _box(image, size[1] * scale, size[0] * scale, across, down)


def _random_box(image: tuple[int, int], size: tuple[int, int], rng: np.random.Generator) -> Box:
    """A region of random area, aspect ratio and place; the largest one, at a random place, if none of ten fits a long image."""
    for _ in range(10):
        area = image[0] * image[1] * rng.uniform(*CROP_AREA)
        ratio = size[1] / size[0] * math.exp(rng.uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])))
        width, height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if width <= image[0] and height <= image[1]:
            return _box(image, width, height, rng.uniform(), rng.uniform())
    return largest_box(image, size, rng.uniform(), rng.uniform())


def _inside(image: tuple[int, int], region: Box) -> Box:
    """The part of ``region`` inside an image (width, height).

    Raises:
        ValueError: there is none; the message says so.
    """
    left, top, right, bottom = max(region[0], 0.0), max(region[1], 0.0), min(region[2], image[0]), min(region[3], image[1])
    if left >= right or top >= bottom:
        where = ", ".join(f"{value:g}" for value in region)
        raise ValueError(f"it has {image[0]}x{image[1]} pixels, and its box ({where}: left, top, right, bottom) lies outside")
    return left, top, right, bottom


def _box(image: tuple[int, int], width: float, height: float, across: float, down: float) -> Box:
    """The box of a width and height at relative place (0 to 1) across and down; rounding never takes it outside the image."""
    left, top = max(image[0] - width, 0.0) * across, max(image[1] - height, 0.0) * down
    return left, top, min(left + width, image[0]), min(top + height, image[1])

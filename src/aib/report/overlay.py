"""A map over its image, with a colour bar in the map's own values.

How the picture is made, so that it can be read back:

- a cell of the map covers its share of the image, pixel centres aligned, and has hard edges: nothing is smoothed;
- the colour scale is fixed to [0, 1] unless asked otherwise, and what it is stands on the bar;
- over the image, every pixel is ``ALPHA`` of the cell's colour and the rest of the image in grey, so that all colour is the map's;
  the bar is blended over middle grey in the same way.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from aib.report.style import colour_map, percent, thin_labels

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

__all__ = ["ALPHA", "Scale", "blend", "cell_index", "overlay_figure", "save_overlay"]

Scale = Literal["fixed", "image"]

ALPHA = 0.6
"""Share of the map's colour in every pixel of the overlay; constant, so that no value hides."""

PANEL = 448
"""Longest side of a panel in pixels; small images grow by a whole factor up to it, large ones shrink to it."""

MARGIN, GAP, BAR, MAX_LABELS = 28, 20, 18, 8
INK, SOFT, PAPER = (31, 35, 40), (101, 109, 118), (255, 255, 255)


def cell_index(pixels: int, cells: int) -> NDArray[np.intp]:
    """(pixels,) which of ``cells`` covers the centre of each pixel: floor((i + 1/2) * cells / pixels)."""
    return ((2 * np.arange(pixels) + 1) * cells) // (2 * pixels)


def blend(
    image: NDArray[np.uint8], map: NDArray[np.floating], *, vmin: float = 0.0, vmax: float = 1.0, alpha: float = ALPHA
) -> NDArray[np.uint8]:
    """The map over the image: ``alpha`` of the colour of the cell under each pixel, the rest grey (luma of the image).

    Args:
        image: (H, W, 3) uint8.
        map: (h, w) values; h and w need not divide H and W.
        vmin, vmax: values at the two ends of the colour map.
        alpha: share of the map's colour, in [0, 1].

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: wrong shapes or types, an empty scale, or a map with values that are not finite.
    """
    _check(image, map)
    height, width = image.shape[:2]
    colours = colour_map(map, vmin, vmax)[cell_index(height, map.shape[0])][:, cell_index(width, map.shape[1])]
    grey = image.astype(np.float64) @ (0.299, 0.587, 0.114)
    return (alpha * colours + (1.0 - alpha) * grey[..., None]).round().clip(0, 255).astype(np.uint8)


def overlay_figure(
    image: NDArray[np.uint8],
    map: NDArray[np.floating],
    *,
    vmin: float = 0.0,
    vmax: float = 1.0,
    anchors: Sequence[float] | None = None,
    title: str | None = None,
    scale: Scale = "fixed",
    relative: bool = False,
) -> bytes:
    """A PNG of the image, the map over the image, and a colour bar.

    Args:
        image: (H, W, 3) uint8.
        map: (h, w) values, at the resolution of the attention.
        vmin, vmax: the fixed scale.
        anchors: anchor values of the model; those that occur in the map are marked on the bar, at most 8 of them labelled.
        title: a line above the pictures.
        scale: ``"fixed"``, or ``"image"`` to run from this map's least to its greatest value, which is then written on the bar.
        relative: whether the values are shares of the map's own greatest value and not scores; the bar says so.

    Raises:
        ValueError: as `blend`, or ``scale`` is unknown.
    """
    from PIL import Image, ImageDraw

    _check(image, map)
    if scale not in ("fixed", "image"):
        raise ValueError(f"scale is {scale!r}; it must be 'fixed' or 'image'")
    low, high = float(map.min()), float(map.max())
    if scale == "image":
        vmin, vmax = (low, high) if high > low else (low - 0.5, low + 0.5)
    shown = _panel(image)
    height, width = shown.shape[:2]
    top = MARGIN + (34 if title else 0)
    bar_height = max(height, 150)
    note = f"this map: {low:.2f} to {high:.2f}"
    body_font, title_font = _font(15), _font(18)
    present = _present(map, anchors)
    unit = ("share of its greatest" if relative else "attention score") if present is None else "anchor value"
    unit += ", own range" if scale == "image" else ""
    below = round(body_font.getlength(note) + body_font.getlength(unit)) + 2 * GAP
    canvas_width = max(2 * MARGIN + 2 * width + 2 * GAP + BAR + 70, 2 * MARGIN + below)
    if title:
        title = _fit(title, title_font, canvas_width - 2 * MARGIN)
    canvas = Image.new("RGB", (canvas_width, top + bar_height + 58), PAPER)
    draw = ImageDraw.Draw(canvas)
    if title:
        draw.text((MARGIN, MARGIN - 6), title, fill=INK, font=title_font)
    canvas.paste(Image.fromarray(shown), (MARGIN, top))
    canvas.paste(Image.fromarray(blend(shown, map, vmin=vmin, vmax=vmax)), (MARGIN + width + GAP, top))
    _draw_bar(canvas, draw, (MARGIN + 2 * width + 2 * GAP, top), bar_height, (vmin, vmax), present, unit, body_font)
    draw.text((MARGIN, top + bar_height + 16), note, fill=SOFT, font=body_font)
    buffer = io.BytesIO()
    canvas.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def save_overlay(
    path: str | Path,
    image: NDArray[np.uint8],
    map: NDArray[np.floating],
    prediction: str,
    confidence: float,
    anchors: Sequence[float] | None = None,
    *,
    scale: Scale = "fixed",
    relative: bool = False,
) -> Path:
    """Write `overlay_figure` with the prediction above it to ``path`` and return the path.

    Args:
        prediction: name of the predicted class.
        confidence: its probability, in [0, 1].
        relative: as in `overlay_figure`.

    Raises:
        ValueError: as `overlay_figure`.
        OSError: ``path`` cannot be written.
    """
    title = f"{prediction}  ·  {percent(confidence)}"
    figure = overlay_figure(image, map, anchors=anchors, title=title, scale=scale, relative=relative)
    path = Path(path)
    path.write_bytes(figure)
    return path


def _check(image: NDArray[np.uint8], map: NDArray[np.floating]) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"the image is {image.shape} {image.dtype}; expected (H, W, 3) uint8")
    if map.ndim != 2 or 0 in map.shape:
        raise ValueError(f"the map is {map.shape}; expected (h, w)")
    if not np.isfinite(map).all():
        raise ValueError(f"the map has {int((~np.isfinite(map)).sum())} values that are not finite")


def _panel(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image at the size it is shown: whole-factor copies of the pixels of a small one, a smooth reduction of a large one."""
    from PIL import Image

    longest = max(image.shape[:2])
    if longest <= PANEL:
        factor = PANEL // longest
        return image.repeat(factor, 0).repeat(factor, 1)
    size = tuple(max(1, round(side * PANEL / longest)) for side in (image.shape[1], image.shape[0]))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def _present(map: NDArray[np.floating], anchors: Sequence[float] | None) -> list[float] | None:
    """Anchors nearest to some value of the map, or None without anchors."""
    if anchors is None or len(anchors) == 0:
        return None
    values = np.sort(np.asarray(anchors, dtype=np.float64))
    nearest = np.abs(map.astype(np.float64).reshape(-1, 1) - values).argmin(1)
    return [float(value) for value in values[np.unique(nearest)]]


def _draw_bar(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    height: int,
    scale: tuple[float, float],
    anchors: list[float] | None,
    unit: str,
    font: ImageFont.FreeTypeFont,
) -> None:
    """Colour bar with its top left at ``corner``: a tick for every anchor, labels where there is room for them."""
    from PIL import Image

    (left, top), (vmin, vmax) = corner, scale
    ramp = np.linspace(vmax, vmin, height)[:, None].repeat(BAR, 1)
    canvas.paste(Image.fromarray(blend(np.full((height, BAR, 3), 128, np.uint8), ramp, vmin=vmin, vmax=vmax)), (left, top))
    ticks = [vmin + share * (vmax - vmin) for share in (0, 0.25, 0.5, 0.75, 1)] if anchors is None else anchors
    inside = [tick for tick in ticks if vmin <= tick <= vmax]
    labelled = thin_labels(inside, MAX_LABELS, 19 / height * (vmax - vmin))
    right = left + BAR
    for tick in inside:
        y = top + round((vmax - tick) / (vmax - vmin) * (height - 1))
        draw.line((right + 1, y, right + (8 if tick in labelled else 4), y), fill=INK if tick in labelled else SOFT)
        if tick in labelled:
            draw.text((right + 13, y), f"{tick:.2f}", fill=INK, font=font, anchor="lm")
    draw.text((canvas.width - MARGIN, top + height + 16), unit, fill=SOFT, font=font, anchor="ra")


def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans out of matplotlib's wheel: it covers more scripts than Pillow's own."""
    from matplotlib import get_data_path
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _fit(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """``text`` on one line, shortened at its middle with an ellipsis where it is wider than ``width`` pixels."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    keep = len(text)
    while keep > 2 and font.getlength(text[: (keep + 1) // 2] + "…" + text[-(keep // 2) :]) > width:
        keep -= 1
    return text[: (keep + 1) // 2] + "…" + text[-(keep // 2) :]

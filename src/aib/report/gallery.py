"""The pictures of a run: every image beside its map over it, the ground truth outlined, other explainers' maps beside it.

The page lays the layers on each other: the image in grey, and on it the map as one pixel a cell, coloured on the fixed scale and
stretched without smoothing. The reader can fade the map. A model's map is not rescaled; those of explainers are, each by itself.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from aib.report.files import read_picture
from aib.report.read import GalleryItem
from aib.report.style import colour_map, percent

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Group", "Pane", "Tile", "coloured", "data_uri", "gallery_groups", "outline_path", "picture"]

GROUPS = {
    "right": "Right",
    "wrong": "Wrong",
    "most certain": "Most certain",
    "least certain": "Least certain",
}

TILES = 12
"""Most pictures shown of a group; the report stays a file one can send."""

LONGEST = 256
"""Longest side of an image in the report, in pixels; larger ones are reduced."""

OTHERS = 3
"""Most other explainers beside a map."""


@dataclass(frozen=True)
class Pane:
    """One picture: an image, and the layers over it.

    Attributes:
        name: what it is (``"image"``, ``"map"``, an explainer).
        alt: said to a reader who cannot see it.
        image: data URI.
        map: data URI of the coloured map, a pixel a cell, or None.
        outline: SVG path of the mask in units of ``viewbox``, or None.
        viewbox: ``"0 0 W H"`` of the outline.
        ratio: width over height.
        pixelated: whether the image is so small that its pixels should be seen.
    """

    name: str
    alt: str
    image: str
    map: str | None
    outline: str | None
    viewbox: str
    ratio: float
    pixelated: bool


@dataclass(frozen=True)
class Tile:
    """An image of the gallery with its panes and its caption in parts."""

    panes: tuple[Pane, ...]
    right: bool
    true: str
    predicted: str
    confidence: str
    name: str | None
    note: str | None


@dataclass(frozen=True)
class Group:
    """Tiles of one kind; ``panes`` is the greatest number of panes of a tile."""

    title: str
    tiles: tuple[Tile, ...]
    panes: int


def gallery_groups(items: Sequence[GalleryItem]) -> list[Group]:
    """The gallery by group, right and wrong first; groups without pictures are left out, unknown ones come last.

    Raises:
        ValueError: an image or a mask cannot be read.
    """
    names = [*GROUPS, *dict.fromkeys(item.group for item in items if item.group not in GROUPS)]
    groups = []
    for name in names:
        tiles = tuple(_tile(item) for item in [item for item in items if item.group == name][:TILES])
        if tiles:
            groups.append(Group(GROUPS.get(name, name.capitalize()), tiles, max(len(tile.panes) for tile in tiles)))
    return groups


def outline_path(mask: NDArray[np.bool_]) -> str:
    """SVG path along the border of the True cells of (h, w), in cells; neighbouring edges are joined into runs."""
    padded = np.pad(mask, 1)
    rows = padded[1:, 1:-1] != padded[:-1, 1:-1]  # (h + 1, w) an edge above row i
    columns = padded[1:-1, 1:] != padded[1:-1, :-1]  # (h, w + 1) an edge left of column j
    parts = [f"M{start} {i}H{stop}" for i, row in enumerate(rows) for start, stop in _runs(row)]
    parts += [f"M{j} {start}V{stop}" for j, column in enumerate(columns.T) for start, stop in _runs(column)]
    return "".join(parts)


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Half-open intervals of neighbouring True values."""
    changes = np.flatnonzero(np.diff(np.pad(flags.astype(np.int8), 1)))
    return [(int(start), int(stop)) for start, stop in zip(changes[::2], changes[1::2])]


def _own_scale(map: NDArray[np.float32]) -> NDArray[np.float32]:
    """A post-hoc map divided by its greatest value: unlike an attention map it has no unit, and on a fixed scale may vanish."""
    greatest = float(map.max())
    return map / np.float32(greatest) if 0 < greatest < math.inf else map


def _tile(item: GalleryItem) -> Tile:
    image, ratio, pixelated = picture(item.image)
    outline, viewbox = _outline(item)
    said = f"a picture of {item.true}, taken for {item.predicted} with {percent(item.confidence, 0)} confidence"

    def pane(name: str, alt: str, map: NDArray[np.float32] | None, own_scale: bool = False) -> Pane:
        layer = None if map is None else coloured(map, item.image, own_scale)
        return Pane(name, alt, image, layer, outline, viewbox, ratio, pixelated)

    panes = [pane("image", said, None)]
    if item.map is not None:
        panes.append(pane("map", f"map over {said}; values {item.map.min():.2f} to {item.map.max():.2f}", item.map))
    for name, other in list(item.others.items())[:OTHERS]:
        panes.append(pane(name, f"{name} over {said}, from 0 to its own greatest value", other, own_scale=True))
    note = None if item.rate_bits is None else f"{item.rate_bits:.1f} bits"
    return Tile(tuple(panes), item.true == item.predicted, item.true, item.predicted, percent(item.confidence, 0), item.name, note)


def picture(file: Path, longest: int = LONGEST) -> tuple[str, float, bool]:
    """Data URI, width over height and whether pixels should be seen: PNG for small images, JPEG for photographs.

    Args:
        file: of the image.
        longest: its longest side on the page, in pixels; larger ones are reduced.

    Raises:
        ValueError: the file is no image.
    """
    from PIL import Image

    image = read_picture(file, "RGB", "an image")
    ratio, small = image.width / image.height, max(image.size) <= 128
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return data_uri(image, "PNG" if small else "JPEG"), ratio, small


def data_uri(image: Image, form: str = "PNG") -> str:
    """A PIL image as text that a page can hold."""
    buffer = io.BytesIO()
    options = {"optimize": True} if form == "PNG" else {"quality": 85, "optimize": True}
    image.save(buffer, format=form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def coloured(map: NDArray[np.float32], of: Path, own_scale: bool = False) -> str:
    """Data URI of a map, a pixel a cell.

    Args:
        map: (h, w) values.
        of: the image, by which an error names the map.
        own_scale: from 0 to the map's greatest value, instead of the fixed scale from 0 to 1.

    Raises:
        ValueError: a value is not finite.
    """
    from PIL import Image

    try:
        return data_uri(Image.fromarray(colour_map(_own_scale(map) if own_scale else map)))
    except ValueError as error:
        raise ValueError(f"the map of {of}: {error}") from None


def _outline(item: GalleryItem) -> tuple[str | None, str]:
    from PIL import Image

    if item.mask is None:
        return None, ""
    mask = read_picture(item.mask, "L", "a mask")
    if max(mask.size) > 96:  # an outline of a photograph's mask needs no more steps than can be seen
        mask.thumbnail((96, 96), Image.Resampling.BOX)
    cells = np.asarray(mask) > 0 if np.asarray(mask).max() <= 1 else np.asarray(mask) > 127
    return outline_path(cells), f"0 0 {mask.width} {mask.height}"

"""Pictures of a scored run: every image as it is and edited, and under each the maps that it gets.

Versions stand side by side and maps below their version, so that a map is compared along its row; it fits a phone. Layers are those
of `aib.report.gallery`. The run's own map has the fixed scale from 0 to 1; maps of explainers have no unit, and each has its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aib.report.gallery import Pane, coloured, picture
from aib.report.read_scores import EditedItem, ScoreRecord, Version
from aib.report.score_names import edit_label, source_label
from aib.report.style import percent

__all__ = ["EditedPictures", "EditedTile", "VersionHead", "edited_pictures"]

LONGEST = 144
"""Longest side of a picture in pixels: it is laid under every map, so a page holds it several times."""


@dataclass(frozen=True)
class VersionHead:
    """What stands over and under a version: its edit, and what the network makes of it."""

    edit: str
    predicted: str
    confidence: str
    changed: bool
    rescaled: bool


@dataclass(frozen=True)
class EditedTile:
    """An image with its versions; ``maps`` are rows of panes, one a version, by name of the source."""

    true: str
    heads: tuple[VersionHead, ...]
    images: tuple[Pane, ...]
    maps: Sequence[tuple[str, tuple[Pane | None, ...]]]


@dataclass(frozen=True)
class EditedPictures:
    """All of them, the scale of the own map (an SVG, or None without one), and which explainers have scales of their own."""

    tiles: tuple[EditedTile, ...]
    colour_bar: str | None
    explainers: Sequence[str]

    @property
    def rescaled(self) -> bool:
        """Whether a picture is shown shifted and scaled."""
        return any(head.rescaled for tile in self.tiles for head in tile.heads)


def edited_pictures(scores: ScoreRecord, colour_bar: str) -> EditedPictures | None:
    """The pictures of a scored run, or None where there are none.

    Args:
        scores: of the run.
        colour_bar: SVG of the own map's scale.

    Raises:
        ValueError: an image cannot be read, or a map is not finite.
    """
    if not scores.gallery:
        return None
    sources = dict.fromkeys(source for item in scores.gallery for version in item.versions for source in version.maps)
    tiles = tuple(_tile(item, list(sources), scores.own) for item in scores.gallery)
    explainers = [source_label(source) for source in sources if source != scores.own]
    return EditedPictures(tiles, colour_bar if scores.own in sources else None, explainers)


def _tile(item: EditedItem, sources: Sequence[str], own: str | None) -> EditedTile:
    heads = tuple(_head(version, item.versions[0].predicted) for version in item.versions)
    layers = [picture(version.image, LONGEST) for version in item.versions]
    shown = list(zip(item.versions, heads, layers))
    images = tuple(
        Pane(
            "image",
            f"{head.edit}: taken for {head.predicted} with {head.confidence} confidence",
            image,
            None,
            None,
            "",
            ratio,
            small,
        )
        for _, head, (image, ratio, small) in shown
    )
    maps = [
        (source_label(source), tuple(_map_pane(source, source != own, version, head, *layer) for version, head, layer in shown))
        for source in sources
    ]
    return EditedTile(item.true, heads, images, maps)


def _head(version: Version, original: str) -> VersionHead:
    label = "original" if version.size is None else edit_label(version.edit, version.size)
    return VersionHead(label, version.predicted, percent(version.confidence, 0), version.predicted != original, version.rescaled)


def _map_pane(
    source: str, own_scale: bool, version: Version, head: VersionHead, image: str, ratio: float, pixelated: bool
) -> Pane | None:
    map = version.maps.get(source)
    if map is None:
        return None
    name, scale = source_label(source), ", from 0 to its own greatest value" if own_scale else ""
    said = f"{name} of the image under “{head.edit}”{scale}; raw values {map.min():.3g} to {map.max():.3g}"
    return Pane(name, said, image, coloured(map, version.image, own_scale), None, "", ratio, pixelated)

"""What a page is made of: sections with their figures, tables and pictures, and the numbers of the strip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aib.report.compare import Table
from aib.report.edited_gallery import EditedPictures

__all__ = ["Figure", "Number", "Section"]


@dataclass(frozen=True)
class Figure:
    """An SVG and the sentence under it."""

    svg: str
    sentence: str


@dataclass(frozen=True)
class Number:
    """One number of the headline strip: its name, the number, and a line under it."""

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class Section:
    """A part of the report; ``folded`` ones open on a click.

    ``lead`` is the sentence that answers the title. ``pictures`` stand before the figures.
    """

    key: str
    title: str
    lead: str
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    folded: bool = False
    pictures: EditedPictures | None = None

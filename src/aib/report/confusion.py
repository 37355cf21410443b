"""The confusion matrix, readable for ten classes and for a hundred."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aib.report.style import ACCENT, OTHER, percent
from aib.report.svg import WIDTH, Chart

__all__ = ["confusion_figure", "worst_pairs"]

WRITTEN = 12
"""Up to this many classes the counts are written into the cells."""

NAMED = 26
"""Up to this many classes every row and column carries its name; beyond, every tenth its number."""


def worst_pairs(matrix: Sequence[Sequence[int]], names: Sequence[str], limit: int = 10) -> list[tuple[str, str, int, float]]:
    """The ``limit`` most frequent mistakes: (true, predicted, images, share of the true class), most frequent first."""
    counts = np.asarray(matrix, dtype=np.int64).copy()
    totals = counts.sum(1)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:limit]
    pairs = [(int(index) // len(names), int(index) % len(names)) for index in order]
    return [(names[i], names[j], int(counts[i, j]), counts[i, j] / totals[i]) for i, j in pairs if counts[i, j]]


def confusion_figure(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """Rows are true classes, columns predicted ones; blue cells are right, orange ones wrong.

    Strength of colour is the share of the row. Mistakes are rare beside hits, so the orange runs up to the greatest mistake.
    """
    counts = np.asarray(matrix, dtype=np.int64)
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    wrong = shares - np.diag(np.diag(shares))
    strongest = max(float(wrong.max()), 1e-9)
    size = len(names)
    longest = max(len(name) for name in names)
    left = min(84.0, 34 + 6.2 * longest) if size <= NAMED else 44.0
    side = WIDTH - left - 8
    cell = side / size
    top = 24.0
    right_share = float(np.trace(counts)) / max(int(counts.sum()), 1)
    chart = Chart(
        f"Confusion matrix of {size} classes: {percent(right_share)} of the images lie on the diagonal; the most frequent mistake "
        f"takes {percent(strongest if wrong.any() else 0.0)} of its class",
        height=top + side + (left if _slanted(names, cell) else 26),
    )
    chart.text(left + side / 2, 14, "predicted →", anchor="middle", size=11)
    chart.text(12, top + side / 2, "← true", anchor="middle", size=11, transform=f"rotate(-90 12 {top + side / 2:.0f})")
    chart.bar(left, top, side, side, "none", class_="axis", stroke="#d0d7de")
    if size <= NAMED:
        for i, j in zip(*np.nonzero(counts)):
            hit = i == j
            strength = float(shares[i, j]) if hit else float(wrong[i, j]) / strongest
            x, y = left + int(j) * cell, top + int(i) * cell
            said = f"{names[i]} taken for {names[j]}: {counts[i, j]} ({percent(float(shares[i, j]))})"
            opacity = 0.08 + 0.82 * strength
            chart.bar(x + 0.5, y + 0.5, cell - 1, cell - 1, ACCENT if hit else OTHER, title=said, fill_opacity=opacity)
            if size <= WRITTEN:
                ink = {"class_": "on", "fill": "#ffffff"} if opacity > 0.55 else {"class_": "ink", "fill": "#1f2328"}
                chart.text(x + cell / 2, y + cell / 2 + 4, str(counts[i, j]), anchor="middle", size=min(12, cell * 0.36), **ink)
    else:
        chart.add(
            "image", href=_png(shares, wrong / strongest), x=left, y=top, width=side, height=side, style="image-rendering:pixelated"
        )
    _names(chart, names, left, top, cell, side)
    return chart.svg()


def _names(chart: Chart, names: Sequence[str], left: float, top: float, cell: float, side: float) -> None:
    every = 1 if len(names) <= NAMED else 10
    size = min(11.0, max(7.0, cell * 0.8))
    for index in range(0, len(names), every):
        middle = (index + 0.5) * cell
        shown = names[index] if every == 1 else str(index)
        room = max(4, round((left - 30) / (0.56 * size)))
        shown = shown if len(shown) <= room else shown[: room - 1] + "…"
        chart.text(left - 5, top + middle + size / 3, shown, anchor="end", size=size)
        x, y = left + middle, top + side + 8
        if every == 1 and _slanted(names, cell):
            chart.text(x, y, shown, anchor="end", size=size, transform=f"rotate(-55 {x:.1f} {y:.1f})")
        else:
            chart.text(x, y + 6, shown, anchor="middle", size=size)


def _slanted(names: Sequence[str], cell: float) -> bool:
    """Whether the names of the columns are wider than the columns."""
    return len(names) <= NAMED and cell < 7 * max(len(name) for name in names)


def _png(shares: NDArray[np.float64], wrong: NDArray[np.float64]) -> str:
    """A pixel a cell, as a data URI: ten thousand cells as shapes would be a megabyte."""
    from PIL import Image

    hit = np.eye(len(shares), dtype=bool)
    strength = np.where(hit, shares, np.sqrt(wrong))  # a pixel shows less than a cell: the root keeps small mistakes visible
    pixels = np.empty((*shares.shape, 4), np.uint8)
    pixels[..., :3] = np.where(hit[..., None], _rgb(ACCENT), _rgb(OTHER))
    pixels[..., 3] = np.where(strength > 0, 20 + 225 * strength, 0).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _rgb(colour: str) -> NDArray[np.uint8]:
    return np.frombuffer(bytes.fromhex(colour[1:]), np.uint8)

"""Figures of bits: where a map carries them, and how many a code needs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aib.report.gallery import data_uri
from aib.report.read_scores import Estimate
from aib.report.style import colour_map
from aib.report.svg import INK, WIDTH, Axis, Chart

__all__ = ["bit_map", "code_bars"]


def bit_map(rows: Sequence[Sequence[float]]) -> str:
    """Bits at every position as a small heat map, from 0 to its greatest value, with a colour bar in bits.

    Args:
        rows: (h, w) bits, at least 0.
    """
    from PIL import Image

    values = np.asarray(rows, dtype=np.float64)
    height, width = values.shape
    highest = max(float(values.max()), 1e-9)
    side = 186.0
    wide, tall = (side, side * height / width) if width >= height else (side * width / height, side)
    left, top = (WIDTH - wide) / 2 - 38, 30.0
    place = np.unravel_index(int(values.argmax()), values.shape)
    chart = Chart(
        f"Bits at each of {height} by {width} positions, on average {values.mean():.2f} and at most {values.max():.2f}, in row "
        f"{int(place[0]) + 1} and column {int(place[1]) + 1}",
        height=top + tall + 16,
    )
    chart.text(4, 14, "bits a position", class_="ink", fill=INK, font_weight="600")
    uri = data_uri(Image.fromarray(colour_map(values, 0.0, highest)))
    style = "image-rendering:pixelated"
    chart.add("image", href=uri, x=left, y=top, width=wide, height=tall, preserveAspectRatio="none", style=style)
    chart.bar(left, top, wide, tall, "none", class_="axis", stroke="#656d76", stroke_width=0.6)
    scale, bar = Axis(0.0, highest, top + tall, top), left + wide + 26
    for step in range(64):
        end = scale(highest * (step + 1) / 64)
        chart.bar(bar, end, 14, tall / 64 + (0.4 if step else 0.0), _hex(colour_map(np.array((step + 0.5) / 64))))
    for value, name in scale.ticks(5):
        chart.line(bar + 14, scale(value), bar + 19, scale(value), class_="axis", stroke="#656d76")
        chart.text(bar + 23, scale(value) + 4, name, size=11)
    chart.text(bar, top - 8, "bits", size=10)
    return chart.svg()


def _hex(colour: NDArray[np.uint8]) -> str:
    return "#" + bytes(colour.tolist()).hex()


def code_bars(title: str, rows: Sequence[tuple[str, str, Estimate, str]]) -> str:
    """Bits an image as bars, with intervals where there are any.

    Args:
        title: above the bars.
        rows: (name, colour, bits, text beside the bar).
    """
    longest = max([bits[0] for _, _, bits, _ in rows] + [1e-9])
    chart = Chart(f"{title}: " + ", ".join(f"{name} {text}" for name, _, _, text in rows), height=30.0 + 42 * len(rows))
    chart.text(4, 14, title, class_="ink", fill=INK, font_weight="600")
    x = Axis(0.0, longest, 4.0, 204.0)
    for index, (name, colour, bits, text) in enumerate(rows):
        y, end = 32 + 42 * index, max(x(bits[0]), 5.5)
        chart.text(4, y + 8, name, size=11)
        chart.bar(4, y + 13, end - 4, 15, colour, title=f"{name}: {text}", fill_opacity=0.85)
        if not math.isnan(bits[1] + bits[2]):
            chart.line(x(bits[1]), y + 20.5, x(bits[2]), y + 20.5, class_="axis", stroke=INK, stroke_width=1.2)
            end = max(end, x(bits[2]))
        chart.text(end + 6, y + 25, text, size=11, class_="ink", fill=INK)
    return chart.svg()

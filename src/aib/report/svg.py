"""A small drawing board: charts as SVG whose text is text.

Every chart is made at one width, so that its letters have one size on the page and on a phone. Colours are set as attributes, so
that a chart stands on its own; the classes let the page repaint ink and grid for a dark screen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["WIDTH", "Axis", "Chart", "element", "nice_ticks", "tick_text"]

WIDTH = 360
"""Width of a chart in its own units; letters of 12 units are 12 pixels when it is shown at that width."""

INK, SOFT, GRID = "#1f2328", "#656d76", "#e4e7eb"


def element(tag: str, *content: str, **attributes: object) -> str:
    """An SVG element. Attribute names lose a trailing underscore and turn the others into hyphens; None leaves one out.

    Attribute values are escaped; ``content`` is markup and is not.
    """
    parts = [tag]
    for name, value in attributes.items():
        if value is not None:
            text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
            parts.append(f'{name.rstrip("_").replace("_", "-")}="{escape(text)}"')
    opening = " ".join(parts)
    return f"<{opening}>{''.join(content)}</{tag}>" if content else f"<{opening}/>"


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers (1, 2 or 5 times a power of ten apart) inside [low, high]."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_text(value: float, step: float) -> str:
    """``value`` with as many decimals as ticks ``step`` apart need, so that no two are written alike."""
    if value and (abs(value) >= 1e5 or 0 < abs(step) < 9.99e-4):
        digits = max(0, _power(value) - _power(step)) if step else 0
        return f"{value:.{digits}e}".replace("e-0", "e-").replace("e+0", "e")
    if not value:
        return "0"
    decimals = max(0, -_power(step)) if step else 0
    return f"{value:.{decimals}f}"


def _power(value: float) -> int:
    """Of ten, of the first digit; rounded a little, since steps are sums of floats."""
    return math.floor(math.log10(abs(value)) + 1e-9)


@dataclass(frozen=True)
class Axis:
    """Values [low, high] laid from pixel ``start`` to pixel ``stop``, in equal steps or in equal ratios (``log``)."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        return self.start + (value - low) / (high - low) * (self.stop - self.start)

    def ticks(self, count: int = 5) -> list[tuple[float, str]]:
        """Values with their labels."""
        if self.log:
            powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            every = max(1, math.ceil(len(powers) / count))
            values = [10.0**power for power in powers][::every]
            return [(value, f"{value:g}") for value in values]
        ticks = nice_ticks(self.low, self.high, count)
        step = ticks[1] - ticks[0] if len(ticks) > 1 else 0.0
        return [(tick, tick_text(tick, step)) for tick in ticks]


class Chart:
    """A chart being drawn; `svg` gives it out.

    Args:
        label: what a reader who cannot see it is told.
        x, y: (low, high) values; y grows upwards.
        height: of the whole chart in units.
        margin: (top, right, bottom, left) in units around the plot.
        log_x, log_y: equal ratios instead of equal steps.
    """

    def __init__(
        self,
        label: str,
        *,
        x: tuple[float, float] = (0.0, 1.0),
        y: tuple[float, float] = (0.0, 1.0),
        height: float = 260,
        margin: tuple[float, float, float, float] = (30, 16, 42, 50),
        log_x: bool = False,
        log_y: bool = False,
    ) -> None:
        self.label = label
        self.height = height
        top, right, bottom, left = margin
        self.left, self.right, self.top, self.bottom = left, WIDTH - right, top, height - bottom
        self.x = Axis(*x, self.left, self.right, log_x)
        self.y = Axis(*y, self.bottom, self.top, log_y)
        self.parts: list[str] = []

    def add(self, tag: str, *content: str, **attributes: object) -> None:
        """Draw an element in units of the chart."""
        self.parts.append(element(tag, *content, **attributes))

    def text(self, x: float, y: float, text: str, *, anchor: str = "start", size: float = 12, **attributes: object) -> None:
        """Write ``text`` (escaped) at a place in units, soft ink unless told otherwise."""
        attributes = {"class_": "soft", "fill": SOFT} | attributes
        self.add("text", escape(text), x=x, y=y, text_anchor=anchor, font_size=size, **attributes)

    def line(self, x1: float, y1: float, x2: float, y2: float, **attributes: object) -> None:
        """A thin line in units, in the colour of the grid unless told otherwise."""
        attributes = {"class_": "grid", "stroke": GRID} | attributes
        self.add("line", x1=x1, y1=y1, x2=x2, y2=y2, **attributes)

    def path(self, points: Iterable[tuple[float, float]], colour: str, *, dash: str | None = None, width: float = 2) -> None:
        """A line through points given in values."""
        places = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        self.add(
            "polyline",
            points=places,
            fill="none",
            stroke=colour,
            stroke_width=width,
            stroke_dasharray=dash,
            stroke_linejoin="round",
        )

    def dot(self, x: float, y: float, colour: str, *, radius: float = 3.5, title: str = "", **attributes: object) -> None:
        """A point given in values; ``title`` is shown when the pointer rests on it."""
        content = (element("title", escape(title)),) if title else ()
        self.add("circle", *content, cx=self.x(x), cy=self.y(y), r=radius, fill=colour, **attributes)

    def bar(self, x: float, y: float, width: float, height: float, colour: str, *, title: str = "", **attributes: object) -> None:
        """A rectangle in units; ``title`` as in `dot`."""
        content = (element("title", escape(title)),) if title else ()
        self.add("rect", *content, x=x, y=y, width=max(width, 0.0), height=max(height, 0.0), fill=colour, **attributes)

    def axes(self, x_label: str, y_label: str, *, x_ticks: Sequence[tuple[float, str]] | None = None, suffix: str = "") -> None:
        """Grid lines at the ticks of y, ticks of both axes and their names; ``suffix`` follows the numbers of y."""
        for value, name in self.y.ticks():
            self.line(self.left, self.y(value), self.right, self.y(value))
            self.text(self.left - 7, self.y(value) + 4, name + suffix, anchor="end")
        for value, name in self.x.ticks(6) if x_ticks is None else x_ticks:
            self.text(self.x(value), self.bottom + 17, name, anchor="middle")
        self.line(self.left, self.bottom, self.right, self.bottom, class_="axis", stroke=SOFT)
        self.text((self.left + self.right) / 2, self.height - 6, x_label, anchor="middle")
        self.text(4, 14, y_label, class_="ink", fill=INK)

    def legend(self, entries: Sequence[tuple[str, str, str | None]]) -> None:
        """Names with their (colour, dash), at the right of the line above the plot."""
        x = float(self.right)
        for name, colour, dash in reversed(entries):
            x -= 6.6 * len(name)
            self.text(x, 14, name)
            self.line(x - 24, 10, x - 6, 10, class_=None, stroke=colour, stroke_width=2, stroke_dasharray=dash)
            x -= 36

    def svg(self) -> str:
        """The chart as one element, as wide as the place it is put in."""
        return element(
            "svg",
            *self.parts,
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 0 {WIDTH} {self.height:g}",
            role="img",
            aria_label=self.label,
            font_family="system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif",
        )

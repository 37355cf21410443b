"""Figures of scores as SVG text: what is judged in colour, with intervals, and what knows nothing in grey beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from aib.report.read_scores import Estimate
from aib.report.style import ACCENT, CONTROL, SERIES
from aib.report.svg import INK, WIDTH, Axis, Chart, element

__all__ = ["BARE", "PERCENT", "PLAIN", "POINTS", "DotGroup", "Form", "Line", "curve_chart", "dot_chart", "source_colours"]

NAME = 16
"""Letters of a name beside its rows; longer ones are put on two lines where they can be."""

Legend = Sequence[tuple[str, str, str]]
"""(name, colour, mark): mark is ``"dot"``, ``"ring"``, ``"line"`` or ``"dash"``."""


@dataclass(frozen=True)
class Form:
    """How values are written: times ``factor``, with ``digits`` decimals and their sign if ``signed``."""

    factor: float = 1.0
    suffix: str = ""
    digits: int = 2
    signed: bool = False

    def number(self, value: float) -> str:
        """One value, without its unit."""
        shown = f"{self.factor * value:{'+' if self.signed else ''}.{self.digits}f}"
        return (shown.replace("-", "−") if float(shown) else shown.lstrip("+-")).strip()

    def estimate(self, value: Estimate | None, missing: str = "–") -> str:
        """A mean with its interval: ``"12.3 % (10.0 to 14.1)"``."""
        if value is None:
            return missing
        ends = "" if math.isnan(value[1] + value[2]) else f" ({self.number(value[1])} to {self.number(value[2])})"
        return f"{self.number(value[0])}{self.suffix}{ends}"


PERCENT = Form(100.0, "\u00a0%", 1)
BARE = Form(100.0, "", 1)
"""Per cent, where a header says so."""

POINTS = Form(100.0, "", 1, signed=True)
PLAIN = Form(signed=True)


@dataclass(frozen=True)
class DotGroup:
    """Rows of a dot chart under one name.

    Attributes:
        name: on up to two lines, at the left.
        judged: (name, colour, value), a row each.
        controls: (name, value), grey and all on one row.
        best: the control that gets its name and interval.
    """

    name: tuple[str, ...]
    judged: Sequence[tuple[str, str, Estimate | None]]
    controls: Sequence[tuple[str, Estimate | None]] = ()
    best: str | None = None


@dataclass(frozen=True)
class Line:
    """A line of a curve chart.

    Attributes:
        name: for the legend and readers who cannot see it; lines of one name share an entry.
        colour, dash, width: of the stroke.
        points: (x, y).
        band: (x, low, high) of its intervals, drawn as a pale area.
        whiskers: whether they are drawn as lines instead, where areas of several lines would cover each other.
        dots: whether the points are marked.
    """

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    dash: str | None = None
    width: float = 2.0
    band: Sequence[tuple[float, float, float]] = field(default=())
    whiskers: bool = False
    dots: bool = False


def source_colours(judged: Sequence[str], own: str | None) -> dict[str, str]:
    """Blue for the own map, the rest of the palette for explainers."""
    others = [name for name in judged if name != own]
    colours = {name: SERIES[1 + index % (len(SERIES) - 1)] for index, name in enumerate(others)}
    return {name: colours.get(name, ACCENT) for name in judged}


def dot_chart(
    title: str,
    groups: Sequence[DotGroup],
    form: Form = PERCENT,
    *,
    legend: Legend = (),
    bounds: tuple[float, float] | None = None,
    line: float | None = None,
    missing: str = "none unchanged",
) -> str:
    """Points with their 95 % intervals, in groups of rows.

    Args:
        title: what is measured, above the rows.
        groups: from top to bottom.
        form: how values are written.
        legend: entries under the title.
        bounds: least and greatest value of the axis; it grows by itself where values lie beyond.
        line: a value that is marked all the way down, such as chance or 0.
        missing: what stands in place of a value that does not exist.
    """
    values = [value for group in groups for _, _, value in group.judged] + [v for group in groups for _, v in group.controls]
    ends = [end for value in values if value is not None for end in value if not math.isnan(end)]
    low, high = _axis_ends([*ends, *(() if line is None else (line,))], bounds)
    names = [_two_lines(group.name) for group in groups]
    said = "; ".join(
        f"{' '.join(group.name)}: " + ", ".join(f"{name} {form.estimate(value, missing)}" for name, _, value in group.judged)
        for group in groups
    )
    lines = _legend_lines(legend)
    head, row = 24.0 + 15 * len(lines), 13.0
    single = all(len(group.judged) == 1 and not group.controls for group in groups)
    pitch = row if not single else 32.0 if any(len(name) > 1 for name in names) else 22.0
    heights = [pitch * (len(group.judged) + bool(group.controls)) for group in groups]
    gap = 0.0 if single else 9.0
    bottom = head + sum(heights) + gap * (len(groups) - 1) + 5
    chart = Chart(f"{title}: {said}", height=bottom + 20)
    longest = max((len(part) for name in names for part in name), default=0)
    left, right = max(104.0, 16 + 6.7 * longest), WIDTH - 46.0
    x = Axis(low * form.factor, high * form.factor, left, right)
    chart.text(4, 14, title, class_="ink", fill=INK, font_weight="600")
    _draw_legend(chart, lines, 29)
    for tick, name in x.ticks(4):
        chart.line(x(tick), head, x(tick), bottom)
        shown = f"+{name}" if form.signed and tick > 0 else name.replace("-", "−")
        chart.text(x(tick), bottom + 15, shown + form.suffix, anchor="middle", size=11)
    if line is not None:
        at = x(line * form.factor)
        chart.line(at, head, at, bottom, class_="axis", stroke=CONTROL, stroke_width=1.2)
    y = head
    for group, title_lines, height in zip(groups, names, heights):
        _names(chart, title_lines, left - 8, y + height / 2)
        nothing = len(group.judged) > 1 and all(value is None for _, _, value in group.judged)
        if nothing:  # said once
            _dot(chart, x, y + pitch * len(group.judged) / 2, "", "", None, form, missing)
        for name, colour, value in group.judged:
            if nothing:
                y += pitch
                continue
            _dot(chart, x, y + pitch / 2, name, colour, value, form, missing)
            y += pitch
        if group.controls:
            _control_dots(chart, x, y + pitch / 2, group, form)
            y += pitch
        y += gap
    return chart.svg()


def _axis_ends(values: Sequence[float], bounds: tuple[float, float] | None) -> tuple[float, float]:
    """The bounds, or beyond them what the values need and a little more."""
    least, greatest = bounds or (min([0.0, *values]), max([0.0, *values]))
    low, high = min([least, *values]), max([greatest, *values])
    pad = 0.02 * (high - low)
    low, high = low - pad * (low < least or bounds is None), high + pad * (high > greatest or bounds is None)
    return (low, high) if high > low else (low, low + 1.0)


def _two_lines(name: tuple[str, ...]) -> tuple[str, ...]:
    """A long name on two lines."""
    at = name[0].rfind(" ", 0, NAME + 1)
    return (name[0][:at], name[0][at + 1 :]) if len(name) == 1 and len(name[0]) > NAME and at > 0 else name


def _names(chart: Chart, lines: Sequence[str], right: float, middle: float) -> None:
    for index, text in enumerate(lines):
        shown = text if len(text) <= NAME else text[: NAME - 1] + "…"
        style: dict[str, object] = {"class_": "ink", "fill": INK} if index == 0 else {}
        chart.text(right, middle + 4 + 13 * index - 6.5 * (len(lines) - 1), shown, anchor="end", size=11, **style)


def _dot(chart: Chart, x: Axis, y: float, name: str, colour: str, value: Estimate | None, form: Form, missing: str) -> None:
    if value is None:
        chart.text(x.start + 5, y + 3.5, f"– {missing}", size=10, font_style="italic")
        return
    _whisker(chart, x, y, value, colour, form)
    said = f"{name}: {form.estimate(value)}"
    chart.add("circle", element("title", escape(said)), cx=x(form.factor * value[0]), cy=y, r=3.6, fill=colour)
    chart.text(WIDTH - 3, y + 3.5, form.number(value[0]), anchor="end", size=10, class_="ink", fill=INK)


def _control_dots(chart: Chart, x: Axis, y: float, group: DotGroup, form: Form) -> None:
    for name, value in group.controls:
        if value is None:
            continue
        best = name == group.best
        if best:
            _whisker(chart, x, y, value, CONTROL, form)
        title = element("title", escape(f"{name}, a control: {form.estimate(value)}"))
        at, fill = x(form.factor * value[0]), CONTROL if best else "none"
        chart.add(
            "circle", title, cx=at, cy=y, r=3.2 if best else 2.8, fill=fill, stroke=CONTROL, stroke_width=1.2, pointer_events="all"
        )
    found = dict(group.controls).get(group.best or "")
    if found is None or group.best is None:
        return
    others = [x(form.factor * value[0]) for name, value in group.controls if value is not None and name != group.best]
    reach = [x(form.factor * end) for end in found if not math.isnan(end)]
    wide = 5.3 * len(group.best) + 6
    right, left, last = (max(reach), "start"), (min(reach) - wide, "end"), (max([*reach, *others]), "start")
    free = [
        (at, anchor)
        for at, anchor in (right, left)
        if x.start <= at and at + wide < x.stop + 43 and not any(at - 3 < other < at + wide + 3 for other in others)
    ]
    at, anchor = (free or [last])[0]
    chart.text(at + 6 if anchor == "start" else at + wide - 6, y + 3.2, group.best, size=9, anchor=anchor)


def _whisker(chart: Chart, x: Axis, y: float, value: Estimate, colour: str, form: Form) -> None:
    if math.isnan(value[1] + value[2]):
        return
    low, high = (x(form.factor * end) for end in value[1:])
    chart.line(low, y, high, y, class_=None, stroke=colour, stroke_width=1.6)
    for end in (low, high):
        chart.line(end, y - 3, end, y + 3, class_=None, stroke=colour, stroke_width=1.2)


def curve_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    x: tuple[float, float],
    y: tuple[float, float] = (0.0, 100.0),
    x_ticks: Sequence[tuple[float, str]] | None = None,
    second_ticks: tuple[str, Sequence[tuple[float, str]]] | None = None,
    suffix: str = "\u00a0%",
    area: tuple[Sequence[tuple[float, float]], Sequence[tuple[float, float]]] | None = None,
    line: tuple[float, str] | None = None,
) -> str:
    """Lines over a share or a radius.

    Args:
        title: what is drawn, above the axis.
        lines: the last is drawn on top.
        x_label: name of the axis.
        x, y: (low, high) of the axes.
        x_ticks: (value, text), round values by default.
        second_ticks: a name and a further line of texts under the ticks.
        suffix: follows the numbers of y.
        area: upper and lower line of an area that is shaded.
        line: a value of y that is marked all the way, and its name.
    """
    entries: dict[str, tuple[str, str, str]] = {}
    for one in reversed(lines):
        entries.setdefault(one.name, (one.name, one.colour, "dash" if one.dash else "line"))
    rows = _legend_lines([*entries.values(), *([(line[1], CONTROL, "dash")] if line else [])])
    ends = "; ".join(
        f"{one.name}{' (dashed)' if one.dash else ''} from {one.points[0][1]:.3g} to {one.points[-1][1]:.3g}"
        for one in lines
        if one.points
    )
    below = 42.0 + (15 if second_ticks else 0)
    chart = Chart(
        f"{title}: {ends}",
        x=x,
        y=y,
        height=230 + 15.0 * len(rows) + (15 if second_ticks else 0),
        margin=(28 + 15.0 * len(rows), 16, below, 50),
    )
    ticks = chart.x.ticks(5) if x_ticks is None else x_ticks
    chart.axes(x_label, "", x_ticks=ticks, suffix=suffix)
    chart.text(4, 14, title, class_="ink", fill=INK, font_weight="600")
    _draw_legend(chart, rows, 29)
    if second_ticks:
        chart.text(4, chart.bottom + 32, second_ticks[0], size=10)
        for value, text in second_ticks[1]:
            chart.text(chart.x(value), chart.bottom + 32, text, anchor="middle", size=10)
    if area:
        _area(chart, area[0], area[1], ACCENT, 0.1)
    if line:
        at = chart.y(line[0])
        chart.line(chart.left, at, chart.right, at, class_="axis", stroke=CONTROL, stroke_dasharray="4 3")
    for one in lines:
        for at, low, high in one.band if one.whiskers else ():
            chart.line(chart.x(at), chart.y(low), chart.x(at), chart.y(high), class_=None, stroke=one.colour, stroke_width=1.2)
            for end in (low, high):
                chart.line(chart.x(at) - 3, chart.y(end), chart.x(at) + 3, chart.y(end), class_=None, stroke=one.colour)
        if one.band and not one.whiskers:
            _area(chart, [(at, high) for at, _, high in one.band], [(at, low) for at, low, _ in one.band], one.colour, 0.14)
        chart.path(one.points, one.colour, dash=one.dash, width=one.width)
        for point in one.points if one.dots else ():
            chart.dot(*point, one.colour, radius=3, title=f"{one.name}: {point[1]:.1f}{suffix} at {point[0]:g}")
    return chart.svg()


def _area(
    chart: Chart, upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]], colour: str, opacity: float
) -> None:
    corners = " ".join(f"{chart.x(at):.1f},{chart.y(value):.1f}" for at, value in [*upper, *reversed(lower)])
    chart.add("polygon", points=corners, fill=colour, fill_opacity=opacity)


def _legend_lines(legend: Legend) -> list[list[tuple[float, tuple[str, str, str]]]]:
    """Entries with their places, on as many lines as they need."""
    lines: list[list[tuple[float, tuple[str, str, str]]]] = []
    x = float(WIDTH)
    for entry in legend:
        width = 34 + 6.1 * len(entry[0])
        if x + width > WIDTH:
            lines.append([])
            x = 4.0
        lines[-1].append((x, entry))
        x += width
    return lines


def _draw_legend(chart: Chart, lines: Sequence[Sequence[tuple[float, tuple[str, str, str]]]], y: float) -> None:
    for index, entries in enumerate(lines):
        for x, (name, colour, mark) in entries:
            at = y + 15 * index
            if mark in ("dot", "ring"):
                fill = {"fill": colour} if mark == "dot" else {"fill": "none", "stroke": colour, "stroke_width": 1.2}
                chart.add("circle", cx=x + 7, cy=at - 4, r=3.6 if mark == "dot" else 2.8, **fill)
            else:
                dash = "4 3" if mark == "dash" else None
                chart.line(x, at - 4, x + 14, at - 4, class_=None, stroke=colour, stroke_width=2, stroke_dasharray=dash)
            chart.text(x + 18, at, name, size=11)

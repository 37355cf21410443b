"""Figures of scores as SVG text: what is judged in colour, with intervals, and below it its own controls in grey."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from aib.report.read_scores import Estimate
from aib.report.style import ACCENT, CONTROL, SERIES
from aib.report.svg import INK, WIDTH, Axis, Chart, element

__all__ = [
    "BARE", "PERCENT", "PLAIN", "POINTS", "DotGroup", "DotRow", "Form", "Line", "curve_chart", "dot_chart", "score_legend",
    "source_colours",
]  # fmt: skip

NAME = 16
"""Letters of a name beside its rows; longer ones are put on two lines where they can be."""

ROW, GREY, LETTER = 13.0, 10.0, 5.0
"""Heights of a row and of the row of its controls below; width of a letter of the names beside points."""

PALE = 0.4
"""Opacity of what rests on too few images."""

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
class DotRow:
    """What is judged in a dot chart, and below it its own controls in grey.

    Attributes:
        name, colour, value: of what is judged.
        controls: (name, value) of those it is compared with.
        best: the control that is filled, with its interval and its name.
        few: whether it rests on too few images to say; it is pale then.
        note: in grey beside the dot.
        parts: values whose mean it is, drawn as small rings.
    """

    name: str
    colour: str
    value: Estimate | None
    controls: Sequence[tuple[str, Estimate | None]] = ()
    best: str | None = None
    few: bool = False
    note: str = ""
    parts: Sequence[float] = ()

    @property
    def height(self) -> float:
        return ROW + GREY * bool(self.controls)


@dataclass(frozen=True)
class DotGroup:
    """Rows of a dot chart under one name, on up to two lines at the left."""

    name: tuple[str, ...]
    rows: Sequence[DotRow]


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
        few: values of x whose points rest on too few images to say; their marks are pale.
    """

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    dash: str | None = None
    width: float = 2.0
    band: Sequence[tuple[float, float, float]] = field(default=())
    whiskers: bool = False
    dots: bool = False
    few: Collection[float] = ()


def source_colours(judged: Sequence[str], own: str | None) -> dict[str, str]:
    """Blue for the own map, the rest of the palette for explainers."""
    others = [name for name in judged if name != own]
    colours = {name: SERIES[1 + index % (len(SERIES) - 1)] for index, name in enumerate(others)}
    return {name: colours.get(name, ACCENT) for name in judged}


def score_legend(names: Mapping[str, str], *, controls: bool = False, best: bool = False) -> list[tuple[str, str, str]]:
    """Entries of what is judged, ``names`` with their colours, then of its controls and of the best of them."""
    grey = [("controls", CONTROL, "ring")] * controls + [("best" if controls else "best control", CONTROL, "dot")] * best
    return [(name, colour, "dot") for name, colour in names.items()] + grey


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
    rows = [row for group in groups for row in group.rows]
    values = [row.value for row in rows] + [value for row in rows for _, value in row.controls]
    ends = [end for value in values if value is not None for end in value if not math.isnan(end)]
    ends += [part for row in rows for part in row.parts]
    low, high = _axis_ends([*ends, *(() if line is None else (line,))], bounds)
    names = [_two_lines(group.name) for group in groups]
    said = "; ".join(
        f"{' '.join(group.name)}: " + ", ".join(f"{row.name} {form.estimate(row.value, missing)}" for row in group.rows)
        for group in groups
    )
    lines = _legend_lines(legend)
    head = 24.0 + 15 * len(lines)
    single = all(len(group.rows) == 1 and not group.rows[0].controls for group in groups)
    pitch = 32.0 if any(len(name) > 1 for name in names) else 22.0
    heights = [pitch if single else max(sum(row.height for row in group.rows), ROW * len(name))
               for group, name in zip(groups, names)]  # fmt: skip
    gap = 0.0 if single else 9.0
    bottom = head + sum(heights) + gap * (len(groups) - 1) + 5
    chart = Chart(f"{title}: {said}", height=bottom + 20)
    longest = max((len(part) for name in names for part in name), default=0)
    widest = max((len(_short(row.best)) for row in rows if row.best), default=0)  # a name right of the greatest values
    left, right = max(104.0, 16 + 6.7 * longest), WIDTH - min(max(46.0, LETTER * widest + 12), 92.0)
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
    top = head
    for group, title_lines, height in zip(groups, names, heights):
        _names(chart, title_lines, left - 8, top + height / 2)
        _rows(chart, x, top, height, group.rows, form, missing)
        top += height + gap
    return chart.svg()


def _rows(chart: Chart, x: Axis, top: float, height: float, rows: Sequence[DotRow], form: Form, missing: str) -> None:
    """The rows of a group, in the middle of its height; that all of several are missing is said once."""
    nothing = len(rows) > 1 and all(row.value is None for row in rows)
    if nothing:
        _missing(chart, x, top + height / 2, missing)
    y = top + (height - sum(row.height for row in rows)) / 2
    for row in rows:
        if row.value is not None:
            _dot(chart, x, y + ROW / 2, row, row.value, form)
        elif not nothing:
            _missing(chart, x, y + ROW / 2, missing)
        if row.controls:
            _control_dots(chart, x, y + ROW + GREY / 2 - 1, row, form)
        y += row.height


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


def _missing(chart: Chart, x: Axis, y: float, missing: str) -> None:
    chart.text(x.start + 5, y + 3.5, f"– {missing}", size=10, font_style="italic")


def _dot(chart: Chart, x: Axis, y: float, row: DotRow, value: Estimate, form: Form) -> None:
    pale = PALE if row.few else None
    _whisker(chart, x, y, value, row.colour, form, pale)
    for part in row.parts:
        title = element("title", escape(f"{row.name}, one of {len(row.parts)}: {form.number(part)}{form.suffix}"))
        chart.add("circle", title, cx=x(form.factor * part), cy=y, r=2.4, fill="none", stroke=row.colour, stroke_width=1.1,
                  opacity=pale, pointer_events="all")  # fmt: skip
    said = f"{row.name}: {form.estimate(value)}" + (", too few images to say" if row.few else "")
    title = element("title", escape(said))
    chart.add("circle", title, cx=x(form.factor * value[0]), cy=y, r=3.6, fill=row.colour, opacity=pale)
    style: dict[str, object] = {} if row.few else {"class_": "ink", "fill": INK}
    chart.text(WIDTH - 3, y + 3.5, form.number(value[0]), anchor="end", size=10, **style)
    if row.note:
        _beside(chart, x, y, row.note, _reach(x, (*value, *row.parts), form), (), x.stop + 4)


def _control_dots(chart: Chart, x: Axis, y: float, row: DotRow, form: Form) -> None:
    known = {name: value for name, value in row.controls if value is not None}
    best = known.get(row.best or "")
    if best is not None and row.best is not None:
        others = [x(form.factor * value[0]) for name, value in known.items() if name != row.best]
        _beside(chart, x, y, _short(row.best), _reach(x, best, form), others, WIDTH - 3)  # below the points, which stay visible
        _whisker(chart, x, y, best, CONTROL, form)
    for name, value in known.items():
        title = element("title", escape(f"{name}, a control of {row.name}: {form.estimate(value)}"))
        at, filled = x(form.factor * value[0]), name == row.best
        chart.add("circle", title, cx=at, cy=y, r=3.0 if filled else 2.6, fill=CONTROL if filled else "none", stroke=CONTROL,
                  stroke_width=1.1, pointer_events="all")  # fmt: skip


def _short(name: str) -> str:
    """A control without size and source, which are the row's."""
    return name.partition(" (")[0].partition(", ")[0]


def _reach(x: Axis, value: Sequence[float], form: Form) -> list[float]:
    return [x(form.factor * end) for end in value if not math.isnan(end)]


def _beside(chart: Chart, x: Axis, y: float, text: str, reach: Sequence[float], others: Sequence[float], stop: float) -> None:
    """A name in grey right of what it names or left of it; where other points lie there, at the end of the row.

    Of the places between the start of the axis and ``stop`` it takes the first that covers the fewest points.
    """
    every = [*reach, *others]
    named = ((text, min(reach), max(reach)), (f"best: {text}", min(every), max(every)))
    wide = {shown: LETTER * len(shown) + 6 for shown, *_ in named}
    places = [(shown, at, anchor) for shown, low, high in named for at, anchor in ((high, "start"), (low - wide[shown], "end"))]

    def cost(place: tuple[str, float, str]) -> tuple[bool, int]:
        shown, at, anchor = place
        left = at + 2 if anchor == "start" else at - 3  # the name keeps off what it is beside
        return at < x.start or at + wide[shown] > stop, sum(left < other < left + wide[shown] + 1 for other in others)

    shown, at, anchor = min(places, key=cost)
    chart.text(at + 6 if anchor == "start" else at + wide[shown] - 6, y + 3.2, shown, size=9, anchor=anchor, class_="soft name")


def _whisker(chart: Chart, x: Axis, y: float, value: Estimate, colour: str, form: Form, opacity: float | None = None) -> None:
    if math.isnan(value[1] + value[2]):
        return
    low, high = (x(form.factor * end) for end in value[1:])
    chart.line(low, y, high, y, class_=None, stroke=colour, stroke_width=1.6, opacity=opacity)
    for end in (low, high):
        chart.line(end, y - 3, end, y + 3, class_=None, stroke=colour, stroke_width=1.2, opacity=opacity)


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
    above, below = 28 + 15.0 * len(rows), 42.0 + (15 if second_ticks else 0)
    chart = Chart(f"{title}: {ends}", x=x, y=y, height=160 + above + below, margin=(above, 16, below, 50))
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
            pale = {"fill_opacity": PALE} if point[0] in one.few else {}
            chart.dot(*point, one.colour, radius=3, title=f"{one.name}: {point[1]:.1f}{suffix} at {point[0]:g}", **pale)
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

"""Figures as files, for papers and slides: PNG, PDF or SVG by the name's ending."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aib.report.style import CONTROL, SERIES

__all__ = ["NARROWEST", "at_least", "sweep_plot"]

Row = Mapping[str, Any]
Place = tuple[float, float]
Series = Mapping[str, Sequence[int]]
"""Which rows belong together, by what they have in common."""

INK = "#1f2328"
NARROWEST = 2.0
"""Points of error that an axis spans at least: a quarter of a point drawn over a whole panel looks like a finding."""

MARKERS = "os^Dv"
"""As many as share no factor with the number of colours: together they tell 30 series apart."""

DIRECTIONS = ((1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1), (0, -1))
"""Where a name may stand from its point, best first."""

LONGEST = 32
"""Characters of a value that are shown."""

WRITTEN = 14
"""Cells with a name longer than this have a number among the rates, which is explained beside the name."""

STYLE = {
    "font.size": 10, "text.color": INK, "axes.labelcolor": INK, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "axes.edgecolor": CONTROL, "xtick.color": CONTROL, "ytick.color": CONTROL, "axes.spines.top": False, "axes.spines.right": False,
    "grid.color": "#e4e8ec", "axes.axisbelow": True, "axes.titlesize": 10, "axes.titlelocation": "left", "lines.linewidth": 1.4,
    "lines.markersize": 5.5, "errorbar.capsize": 2.5, "svg.fonttype": "none", "pdf.fonttype": 42,
}  # fmt: skip


def sweep_plot(rows: Sequence[Row], path: Path) -> None:
    """Mean error of every cell of a sweep with its interval; over the option's values where one of them is a number.

    Where the cells' rates differ, a second panel has the error over the rate, with intervals in both directions and every point
    named after its cell: of a sweep over beta, the rate-accuracy curve. The axis of the rates is logarithmic where their means span
    more than a decade. A cell without a rate is in the first panel only.

    Args:
        rows: of `aib.commands.sweep.summarize`: ``"values"`` by option, ``"seeds"``, ``"errors"``, ``"error"`` as [mean, low, high]
            of fractions and perhaps ``"rate_bits"`` as [mean, low, high] of bits; an end that does not exist is None.
        path: of the figure.

    Raises:
        ValueError: there is no row, or the ending is not one that can be written.
        OSError: the file cannot be written.
    """
    if not rows:
        raise ValueError("the sweep has no cell; there is nothing to plot")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    axis = _numeric_option(rows)
    series = _series(rows, axis)
    names = [f"{float(row['values'][axis]):g}" if axis is not None else _name(row) for row in rows]
    numbers = [str(number) for number in range(1, len(rows) + 1)] if max(map(len, names)) > WRITTEN else None
    rated = _rates_differ(rows)
    with rc_context(STYLE):
        width, height = (5.6, 4.0) if axis is not None else (6.4, max(4.0 if rated else 1.8, 1.1 + 0.34 * len(rows)))
        figure = Figure(figsize=(width + (4.8 if rated else 0.0), height), layout="constrained")
        # an upright error has one axis for both panels, so that a cell lies at the same height in both
        panels = figure.subplots(1, 2 if rated else 1, squeeze=False, sharey=axis is not None)[0]
        if axis is not None:
            _over_option(panels[0], rows, series, axis)
        else:
            _one_below_the_other(panels[0], rows, names, numbers if rated else None)
        panels[0].set_title(_what_is_shown(rows, " (grey)" if axis is None else ""))
        if len(series) > 1:
            handles, labels = panels[0].get_legend_handles_labels()
            fitting = int(72 * figure.get_figwidth() / (45 + 6 * max(map(len, labels))))
            figure.legend(handles, labels, loc="outside upper left", ncols=max(1, min(4, len(series), fitting)), frameon=False)
        if rated:
            strokes = _over_rate(panels[1], rows, series, axis)
            if axis is not None:
                panels[1].set_title(f"each point with its {_words(axis)}")
            elif numbers is not None:
                panels[1].set_title("numbers as on the left")
            figure.draw_without_rendering()  # gives the panels their places, on which it depends what a name would cover,
            figure.set_layout_engine("none")  # and which they keep
            told_apart = enumerate(series.values()) if len(series) > 1 else ()
            colours = {index: SERIES[number % len(SERIES)] for number, mine in told_apart for index in mine}
            _write_names(panels[1], rows, numbers or names, colours, strokes)
        figure.savefig(path, dpi=160)


def _numeric_option(rows: Sequence[Row]) -> str | None:
    """The first option whose values differ and are all numbers."""
    for name in rows[0]["values"]:
        try:
            values = {float(row["values"][name]) for row in rows}
        except ValueError:
            continue
        if len(values) > 1 and all(map(math.isfinite, values)):
            return str(name)
    return None


def _series(rows: Sequence[Row], axis: str | None) -> dict[str, list[int]]:
    """The rows of each combination of the options beside ``axis``, in its order; without one, all of them."""
    if axis is None:
        return {"": list(range(len(rows)))}
    varied = [name for name in rows[0]["values"] if name != axis and len({row["values"][name] for row in rows}) > 1]
    series: dict[str, list[int]] = {}
    for index in sorted(range(len(rows)), key=lambda index: float(rows[index]["values"][axis])):
        series.setdefault(", ".join(f"{_words(name)} {_short(rows[index]['values'][name])}" for name in varied), []).append(index)
    return dict(sorted(series.items(), key=lambda item: min(item[1])))


def _rates_differ(rows: Sequence[Row]) -> bool:
    """Whether two cells have rates that differ by more than rounding."""
    means = [row["rate_bits"][0] for row in rows if row.get("rate_bits")]
    return len(means) > 1 and max(means) - min(means) > 1e-6 * max(map(abs, means))


def _over_option(axes: Any, rows: Sequence[Row], series: Series, name: str) -> None:
    """A line over the numeric option for each combination of the others."""
    every = sorted({float(row["values"][name]) for row in rows})
    step = min(0.07, 0.5 / len(series))
    for number, (label, mine) in enumerate(series.items()):
        # evenly: values such as those of beta span decades, and 0 is among them
        at = [every.index(float(rows[i]["values"][name])) + step * (number - (len(series) - 1) / 2) for i in mine]
        means = [100 * rows[i]["error"][0] for i in mine]
        reach = [_reach(rows[i]["error"], 100) for i in mine]
        axes.errorbar(at, means, yerr=reach, label=label or None, **_look(number, line=True))
    names = [f"{value:g}" for value in every]
    slanted = len(names) * (1 + max(map(len, names))) > 58  # characters that fit below the panel
    axes.set_xticks(range(len(every)), names, rotation=40 if slanted else 0, ha="right" if slanted else "center")
    axes.set_xlim(-0.4, len(every) - 0.6)
    axes.set_xlabel(_words(name))
    axes.set_ylabel("test error (%)")
    _scale_errors(axes, "y")
    axes.grid(axis="y")


def _one_below_the_other(axes: Any, rows: Sequence[Row], names: Sequence[str], numbers: Sequence[str] | None) -> None:
    """A line of the figure for each cell, with the errors of its seeds below the mean."""
    from matplotlib.transforms import ScaledTranslation

    places = range(len(rows))[::-1]
    below = axes.transData + ScaledTranslation(0, -7 / 72, axes.figure.dpi_scale_trans)
    for row, place in zip(rows, places):
        if len(seeds := row["errors"]) > 1:
            axes.plot([100 * error for error in seeds], [place] * len(seeds), ".", color=CONTROL, ms=4, transform=below)
        axes.errorbar(100 * row["error"][0], place, xerr=_reach(row["error"], 100), **_look(0, line=False))
    axes.set_yticks(places, names if numbers is None else [f"{name}   {number:\u2007>2}" for name, number in zip(names, numbers)])
    axes.tick_params(axis="y", length=0)
    axes.set_ylabel(", ".join(map(_words, rows[0]["values"])))
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel("test error (%)")
    _scale_errors(axes, "x")
    axes.grid(axis="x")


def _over_rate(axes: Any, rows: Sequence[Row], series: Series, axis: str | None) -> list[tuple[Place, Place]]:
    """The error over the rate; returns the strokes that a name should not cross."""
    strokes: list[tuple[Place, Place]] = []
    for number, mine in enumerate(series.values()):
        rated = [rows[i] for i in mine if rows[i].get("rate_bits")]
        points = [_point(row) for row in rated]
        across, upright = [_reach(row["rate_bits"], 1) for row in rated], [_reach(row["error"], 100) for row in rated]
        if rated:
            x, y = zip(*points)
            axes.errorbar(x, y, xerr=across, yerr=upright, **_look(number, line=axis is not None))
        strokes += itertools.pairwise(points) if axis is not None else []
        strokes += [((x - half, y), (x + half, y)) for (x, y), half in zip(points, across) if math.isfinite(half)]
        strokes += [((x, y - half), (x, y + half)) for (x, y), half in zip(points, upright) if math.isfinite(half)]
    log = _scale(axes, [row["rate_bits"] for row in rows if row.get("rate_bits")])
    axes.set_xlabel("rate (bits) ≥ I(Z; X, A)" + (", log scale" if log else ""))
    if axis is None:
        axes.set_ylabel("test error (%)")
        axes.margins(y=0.12)
        _scale_errors(axes, "y")
    axes.grid()
    return strokes


def _scale(axes: Any, rates: Sequence[Sequence[float | None]]) -> bool:
    """An axis around ``rates``, [mean, low, high] each; returns whether it is logarithmic.

    The bar of an interval that is far longer than the means are apart leaves the panel, as it would leave nothing else to see.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    means = [mean for mean, *_ in rates if mean is not None]
    low, high = min(means), max(means)
    ends = [end for rate in rates for end in rate if end is not None]
    if not (low > 0 and high > 10 * low):
        room = max(high - low, 0.1 * high)
        low, high = max(min(ends), low - 2 * room), min(max(ends), high + 2 * room)
        margin = 0.12 * (high - low)
        axes.set_xlim(*_within(at_least((low - margin, high + margin), 0.1 * abs(high)), 0, math.inf))
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=(1, 2, 5, 10)))
        return False
    low, high = max(min([end for end in ends if end > 0]), low / 3), min(max(ends), 3 * high)
    decades = math.log10(high / low)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,), numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(low / 10 ** (0.09 * decades), high * 10 ** (0.09 * decades))
    return True


def _write_names(
    axes: Any, rows: Sequence[Row], names: Sequence[str], colours: Mapping[int, str], strokes: Sequence[tuple[Place, Place]]
) -> None:
    """Each cell's name beside its point, where it covers least: no other name, no point, few of the strokes.

    One that had to move away is joined to its point by a line, of the colour in ``colours`` or grey.
    """
    from matplotlib.patheffects import withStroke

    scale = axes.figure.dpi / 72  # pixels of a point of type
    frame = axes.get_window_extent()
    ends = np.array(strokes, dtype=np.float64).reshape(-1, 2, 2)
    ends[..., 0] = ends[..., 0].clip(*axes.get_xlim())
    drawn = axes.transData.transform(ends.reshape(-1, 2)).reshape(-1, 2, 2)
    crossed = np.concatenate([np.linspace(a, b, 2 + int(np.hypot(*(b - a)) / 3)) for a, b in drawn] or [np.empty((0, 2))])
    rated = [index for index, row in enumerate(rows) if row.get("rate_bits")]
    points = axes.transData.transform([_point(rows[index]) for index in rated])
    taken = [_box(point, 8 * scale, 8 * scale) for point in points]
    for index, point in zip(rated, points):
        others = points[(points != point).any(1)]
        text = axes.annotate(names[index], _point(rows[index]), (0, 0), textcoords="offset points", ha="center", va="center",
                             fontsize=9, path_effects=[withStroke(linewidth=2.5, foreground="white")], zorder=5)  # fmt: skip
        extent = text.get_window_extent()
        best, chosen = math.inf, (point, point)
        for gap, (across, up) in itertools.product((5.0, 11.0, 18.0, 27.0, 38.0), DIRECTIONS):
            middle = point + [across * (gap * scale + extent.width / 2), up * (gap * scale + extent.height / 2)]
            box = _box(middle, extent.width + 2 * scale, extent.height)
            cost = 1.5 * gap + sum(_overlap(box, other) for other in taken)
            cost += 20 * (max(0.0, frame.x0 - box[0], box[2] - frame.x1) + max(0.0, frame.y0 - box[1], box[3] - frame.y1))
            cost += 3 * int(((crossed > box[:2]) & (crossed < box[2:])).all(1).sum())
            # a name belongs to the point it is nearest to
            cost += 6 * (_distance(box, point) + 5 * scale - _distance(box, others)).clip(0).sum()
            if cost < best:
                best, chosen = cost, (middle, box)
        middle, box = chosen
        text.xyann = tuple((middle - point) / scale)
        taken.append(box)
        if _distance(box, point) > 9 * scale:  # too far to be seen as its own
            to_data = axes.transData.inverted().transform
            line = to_data(np.stack([point, np.clip(point, box[:2], box[2:])])).T
            axes.plot(*line, "-", color=colours.get(index, CONTROL), lw=0.8, scalex=False, scaley=False)


def _box(middle: NDArray[np.float64], width: float, height: float) -> NDArray[np.float64]:
    return np.array([middle[0] - width / 2, middle[1] - height / 2, middle[0] + width / 2, middle[1] + height / 2])


def _overlap(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Area that two boxes share, in pixels."""
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    return float(sides.clip(0).prod())


def _distance(box: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """From the nearest place of a box to points (..., 2), in pixels."""
    return np.linalg.norm(points - points.clip(box[:2], box[2:]), axis=-1)


def _point(row: Row) -> Place:
    """Rate and error in per cent."""
    return row["rate_bits"][0], 100 * row["error"][0]


def _look(number: int, *, line: bool) -> dict[str, Any]:
    """Colour and marker of a series; its bars are paler than its means."""
    mark: dict[str, Any] = {"color": SERIES[number % len(SERIES)], "marker": MARKERS[number % len(MARKERS)]}
    mark |= {"ecolor": (SERIES[number % len(SERIES)], 0.55), "elinewidth": 1.1}
    return mark | {"linestyle": "-" if line else "none", "markeredgecolor": "white", "markeredgewidth": 0.6}


def _reach(values: Sequence[float | None], factor: float) -> float:
    """Half the length of the interval [mean, low, high], which is symmetric; NaN where there is none."""
    mean, _, high = values
    return factor * (high - mean) if mean is not None and high is not None else math.nan


def _within(limits: tuple[float, float], low: float, high: float) -> tuple[float, float]:
    """Limits of an axis cut to where values can be, with a little room for marks that lie on its end."""
    room = 0.02 * (limits[1] - limits[0])
    return max(limits[0], low - room), min(limits[1], high + room)


def at_least(limits: tuple[float, float], span: float, low: float = -math.inf, high: float = math.inf) -> tuple[float, float]:
    """Limits of an axis, moved apart around their middle to ``span`` or more, inside [low, high]."""
    if limits[1] - limits[0] >= span:
        return _within(limits, low, high)
    start = min(max(low, sum(limits) / 2 - span / 2), high - span)
    return _within((min(start, limits[0]), max(start + span, limits[1])), low, high)


def _scale_errors(axes: Any, name: str) -> None:
    """An axis of errors in per cent: a least span, inside 0 to 100, and few ticks."""
    from matplotlib.ticker import MaxNLocator

    limits = at_least(getattr(axes, f"get_{name}lim")(), NARROWEST, 0, 100)
    getattr(axes, f"set_{name}lim")(*limits)
    getattr(axes, f"{name}axis").set_major_locator(MaxNLocator(6, steps=(1, 2, 5, 10)))


def _name(row: Row) -> str:
    """The cell's values; of a long one, such as a path, the end."""
    return ", ".join(_short(value) for value in row["values"].values()) or "all"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= LONGEST else "…" + text[1 - LONGEST :]


def _words(option: str) -> str:
    return option.replace("_", " ")


def _what_is_shown(rows: Sequence[Row], how: str) -> str:
    seeds = sorted({len(row["seeds"]) for row in rows})
    if seeds == [1]:
        return "one seed: no interval"
    if seeds[0] == 1:
        return f"means of 1–{seeds[-1]} seeds{how}, 95 % intervals (none for one seed)"
    return f"means of {'–'.join(map(str, sorted({seeds[0], seeds[-1]})))} seeds{how}, 95 % intervals"

"""The figures of a report as SVG text; each takes plain numbers and says in its label what it shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from aib.report.style import ACCENT, COLOUR_MAP, CONTROL, OTHER, SERIES, colour_map, interval, percent, thin_labels
from aib.report.svg import WIDTH, Chart, element

__all__ = ["ablation_bars", "anchor_bars", "colour_bar", "curves", "information_plane", "interval_bars", "reliability"]

Points = Sequence[tuple[float, float]]

GREATEST = 1e300
"""Values from here on, as a damaged log may hold, are not drawn: an axis around them has no numbers left."""


def curves(name: str, series: Mapping[str, Points], *, unit: str = "", share: bool = False) -> str:
    """Lines over epochs.

    Args:
        name: what is drawn, above the axis.
        series: (epoch, value) points by name (``"train"``, ``"val"``); a single series gets no legend.
        unit: written after the name.
        share: values are shares in [0, 1], drawn in per cent.

    The axis starts at 0, unless positive values span more than a factor of 100: then it is logarithmic, and says so.
    """
    factor = 100.0 if share else 1.0
    drawn = {key: [(x, factor * y) for x, y in points if abs(y) < GREATEST] for key, points in series.items()}
    values = [y for points in drawn.values() for _, y in points] or [0.0]
    epochs = [x for points in drawn.values() for x, _ in points] or [1.0]
    positive = [value for value in values if value > 0]
    log = min(values) > 1 / GREATEST and max(values) / min(values) > 100
    top = max(values) * (1.5 if log else 1.06)
    top = min(top, 100.0) if share else top
    low = min(positive) / 1.5 if log else min(0.0, 1.06 * min(values))
    if log:  # whole powers of ten, so that there is a tick to read at each end
        low, top = 10.0 ** math.floor(math.log10(low * 1.2)), 10.0 ** math.ceil(math.log10(top / 1.2))
        top = min(top, 100.0) if share else top
    first, last = min(epochs), max(epochs)
    chart = Chart(
        f"{name} over {len({*epochs})} epochs: "
        + ", ".join(f"{key} ends at {points[-1][1]:.3g}" for key, points in drawn.items() if points),
        x=(first, last) if last > first else (first - 0.5, first + 0.5),
        y=(low, top if top > low else low + 1),
        log_y=log,
        height=200,
    )
    x_ticks = [(value, f"{value:g}") for value, _ in chart.x.ticks(6) if value == int(value)]
    chart.axes(
        "epoch",
        name + (f" ({unit})" if unit else "") + (", log scale" if log else ""),
        x_ticks=x_ticks,
        suffix="\u00a0%" if share else "",
    )
    styles = [(ACCENT, None), (OTHER, "5 3"), (SERIES[2], "2 3")]
    for (key, points), (colour, dash) in zip(drawn.items(), styles):
        chart.path(points, colour, dash=dash)
        if points:
            chart.dot(*points[-1], colour, radius=3, title=f"{key}, epoch {points[-1][0]:g}: {points[-1][1]:.4g}")
    if len(drawn) > 1:
        chart.legend([(key, *style) for key, style in zip(drawn, styles)])
    return chart.svg()


def information_plane(points: Sequence[tuple[int, float, float]], label_entropy_bits: float) -> str:
    """The path of training in the information plane.

    Args:
        points: (epoch, rate in bits, cross-entropy in bits). The rate bounds I(Z; X, A) from above, and the entropy of the labels
            less the cross-entropy bounds I(Z; Y) from below.
        label_entropy_bits: H(Y).
    """
    drawn = [point for point in points if abs(point[1]) < GREATEST and abs(point[2]) < GREATEST]
    placed = [(epoch, rate, label_entropy_bits - loss) for epoch, rate, loss in drawn]
    rates = [rate for _, rate, _ in placed]
    log = bool(rates) and min(rates) > 1 / GREATEST and max(rates) > 30 * min(rates)
    right = 1.1 * max([*rates, label_entropy_bits])
    floor = min([0.0] + [1.1 * y for _, _, y in placed])
    chart = Chart(
        f"Information plane: {placed[0][1]:.1f} bits of rate and {placed[0][2]:.2f} bits about the label in epoch {placed[0][0]}, "
        f"{placed[-1][1]:.1f} and {placed[-1][2]:.2f} in epoch {placed[-1][0]}"
        if placed
        else "Information plane without points",
        x=(0.8 * min(rates), 1.2 * max(rates)) if log else (0, right),
        log_x=log,
        y=(max(floor, -label_entropy_bits), 1.15 * label_entropy_bits),
        height=270,
    )
    chart.axes(
        "rate in bits ≥ I(Z; X, A)" + (", log scale" if log else ""),
        "bits about the label ≤ I(Z; Y)",
    )
    entropy = chart.y(label_entropy_bits)
    chart.line(chart.left, entropy, chart.right, entropy, class_="axis", stroke=CONTROL, stroke_dasharray="4 3")
    chart.text(chart.right, entropy - 6, f"label entropy {label_entropy_bits:.2f}", anchor="end", size=11)
    chart.path([(rate, max(y, chart.y.low)) for _, rate, y in placed], CONTROL, width=1)
    last = max([epoch for epoch, _, _ in placed], default=1)
    for epoch, rate, y in placed:
        colour = _epoch_colour(epoch, last)
        title = f"epoch {epoch}: rate {rate:.2f} bits, {y:.2f} bits about the label"
        chart.dot(rate, max(y, chart.y.low), colour, radius=4.5, title=title, stroke="#fff", stroke_width=0.8)
    if len(placed) > 1:
        for step in range(24):
            chart.bar(chart.right - 72 + 1.95 * step, 7, 2.15, 7, _epoch_colour(1 + (last - 1) * step / 23, last))
        chart.text(chart.right - 77, 14, "epoch 1", anchor="end", size=11)
        chart.text(chart.right, 14, str(last), anchor="end", size=11)
    return chart.svg()


def _epoch_colour(epoch: float, last: float) -> str:
    """From dark purple to orange; the palest end of the map would vanish on paper, the darkest on a dark screen."""
    import numpy as np

    return _hex(colour_map(np.array(0.3 + 0.5 * (epoch - 1) / max(last - 1, 1))))


def _hex(colour: Any) -> str:
    return "#" + "".join(f"{int(channel):02x}" for channel in colour)


def anchor_bars(values: Sequence[float], counts: Sequence[int]) -> str:
    """Share of the map's positions at each anchor, at the anchor's value; unused anchors are hollow marks on the axis."""
    total = max(sum(counts), 1)
    shares = [count / total for count in counts]
    low, high = min([0.0, *values]), max([1.0, *values])
    pad = 0.03 * (high - low)
    used = sum(count > 0 for count in counts)
    chart = Chart(
        f"Usage of {len(values)} anchors, {used} of them in use; the most used one, {values[shares.index(max(shares))]:.2f}, takes "
        f"{percent(max(shares))} of the positions",
        x=(low - pad, high + pad),
        y=(0, 106 * max(shares) or 1),
        height=240,
    )
    chart.axes("anchor value", "share of positions", suffix="\u00a0%")
    width = min(16.0, 0.7 * (chart.right - chart.left) / max(len(values), 1))
    for value, count, share in zip(values, counts, shares):
        x, title = chart.x(value), f"anchor {value:.3f}: {percent(share, 2)} ({count:,} positions)"
        if count:
            top = min(chart.y(100 * share), chart.bottom - 1.5)
            chart.bar(x - width / 2, top, width, chart.bottom - top, ACCENT, title=title, fill_opacity=0.85)
        else:
            chart.dot(value, 0, "none", radius=3, title=title, stroke=CONTROL, stroke_width=1.5)
    if used < len(values):
        chart.text(chart.right, 14, "○ unused", anchor="end")
    return chart.svg()


def reliability(bins: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy against confidence, with the share of the images in every bin below.

    Args:
        bins: ``low``, ``high``, ``count``, ``confidence``, ``accuracy`` of each.
    """
    filled = [entry for entry in bins if entry["count"]]
    total = max(sum(entry["count"] for entry in filled), 1)
    chart = Chart(
        "Reliability: "
        + "; ".join(f"confidence {percent(e['confidence'], 0)} is right {percent(e['accuracy'], 0)}" for e in filled[-4:])
        + f", in {len(filled)} bins",
        x=(0, 100),
        y=(0, 100),
        height=310,
        margin=(30, 18, 102, 50),
    )
    strip = 42.0
    chart.axes("", "accuracy", x_ticks=[], suffix="\u00a0%")
    chart.path([(0, 0), (100, 100)], CONTROL, dash="4 3", width=1.2)
    peak = max([entry["count"] for entry in filled], default=1)
    for entry in filled:
        left, right = chart.x(100 * entry["low"]) + 1, chart.x(100 * entry["high"]) - 1
        top = chart.y(100 * entry["accuracy"])
        said = f"{entry['count']:,} images: confidence {percent(entry['confidence'])}, accuracy {percent(entry['accuracy'])}"
        chart.bar(left, top, right - left, chart.bottom - top, ACCENT, title=said, fill_opacity=0.22)
        tall = max(strip * entry["count"] / peak, 1)
        chart.bar(
            left,
            chart.bottom + 10 + strip - tall,
            right - left,
            tall,
            CONTROL,
            title=f"{percent(entry['count'] / total)} of images",
        )
    for entry in filled:
        chart.dot(100 * entry["confidence"], 100 * entry["accuracy"], ACCENT, radius=4)
    base = chart.bottom + 10 + strip
    chart.line(chart.left, base, chart.right, base, class_="axis", stroke=CONTROL)
    chart.text(chart.left - 7, base - strip / 2 + 4, "images", anchor="end", size=11)
    for value in range(0, 101, 20):
        chart.text(chart.x(value), base + 16, f"{value}\u00a0%", anchor="middle")
    chart.text((chart.left + chart.right) / 2, chart.height - 6, "confidence", anchor="middle")
    return chart.svg()


ABLATIONS = {
    "original": "the map as it is",
    "mean": "its mean everywhere",
    "shuffled_positions": "its positions shuffled",
    "shuffled_images": "another image's map",
    "constant": "one value for all maps",
}


def ablation_bars(errors: Mapping[str, Sequence[float]]) -> str:
    """Error with the map and with the map destroyed in several ways; unknown ways keep their own name.

    Args:
        errors: (mean, low, high) by way, shares in [0, 1]; the ends are NaN where there is no interval.
    """
    rows = [
        (ABLATIONS.get(key, key.replace("_", " ")), errors[key])
        for key in (*ABLATIONS, *(set(errors) - set(ABLATIONS)))
        if key in errors
    ]
    said = [
        f"{name} {percent(mean)}" + ("" if math.isnan(low) else f" ({interval((low, high))})") for name, (mean, low, high) in rows
    ]
    chart = _rows_chart("Error when the map is replaced: " + ", ".join(said), len(rows))
    known = [end for _, values in rows for end in values if not math.isnan(end)]
    scale = 136 / max([*known, 1e-9])
    for index, (name, (mean, low, high)) in enumerate(rows):
        y, end = 14 + 34 * index, 158 + scale * mean
        chart.text(148, y + 15, name, anchor="end", class_="ink", fill="#1f2328")
        chart.bar(158, y, max(scale * mean, 1.5), 20, ACCENT if index == 0 else OTHER, fill_opacity=0.85)
        shown = percent(mean)
        if math.isnan(low + high):
            chart.text(end + 7, y + 15, shown, class_="ink", fill="#1f2328")
            continue
        for x1, y1, x2, y2 in _bracket(158 + scale * low, 158 + scale * high, y + 10):
            chart.line(x1, y1, x2, y2, class_="axis", stroke="#1f2328", stroke_width=1.2)
        chart.text(158 + scale * high + 7, y + 10, shown, class_="ink", fill="#1f2328")
        chart.text(158 + scale * high + 7, y + 21, interval((low, high)), size=9)
    return chart.svg()


def _bracket(low: float, high: float, y: float) -> list[tuple[float, float, float, float]]:
    """The lines of an interval lying at ``y``."""
    return [(low, y, high, y), (low, y - 4, low, y + 4), (high, y - 4, high, y + 4)]


def interval_bars(measure: str, rows: Sequence[tuple[str, str, Sequence[float]]]) -> str:
    """One localisation measure for several maps, a point with its interval each.

    Args:
        measure: what is measured.
        rows: (name, colour, (mean, low, high)), shares in [0, 1]; the ends are NaN where there is no interval.
    """
    chart = _rows_chart(
        f"{measure}: " + ", ".join(f"{name} {percent(values[0])}" for name, _, values in rows), len(rows), head=24, foot=24
    )
    left, right = 146.0, WIDTH - 72.0
    top = min(1.0, max([end for _, _, values in rows for end in values if not math.isnan(end)] + [0.1]) * 1.05)
    scale = (right - left) / top
    bottom = 24 + 28 * len(rows)
    chart.text(4, 14, measure, class_="ink", fill="#1f2328", font_weight="600")
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0) if top > 0.5 else (0.0, 0.1, 0.2, 0.3, 0.4, 0.5):
        if tick <= top:
            chart.line(left + scale * tick, 24, left + scale * tick, bottom)
            chart.text(left + scale * tick, bottom + 15, f"{100 * tick:g}\u00a0%", anchor="middle", size=11)
    for index, (name, colour, (mean, low, high)) in enumerate(rows):
        y = 24 + 28 * index + 14
        shown = name if len(name) <= 21 else name[:20] + "…"
        chart.text(left - 10, y + 4, shown, anchor="end", class_="ink", fill="#1f2328")
        said, known = f"{name}: {percent(mean)}", not math.isnan(low + high)
        if known:
            for x1, y1, x2, y2 in _bracket(left + scale * low, left + scale * high, y):
                chart.line(x1, y1, x2, y2, class_=None, stroke=colour, stroke_width=1.2)
            said += f", 95 % interval {interval((low, high))}"
        chart.add("circle", element("title", escape(said)), cx=left + scale * mean, cy=y, r=3.8, fill=colour)
        chart.text(WIDTH - 4, y + (1 if known else 4), percent(mean), anchor="end", class_="ink", fill="#1f2328")
        if known:
            chart.text(WIDTH - 4, y + 12, interval((low, high)), anchor="end", size=9)
    return chart.svg()


def _rows_chart(label: str, rows: int, head: int = 10, foot: int = 6) -> Chart:
    return Chart(label, height=head + foot + (34 if head == 10 else 28) * rows)


def colour_bar(anchors: Sequence[float] | None) -> str:
    """The fixed scale of the maps, lying down: 0 to 1 without blending, the anchors in use marked when given."""
    import numpy as np

    chart = Chart(f"Colour scale of the maps, {COLOUR_MAP}: 0 is dark, 1 is bright", height=58, margin=(8, 16, 34, 16))
    step = (chart.right - chart.left) / 64
    for index in range(64):  # steps, not a gradient: a gradient needs an id, and a page has many figures
        chart.bar(
            chart.left + step * index,
            chart.top,
            step + (0.4 if index < 63 else 0),
            16,
            _hex(colour_map(np.array((index + 0.5) / 64))),
        )
    inside = [value for value in anchors or (0, 0.25, 0.5, 0.75, 1) if 0 <= value <= 1]
    labelled = thin_labels(inside, 8, 0.08)
    for value in inside:
        chart.line(chart.x(value), 26, chart.x(value), 33 if value in labelled else 29, class_="axis", stroke="#656d76")
    for value in labelled:
        chart.text(chart.x(value), 47, f"{value:.2f}".rstrip("0").rstrip("."), anchor="middle")
    return chart.svg()

"""The figure of a sweep: every number where it belongs, and every word legible, for one cell and for twelve."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

from aib.report.plots import at_least, sweep_plot

BETAS = ("0", "0.0001", "0.0003", "0.001", "0.003", "0.01", "0.03", "0.1", "0.3", "1", "3", "10")


def row(values: dict[str, str], error: float, rate: float | None, seeds: int = 3, spread: float = 0.05) -> dict[str, Any]:
    """A cell as the sweep writes it, with some scatter over seeds."""
    rng = np.random.default_rng(round(1e6 * error) + round(rate or 0))

    def interval(numbers: Sequence[float]) -> list[float | None]:
        mean = float(np.mean(numbers))
        reach = {2: 8.98, 3: 2.48}.get(seeds, 0.0) * float(np.std(numbers))  # Student's t
        return [mean, mean - reach, mean + reach] if seeds > 1 else [mean, None, None]

    errors = (error * np.exp(spread * rng.normal(size=seeds))).tolist()
    rates = None if rate is None else (rate * np.exp(spread * rng.normal(size=seeds))).tolist()
    return {
        "values": values, "seeds": list(range(seeds)), "errors": errors, "error": interval(errors),
        "rate_bits": None if rates is None else interval(rates), "error_minus_first": None,
    }  # fmt: skip


def over_beta(cells: int, **more: Any) -> list[dict[str, Any]]:
    return [row({"beta": BETAS[i]}, 0.08 + 0.001 * (i - 3) ** 2, 500 / 2**i + 2, **more) for i in range(cells)]


def over_two(cells: int) -> list[dict[str, Any]]:
    options = itertools.islice(itertools.product(BETAS[:4], ("8", "20", "50")), cells)
    return [row({"beta": b, "anchors": a}, 0.1 + 0.01 * i, 20 + 7 * i) for i, (b, a) in enumerate(options)]


def over_three(cells: int) -> list[dict[str, Any]]:
    options = itertools.islice(itertools.product(("plain", "residual"), ("8", "20"), BETAS[:4]), cells)
    return [row({"beta": b, "anchors": a, "modulation": m}, 0.1 + 0.01 * i, 20 + 7 * i) for i, (m, a, b) in enumerate(options)]


def over_names(cells: int) -> list[dict[str, Any]]:
    return [row({"model": f"wrn_aib_qt_variant_{i}", "flip": "true"}, 0.1 + 0.004 * i, 20 + 3 * i) for i in range(cells)]


def crowded(cells: int) -> list[dict[str, Any]]:
    """Rates and errors that hardly differ."""
    return [row({"beta": BETAS[i]}, 0.1 + 0.0002 * i, 30 + 0.2 * i, spread=0.01) for i in range(cells)]


@pytest.fixture
def plotted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[dict[str, Any]]], Figure]:
    """The figure of some rows, with everything in its place; writing it takes longest, and is left out."""
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *arguments, **options: drawn.append(figure))

    def plot(rows: Sequence[dict[str, Any]]) -> Figure:
        sweep_plot(rows, Path("plot.png"))
        figure = drawn.pop()
        figure.draw_without_rendering()
        return figure

    return plot


def bars(axes: Any) -> list[tuple[float, ...]]:
    """Ends (x, y, x, y) of every error bar."""
    found = [path for lines in axes.collections if isinstance(lines, LineCollection) for path in lines.get_segments()]
    return [tuple(np.ravel(path).tolist()) for path in found if len(path) == 2]


def names(axes: Any) -> list[Text]:
    """The names beside the points."""
    return [text for text in axes.texts if text.get_text()]


def words(figure: Figure) -> list[Text]:
    """Everything written, as far as it is shown."""
    for axes in figure.axes:
        low, high = axes.get_xlim()
        for tick in axes.xaxis.get_major_ticks():
            tick.label1.set_visible(tick.label1.get_visible() and low <= tick.get_loc() <= high)
        low, high = axes.get_ylim()
        for tick in axes.yaxis.get_major_ticks():
            tick.label1.set_visible(tick.label1.get_visible() and low <= tick.get_loc() <= high)
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


@pytest.mark.parametrize(
    ("make", "cells"),
    [*itertools.product([over_beta, over_two, over_names], [1, 5, 12]), (crowded, 5), (crowded, 12), (over_three, 16)],
)
def test_nothing_written_covers_anything_else_written_or_leaves_the_figure(
    make: Callable[[int], list[dict[str, Any]]], cells: int, plotted: Callable[..., Figure]
) -> None:
    figure = plotted(make(cells))
    written = words(figure)
    assert len(written) > 4
    extents = [text.get_window_extent() for text in written]
    for text, box in zip(written, extents):
        assert figure.bbox.x0 - 1 <= box.x0, text
        assert box.x1 <= figure.bbox.x1 + 1, text
        assert figure.bbox.y0 - 1 <= box.y0, text
        assert box.y1 <= figure.bbox.y1 + 1, text
    for (text, first), (other, second) in itertools.combinations(zip(written, extents), 2):
        if text.get_rotation() == other.get_rotation() == 0 and first.overlaps(second):
            across = min(first.x1, second.x1) - max(first.x0, second.x0)
            upright = min(first.y1, second.y1) - max(first.y0, second.y0)
            assert min(across, upright) < 2, (text, other)


def test_the_bars_of_both_panels_are_the_intervals(plotted: Callable[..., Figure]) -> None:
    rows = over_beta(5)
    left, right = plotted(rows).axes
    upright = [(100 * r["error"][1], 100 * r["error"][2]) for r in rows]
    assert [(low, high) for _, low, _, high in bars(left)] == [pytest.approx(ends) for ends in upright]
    found = bars(right)
    for r, (low, high) in zip(rows, upright):
        rate, error = r["rate_bits"], 100 * r["error"][0]
        assert any(bar == pytest.approx((rate[1], error, rate[2], error)) for bar in found)
        assert any(bar == pytest.approx((rate[0], low, rate[0], high)) for bar in found)
    assert len(found) == 10
    assert left.get_ylim() == right.get_ylim()
    assert "bits" in right.get_xlabel()


def test_every_point_is_nearest_to_its_own_name(plotted: Callable[..., Figure]) -> None:
    rows = over_beta(12)
    axes = plotted(rows).axes[1]
    assert sorted(text.get_text() for text in names(axes)) == sorted(BETAS)
    points = {r["values"]["beta"]: axes.transData.transform((r["rate_bits"][0], 100 * r["error"][0])) for r in rows}
    for text in names(axes):
        box = text.get_window_extent()
        apart = {k: math.dist(p, (np.clip(p[0], box.x0, box.x1), np.clip(p[1], box.y0, box.y1))) for k, p in points.items()}
        assert min(apart, key=lambda key: apart[key]) == text.get_text()


def test_more_than_a_decade_of_rates_is_logarithmic_and_says_so(plotted: Callable[..., Figure]) -> None:
    wide, narrow = plotted(over_beta(6)).axes[1], plotted(over_beta(2)).axes[1]
    assert (wide.get_xscale(), narrow.get_xscale()) == ("log", "linear")
    assert "log scale" in wide.get_xlabel()
    assert "log" not in narrow.get_xlabel()
    ticks = [tick.label1.get_text() for tick in wide.xaxis.get_major_ticks()]
    assert {"20", "50", "100", "200"} <= set(ticks)
    without = plotted([row({"beta": "0"}, 0.1, 40.0), row({"beta": "9"}, 0.3, 0.0)]).axes[1]
    assert without.get_xscale() == "linear"  # no logarithm of a rate of 0


def test_cells_are_joined_in_the_order_of_the_option_whatever_that_of_the_rows(plotted: Callable[..., Figure]) -> None:
    rows = over_beta(5)
    left, right = plotted([rows[i] for i in (3, 0, 4, 2, 1)]).axes
    assert left.lines[0].get_ydata() == pytest.approx([100 * r["error"][0] for r in rows])
    assert right.lines[0].get_xdata() == pytest.approx([r["rate_bits"][0] for r in rows])


@pytest.mark.parametrize(
    "rows",
    [
        [row({"beta": b}, 0.1, None) for b in BETAS[:3]],
        [row({"beta": b}, 0.1, None) for b in BETAS[:3]] + [row({"beta": "9"}, 0.1, 20.0)],
        [{**row({"beta": b}, 0.1, 20.0), "rate_bits": [20.0, 19.0, 21.0]} for b in BETAS[:3]],
        [{key: value for key, value in one.items() if key != "rate_bits"} for one in over_beta(3)],
        over_beta(1),
        [row({}, 0.1, 20.0)],
    ],
    ids=["none", "one", "equal", "absent", "single", "nothing varied"],
)
def test_without_two_rates_there_is_one_panel(rows: list[dict[str, Any]], plotted: Callable[..., Figure]) -> None:
    assert len(plotted(rows).axes) == 1


def test_a_cell_without_a_rate_is_in_the_first_panel_only(plotted: Callable[..., Figure]) -> None:
    rows = [row({"model": "vgg"}, 0.1, None), row({"model": "vgg_aib"}, 0.09, 30.0), row({"model": "vgg_aib_qt"}, 0.08, 25.0)]
    left, right = plotted(rows).axes
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["vgg", "vgg_aib", "vgg_aib_qt"]
    assert [text.get_text() for text in names(right)] == ["vgg_aib", "vgg_aib_qt"]


def test_long_names_are_numbered_and_paths_keep_their_end(plotted: Callable[..., Figure]) -> None:
    rows = [row({"data": f"/some/very/long/way/to/the/place/of/set-{i}.npz"}, 0.1 + i / 50, 20.0 + i) for i in range(3)]
    left, right = plotted(rows).axes
    labels = [tick.get_text() for tick in left.get_yticklabels()]
    assert all(label.startswith("…") and f"set-{i}.npz" in label and label.endswith(str(i + 1)) for i, label in enumerate(labels))
    assert [text.get_text() for text in names(right)] == ["1", "2", "3"]
    assert "numbers" in right.get_title(loc="left")


def test_one_seed_has_no_bars_and_two_have_long_ones_that_leave_the_points_apart(plotted: Callable[..., Figure]) -> None:
    one = plotted(over_beta(4, seeds=1))
    assert all(not bars(axes) for axes in one.axes)
    assert one.axes[0].get_title(loc="left") == "one seed: no interval"
    axes = plotted(over_beta(3, seeds=2, spread=0.8)).axes[1]
    low, high = axes.get_xlim()
    rates = axes.lines[0].get_xdata()
    assert low <= min(rates) < max(rates) <= high
    assert max(rates) - min(rates) > 0.1 * (high - low)


def test_small_differences_are_not_blown_up_and_large_rates_stay_legible(plotted: Callable[..., Figure]) -> None:
    close = [("vgg_aib", 0.2152, 1713.94), ("vgg_aib_qt", 0.2177, 1712.14)]
    figure = plotted([row({"model": model}, error, rate, seeds=1) for model, error, rate in close])
    left, right = figure.axes
    for low, high in (left.get_xlim(), right.get_ylim()):
        assert high - low >= 1.99
        assert low < 21.52 < 21.77 < high
    low, high = right.get_xlim()
    assert high - low > 150
    boxes = [text.get_window_extent() for text in words(figure) if text in right.get_xticklabels()]
    assert 2 < len(boxes) < 9
    assert all(not first.overlaps(second) for first, second in itertools.combinations(boxes, 2))
    assert left.get_title(loc="left") == "one seed: no interval"


@pytest.mark.parametrize(("limits", "low", "high"), [((0.1, 0.2), 0, 2), ((99.9, 100), 98, 100), ((50, 50.5), 49.25, 51.25)])
def test_an_axis_has_a_least_span_inside_its_bounds(limits: tuple[float, float], low: float, high: float) -> None:
    assert at_least(limits, 2.0, 0, 100) == pytest.approx((low, high), abs=0.05)
    assert at_least((10, 20), 2.0, 0, 100) == (10, 20)


def test_errors_stay_between_nothing_and_everything(plotted: Callable[..., Figure]) -> None:
    for error, beyond in ((0.0, -1.0), (1.0, 2.0)):
        rows = [{**r, "error": [error, min(error, beyond), max(error, beyond)], "errors": [error] * 3} for r in over_beta(3)]
        low, high = plotted(rows).axes[0].get_ylim()
        assert -10 < low <= 100 * error <= high < 110


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_the_ending_is_the_format(ending: str, tmp_path: Path) -> None:
    sweep_plot(over_beta(4), tmp_path / f"plot.{ending}")
    starts = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
    content = (tmp_path / f"plot.{ending}").read_bytes()
    assert content.startswith(starts[ending])
    if ending == "svg":  # text stays text
        assert b">test error (%)</text>" in content


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the sweep has no cell"):
        sweep_plot([], tmp_path / "plot.png")
    with pytest.raises(ValueError, match="not supported"):
        sweep_plot(over_beta(2), tmp_path / "plot.xyz")
    with pytest.raises(OSError):
        sweep_plot(over_beta(2), tmp_path / "absent" / "plot.png")


def test_a_caller_finds_matplotlib_as_it_was(tmp_path: Path) -> None:
    before, backend = dict(matplotlib.rcParams), matplotlib.get_backend()
    rows = over_two(6)
    again = [dict(r) for r in rows]
    sweep_plot(rows, tmp_path / "plot.png")
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.get_backend() == backend
    assert rows == again

"""The figures say their numbers and lie where they should, and overlays put every cell of a map on its own pixels."""

from __future__ import annotations

import io
import itertools
import math
import warnings
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from aib.report import overlay_figure, save_overlay
from aib.report.confusion import confusion_figure, worst_pairs
from aib.report.figures import ablation_bars, anchor_bars, colour_bar, curves, information_plane, interval_bars, reliability
from aib.report.gallery import outline_path
from aib.report.overlay import ALPHA, GAP, MARGIN, PANEL, blend, cell_index
from aib.report.style import colour_map, compact, percent, thin_labels
from aib.report.svg import Axis, element, nice_ticks

# --- overlay ------------------------------------------------------------------------------------------------------------------


@given(pixels=st.integers(1, 300), cells=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_a_pixel_takes_the_cell_over_its_centre(pixels: int, cells: int) -> None:
    index = cell_index(pixels, cells)
    for pixel, cell in enumerate(index):
        assert cell / cells <= (pixel + 0.5) / pixels + 1e-12
        assert (pixel + 0.5) / pixels < (cell + 1) / cells + 1e-12
    on_an_edge = any((2 * pixel + 1) * cells % (2 * pixels) == 0 for pixel in range(pixels))
    if not on_an_edge:
        assert (index[::-1] == cells - 1 - index).all()


@pytest.mark.parametrize(("image", "cells"), [((32, 32), (16, 16)), ((30, 50), (7, 9)), ((224, 150), (14, 14))])
def test_one_hot_cell_lights_its_own_pixels(image: tuple[int, int], cells: tuple[int, int]) -> None:
    hot = (cells[0] // 3, cells[1] - 2)
    map = np.zeros(cells, np.float32)
    map[hot] = 1
    lit = (blend(np.zeros((*image, 3), np.uint8), map, alpha=1.0) == colour_map(np.ones(()))).all(-1)
    expected = np.zeros(image, bool)
    for y in range(image[0]):
        for x in range(image[1]):
            centre = ((y + 0.5) * cells[0] / image[0], (x + 0.5) * cells[1] / image[1])
            expected[y, x] = hot[0] <= centre[0] < hot[0] + 1 and hot[1] <= centre[1] < hot[1] + 1
    assert expected.any()
    assert (lit == expected).all()


def test_the_figure_holds_the_image_and_the_blend_on_a_fixed_scale() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    map = (0.5 * rng.random((16, 16))).astype(np.float32)
    canvas = np.asarray(Image.open(io.BytesIO(overlay_figure(image, map, anchors=np.linspace(0, 1, 20).tolist()))))
    side = PANEL // 32 * 32
    left = canvas[MARGIN : MARGIN + side, MARGIN : MARGIN + side]
    assert (left == image.repeat(PANEL // 32, 0).repeat(PANEL // 32, 1)).all()
    start = MARGIN + side + GAP
    over = canvas[MARGIN : MARGIN + side, start : start + side][7::14, 7::14]
    cell = map.repeat(2, 0).repeat(2, 1)
    expected = ALPHA * colour_map(cell) + (1 - ALPHA) * (image @ np.array([0.299, 0.587, 0.114]))[..., None]
    assert np.abs(over - expected).max() <= 0.5 + 1e-6
    own = np.asarray(Image.open(io.BytesIO(overlay_figure(image, map, scale="image"))))[
        MARGIN : MARGIN + side, start : start + side
    ]
    assert np.abs(own[7::14, 7::14].astype(int) - over).max() > 20  # rescaled only when asked


def test_anchors_of_the_map_are_marked_on_the_bar() -> None:
    image, map = np.full((32, 32, 3), 90, np.uint8), np.full((8, 8), 0.5, np.float32)
    map[0, 0] = 1.0
    anchors = [0.0, 0.25, 0.5, 0.75, 1.0]
    canvas = np.asarray(Image.open(io.BytesIO(overlay_figure(image, map, anchors=anchors))).convert("L")).astype(int)
    beside_the_bar = MARGIN + 2 * PANEL + 2 * GAP + 18 + 3
    ticks = np.flatnonzero(canvas[MARGIN : MARGIN + PANEL, beside_the_bar] < 128)
    assert ticks.tolist() == [0, round(0.5 * (PANEL - 1))]


@pytest.mark.parametrize("shape", [(32, 32), (17, 301), (1200, 800), (1, 1)])
def test_overlays_of_any_size(tmp_path: Path, shape: tuple[int, int]) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    path = save_overlay(
        tmp_path / "o.png", image, np.full((3, 3), 0.4, np.float32), "a long name " * 30 + "\n<b>", 0.934, scale="image"
    )
    with Image.open(path) as opened:
        assert max(opened.size) < 1400


def test_the_bar_says_what_the_values_are() -> None:
    image, map = np.zeros((32, 32, 3), np.uint8), np.full((8, 8), 0.5, np.float32)
    scores, shares = overlay_figure(image, map), overlay_figure(image, map, relative=True)
    first, second = (np.asarray(Image.open(io.BytesIO(png))) for png in (scores, shares))
    assert first.shape == second.shape
    differing = (first != second).any(-1).nonzero()[0]
    assert len(differing)
    assert differing.min() > first.shape[0] - 58  # the word below the bar, and nothing else


def test_bad_overlays_are_refused() -> None:
    image, map = np.zeros((8, 8, 3), np.uint8), np.zeros((2, 2), np.float32)
    with pytest.raises(ValueError, match="expected \\(H, W, 3\\) uint8"):
        overlay_figure(image.astype(np.float32), map)
    with pytest.raises(ValueError, match="expected \\(h, w\\)"):
        overlay_figure(image, map[None])
    with pytest.raises(ValueError, match="1 values that are not finite"):
        overlay_figure(image, np.array([[0.0, np.nan]], np.float32))
    with pytest.raises(ValueError, match="'fixed' or 'image'"):
        overlay_figure(image, map, scale="auto")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="vmax must be above vmin"):
        overlay_figure(image, map, vmin=1.0, vmax=1.0)


def test_the_colour_map_grows_lighter_all_the_way() -> None:
    luma = colour_map(np.linspace(0, 1, 200)) @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luma) > -0.6).all()
    assert luma[-1] > luma[0] + 200
    assert (colour_map(np.array([-3.0, 7.0])) == colour_map(np.array([0.0, 1.0]))).all()


# --- figures ------------------------------------------------------------------------------------------------------------------


def svg_text(svg: str) -> list[str]:
    """Texts of a figure; parsing it also proves it well-formed."""
    return [node.text or "" for node in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_figures_are_well_formed_and_say_their_numbers() -> None:
    assert "loss (nats)" in svg_text(curves("loss", {"train": [(1, 2.0), (2, 1.0)]}, unit="nats"))
    assert any("log scale" in text for text in svg_text(curves("rate", {"train": [(1, 5000.0), (2, 3.0)]})))
    tiny, huge = [(1, 5e-324), (2, 1.0)], [(1, 1.0), (2, 1.7e308)]  # as in a damaged log
    for points in ([], [(1, 0.0)], [(1, float("nan")), (2, -1.0)], [(1, 1e-9), (2, 1e9)], tiny, huge):
        svg_text(curves("odd", {"train": points}))
        svg_text(information_plane([(epoch, rate, 0.3) for epoch, rate in points], 3.3))
        svg_text(information_plane([(epoch, 0.3, loss) for epoch, loss in points], 3.3))
    assert "label entropy 3.32" in svg_text(information_plane([(1, 20.0, 2.0), (2, 8.0, 0.5)], 3.32))
    svg = anchor_bars([0.0, 0.5, 1.1], [3, 0, 1])
    assert svg.count("<rect") == 2
    assert "2 of them in use" in svg
    assert "75.00 %" in svg.replace("\u00a0", " ")
    alone = [math.nan, math.nan]
    bars = ablation_bars({"mean": [0.2, *alone], "original": [0.05, 0.03, 0.09], "<new>": [0.3, *alone]})
    assert svg_text(bars)[:3] == ["the map as it is", "5.0\u00a0%", "3.0–9.0\u00a0%"]
    assert "&lt;new&gt; 30.0\u00a0%" in bars
    assert bars.count("<line") == 3  # one interval
    assert "nan" not in bars + interval_bars("Pointing", [("chance", "#8a929b", (0.1, *alone))])
    assert "88.3\u00a0%" in svg_text(interval_bars("Pointing", [("AIB", "#0072b2", (0.883, 0.87, 0.9))]))
    svg_text(reliability([{"low": 0.0, "high": 1.0, "count": 0, "confidence": 0.0, "accuracy": 0.0}]))
    assert svg_text(colour_bar([-0.1, 0.0, 0.3, 1.0]))[1] == "0.3"


def test_loss_curve_points_lie_where_they_should() -> None:
    root = ElementTree.fromstring(curves("error", {"train": [(1, 0.5), (3, 0.25)]}, share=True))
    line = next(root.iter("{http://www.w3.org/2000/svg}polyline")).get("points", "")
    (x1, y1), (x2, y2) = ([float(v) for v in pair.split(",")] for pair in line.split())
    zero = 200 - 42
    assert x2 > x1
    assert (zero - y1) / (zero - y2) == pytest.approx(2.0, rel=0.01)


def places(svg: str) -> list[tuple[str, float, float, float]]:
    """Texts with their left and right end and base line; letters as wide as DejaVu Sans draws most of them."""
    found = []
    for node in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"):
        text, x, y = node.text or "", float(node.get("x", "")), float(node.get("y", ""))
        wide = 0.6 * float(node.get("font-size", "")) * len(text)
        left = x - wide * {"end": 1.0, "middle": 0.5}.get(node.get("text-anchor", ""), 0.0)
        found.append((text, left, left + wide, y))
    return found


@pytest.mark.parametrize("top", [6.8e-5, 2.8e-4, 0.004, 1.0, 480.0, 123_456.0])
def test_no_tick_of_a_training_curve_leaves_the_figure(top: float) -> None:
    svg = curves("commitment loss", {"train": [(1, top), (2, top / 2), (3, 0.4 * top)]})
    assert min(left for _, left, _, _ in places(svg)) >= 0
    ticks = [text for text, _, right, _ in places(svg) if right < 50]
    assert len(ticks) >= 3
    assert len({*ticks}) == len(ticks)


@given(low=st.floats(0, 1e6), power=st.integers(-7, 6), share=st.floats(0.01, 1))
@settings(max_examples=80, deadline=None)
def test_no_two_ticks_are_written_alike(low: float, power: int, share: float) -> None:
    start = 0.0 if power < -3 else low
    texts = [text for _, text in Axis(start, start + share * 10.0**power, 0, 1).ticks()]
    assert len({*texts}) == len(texts)


def test_an_axis_of_shares_ends_at_one_hundred_per_cent() -> None:
    for values in ([(1, 0.9), (2, 0.005)], [(1, 1.0), (2, 0.9)]):
        texts = svg_text(curves("error", {"train": values}, share=True))
        assert "100\u00a0%" in texts
        assert not [text for text in texts if text.endswith("%") and float(text[:-2]) > 100]


def test_the_scale_of_epochs_covers_no_point_of_the_plane() -> None:
    points = [(epoch, 480.0 - 30 * epoch, 3.3 - 0.25 * epoch) for epoch in range(1, 13)]
    svg = information_plane(points, 3.32)
    root = ElementTree.fromstring(svg)
    dots = [float(node.get("cy", "")) - 4.5 for node in root.iter("{http://www.w3.org/2000/svg}circle")]
    bars = [float(node.get("y", "")) + 7 for node in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert max(bars) < min(dots)
    first, name = (next(p for p in places(svg) if p[0].startswith(word)) for word in ("epoch 1", "bits about"))
    assert name[2] <= first[1] + 1


def test_confusion_is_readable_at_ten_and_at_a_hundred() -> None:
    ten = np.diag(np.full(10, 7)) + np.eye(10, k=1, dtype=int) * 3
    svg = confusion_figure(ten.tolist(), [f"class <{index}>" for index in range(10)])
    assert svg_text(svg).count("7") == 10
    assert svg_text(svg).count("3") == 9
    assert "class &lt;0&gt; taken for class &lt;1&gt;: 3" in svg
    hundred = np.random.default_rng(0).integers(0, 9, (100, 100))
    svg = confusion_figure(hundred.tolist(), [str(index) for index in range(100)])
    assert "data:image/png" in svg
    assert len(svg) < 60_000
    assert svg_text(svg).count("90") == 2


def test_worst_pairs_are_the_most_frequent_mistakes() -> None:
    assert worst_pairs([[9, 1, 0], [4, 5, 1], [0, 0, 3]], ["a", "b", "c"], limit=2) == [("b", "a", 4, 0.4), ("a", "b", 1, 0.1)]
    assert worst_pairs([[9, 0], [0, 9]], ["a", "b"]) == []


def test_outline_is_the_border_of_the_mask() -> None:
    mask = np.zeros((4, 5), bool)
    mask[1:3, 2:4] = True
    assert sorted(outline_path(mask).replace("M", "|M").split("|")[1:]) == ["M2 1H4", "M2 1V3", "M2 3H4", "M4 1V3"]
    assert outline_path(np.zeros((3, 3), bool)) == ""


@pytest.mark.parametrize(
    ("number", "text"),
    [(412_356, "412 k"), (19_712_345, "19.7 M"), (999_960, "1.00 M"), (12_380_000_000, "12.4 G"), (7, "7"), (0, "0"), (None, "–")],
)
def test_counts_are_written_to_three_digits(number: float | None, text: str) -> None:
    assert compact(number).replace("\u00a0", " ") == text


def test_small_helpers() -> None:
    assert percent(float("nan")) == percent(None) == "–"
    assert nice_ticks(0, 1, 5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert nice_ticks(3, 3) == [3]
    assert (
        element("a", "x", class_="k", stroke_width=1.5, none=None, v='"<') == '<a class="k" stroke-width="1.5" v="&quot;&lt;">x</a>'
    )


@given(values=st.lists(st.floats(-1, 2), max_size=60), limit=st.integers(2, 8))
@settings(max_examples=80, deadline=None)
def test_labels_are_few_apart_and_keep_the_ends(values: list[float], limit: int) -> None:
    kept = thin_labels(values, limit, 0.05)
    assert len(kept) <= limit
    assert set(kept) <= set(values)
    assert all(b - a >= 0.0499 for a, b in itertools.pairwise(kept))
    if values and max(values) - min(values) > 0.05:
        assert (kept[0], kept[-1]) == (min(values), max(values))


def test_a_post_hoc_map_of_tiny_values_is_shown_on_its_own_scale() -> None:
    from aib.report.gallery import _own_scale

    map = np.array([[0.0, 1e-6], [2e-6, 4e-6]], np.float32)
    np.testing.assert_allclose(_own_scale(map), [[0, 0.25], [0.5, 1]])
    with warnings.catch_warnings(action="error"):  # a damaged one is left to the check that refuses it
        assert _own_scale(np.array([[np.inf, 1]], np.float32))[0, 1] == 1
    np.testing.assert_array_equal(_own_scale(np.zeros((2, 2), np.float32)), np.zeros((2, 2)))  # Grad-CAM found nothing: stays dark

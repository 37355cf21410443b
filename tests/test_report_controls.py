"""What the page and the terminal say of controls is true of each: whose they are, what they know, and how many images decide."""

from __future__ import annotations

import copy
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aib.commands.score_tables import sentences, tables
from aib.report import build_report
from aib.report.beside import others_ahead, versus_control
from aib.report.score_figures import BARE, DotGroup, DotRow, dot_chart
from aib.report.score_names import control_kinds, left_out_words, same_map_words, source_label
from aib.report.style import CONTROL
from report_folder import EDITS, SWEEP, _around, _row, make_run, make_scores
from test_report_page import page_of
from test_report_scores import page_with, scored

SVG = "{http://www.w3.org/2000/svg}"
Change = Callable[[dict[str, Any]], object]


def with_sizes(scores: dict[str, Any], networks: bool = True) -> None:
    """Own map and Grad-CAM with controls of their own sizes: edges at 8 x 8, Grad-CAM's, are above edges at the own map's."""
    beside = scores["beside_controls"]
    beside["rows"] += [_row("edges", *edit, 40) | {"source": "edges@8x8"} for edit in (*EDITS, *SWEEP)]
    for row in beside["rows"]:
        if row["source"] == "edges@8x8":
            row["thresholds"] = {"0.9": {"score": [0.9, 0.8, 1.0], "excess": [0.88, 0.8, 0.95]}}
    for one in beside["comparisons"]:
        if one["source"] == "gradcam":
            one["thresholds"] = {"0.9": {"excess": {"control": "edges@8x8", "difference": [-0.33, -0.4, -0.2]}}}
    beside["controls_of"] = {"own map": ["uniform", "edges", "other image"], "gradcam": ["uniform", "edges@8x8"]}
    if networks:
        beside["controls_of"]["own map"].append("untrained")
    beside["controls"] = list(dict.fromkeys(name for names in beside["controls_of"].values() for name in names))


def circles(page: str, title: str) -> dict[str, str]:
    """Fill of the points of a figure, by what they say when pointed at."""
    start = next(place for place in range(len(page)) if page.startswith("<svg", place) and title in page[place : place + 3000])
    root = ElementTree.fromstring(page[start : page.index("</svg>", start) + len("</svg>")])
    return {node[0].text or "": node.get("fill", "") for node in root.iter(f"{SVG}circle") if len(node)}


def test_every_map_is_beside_its_own_controls_and_the_best_of_those(tmp_path: Path) -> None:
    run = scored(tmp_path / "run", with_sizes)
    page = build_report([run], tmp_path / "report.html").read_text()
    points = circles(page, "excess over another image")
    own, cam = ({text: fill for text, fill in points.items() if f"control of {name}:" in text} for name in ("own map", "Grad-CAM"))
    filled = [text.partition(",")[0] for text, fill in (own | cam).items() if fill == CONTROL]
    assert filled == ["edges", "edges (8×8)"]
    assert not [text for text in cam if text.startswith(("edges,", "untrained"))]
    assert not [text for text in own if "8×8" in text]
    best = [text.partition(":")[0] for text in circles(page, "above the best control") if "control" in text]
    assert best == ["edges, a control of own map", "edges (8×8), a control of Grad-CAM"]


def test_networks_that_count_for_none_are_shown_and_said_so(tmp_path: Path) -> None:
    def change(scores: dict[str, Any]) -> None:
        with_sizes(scores, networks=False)
        scores["beside_controls"]["not_recomputed"] = ["iba"]

    run = scored(tmp_path / "run", change)
    out = build_report([run], tmp_path / "report.html")
    text = page_of(out).text
    assert "untrained (no control) 90.0 / 10.0" in text
    assert "IBA: too costly to compute anew on networks with random weights." in text
    assert "Controls, each of the size of the map beside it, are maps made without the network." in text
    assert "untrained" not in " ".join(circles(out.read_text(), "excess over another image"))
    counted = page_with(tmp_path / "counted", with_sizes).text
    assert "maps made without the network and maps of the same network with random weights, in whole or in part." in counted
    assert "untrained (no control)" not in counted


WITHOUT, OTHER, NETWORK = (
    ("uniform", "centre@8x8", "edges", "random"),
    ("other image", "other image@gradcam"),
    ("untrained", "attention randomised@gradcam", "last 25 % randomised"),
)


@given(st.lists(st.sampled_from([*WITHOUT, *OTHER, *NETWORK])))
def test_kinds_of_controls_are_named_where_they_are_and_only_there(names: list[str]) -> None:
    said = control_kinds(names)
    for kind, words in ((WITHOUT, "without the network"), (OTHER, "another image"), (NETWORK, "random weights")):
        assert (words in said) == any(name in kind for name in names)
    assert bool(said) == bool(names)


def test_the_same_map_is_called_the_same_only_where_it_is() -> None:
    names = ["last 25 % randomised", "last 50 % randomised"]
    said = same_map_words(names, {names[0]: 1.0, names[1]: 0.971}, source_label)
    assert said == (
        "With last 25 % random the map is the same: what is random does not enter it. With last 50 % random its scores are the "
        "same, and only the anchors they snap to are random. These are no controls."
    )
    assert "anchors" not in same_map_words(names, {}, source_label)
    assert same_map_words([], {}, source_label) == ""


def test_controls_that_cost_too_much_are_said_to_be_missing() -> None:
    counted = {"own map": ["edges", "untrained"], "iba": ["edges"]}
    assert left_out_words(["iba"], counted, source_label).endswith("not ranked against the others by it.")
    assert left_out_words(["iba"], {"iba": ["edges"]}, source_label).endswith("with random weights.")
    assert left_out_words([], counted, source_label) == ""


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        ([0.123, 0.07, 0.17], "12.3 (7.0 to 17.0) points above its best control, an edge detector"),
        ([-0.123, -0.17, -0.07], "12.3 (7.0 to 17.0) points below its best control, an edge detector"),
        ([-0.03, -0.067, 0.004], "not told apart from its best control, an edge detector (−3.0, −6.7 to +0.4 points)"),
        (None, ""),
    ],
)
def test_a_difference_is_above_or_below_or_neither(difference: list[float] | None, said: str) -> None:
    assert versus_control({"control": "edges@8x8", "difference": difference}, BARE, " points") == said


def fewer(scores: dict[str, Any], edits: list[tuple[str, float]], unchanged: int = 9, source: str = "own map") -> None:
    for one in scores["beside_controls"]["comparisons"]:
        if (one["edit"], one["size"]) in edits and one["source"] == source:
            one["unchanged"] = unchanged


def test_few_images_decide_nothing_in_a_sweep(tmp_path: Path) -> None:
    text = page_with(tmp_path, lambda scores: fewer(scores, [("low frequencies", 4.0), ("high frequencies", 2.0)])).text
    assert (
        "With low frequencies alone the map is ahead of the best control at 2 (8, 12) of 2 radii, behind at none. At radius 4"
        in text
    )
    assert "At radius 4 fewer than 20 predictions stay: too few images to say." in text
    assert "Pale: fewer than 20 predictions stay" in text
    page_with(tmp_path / "whole")
    band, whole = (
        re.search(r'<polygon[^>]* points="([^"]+)"', (folder / "report.html").read_text().split("only low frequencies kept")[-1])
        for folder in (tmp_path, tmp_path / "whole")
    )
    assert band
    assert whole
    assert len(band[1].split()) == len(whole[1].split()) - 2  # the pale point has none
    every = page_with(tmp_path / "every", lambda scores: fewer(scores, [*EDITS, *SWEEP])).text
    assert "With low frequencies alone nothing can be said: at no radius do 20 predictions stay." in every
    assert "Pale" not in page_with(tmp_path / "none").text


def test_few_images_decide_nothing_between_runs_nor_explainers(tmp_path: Path) -> None:
    runs = [scored(tmp_path / "good"), scored(tmp_path / "small", lambda scores: fewer(scores, EDITS[:1], 16))]
    text = page_of(build_report(runs, tmp_path / "report.html")).text
    assert "good under 3 of 3 edits; small under 2 of 2 edits (under 1 more fewer than 20 predictions stay)." in text
    assert "+30.0 (+20.0 to +40.0) (too few)" in text
    alone = page_with(tmp_path / "alone", lambda scores: fewer(scores, EDITS[:1], 16, "gradcam")).text
    assert "Grad-CAM is ahead under 2 of 2 edits." in alone
    assert others_ahead({"a": "1 of 3", "b": "0 of 3"}, "in", "fills") == (
        "Each beside its own best control, a is ahead in 1 of 3 fills, b in 0 of 3."
    )


def test_few_images_decide_nothing_elsewhere(tmp_path: Path) -> None:
    def change(scores: dict[str, Any]) -> None:
        scores["localization"]["n"] = 19
        scores["grid_pointing"]["n"] = 12
        scores["randomized"]["untrained"] |= {"spearman": [0.9, 0.8, 1.0], "draws": [0.9, 0.9, 0.9]}
        for one in scores["randomized"].values():
            one["n"] = 7
        scores["detection"]["outside"]["svhn"]["outside"] = 5

    text = page_with(tmp_path, change).text
    assert "Too few images to say: 15. The map has 80.0 %" in text
    assert "Too few grids to say whether a map knows the class: 12." in text
    assert "Too few images to say for the map: fewer than 20. The most alike is that of the network with random weights" in text
    assert "too few images to compare with the entropy" in text
    assert "Hardly" not in text


def test_points_of_few_images_are_pale() -> None:
    def drawn(few: bool) -> str:
        return dot_chart("score", [DotGroup(("one",), [DotRow("map", "#0072b2", (0.5, 0.25, 0.75), few=few)])])

    assert "opacity" not in drawn(False)
    assert drawn(True).count('opacity="0.4"') == 4
    assert "too few images to say" in drawn(True)


def test_names_in_a_figure_lie_inside_it_and_off_the_other_points() -> None:
    spread = [(f"c{place}", (place / 10, math.nan, math.nan)) for place in range(11)]  # between two is room for two letters
    for at in range(11):
        row = DotRow("map", "#0072b2", (0.5, 0.4, 0.6), spread, f"c{at}")
        root = ElementTree.fromstring(dot_chart("score", [DotGroup(("one",), [row])], bounds=(0.0, 1.0)))
        (label,) = [node for node in root.iter(f"{SVG}text") if (node.text or "").endswith(f"c{at}")]
        start = float(label.get("x", "")) - (5.0 * len(label.text or "") if label.get("text-anchor") == "end" else 0)
        assert 0 <= start < start + 5.0 * len(label.text or "") <= 360
        others = [float(node.get("cx", "")) for node in root.iter(f"{SVG}circle") if node.get("fill") == "none"]
        assert len(others) == 10
        assert not [place for place in others if start < place < start + 5.0 * len(label.text or "")]


@pytest.mark.parametrize(
    ("maps", "above", "said"),
    [
        ({"gradcam": 0.30}, [-0.1, -0.15, -0.05], "Grad-CAM puts 30.0 % (28.0 to 32.0) of its map on the class it explains, more "
         "than chance (25 %), 10.0 (5.0 to 15.0) points below its best control, the network with random weights."),
        ({"gradcam": 0.26}, None, "on the class it explains, not told apart from chance (25 %)."),
        ({"gradcam": 0.30, "own map": 0.4}, None, "Of the maps that depend on the class the map puts 40.0 % (38.0 to 42.0) of "
         "itself on the class it explains, more than chance (25 %), more than the others."),
    ],
)  # fmt: skip
def test_grids_are_spoken_of_as_they_are(tmp_path: Path, maps: dict[str, float], above: list[float] | None, said: str) -> None:
    def change(scores: dict[str, Any]) -> None:
        grid = scores["grid_pointing"]
        grid["maps"] |= {name: _around(value, 0.02) for name, value in maps.items()}
        grid["above"] = {"gradcam": {"control": "untrained@gradcam", "difference": above}} if above else {}

    text = page_with(tmp_path, change).text
    assert said in text
    assert ("at chance by construction" in text) == ("own map" not in maps)  # a map that has the class in it is no such


def test_a_map_of_a_class_is_played_like_an_explainer_even_at_chance(tmp_path: Path) -> None:
    """`vgg_gap`'s own map: it has controls of a class, and so can fall short of them."""

    def change(scores: dict[str, Any]) -> None:
        grid = scores["grid_pointing"]
        grid["maps"] = {"own map": [0.25] * 3, "untrained": [0.3, 0.28, 0.32], "uniform": [0.25] * 3}
        grid["above"] = {"own map": {"control": "untrained", "difference": [-0.05, -0.07, -0.03]}}

    run = scored(tmp_path / "run", change)
    text = page_of(build_report([run], tmp_path / "r.html")).text
    assert (
        "The map puts 25.0 % (25.0 to 25.0) of itself on the class it explains, not told apart from chance (25 %), "
        "5.0 (3.0 to 7.0) points below its best control, the network with random weights."
    ) in text
    assert "at chance by construction" not in text
    assert "at chance by construction" in page_with(tmp_path / "other").text


def test_what_depends_on_the_zero_of_a_map_is_said(tmp_path: Path) -> None:
    assert "the same constant added to every value changes it, and a large one brings it to 0" in page_with(tmp_path).text


def test_the_ablation_has_the_intervals_of_the_scores(tmp_path: Path) -> None:
    both = page_with(tmp_path / "both").text
    assert "error 6.0 % (3.0–12.0 %) becomes 61.0 % (51.0–70.0 %)" in both
    assert "of aib eval it goes from" in both
    without = page_with(tmp_path / "without", lambda scores: scores.pop("map_ablation")).text
    assert "(3.0–12.0 %)" not in without
    assert "Is the map used?" in without
    run = scored(tmp_path / "alone")
    (run / "eval" / "test.json").unlink()
    alone = page_of(build_report([run], tmp_path / "alone.html")).text
    assert "error 6.0 % (3.0–12.0 %) becomes 61.0 % (51.0–70.0 %)" in alone
    assert "aib eval it goes" not in alone


def test_the_own_map_on_all_images_is_beside_what_was_drawn(tmp_path: Path) -> None:
    text = page_with(tmp_path, with_sizes).text
    assert "The own map on all 100 images, beside the controls made without the network" in text
    assert "colour window 8×8 37 of 100 +30.0 (+20.0 to +40.0) edges" in text

    def same(scores: dict[str, Any]) -> None:
        scores["consistency"]["n"] = 40

    assert "The own map on all" not in page_with(tmp_path / "same", same).text


def test_figures_of_masks_have_intervals_controls_and_chance(tmp_path: Path) -> None:
    page = build_report([scored(tmp_path / "run")], tmp_path / "report.html").read_text()
    section = page[page.index('id="run1-located"') :]
    points = circles(section, "Pointing game: own map")
    assert points["centre, a control of Grad-CAM: 31.0\u00a0% (29.0 to 33.0)"] == CONTROL
    assert "Grad-CAM: 52.0\u00a0% (50.0 to 54.0)" in points
    assert not [text for text in points if "chance" in text]
    table = section[section.index("Where the maps lie, every map") :]
    assert "<td>11.0\u00a0%</td>" in table  # known from the masks: no interval
    assert "chance" in table


def test_the_terminal_says_the_same(tmp_path: Path) -> None:
    result: dict[str, Any] = copy.deepcopy(make_scores(make_run(tmp_path / "run")))
    with_sizes(result, networks=False)
    result["beside_controls"]["not_recomputed"] = ["gradcam"]
    result["randomized"]["last 25 % randomised"]["spearman"] = [0.97, 0.96, 0.98]
    said = "\n".join(sentences(result))
    assert "With last 25 % random its scores are the same, and only the anchors they snap to are random." in said
    assert "gradcam: too costly to compute anew on networks with random weights." in said
    assert (
        "Controls, each of the size of the map beside it, are maps made without the network and the map of another image." in said
    )
    cells = {str(name) for table in tables(result, "0.9") for name in table.columns[0].cells}
    assert {"untrained (no control)", "last 25 % random (no control)", "edges@8x8", "gradcam"} <= cells
    (place,) = [table for table in tables(result, "0.9") if "steadiness" in str(table.title)]
    row = dict(zip(place.columns[0].cells, place.columns[3].cells))
    assert row["chance"] == "11.0"
    assert row["centre"] == "31.0 [29, 33]"


def test_the_terminal_has_every_metric_above_its_best_control(tmp_path: Path) -> None:
    result: dict[str, Any] = copy.deepcopy(make_scores(make_run(tmp_path / "run")))
    result["sensitivity"]["gradcam"]["above"] = {"control": None, "difference": None}
    lines = tables(result, "0.9")[-1]
    rows = list(zip(*(column.cells for column in lines.columns)))
    assert [row[:2] for row in rows[:6]] == [
        ("own map", "SRG, mean"), ("own map", "SRG, blur"), ("own map", "polarity, blur"), ("own map", "deletion, blur"),
        ("own map", "attended gone, blur"), ("own map", "noise"),
    ]  # fmt: skip
    assert rows[3][2:] == ("+7.0 [+4, +10]", "random")
    assert rows[5][2:] == ("-1.6 [-2, -1]", "edges")
    assert ("gradcam", "noise") not in [row[:2] for row in rows]
    assert "noise stand above the best control by how much less they are" in " ".join(sentences(result))


def test_older_files_without_what_came_since_are_still_read(tmp_path: Path) -> None:
    def change(scores: dict[str, Any]) -> None:
        for part in ("map_ablation", "localization"):
            scores.pop(part)
        scores["beside_controls"].pop("controls_of", None)
        for one in scores["randomized"].values():
            del one["n"]

    text = page_with(tmp_path, change).text
    assert "Yes: under all 3 edits" in text
    assert "Yes: with random weights the map is another map." in text

"""The removal of an image's parts in the report: bands, grey curves, areas, differences, what captions say, and older files."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aib.report import read_run
from aib.report.metric_sections import metric_sections
from aib.report.parts import Figure, Section
from aib.report.score_sections import score_sections
from aib.report.style import ACCENT, CONTROL
from report_folder import _around, _json, _removed, make_run, make_scores

SPACE = "{http://www.w3.org/2000/svg}"


def sections(root: Path, change: Callable[[dict[str, Any]], object] = lambda scores: None) -> tuple[Section, Section]:
    """Those of the removal, and of noise, grids and masks, with scores that ``change`` may alter."""
    run = make_run(root)
    scores: dict[str, Any] = make_scores(run)
    change(scores)
    _json(run / "score" / "test.json", scores)
    record = read_run(run)
    assert record.scores is not None
    removal, _, steadiness = metric_sections(record, record.scores)
    return removal, steadiness


def three_fills(scores: dict[str, Any]) -> None:
    faithfulness = scores["faithfulness"]
    for part in ("fills", "above"):
        faithfulness[part]["noisy_linear"] = faithfulness[part]["blur"]


def named(figures: list[Figure], start: str) -> Figure:
    (found,) = [one for one in figures if f'aria-label="{start}' in one.svg]
    return found


def drawn(svg: str, tag: str, attribute: str) -> list[str]:
    return [node.get(attribute, "") for node in ElementTree.fromstring(svg).iter(SPACE + tag)]


def test_curves_have_bands_where_they_are_judged_and_controls_are_grey_and_named(tmp_path: Path) -> None:
    section, _ = sections(tmp_path, three_fills)
    curves = [one for one in section.figures if 'aria-label="class probability' in one.svg]
    assert len(curves) == 3
    for one in curves:
        strokes = drawn(one.svg, "polyline", "stroke")
        # uniform and edges, Grad-CAM and the own map; each by both orders, the own map on top
        assert len(strokes) == 8
        assert strokes[2:4] == [CONTROL] * 2
        assert strokes[6:] == [ACCENT] * 2
        assert len(set(strokes)) == 4
        assert sorted(drawn(one.svg, "polygon", "fill")) == sorted(strokes[4:])
        assert "edges, best control of own map" in one.svg
        assert "Grey: edges, which of the map’s controls has the greatest SRG; paler, the uniform map" in one.sentence
        assert "Not shown" in one.sentence
        assert ("95\u00a0% bands over images" in one.sentence) == (one is curves[0])
    assert len({one.sentence for one in curves}) == 3
    assert "from which insertion starts" in curves[1].sentence
    # a band reaches 2 points to both sides of 30 % at half
    band = next(node for node in ElementTree.fromstring(curves[0].svg).iter(SPACE + "polygon") if node.get("fill") == ACCENT)
    heights = sorted({float(corner.split(",")[1]) for corner in band.get("points", "").split() if "," in corner})
    assert len(heights) == 6


def test_the_uniform_map_may_be_the_best_control_and_the_choice_falls_back_on_the_means(tmp_path: Path) -> None:
    def uniform(scores: dict[str, Any]) -> None:
        for found in scores["faithfulness"]["above"].values():
            found["own map"]["srg"]["control"] = "uniform"

    section, _ = sections(tmp_path / "uniform", uniform)
    first = section.figures[0]
    assert len(drawn(first.svg, "polyline", "stroke")) == 6
    assert first.sentence.endswith("Grey: uniform, which of the map’s controls has the greatest SRG.")

    def absent(scores: dict[str, Any]) -> None:
        del scores["faithfulness"]["above"]
        scores["beside_controls"]["controls"] = ["uniform", "edges", "untrained"]

    section, _ = sections(tmp_path / "absent", absent)
    assert "Grey: edges, which of the map’s controls has the greatest SRG; paler" in section.figures[0].sentence


def filled(svg: str) -> list[str]:
    """The controls that are drawn as the best, and of what."""
    nodes = ElementTree.fromstring(svg).iter(f"{SPACE}circle")
    return [(node.findtext(f"{SPACE}title") or "").partition(":")[0] for node in nodes if node.get("fill") == CONTROL and len(node)]


def test_areas_are_drawn_with_intervals_and_the_best_control_of_each_sense_is_filled(tmp_path: Path) -> None:
    def change(scores: dict[str, Any]) -> None:
        maps = scores["faithfulness"]["fills"]["mean"]
        scores["faithfulness"]["fills"] = {"mean": maps}
        maps["edges"] = {**_removed(0.3), "deletion": [0.15, 0.1, 0.2], "insertion": [0.45, 0.4, 0.5]}
        maps["uniform"] = {**_removed(0.0), "deletion": [0.55, 0.5, 0.6], "insertion": [0.56, 0.5, 0.6]}
        del scores["faithfulness"]["above"]  # as in older files: the best is by the means

    section, _ = sections(tmp_path, change)
    deletion, insertion = (named(list(section.figures), metric) for metric in ("deletion", "insertion"))
    assert "mean colour: own map 0.20 (0.10 to 0.30)" in deletion.svg
    assert "mean colour: own map 0.81 (0.10 to 0.90)" in insertion.svg
    assert filled(deletion.svg) == ["edges, a control of own map", "edges, a control of Grad-CAM"]
    assert filled(insertion.svg) == ["uniform, a control of own map", "uniform, a control of Grad-CAM"]
    assert "says nothing of the map" in deletion.sentence
    assert "does not rank" in insertion.sentence


@pytest.mark.parametrize(
    ("metric", "figure"),
    [("srg", "SRG"), ("deletion", "deletion"), ("insertion", "insertion"), ("polarity", "polarity"),
     ("attended_removed", "accuracy"), ("unattended_removed", "accuracy")],
)  # fmt: skip
def test_each_map_has_its_own_best_control_in_every_figure(tmp_path: Path, metric: str, figure: str) -> None:
    def change(scores: dict[str, Any]) -> None:
        found = scores["faithfulness"]
        found["fills"] = {"blur": found["fills"]["blur"]}
        best = {"own map": "random", "gradcam": "uniform"}
        found["above"] = {
            "blur": {name: {metric: {"control": control, "difference": _around(0.1, 0.05)}} for name, control in best.items()}
        }
        names = {"own map": ["edges", "random"], "gradcam": ["uniform", "edges"]}
        scores["beside_controls"] |= {"controls": ["uniform", "edges", "random"], "controls_of": names}

    section, _ = sections(tmp_path, change)
    drawn_best = filled(named(list(section.figures), figure).svg)
    expected = ["random, a control of own map", "uniform, a control of Grad-CAM"]
    if figure == "accuracy":  # of one half the file does not say: the best is by the means, all alike here
        of_half = {"attended_removed": slice(0, 2), "unattended_removed": slice(2, 4)}[metric]
        drawn_best = drawn_best[of_half]
    assert drawn_best == expected


def test_every_difference_is_in_one_table_with_its_control(tmp_path: Path) -> None:
    section, _ = sections(tmp_path)
    table = section.tables[0]
    assert list(table.columns) == ["map", "metric", "mean colour", "blur"]
    rows = {(row[0], row[1]): row[2] for row in table.rows}
    assert rows["own map", "SRG"] == "+0.30 (+0.20 to +0.40)\nedges"
    assert rows["own map", "deletion"] == "+0.07 (+0.04 to +0.10)\nrandom"
    assert rows["Grad-CAM", "polarity"] == "+25.0 (+5.0 to +45.0)\nuniform"
    assert rows["Grad-CAM", "accuracy, attended half removed"] == "+12.5 (+2.5 to +22.5)\nedges"
    assert "More is better in every row" in (table.note or "")


@pytest.mark.parametrize(
    ("difference", "n", "said"),
    [
        (-0.016, 20, "another image does, 1.6 (1.2 to 2.0) points more than its steadiest control, an edge detector."),
        (0.016, 20, "another image does, 1.6 (1.2 to 2.0) points less than its steadiest control, an edge detector."),
        (0.001, 20, "another image does, not told apart from its steadiest control, an edge detector."),
        (0.016, 19, "another image does. Grad-CAM puts"),
    ],
)
def test_noise_is_said_beside_the_steadiest_control(tmp_path: Path, difference: float, n: int, said: str) -> None:
    def change(scores: dict[str, Any]) -> None:
        scores["sensitivity"]["own map"] |= {"n": n, "above": {"control": "edges", "difference": _around(difference, 0.004)}}

    _, section = sections(tmp_path, change)
    assert said in section.lead.replace("\u00a0", " ")
    row = next(row for row in section.tables[0].rows if row[0] == "own map")
    assert row[2].endswith("\nedges")


def test_files_before_curves_had_intervals_are_read_and_their_blur_is_not_passed_off_as_the_new_one(tmp_path: Path) -> None:
    def older(scores: dict[str, Any]) -> None:
        scores["format"] = 2
        for maps in scores["faithfulness"]["fills"].values():
            for removed in maps.values():
                removed |= {part: [value[0] for value in removed[part]] for part in ("morf", "lerf")}
        for part in ("consistency", "beside_controls"):
            for row in scores[part]["rows"]:
                row |= {"cosine_own": 0.9, "cosine_other": None}
                del row["correlation"]
            for comparison in scores[part].get("comparisons", ()):
                del comparison["correlation"]
        del scores["sensitivity"]["own map"]["above"]

    section, steady = sections(tmp_path, older)
    mean, blur = section.figures[:2]
    assert drawn(mean.svg, "polygon", "fill") == []
    assert len(drawn(mean.svg, "polyline", "stroke")) == 8
    assert "In this older file the blur, too, ends on the mean colour" in blur.sentence
    assert "older" not in mean.sentence
    assert "bands" not in mean.sentence
    assert "another image does. Grad-CAM puts" in steady.lead
    score = score_sections(read_run(tmp_path))[0]
    cosines = next(table for table in score.tables if table.caption == "Mean cosines and correlations")
    assert cosines.rows[0][-5:] == ["0.900", "–", "–", "–", "–"]
    assert len(score.figures) == 3
    assert "correlation" not in score.lead
    newer, _ = sections(tmp_path / "newer")
    assert "older" not in newer.figures[1].sentence


def test_mean_cosines_stand_beside_those_with_another_image(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    scores: Any = make_scores(run)
    table = next(table for table in score_sections(read_run(run))[0].tables if table.caption == "Mean cosines and correlations")
    assert list(table.rows[0]) == [
        "colour window 8×8", "own map", "97", "0.903 (0.893 to 0.913)", "0.412 (0.392 to 0.432)", "0.710 (0.690 to 0.730)",
        "0.200 (0.180 to 0.220)", "+0.300 (+0.200 to +0.400)",
    ]  # fmt: skip
    score = score_sections(read_run(run))[0]
    assert "By the correlation, which no constant added to the map changes, it is ahead under 3 of 3." in score.lead
    assert [figure.svg.count("correlation, above that with another image") > 0 for figure in score.figures] == [False] * 3 + [True]
    for part in ("consistency", "beside_controls"):
        for row in scores[part]["rows"]:
            row["cosine_own"] = None
    _json(run / "score" / "test.json", scores)
    assert "Mean cosines and correlations" not in [table.caption for table in score_sections(read_run(run))[0].tables]

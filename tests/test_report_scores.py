"""The page of a scored run shows the numbers of its file beside their controls, says no where a control wins, and hides nothing."""

from __future__ import annotations

import base64
import copy
import io
import json
import math
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aib.report import build_report, read_run
from aib.report.score_figures import PERCENT, PLAIN, POINTS, DotGroup, DotRow, Line, curve_chart, dot_chart
from aib.report.score_names import control_words, edit_label, source_label
from aib.report.style import colour_map
from report_folder import EDITS, _json, make_run, make_score_gallery, make_scores
from test_report_figures import svg_text
from test_report_page import Page, page_of

TITLES = {
    "score": "Does the map stay when the image changes?",
    "sweep": "How much may the image lose?",
    "edited": "Original and edited, side by side",
    "randomised": "Does the map know what was learned?",
    "faithfulness": "Do the places it marks matter to the network?",
    "located": "Do the maps lie on the object?",
    "steadiness": "Is it steady, and does it know the class?",
    "information": "What does it carry, in bits?",
    "detection": "Does it notice what it does not know?",
    "agreement": "Do the metrics agree?",
}


def scored(root: Path, change: Callable[[dict[str, Any]], object] = lambda scores: None, **given: float) -> Path:
    """A run with scores, which ``change`` may alter before they are read."""
    run = make_run(root)
    scores = make_scores(run, **given)
    change(scores)
    _json(run / "score" / "test.json", scores)
    return run


def page_with(tmp_path: Path, change: Callable[[dict[str, Any]], object] = lambda scores: None, **given: float) -> Page:
    return page_of(build_report([scored(tmp_path / "run", change, **given)], tmp_path / "report.html"))


def test_every_part_shows_the_numbers_of_the_file(tmp_path: Path) -> None:
    run = scored(tmp_path / "run")
    make_score_gallery(run)
    page = page_of(build_report([run], tmp_path / "report.html"))
    for title in TITLES.values():
        assert title in page.text
    places = [page.ids.index(f"run1-{key}") for key in ("localisation", *TITLES, "ablation")]
    assert places == sorted(places)
    expected = [
        "97.0 % of 100", "80.0 (75.0 to 85.0)", "70.0 (65.0 to 75.0)", "+30.0 (+20.0 to +40.0)",  # own map, all images
        "92.5 % of 40", "60.0 (55.0 to 65.0)", "+15.0 (+5.0 to +25.0)", "0.85", "0.95",  # Grad-CAM, images of the controls
        "100.0 / 0.0", "50.0 / 40.0", "last 25 % random (no control)",  # controls
        "+0.10 (+0.07 to +0.13)", "−0.20", "With last 25 % random the map is the same: what is random does not enter it.",
        "+0.61 (+0.56 to +0.66)", "0.30 (0.20 to 0.40) above its best control, an edge detector",
        "Yes: filled with a blur", "3.7 % (3.2 to 4.2)",
        "one map for all images",
        "Grad-CAM puts 41.0 % (36.0 to 46.0) of its map on the class it explains, more than chance (25 %), "
        "12.3 (7.3 to 17.3) points above its best control, the network with random weights.",
        "Yes: the map has 80.0 % (78.0 to 82.0) in the pointing game, 49.0 (39.0 to 59.0) points above its best control, a bright",
        "Grad-CAM is ahead in 0 of 3 measures. Measured on 20 images, the same for all maps; 4 with an empty mask are left out.",
        "costs 55.0 points of accuracy: error 6.0 % (3.0–12.0 %) becomes 61.0 % (51.0–70.0 %).", "The line is chance, 11.0 %.",
        "60.5 (58.5 to 62.5) bits an image in 63 of its 64",
        "15 · 2.50 a position", "8 · 1.40 a position", "log₂ 50",
        "0.987 (0.977 to 0.997) for images of svhn, better than the entropy of its predictions (0.934)",
        "+0.053 (+0.033 to +0.073)",
        "it errs on 8.0 %; on the half that looks most usual by rate on 5.0 %", "+0.37",
        "over the 4 sources of maps that all metrics judged", "Controls are among them",
        "95.0 % on whole images",
    ]  # fmt: skip
    assert [text for text in expected if text not in page.text] == []
    assert "nan" not in page.text.casefold().split()


@pytest.mark.parametrize(
    ("above", "opening"),
    [
        (0.3, "Yes: under all 3 edits the map stays with its own image more than the best control"),
        (-0.3, "No: under all 3 edits a control stays with its own image more than the map. Under colour window 8×8 (an edge"),
        (0.09, "Not shown: under none of 3 edits does the map stay with its own image more than the best control. Under 3 the two"),
    ],
)
def test_the_lead_says_yes_or_no_by_the_interval(tmp_path: Path, above: float, opening: str) -> None:
    text = page_with(tmp_path, above=above).text
    assert opening in text
    assert ("more than the best control, by 30.0 points." in text) == (above == 0.3)
    assert ("(an edge detector, by 30.0 points)" in text) == (above < 0)


def test_a_difference_within_its_interval_is_no_win(tmp_path: Path) -> None:
    text = page_with(tmp_path, above=0.09).text
    assert "Under 3 the two are not told apart." in text
    assert "Each beside its own best control, Grad-CAM is ahead under 3 of 3 edits." in text


@pytest.mark.parametrize(
    ("difference", "opening"),
    [
        ([0.3, 0.2, 0.4], "Yes: under the only edit the map stays with its own image more than the best control, by 30.0 points."),
        ([-0.3, -0.4, -0.2], "No: under the only edit a control stays with its own image more than the map. Under"),
        ([0.0, -0.1, 0.1], "Not shown: under the only edit the map and the best control are not told apart."),
    ],
)
def test_the_lead_of_a_single_edit(tmp_path: Path, difference: list[float], opening: str) -> None:
    def change(scores: dict[str, Any]) -> None:
        scores["consistency"]["rows"] = [row for row in scores["consistency"]["rows"] if row["edit"] == "colour window"]
        scores["consistency"]["comparisons"] = scores["consistency"]["comparisons"][:1]
        for one in scores["beside_controls"]["comparisons"]:
            one["thresholds"]["0.9"] = {"excess": {"control": "edges", "difference": difference}}

    text = page_with(tmp_path, change).text
    assert opening in text
    assert ("not told apart" in text[text.index(opening) : text.index("By the correlation")]) == opening.startswith("Not shown")


def test_the_own_map_is_beside_its_controls_on_more_images_than_a_costly_explainer(tmp_path: Path) -> None:
    def change(scores: dict[str, Any]) -> None:
        for one in scores["beside_controls"]["comparisons"]:
            if one["source"] == "own map":
                one["n"] = 80

    text = page_with(tmp_path, change).text
    assert "over 100 images, and what stands above the best control is over the 80 that its controls were scored on too" in text
    assert "Explainers are on 40 images." in text
    assert "The own map on all 100 images, beside the controls made without the network" in text
    everything = page_with(tmp_path / "all", lambda scores: [one.update(n=100) for one in scores["beside_controls"]["comparisons"]])
    assert "The own map on all 100 images" not in everything.text


def test_few_images_decide_nothing(tmp_path: Path) -> None:
    def change(scores: dict[str, Any]) -> None:
        for one in scores["beside_controls"]["comparisons"]:
            if one["edit"] == "high frequencies":
                one["unchanged"] = 7
                one["thresholds"] = {"0.9": {"excess": {"control": "edges", "difference": [-1.0, -1.0, -1.0]}}}
        scores["faithfulness"]["n"] = 12

    text = page_with(tmp_path, change).text
    assert "Yes: under all 2 edits" in text
    assert "Under high frequencies ≥ 4 fewer than 20 predictions stay: too few images to say." in text
    assert "Too few images to say: 12. Filled with a blur, the map has an SRG of" in text
    assert "the control is ahead" not in text

    def every(scores: dict[str, Any]) -> None:
        for one in scores["beside_controls"]["comparisons"]:
            one["unchanged"] = 7

    assert "Too few images to say: under no edit do 20 predictions stay." in page_with(tmp_path / "all", every).text


def test_files_of_the_first_format_are_still_read(tmp_path: Path) -> None:
    def change(scores: dict[str, Any]) -> None:
        del scores["format"], scores["faithfulness"]["above"], scores["grid_pointing"]["above"]
        scores["agreement"]["sources"] = [[6, 5], [5, 5]]
        del scores["agreement"]["controls"]

    text = page_with(tmp_path, change).text
    assert "Yes: under all 3 edits" in text
    assert "the file has no differences from the controls, so score the run again" in text
    assert TITLES["agreement"] not in text


def test_a_win_under_some_edits_only_is_said_so(tmp_path: Path) -> None:
    def change(scores: dict[str, Any]) -> None:
        for one in scores["beside_controls"]["comparisons"]:
            if (one["source"], one["edit"]) == ("own map", "high frequencies"):
                one["thresholds"] = {"0.9": {"excess": {"control": "edges", "difference": [-0.595, -0.7, -0.4]}}}

    text = page_with(tmp_path, change).text
    assert (
        "Only in part: under 2 of 3 edits (colour window 8×8; low frequencies < 12) the map stays with its own image more" in text
    )
    assert "Under high frequencies ≥ 4 (an edge detector, by 59.5 points) the control is ahead." in text


def test_no_unchanged_prediction_is_missing_and_not_zero(tmp_path: Path) -> None:
    def change(scores: dict[str, Any]) -> None:
        nothing = {"score": None, "other": None, "excess": None}
        for part in ("consistency", "beside_controls"):
            for row in scores[part]["rows"]:
                if row["edit"] == "high frequencies" and row["size"] == 4.0:
                    row |= {"unchanged": 0, "unchanged_share": [0.0, 0.0, 0.04], "thresholds": {"0.9": nothing}}
            for one in scores[part]["comparisons"]:
                if one["edit"] == "high frequencies" and one["size"] == 4.0:
                    empty = {"control": None, "difference": None}
                    one |= {"unchanged": 0, "thresholds": {"0.9": {"excess": empty, "score": empty}}}

    run = scored(tmp_path / "run", change)
    page = page_of(build_report([run], tmp_path / "report.html"))
    assert page.text.count("– none unchanged") == 3  # in three figures
    assert "Yes: under all 2 edits" in page.text
    assert "Under high frequencies ≥ 4 no prediction stays, so nothing is scored." in page.text
    assert "high frequencies ≥ 4 own map 0.0 % of 100 – – – –" in page.text
    assert "0.0 (0.0 to 0.0)" not in page.text.split("Every cosine")[0]


def test_scores_of_nothing_at_all_say_so(tmp_path: Path) -> None:
    def change(scores: dict[str, Any]) -> None:
        for part in ("consistency", "beside_controls"):
            for one in scores[part]["comparisons"]:
                one["thresholds"] = {"0.9": {"excess": {"control": None, "difference": None}}}

    assert "It cannot be said: no prediction stays under any edit" in page_with(tmp_path, change).text


@pytest.mark.parametrize("part", ["consistency", "beside_controls", "randomized", "faithfulness", "sensitivity", "grid_pointing",
                                  "localization", "map_ablation", "information", "detection", "agreement"])  # fmt: skip
def test_absent_parts_leave_no_trace(tmp_path: Path, part: str) -> None:
    gone = {"randomized": "randomised", "faithfulness": "faithfulness", "information": "information", "detection": "detection",
            "agreement": "agreement", "beside_controls": "sweep", "localization": "located"}  # fmt: skip
    page = page_with(tmp_path, lambda scores: scores.pop(part))
    sections = [name.removeprefix("run1-") for name in page.ids if name.startswith("run1-")]
    assert "score" in sections
    assert gone.get(part) not in sections
    assert "None" not in page.text


def test_parts_of_parts_may_be_absent(tmp_path: Path) -> None:
    def change(scores: dict[str, Any]) -> None:
        del scores["information"]["attention"], scores["information"]["quantized"], scores["detection"]["outside"]
        del scores["consistency"]["comparisons"], scores["beside_controls"]["same_map"]
        scores["faithfulness"]["fills"] = {"mean": scores["faithfulness"]["fills"]["mean"]}
        scores["beside_controls"]["rows"] = [row for row in scores["beside_controls"]["rows"] if row["size"] in (8, 12.0, 4.0)]

    text = page_with(tmp_path, change).text
    assert "The latent carries 60.5 (58.5 to 62.5) bits an image in 63 of its 64 dimensions." in text
    assert "AUROC" not in text
    assert "no controls" not in text
    assert "accuracy, half filled with the mean colour" in text


def test_without_controls_it_is_said_that_scores_say_little(tmp_path: Path) -> None:
    def change(scores: dict[str, Any]) -> None:
        del scores["beside_controls"], scores["consistency"]["comparisons"]

    text = page_with(tmp_path, change).text
    assert "These scores stand without controls." in text
    assert "above the best control" not in text.split("Every cosine")[0].split("Scores at cosine")[0]


@pytest.mark.parametrize(
    ("less", "verdict"),
    [
        ([0.009, 0.002, 0.016], "better than"),
        ([-0.009, -0.016, -0.002], "worse than"),
        ([0.05, -0.01, 0.11], "not told apart from"),
    ],
)
def test_the_rate_is_told_apart_by_the_paired_difference(tmp_path: Path, less: list[float], verdict: str) -> None:
    def change(scores: dict[str, Any]) -> None:
        table = scores["detection"]["outside"]["svhn"]
        table["scores"]["rate"]["auroc"] = [0.93 + less[0], 0.90, 0.97]  # the two intervals overlap
        table["scores"]["entropy"]["auroc"] = [0.93, 0.90, 0.96]
        table["rate_less"]["entropy"] = less

    text = page_with(tmp_path, change).text
    assert f"for images of svhn, {verdict} the entropy of its predictions (0.930)." in text
    assert "AUROC of the rate less it" in text


def test_a_rate_that_is_lower_for_other_images_is_said_so(tmp_path: Path) -> None:
    def change(scores: dict[str, Any]) -> None:
        table = scores["detection"]["outside"]["svhn"]
        table["scores"]["rate"]["auroc"], table["rate_less"]["entropy"] = [0.31, 0.30, 0.32], [-0.62, -0.63, -0.61]

    text = page_with(tmp_path, change).text
    assert "for images of svhn, which have fewer bits than the run’s own, worse than the entropy of its predictions" in text
    assert "fewer bits" not in page_with(tmp_path / "usual").text


def test_files_without_paired_differences_say_nothing_of_them(tmp_path: Path) -> None:
    text = page_with(tmp_path, lambda scores: scores["detection"]["outside"]["svhn"].pop("rate_less")).text
    assert "0.987 (0.977 to 0.997) for images of svhn, beside the entropy of its predictions (0.934)." in text
    assert "rate less it" not in text
    assert "difference of two AUROCs" not in text


def test_a_plain_classifier_is_judged_by_its_explainers(tmp_path: Path) -> None:
    def change(scores: dict[str, Any]) -> None:
        scores["own"] = None
        del scores["consistency"], scores["randomized"]
        scores["beside_controls"]["rows"] = [row for row in scores["beside_controls"]["rows"] if row["source"] != "own map"]
        scores["beside_controls"]["comparisons"] = [
            one for one in scores["beside_controls"]["comparisons"] if one["source"] != "own map"
        ]

    run = scored(tmp_path / "run", change)
    assert read_run(run).scores.edits() == EDITS  # type: ignore[union-attr]
    assert (
        "Yes: under all 3 edits Grad-CAM stays with its own image more than the best control"
        in page_of(build_report([run], tmp_path / "r.html")).text
    )


def test_a_page_without_scores_is_as_before(tmp_path: Path) -> None:
    run = scored(tmp_path / "run")
    out = build_report([run], tmp_path / "report.html")
    with_scores = out.read_text()
    shutil.rmtree(run / "score")
    without = build_report([run], out).read_text()
    assert [title for title in TITLES.values() if title in without] == []
    start, stop, end = (with_scores.index(f'<section class="part" id="run1-{key}">') for key in ("score", "ablation", "errors"))
    kept = without.index('<section class="part" id="run1-ablation">'), without.index('<section class="part" id="run1-errors">')
    assert with_scores[:start] == without[: kept[0]]  # the ablation has intervals with scores
    assert with_scores[stop:end] != without[slice(*kept)]
    assert with_scores[end:] == without[kept[1] :]


def test_the_first_split_is_read(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    make_scores(run, split="val", above=-0.3)
    assert read_run(run).scores.split == "val"  # type: ignore[union-attr]
    make_scores(run, split="test")
    assert read_run(run).scores.split == "test"  # type: ignore[union-attr]


def _set(*path: Any) -> Callable[[dict[str, Any]], None]:
    """Put the last of ``path`` at the place that the others name."""

    def change(scores: dict[str, Any]) -> None:
        *way, key, value = path
        for step in way:
            scores = scores[step]
        scores[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda scores: scores.clear(), r"lacks 'split', 'n'"),
        (_set("n", "many"), r"'n': expected a whole number, found 'many'"),
        (_set("n", True), r"'n': expected a whole number, found True"),
        (_set("consistency", []), r"'consistency': expected a JSON object, found list"),
        (_set("consistency", "rows", 0, "edit", 5), r"'consistency', 'rows', entry 1, 'edit': expected a text, found 5"),
        (_set("consistency", "rows", 2, {}), r"'rows', entry 3: lacks 'source', 'edit'"),
        (_set("beside_controls", "rows", 0, "thresholds", {"0.9": {"score": [1.0, 2.0]}}), r"'0.9': lacks 'excess'"),
        (_set("beside_controls", "rows", 0, "unchanged_share", [1.0, 2.0]), r"'unchanged_share': expected \[mean, low, high\]"),
        (_set("beside_controls", "controls", "edges"), r"'controls': expected a list, found str"),
        (_set("faithfulness", "fills", "blur", "gradcam", "lerf", [1.0]), r"'blur', 'gradcam': the curves have not the 3 steps"),
        (_set("information", "attention", "map", [[1.0], [1.0, 2.0]]), r"'map': expected rows of equal length"),
        (_set("detection", "selective", "coverage", [0.5]), r"'selective', 'max_softmax': expected an error for each coverage"),
        (_set("agreement", "metrics", ["one"]), r"'agreement': expected 1 rows of 1"),
        (_set("faithfulness", "fills", "blur", "gradcam", "morf", [0.9, None, 0.1]), r"a step of the curves has no number"),
        (_set("faithfulness", "fills", "blur", "gradcam", "lerf", [0.9, True, 0.1]), r"entry 2: expected \[mean, low, high\]"),
        (_set("format", 4), r"has format 4; this version reads up to 3: score the run again with it"),
        (_set("grid_pointing", "chance", None), r"'chance': expected a number, found None"),
    ],
)  # fmt: skip
def test_foreign_scores_are_one_line_that_names_the_place(tmp_path: Path, change: Any, message: str) -> None:
    run = scored(tmp_path / "run", change)
    with pytest.raises(ValueError, match=r"score/test\.json.*" + message) as caught:
        read_run(run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("test.json", b'{"n": 3,\n', r"score/test\.json, line 2: not valid JSON"),
        ("test.json", b"[]", r"score/test\.json: expected a JSON object, found list"),
        ("test-gallery.json", b"{}", r"test-gallery\.json: expected a list, found dict"),
        ("test-gallery.json", b'[{"true": "1", "versions": []}]', r"entry 1: the first of 'versions' must be the original"),
        ("test-gallery.json", b'[{"true": "1"}]', r"entry 1: lacks 'versions'"),
        ("test-gallery/1-1-0.npy", b"\x93NUMPY", r"1-1-0\.npy cannot be read"),
        ("test-gallery/1-1.png", None, r"test-gallery\.json, entry 2: there is no .*1-1\.png"),
    ],
)
def test_damaged_files_are_named_in_one_line(tmp_path: Path, file: str, content: bytes | None, message: str) -> None:
    run = scored(tmp_path / "run")
    make_score_gallery(run)
    if content is None:
        (run / "score" / file).unlink()
    else:
        (run / "score" / file).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_run(run)
    assert "\n" not in str(caught.value)


def test_edited_pictures_are_the_raw_maps_on_their_scales(tmp_path: Path) -> None:
    run = scored(tmp_path / "run")
    make_score_gallery(run)
    page = page_of(build_report([run], tmp_path / "report.html"))
    uris = [uri for uri in page.loads if uri.startswith("data:image/")]
    shown = {np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))).tobytes() for uri in uris}
    for stem in ("0-0", "2-1"):
        folder = run / "score" / "test-gallery"
        assert np.asarray(Image.open(folder / f"{stem}.png")).tobytes() in shown
        assert colour_map(np.load(folder / f"{stem}-0.npy")).tobytes() in shown
        tiny = np.load(folder / f"{stem}-1.npy")
        assert colour_map(tiny / tiny.max()).tobytes() in shown
    assert "1 of 3 edits change the prediction" in page.text
    assert page.text.count("→ 2 81 %") == 1
    assert "Grad-CAM , each on its own scale" in page.text or "Grad-CAM, each on its own scale" in page.text


def test_several_runs_are_compared_by_what_stands_above_the_best_control(tmp_path: Path) -> None:
    runs = [scored(tmp_path / "good"), scored(tmp_path / "bad", above=-0.3), make_run(tmp_path / "unscored", "plain")]
    page = page_of(build_report(runs, tmp_path / "report.html"))
    assert "Whose map stays?" in page.text
    assert "of its run: good under 3 of 3 edits; bad under 0 of 3 edits." in page.text
    cells = "80.0 (75.0 to 85.0); +30.0 (+20.0 to +40.0) 80.0 (75.0 to 85.0); −30.0 (−40.0 to −20.0) –"
    assert f"colour window 8×8 {cells}" in page.text
    alone = page_of(build_report(runs[1:], tmp_path / "report.html"))
    assert "Whose map stays?" not in alone.text


def test_names_in_scores_are_escaped(tmp_path: Path) -> None:
    script = "<script>alert(1)</script>"
    text = (
        json.dumps(make_scores(make_run(tmp_path / "run"))).replace("gradcam", script).replace("colour window", f"{script} window")
    )
    (tmp_path / "run" / "score" / "test.json").write_text(text.replace('"svhn"', json.dumps(script)))
    out = build_report([tmp_path / "run"], tmp_path / "report.html")
    assert "<script>alert" not in out.read_text()
    page_of(out)


def test_numbers_are_written_with_their_sign_and_interval() -> None:
    assert POINTS.estimate((-0.595, -0.757, -0.432)) == "−59.5 (−75.7 to −43.2)"
    assert POINTS.number(-0.0001) == "0.0"
    assert PLAIN.estimate((0.25, math.nan, math.nan)) == "+0.25"
    assert PERCENT.estimate(None) == "–"
    assert source_label("gradcam@block4") == "Grad-CAM (block4)"
    assert source_label("edges@8x8") == "edges (8×8)"
    assert source_label("untrained@gradcam@block4") == "untrained, Grad-CAM (block4)"
    assert control_words("edges@8x8") == "an edge detector"
    assert control_words("last 75 % randomised") == "the network with its last 75 % random"
    assert edit_label("low frequencies", 12.0).replace("\u00a0", " ") == "low frequencies < 12"


def test_dots_and_whiskers_lie_at_their_values() -> None:
    row = DotRow("map", "#0072b2", (0.5, 0.25, 0.75), [("edges", (0.75, 0.5, 1.0)), ("flat", None)], "edges")
    groups = [DotGroup(("one",), [row]), DotGroup(("two",), [DotRow("map", "#0072b2", None)])]
    svg = dot_chart("score", groups, bounds=(0.0, 1.0), line=0.5)
    texts = svg_text(svg)
    assert "50.0" in texts
    assert "edges" in texts
    assert "– none unchanged" in texts
    space = "{http://www.w3.org/2000/svg}"
    circles = [float(node.get("cx", "")) for node in ElementTree.fromstring(svg).iter(f"{space}circle")]
    left, right = 104.0, 314.0
    assert circles == pytest.approx([left + 0.5 * (right - left), left + 0.75 * (right - left)], abs=0.01)
    empty = dot_chart("nothing", [DotGroup(("x",), [DotRow("map", "#0072b2", None)])])
    assert "– none unchanged" in svg_text(empty)


def test_curves_are_labelled_for_those_who_cannot_see_them() -> None:
    lines = [Line("map", "#0072b2", [(0, 90.0), (100, 10.0)]), Line("map", "#0072b2", [(0, 90.0), (100, 20.0)], "5 3")]
    svg = curve_chart("probability", lines, x_label="removed", x=(0, 100), line=(50.0, "chance"))
    assert "probability: map from 90 to 10; map (dashed) from 90 to 20" in svg
    assert svg_text(svg).count("map") == 1
    assert "chance" in svg_text(svg)


def test_missing_estimates_are_not_numbers(tmp_path: Path) -> None:
    def change(scores: dict[str, Any]) -> None:
        scores["randomized"]["untrained"]["spearman"] = [math.nan, math.nan, math.nan]
        scores["detection"]["outside"]["svhn"]["scores"]["rate"]["auroc"] = [0.987, None, None]
        scores["detection"]["outside"]["svhn"]["rate_less"]["entropy"] = [0.053, None, None]

    run = scored(tmp_path / "run", change)
    scores = read_run(run).scores
    assert scores is not None
    assert scores.numbers["randomized"]["untrained"]["spearman"] is None
    mean, low, high = scores.numbers["detection"]["outside"]["svhn"]["scores"]["rate"]["auroc"]
    assert (mean, math.isnan(low), math.isnan(high)) == (0.987, True, True)
    text = page_of(build_report([run], tmp_path / "report.html")).text
    assert "– a constant map" in text
    assert "AUROC of the rate: 0.987 for images of svhn, not told apart from" in text


def test_reading_changes_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    scores = make_scores(run)
    kept = copy.deepcopy(scores)
    found = read_run(run).scores
    assert found is not None
    assert scores == kept
    assert found.estimate("excess", ("own map", "colour window", 8.0)) == pytest.approx((0.7, 0.65, 0.75))
    assert found.over_control(("gradcam", "colour window", 8.0)) == ("edges", pytest.approx((0.15, 0.05, 0.25)))
    assert found.rows["own map", "colour window", 8.0]["n"] == 100
    assert found.same_images["own map", "colour window", 8.0]["n"] == 40

"""``aib score`` on a short run: every part is there, controls beside it, rows that table 2 reads, and mistakes in one line."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aib.classifier import Classifier
from aib.cli import main
from aib.commands.score_tables import sentences, tables
from aib.interpret.agreement import metric_agreement
from aib.train.loop import train
from aib.train.score import score_run
from aib.train.score_job import ScoreJob
from aib.train.score_settings import ScoreSettings
from aib.train.score_sources import CONTROLS
from aib.train.start import start_network
from tiny import squares, tiny_config, write_npz

NETWORKS = {"untrained", "attention randomised", "last 25 % randomised", "last 50 % randomised", "last 75 % randomised"}
GRADCAMS = {"centre@8x8", "edges@8x8", "random@8x8"}
OTHERS = {"other image", "other image@gradcam"}
"""The short run's own map is 16x16, Grad-CAM's 8x8."""

FEW = ("--control-images", "12", "--faithful-images", "4", "--device", "cpu", "--other", "none")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_npz(tmp_path_factory.mktemp("data") / "squares.npz")


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tiny_config(data, tmp_path_factory.mktemp("runs") / "aib", epochs=2)).path


@pytest.fixture(scope="module")
def plain(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny_config(data, tmp_path_factory.mktemp("runs") / "plain", model="vgg_xs", anchors=None, epochs=1)
    return train(config).path


@pytest.fixture(scope="module")
def scored(run: Path) -> dict[str, Any]:
    settings = ScoreSettings(control_images=12, faithful_images=6, against=("gradcam",))
    return score_run(run, settings)


def test_everything_is_measured_beside_its_controls(scored: dict[str, Any], run: Path) -> None:
    assert scored == json.loads((run / "score" / "test.json").read_text())
    beside = scored["beside_controls"]
    sources = {row["source"] for row in beside["rows"]}
    assert sources == {"own map", "gradcam", *NETWORKS, *CONTROLS, *(f"{name}@gradcam" for name in NETWORKS), *GRADCAMS, *OTHERS}
    assert {"untrained", "attention randomised", "other image", *CONTROLS} <= set(beside["controls_of"]["own map"])
    assert {"uniform", "untrained@gradcam", "other image@gradcam", *GRADCAMS} <= set(beside["controls_of"]["gradcam"])
    assert set(beside["same_map"]) | set(beside["controls"]) == sources - {"own map", "gradcam"}
    assert set(scored["randomized"]) == {*NETWORKS, *(f"{name}@gradcam" for name in NETWORKS)}
    assert all(len(numbers["draws"]) == 3 for numbers in scored["randomized"].values())
    # windows are in proportion to images of 16 pixels, patches are the embedded photographs', and three more radii are swept each
    edits = {(row["edit"], row["size"]) for row in beside["rows"]}
    main_edits = {(row["edit"], row["size"]) for row in scored["consistency"]["rows"]}
    assert main_edits == {
        *(("colour window", size) for size in (2, 4, 6, 8)), *(("clutter window", size) for size in (2, 4, 6, 8)),
        ("low frequencies", 6), ("high frequencies", 2),
    }  # fmt: skip
    assert len(edits - main_edits) == 6
    for row in [*scored["consistency"]["rows"], *beside["rows"]]:
        for numbers in row["thresholds"].values() if row["unchanged"] else ():
            if row["source"] in ("uniform", "centre"):
                assert (numbers["score"][0], numbers["excess"][0]) == (1, 0)  # constant maps win the score and never the excess
            if row["source"] in OTHERS:
                assert (numbers["score"], numbers["excess"]) == (numbers["other"], [0, 0, 0])
    faithful = scored["faithfulness"]
    assert set(faithful["fills"]) == {"mean", "blur", "noisy_linear"}
    compared = {"own map", "gradcam", *beside["controls"]}
    assert set(faithful["fills"]["mean"]) == compared
    assert set(scored["sensitivity"]) == compared - OTHERS
    assert set(scored["localization"]["maps"]) == {*compared, "chance"}
    assert set(scored["grid_pointing"]["maps"]) >= {"own map", "gradcam", "untrained@gradcam", "other image@gradcam", "uniform"}
    for name in ("uniform", "centre"):
        assert scored["sensitivity"][name]["pooled"] is None
    for source in ("own map", "gradcam"):
        for found in (*faithful["above"].values(), scored["localization"]["above"]):
            for metric, best in found[source].items():
                assert best["control"] in beside["controls_of"][source], metric
    assert scored["grid_pointing"]["chance"] in (1 / 2, 1 / 3)  # by how many classes the short run gets right
    assert scored["information"]["quantized"]["anchors"] == 8
    assert np.array(scored["information"]["attention"]["map"]).ndim == 2
    assert "map_ablation" in scored


def test_the_gallery_has_every_edit_with_every_map(scored: dict[str, Any], run: Path) -> None:
    items = json.loads((run / "score" / "test-gallery.json").read_text())
    assert len(items) == 6
    for item in items:
        assert [version["edit"] for version in item["versions"]] == [
            "original", "colour window", "clutter window", "low frequencies", "high frequencies",
        ]  # fmt: skip
        for version in item["versions"]:
            assert (run / "score" / version["image"]).is_file()
            for file in version["maps"].values():
                assert np.load(run / "score" / file).ndim == 2
        assert not item["versions"][0]["rescaled"]
        assert item["versions"][-1]["rescaled"]


def test_scores_are_repeated_by_their_seed(scored: dict[str, Any], run: Path) -> None:
    settings = ScoreSettings(control_images=12, faithful_images=6, against=("gradcam",), batch_size=32)
    assert score_run(run, settings) == scored
    other = score_run(run, ScoreSettings(control_images=12, faithful_images=6, seed=1, images=20, other="none"))
    assert other["n"] == 20
    assert other["consistency"]["rows"] != scored["consistency"]["rows"]


def test_what_the_own_map_is_quoted_with_does_not_depend_on_costly_explainers(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aib.train.score.CONTROL_IMAGES", 72)
    settings = ScoreSettings(faithful_images=2, windows=(4,), other="none")
    alone = score_run(run, settings)["beside_controls"]
    beside = score_run(run, replace(settings, against=("occlusion",)))["beside_controls"]
    quoted = [one for one in beside["comparisons"] if one["source"] == "own map"]
    assert quoted == alone["comparisons"]
    assert {one["n"] for one in quoted} == {40}
    assert {one["n"] for one in beside["comparisons"] if one["source"] == "occlusion"} == {30} == {beside["n"]}


def test_the_command_prints_records_and_table_2_reads(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "scores.csv"
    words = ["score", str(run), *FEW, "--windows", "4", "--record", str(table)]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "own map, cosine 0.9, in %" in out
    assert out.endswith(f"saved in {run / 'score'}; aib report {run} shows it\n")
    assert "A map that never changes has a score of 100 and an excess of 0" in out
    for control in (*CONTROLS, "other image", "untrained", "attention random", "last 25 % random"):
        assert control in out
    first = table.read_text()
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["edit"], row["size"]) for row in rows} == {
        ("colour window", "4"), ("low frequencies", "6"), ("high frequencies", "2"),
    }  # fmt: skip
    assert {row["threshold"] for row in rows} == {"0.85", "0.9", "0.95"}
    assert {row["n"] for row in rows} == {"40"}
    assert {row["control_n"] for row in rows} == {"12"}
    assert rows[0]["command"].startswith("aib train --data ")
    assert main(words) == 0
    assert table.read_text() == first  # replaced, not added
    assert main([*words, "--images", "8"]) == 2
    assert "this run's scores on 40 images, and these are on 8; record them in another file" in capsys.readouterr().err
    assert table.read_text() == first
    assert main([*words, "--control-images", "6"]) == 2  # the difference to the best control is what is quoted
    assert "this run's scores on 12 control images, and these are on 6; record them in another file" in capsys.readouterr().err
    assert table.read_text() == first
    assert main([*words, "--images", "8", "--seed", "1"]) == 0  # other edits: beside the others
    assert table.read_text().splitlines()[0] == first.splitlines()[0]
    assert len(table.read_text().splitlines()) == 2 * len(first.splitlines()) - 1
    capsys.readouterr()
    assert main(["score", str(run), *FEW, "--windows", "4", "--split", "val"]) == 0
    assert capsys.readouterr().out.endswith(f"saved in {run / 'score'}; aib report {run} shows those of its own test images\n")
    assert main(["table", "2", "--scores", str(table), "--recipe", "none"]) == 2
    assert "no recorded score of the recipe 'none' at 0.9" in capsys.readouterr().err


def test_a_plain_run_is_scored_by_its_explainers(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(plain), *FEW]) == 2
    assert "has no attention (vgg_xs is a plain classifier): name explainers, as in --against gradcam" in capsys.readouterr().err
    assert main(["score", str(plain), *FEW, "--against", "gradcam,integrated_gradients", "--windows", "4"]) == 0
    out = capsys.readouterr().out
    assert "gradcam, cosine 0.9, in %" in out
    assert "integrated_gradients, cosine 0.9, in %" in out
    found = json.loads((plain / "score" / "test.json").read_text())
    assert not {"consistency", "information", "map_ablation"} & set(found)
    assert found["own"] is None
    # its explainers are judged at their own resolution, Grad-CAM against itself on networks that did not learn
    assert found["beside_controls"]["map_sizes"] == {"gradcam": [8, 8], "integrated_gradients": [16, 16]}
    assert set(found["beside_controls"]["controls_of"]["gradcam"]) >= {*CONTROLS, "other image@gradcam", "untrained@gradcam"}
    assert set(found["beside_controls"]["controls_of"]["integrated_gradients"]) == {
        "uniform", "centre@16x16", "edges@16x16", "random@16x16", "other image@integrated_gradients",
    }  # fmt: skip
    assert set(found["randomized"]) == {f"{name}@gradcam" for name in NETWORKS - {"attention randomised"}}
    assert "integrated_gradients: too costly to compute anew on networks with random weights" in out
    assert max(len(line) for line in out.split("stays: in how many")[0].splitlines()) <= 100


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--windows", "17"], "the window's side is 17; it must be between 1 and 16 for 16x16 images"),
        (["--low", "40"], "radius is 40"),
        (["--against", "gradcma"], "no explainer 'gradcma'; did you mean gradcam?"),
        (["--against", "gradcam,gradcam"], "name every explainer once"),
        (["--other", "nowhere"], "nowhere"),
        (["--control-images", "1"], "control_images is 1; it must be at least 2"),
        (["--record", "larger.npz"], "larger.npz"),
        (["--record", "."], ". is a folder; name a file for the table"),
        (["--threshold", "0.8"], "threshold is 0.8; it must be one of 0.85, 0.9, 0.95"),
        (["--outside", "larger.npz"], "larger has 3 channels and size (20, 20); the run was trained on 3 and (16, 16)"),
    ],
)
def test_mistakes_are_one_line(
    run: Path, more: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    images, labels = np.zeros((8, 20, 20, 3), np.uint8), np.arange(8) % 2
    np.savez("larger.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    other = [] if "--other" in more else ["--other", "none"]
    assert main(["score", str(run), "--control-images", "4", "--faithful-images", "2", "--images", "6", *other, *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_data_with_other_classes_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, labels, _ = squares(12, 0)
    np.savez(tmp_path / "other.npz", x_train=images, y_train=labels, x_test=images, y_test=labels, class_names=["x", "y", "z"])
    assert main(["score", str(run), *FEW, "--data", str(tmp_path / "other.npz")]) == 2
    assert "has other classes than the run was trained on" in capsys.readouterr().err


def test_where_every_prediction_changes_there_is_no_score() -> None:
    nothing = {"0.9": {"score": None, "other": None, "excess": None}}
    row = {"source": "own map", "edit": "colour window", "size": 4, "n": 9, "unchanged": 0, "unchanged_share": [0, 0, 0.3],
           "thresholds": nothing, "correlation": {"own": None, "other": None, "excess": None}}  # fmt: skip
    comparison = {"source": "own map", "edit": "colour window", "size": 4, "n": 9, "unchanged": 0,
                  "thresholds": {"0.9": {"excess": {"control": None, "difference": None}}}}  # fmt: skip
    result = {
        "edits": [["colour window", 4], ["colour window", 8], ["colour window", 12]],
        "beside_controls": {"n": 9, "rows": [row], "comparisons": [comparison], "same_map": []},
        "faithfulness": {"fills": {"blur": {}}},
        "sensitivity": {},
    }  # fmt: skip
    first, second, third = tables(result, "0.9")
    cells = [["colour window 4"], ["0/9"], ["–"], ["–"], ["0/9"], ["–"], ["  (too few)"]]
    assert [list(column.cells) for column in first.columns] == cells
    assert list(second.columns[1].cells) == list(third.columns[1].cells) == ["–"]
    assert len(sentences(result)) == 2
    # means over images of all sizes of table 2, and no "-0.00"
    for size, count, own in ((8, 300, 0.63), (12, 100, 0.23), (16, 900, 1.0)):
        correlation = {"own": [own, 0.2, 1.0], "other": [-0.001, -0.1, 0.1], "excess": [own, 0.2, 1.0]}
        more = row | {"size": size, "unchanged": count, "correlation": correlation}
        result["beside_controls"]["rows"].append(more)
    assert list(tables(result, "0.9")[2].columns[1].cells) == ["0.53 / 0.00"]


def test_metrics_agree_by_rank() -> None:
    sources = "abcde"
    up = {name: float(i) for i, name in enumerate(sources)}
    bent = {name: math.exp(value) for name, value in up.items()}
    down = {name: -value for name, value in up.items()}
    found = metric_agreement({"up": up, "bent": bent, "down": down, "flat": dict.fromkeys(sources, 1.0)})
    row = dict(zip(found["metrics"], found["spearman"][0]))
    assert row["bent"] == pytest.approx(1)
    assert row["down"] == pytest.approx(-1)
    assert row["flat"] is None
    assert (found["sources"], found["controls"]) == (list(sources), list(sources))
    partly = metric_agreement({"up": up, "holes": {**bent, "a": math.nan}})
    assert partly["sources"] == list("bcde")  # the same for all
    assert metric_agreement({"up": up, "few": {name: up[name] for name in "abc"}})["spearman"][0] == [None, None]


def test_metrics_agree_over_the_maps_in_question_where_they_are_enough() -> None:
    """Controls are bad by every metric: with them among the sources, metrics agree that rank the maps in question in reverse."""
    judged, controls = "abcd", "uvwxyz"
    one = {name: 10.0 + i for i, name in enumerate(judged)} | {name: float(i) for i, name in enumerate(controls)}
    other = {name: 13.0 - i for i, name in enumerate(judged)} | {name: float(i) for i, name in enumerate(controls)}
    found = metric_agreement({"one": one, "other": other}, list(judged))
    assert (found["sources"], found["controls"]) == (list(judged), [])
    assert found["spearman"][0][1] == pytest.approx(-1)
    mixed = metric_agreement({"one": one, "other": other}, list(judged[:3]))
    assert mixed["controls"] == ["d", *controls]
    assert mixed["spearman"][0][1] > 0.5


def test_every_metric_stands_once_among_those_that_agree(scored: dict[str, Any]) -> None:
    found = scored["agreement"]
    assert found["metrics"] == [
        "consistency excess", "srg", "polarity", "deletion", "insertion", "accuracy", "noise", "grid pointing", "pointing_game",
        "energy", "iou",
    ]  # fmt: skip
    assert {"own map", "gradcam"} <= set(found["sources"])
    assert not {"uniform", "other image"} & set(found["sources"])  # not in every metric
    assert found["controls"]


def test_large_networks_get_fewer_images_on_a_cpu(run: Path) -> None:
    job = ScoreJob.of(run, ScoreSettings(other="none"), "cpu")
    assert job.count(None, 300) == 300
    assert job.count(7, 300) == 7
    job.run.card["macs"] = 3e9
    assert job.count(None, 300) == 30
    assert job.count(None, 1000) == 100
    assert replace(job, device="cuda").count(None, 300) == 300
    assert replace(job, device="cuda").count(None, 300, 14, 7) == 150  # twice as many maps, half the images
    costly = ScoreJob.of(run, ScoreSettings(other="none", against=("gradcam", "iba@backbone.features")), "cpu")
    assert costly.count(None, 1000) == 100


def test_random_weights_are_not_those_that_the_training_started_from(run: Path) -> None:
    """A network stays close to its own start, and so does its map: rewound it would pass for one that never learned."""
    job = ScoreJob.of(run, ScoreSettings(other="none"), "cpu")
    start = start_network(job.run.folder.config, job.bundle)
    first, again, second = (job.randomized(draw)["untrained"] for draw in (0, 0, 1))

    def alike(one: Classifier, other: Classifier) -> float:
        weights = (torch.cat([p.detach().flatten() for p in m.parameters() if p.ndim > 1]) for m in (one, other))
        return float(torch.cosine_similarity(*weights, dim=0))

    assert alike(first, again) == pytest.approx(1.0)
    for one, other in ((first, start), (second, start), (first, second)):
        assert abs(alike(one, other)) < 0.3
    assert alike(start, job.run.model) > 0.9  # what the controls used to be


def test_images_whose_maps_are_exchanged_are_not_of_one_class(run: Path) -> None:
    job = ScoreJob.of(run, ScoreSettings(other="none"), "cpu")
    order = job.split.labels.argsort(stable=True)
    job = replace(job, split=job.split.select(order))
    assert (job.split.labels[:12] == job.split.labels[0]).all()
    mixed = job.mixed(40)
    assert len(mixed) == 40
    assert len(mixed.labels[:12].unique()) == 3
    assert torch.equal(mixed.labels.bincount(), job.split.labels.bincount())


def test_settings_are_drawn_without_the_global_generator(run: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    score_run(run, ScoreSettings(images=4, control_images=4, faithful_images=2, windows=(4,), other="none"))
    assert torch.equal(torch.get_rng_state(), before)

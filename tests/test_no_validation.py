"""Training without validation images (``val_fraction = 0``): all images train, nothing is selected, the last epoch is the run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import short_runs
from aib.commands.eval import summary_lines
from aib.report.html import build_report
from aib.train.checkpoint import load_checkpoint
from aib.train.checks import collapse_warnings
from aib.train.config import TrainConfig
from aib.train.evaluate import evaluate
from aib.train.loop import Interrupted, train
from aib.train.progress import epoch_line
from aib.train.run_folder import RunFolder
from aib.train.weights import load_run
from ranks import run_ranks
from short_runs import AfterStep, interrupt
from tiny import outcome, rows, same, squares, tiny_config, write_npz

after_step = short_runs.after_step

IMAGES = 96


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .npz file that brings no validation split."""
    path = tmp_path_factory.mktemp("data") / "squares.npz"
    (train_images, train_labels, _), (test_images, test_labels, _) = squares(IMAGES, 0), squares(40, 1)
    np.savez(path, x_train=train_images, y_train=train_labels, x_test=test_images, y_test=test_labels)
    return path


def config(data: Path, out: Path, **changes: object) -> TrainConfig:
    return tiny_config(data, out, val_fraction=0.0, **changes)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(config(data, tmp_path_factory.mktemp("runs") / "whole"))


def test_all_images_train_and_the_last_epoch_is_kept(data: Path, whole: RunFolder, tmp_path: Path) -> None:
    assert sum(whole.read_json("origin.json")["data"]["train"]["counts"]) == IMAGES
    held = train(tiny_config(data, tmp_path / "held", epochs=1, val_fraction=0.25))
    assert sum(held.read_json("origin.json")["data"]["train"]["counts"]) == IMAGES * 3 // 4
    log = rows(whole)
    assert [row["val"] for row in log] == [{}, {}, {}]
    card, last = whole.read_json("model.json"), load_checkpoint(whole.last)
    assert (card["epoch"], card["val_error"]) == (3, None)
    assert same(load_file(whole.weights), dict(last["model"]))


@pytest.mark.parametrize("steps", [3, 6, 13, 18])
def test_a_resumed_run_equals_a_whole_one(data: Path, whole: RunFolder, tmp_path: Path, after_step: AfterStep, steps: int) -> None:
    after_step(steps, interrupt)
    with pytest.raises(Interrupted):
        train(config(data, tmp_path / "run"))
    assert same(outcome(train(config(data, tmp_path / "run"), resume=tmp_path / "run")), outcome(whole))


def test_weights_of_an_epoch_that_a_kill_undid_are_put_back(
    data: Path, whole: RunFolder, tmp_path: Path, after_step: AfterStep
) -> None:
    """Killed between the weights of the second epoch and the checkpoint that says so."""
    after_step(7, interrupt)
    with pytest.raises(Interrupted):
        train(config(data, tmp_path / "run"))
    folder = RunFolder(tmp_path / "run")
    folder.write_json("model.json", {**folder.read_json("model.json"), "epoch": 2})
    after_step(1, interrupt)
    with pytest.raises(Interrupted):
        train(config(data, tmp_path / "run"), resume=tmp_path / "run")
    card = json.loads((tmp_path / "run" / "model.json").read_text())  # by a strict reader: no Infinity
    assert (card["epoch"], card["val_error"]) == (1, None)
    assert same(outcome(train(config(data, tmp_path / "run"), resume=tmp_path / "run")), outcome(whole))


def test_the_run_is_evaluated_and_reported_without_a_word_of_selection(whole: RunFolder, tmp_path: Path) -> None:
    result = evaluate(whole.path)
    assert result["error"] == result["last_error"]
    assert "after the last epoch" in "\n".join(summary_lines(result))
    with pytest.raises(ValueError, match="squares has no val images: it brings none, and none were held out"):
        evaluate(whole.path, split="val")
    page = build_report([whole.path], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "the weights kept are those of epoch 3" in page
    assert "did best on the validation split" not in page
    assert "validation error" not in page


def test_two_processes_keep_the_last_epoch_too(data: Path, tmp_path: Path) -> None:
    def act(rank: int) -> None:
        train(config(data, tmp_path / "run", epochs=2))

    assert run_ranks(2, act, tmp_path) == [(0, ""), (0, "")]
    folder = RunFolder(tmp_path / "run")
    assert [row["val"] for row in rows(folder)] == [{}, {}]
    assert load_run(folder.path).card["epoch"] == 2


def test_what_needs_validation_images_says_so(data: Path, whole: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"revive_anchors is on, but there are no validation images to see .* --val-fraction 0\.1"):
        train(config(data, tmp_path / "run", revive_anchors=True))
    assert not (tmp_path / "run").exists()
    model = load_run(whole.path).model
    assert collapse_warnings({"rate_bits": 0.5}, model, warm=True)[0].startswith("the latent has collapsed: 0.50 bits")
    assert collapse_warnings({"rate_bits": 5.0}, model, warm=True) == []


def test_an_epoch_is_told_by_its_training(whole: RunFolder) -> None:
    row = {**rows(whole)[-1], "images_per_second": 100.0, "seconds": 1.0}
    line = epoch_line(row, 3)
    assert line.startswith("epoch 3/3  train loss")
    assert "val" not in line
    assert torch.isfinite(torch.tensor(row["train"]["loss"]))


def test_a_split_that_the_data_bring_stays_a_validation_split(tmp_path: Path) -> None:
    folder = train(config(write_npz(tmp_path / "squares.npz"), tmp_path / "run", epochs=1))
    assert "error" in rows(folder)[0]["val"]
    assert folder.read_json("model.json")["val_error"] is not None

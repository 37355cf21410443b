"""Training that goes wrong: divergence keeps the last good checkpoint, collapse is told, and bad input is refused or listed."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import short_runs
from aib.data import open_data
from aib.data.bundle import DataBundle
from aib.models.build import build_model
from aib.train.checkpoint import load_checkpoint
from aib.train.checks import collapse_warnings
from aib.train.loop import DivergedError, Interrupted, train
from aib.train.run_folder import RunFolder
from short_runs import STEPS, AfterStep, interrupt
from tiny import rows, tiny_config, write_folder, write_npz

data, bundle, whole, after_step = short_runs.data, short_runs.bundle, short_runs.whole, short_runs.after_step


def test_a_diverging_loss_names_the_step_and_keeps_the_last_good_checkpoint(data: Path, bundle: DataBundle, tmp_path: Path) -> None:
    # the learning rate rises a millionfold after the first epoch
    config = tiny_config(data, tmp_path / "run", schedule="step", step_epochs=[1], step_factor=1e6)
    with pytest.raises(DivergedError, match=r"not a finite number at step \d+; the last good checkpoint is kept in") as caught:
        train(config, bundle=bundle)
    assert "\n" not in str(caught.value)
    step = int(str(caught.value).split("at step ")[1].split(";")[0])
    assert STEPS < step <= 2 * STEPS
    folder = RunFolder.open(tmp_path / "run")
    kept = load_checkpoint(folder.last)
    assert kept["state"]["epoch"] == 1
    for weights in (kept["model"], load_file(folder.weights)):
        assert all(value.isfinite().all() for value in weights.values())
    assert [row["epoch"] for row in rows(folder)] == [1]


@pytest.mark.parametrize("clip_norm", [None, 1e30])
def test_a_loss_that_diverges_at_once_leaves_no_weights(
    data: Path, bundle: DataBundle, tmp_path: Path, clip_norm: float | None
) -> None:
    with pytest.raises(DivergedError, match=r"step \d; there is no checkpoint yet; try a lower --lr"):
        train(tiny_config(data, tmp_path / "run", lr=1e3, clip_norm=clip_norm), bundle=bundle)
    assert not RunFolder(tmp_path / "run").weights.exists()


@pytest.mark.parametrize("name", ["weight", "running_mean"])
def test_weights_that_are_not_numbers_are_never_saved(
    data: Path, bundle: DataBundle, tmp_path: Path, after_step: AfterStep, name: str
) -> None:
    """The last step of an epoch can spoil the weights with its loss still finite."""

    def spoil(fit: Any) -> None:
        norm = next(m for m in fit.model.modules() if isinstance(m, nn.BatchNorm2d))
        with torch.no_grad():
            getattr(norm, name)[0] = math.inf

    after_step(2 * STEPS, spoil)
    with pytest.raises(DivergedError, match=f"at step {2 * STEPS}; the last good checkpoint is kept"):
        train(tiny_config(data, tmp_path / "run"), bundle=bundle)
    folder = RunFolder(tmp_path / "run")
    for weights in (load_checkpoint(folder.last)["model"], load_file(folder.weights)):
        assert all(value.isfinite().all() for value in weights.values())
    assert "NaN" not in folder.metrics.read_text()


def test_collapse_is_told_in_the_log_and_on_the_console(
    data: Path, bundle: DataBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collapsed = train(
        tiny_config(data, tmp_path / "beta", beta=1.0, lr=0.2, clip_norm=1.0, latent_dim=2, epochs=6, quiet=False), bundle=bundle
    )
    warnings = rows(collapsed)[-1].get("warnings", [])
    assert any("the latent has collapsed" in warning and "--beta" in warning for warning in warnings)
    assert f"warning: {warnings[0]}" in capsys.readouterr().out
    wild = train(tiny_config(data, tmp_path / "wild", optimizer="adamw", lr=1e3, quiet=False), bundle=bundle)
    warnings = rows(wild)[-1]["warnings"]
    assert any("anchors are in use" in warning for warning in warnings)
    assert f"warning: {warnings[0]}" in capsys.readouterr().out


def test_a_healthy_run_and_a_warming_beta_are_not_warned_about(whole: RunFolder) -> None:
    model = build_model("vgg_xs_aib_qt", 3, anchors=8)
    healthy = {"rate_bits": 5.0, "map_std": 0.1, "anchors_used": 4}
    assert collapse_warnings(healthy, model, warm=True) == []
    assert collapse_warnings({**healthy, "rate_bits": 0.1}, model, warm=False) == []
    told = collapse_warnings({"rate_bits": 0.1, "map_std": 1e-4, "anchors_used": 3}, model, warm=True)
    assert len(told) == 3
    assert "the attention map is constant over positions and images" in told
    assert collapse_warnings({"error": 0.5}, build_model("vgg_xs", 3), warm=True) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"anchors": 5000}, "anchors is 5000, but 16 images give only .* distinct attention scores"),
        ({"crop_padding": 16}, "crop_padding is 16; it must be between 0 and 15"),
        ({"precision": "16-mixed"}, "the CPU lacks"),
        ({"model": "vgg_xs", "anchors": 4}, "vgg_xs has no option 'anchors'"),
    ],
)
def test_what_cannot_work_is_refused_before_a_run_folder_is_made(
    data: Path, bundle: DataBundle, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(tiny_config(data, tmp_path / "run", **options), bundle=bundle)
    assert not (tmp_path / "run").exists()


def test_turns_of_mirror_images_need_mirror_images(data: Path, bundle: DataBundle, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="alternate_flip is on, but mirror images of squares do not show the same class"):
        train(tiny_config(data, tmp_path / "run", flip=None, alternate_flip=True), bundle=replace(bundle, mirror=False))
    assert not (tmp_path / "run").exists()


def test_data_that_changed_are_refused_on_resume(data: Path, tmp_path: Path, after_step: AfterStep) -> None:
    after_step(STEPS + 2, interrupt)
    with pytest.raises(Interrupted):
        train(tiny_config(data, tmp_path / "run"))
    more = open_data(str(write_npz(tmp_path / "more.npz", train=120)))
    with pytest.raises(ValueError, match="was trained on another number of images"):
        train(tiny_config(data, tmp_path / "run"), resume=tmp_path / "run", bundle=more)
    labels = {f"y_{split}": np.arange(count) % 4 for split, count in (("train", 96), ("val", 24), ("test", 40))}
    four = open_data(str(write_npz(tmp_path / "four.npz", **labels)))
    with pytest.raises(ValueError, match="do not fit the model"):
        train(tiny_config(data, tmp_path / "run"), resume=tmp_path / "run", bundle=four)


def test_files_left_out_are_counted_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = write_folder(tmp_path / "photos")
    whole_file = (photos / "red" / "000.png").read_bytes()
    (photos / "red" / "000.png").write_bytes(whole_file[: len(whole_file) // 2])
    (photos / "blue" / "notes.txt").write_text("not an image")
    folder = train(tiny_config(photos, tmp_path / "run", skip_bad=True, epochs=1, quiet=False))
    out = capsys.readouterr().out
    assert "left out 2 files" in out
    for name in ("red/000.png", "blue/notes.txt"):
        assert name in out
        assert name in (folder.path / "skipped.txt").read_text()

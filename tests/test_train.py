"""The training loop: resumed runs equal whole ones bit for bit, and randomness is a function of the seed."""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
import shutil
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import short_runs
from aib.data.bundle import DataBundle
from aib.train import loop, run_folder
from aib.train.checkpoint import load_checkpoint, save_checkpoint
from aib.train.config import TrainConfig
from aib.train.evaluate import evaluate
from aib.train.loop import Interrupted, train
from aib.train.predict import predict
from aib.train.record import record_run
from aib.train.run_folder import RunFolder
from aib.train.seeds import mixed_seed
from aib.train.weights import load_run
from short_runs import STEPS, AfterStep, interrupt
from tiny import outcome, rows, same, tiny_config, write_folder

data, bundle, whole, after_step = short_runs.data, short_runs.bundle, short_runs.whole, short_runs.after_step


def test_the_data_are_learnt_and_the_run_folder_is_complete(whole: RunFolder) -> None:
    log = rows(whole)
    assert [row["epoch"] for row in log] == [1, 2, 3]
    assert [row["step"] for row in log] == [STEPS, 2 * STEPS, 3 * STEPS]
    assert log[-1]["train"]["loss"] < log[0]["train"]["loss"]
    parts = ("cross_entropy", "rate_loss", "anchor_loss", "commitment_loss")
    for row in log:
        assert row["train"]["loss"] == pytest.approx(sum(row["train"][part] for part in parts), rel=1e-5)
        assert row["train"]["rate_loss"] == pytest.approx(row["beta"] * row["train"]["rate_bits"] * math.log(2), rel=1e-5)
    card = whole.read_json("model.json")
    assert card["class_names"] == ["0", "1", "2"]
    assert card["epoch"] == min(log, key=lambda row: (row["val"]["error"], row["val"]["cross_entropy"]))["epoch"]
    assert set(whole.read_json("environment.json")) >= {"python", "torch", "aib", "platform", "device", "threads", "commit", "date"}
    assert whole.config.optim.epochs == 3


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_has_a_plus_where_the_package_differs_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, table = tmp_path / "src" / "aib" / "train" / "run_folder.py", tmp_path / "results" / "runs.csv"
    for file in (code, table):
        file.parent.mkdir(parents=True)
        file.write_text("one\n")
    monkeypatch.setattr(run_folder, "__file__", str(code))
    assert run_folder.environment("cpu", "32-true")["commit"] is None
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "src", "results"], [*who, "commit", "-qm", "one"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    table.write_text("two\n")  # as every evaluation with --record does
    commit = run_folder.environment("cpu", "32-true")["commit"]
    assert re.fullmatch("[0-9a-f]{10}", commit)
    code.write_text("two\n")
    assert run_folder.environment("cpu", "32-true")["commit"] == f"{commit}+"


@pytest.mark.parametrize("steps", [1, 4, STEPS, STEPS + 1, 3 * STEPS - 1, 3 * STEPS])
def test_a_resumed_run_equals_a_whole_one(data: Path, whole: RunFolder, tmp_path: Path, after_step: AfterStep, steps: int) -> None:
    after_step(steps, interrupt)
    with pytest.raises(Interrupted, match=rf"stopped after {steps} of {3 * STEPS} steps.*aib train --resume"):
        train(tiny_config(data, tmp_path / "run"))
    resumed = train(tiny_config(data, "elsewhere"), resume=tmp_path / "run")
    assert same(outcome(resumed), outcome(whole))


def test_a_run_stopped_after_every_step_equals_a_whole_one(
    data: Path, bundle: DataBundle, whole: RunFolder, tmp_path: Path, after_step: AfterStep
) -> None:
    config, resume, stops = tiny_config(data, tmp_path / "run"), None, 0
    while True:
        after_step(1, interrupt)
        try:
            folder = train(config, resume=resume, bundle=bundle)
            break
        except Interrupted:
            resume, stops = tmp_path / "run", stops + 1
    assert stops == 3 * STEPS
    assert same(outcome(folder), outcome(whole))


def test_an_interruption_during_validation_waits_for_a_step_and_resumes_alike(
    data: Path, whole: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:

        def interrupted(*arguments: Any, **options: Any) -> Any:
            signal.raise_signal(signal.SIGTERM)
            return predict(*arguments, **options)

        patch.setattr(loop, "predict", interrupted)
        with pytest.raises(Interrupted):
            train(tiny_config(data, tmp_path / "run"))
    assert [row["epoch"] for row in rows(RunFolder(tmp_path / "run"))] == [1]
    assert same(outcome(train(tiny_config(data, "elsewhere"), resume=tmp_path / "run")), outcome(whole))


def test_signal_handlers_are_put_back(whole: RunFolder, data: Path, tmp_path: Path, after_step: AfterStep) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    after_step(1, interrupt)
    with pytest.raises(Interrupted):
        train(tiny_config(data, tmp_path / "run"))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adamw", "lr": 0.003, "schedule": "cosine", "clip_norm": 1.0, "warmup_epochs": 0.5},
        {"model": "vgg_xs", "anchors": None, "label_smoothing": 0.1, "schedule": "step", "step_epochs": [1]},
        {"model": "vgg_xs_aib", "anchors": None, "beta_warmup_epochs": 1.5, "kl": "reference", "channels_last": True},
    ],
    ids=["adamw", "plain", "continuous"],
)
def test_other_optimisers_schedules_and_models_resume_alike(
    data: Path, bundle: DataBundle, tmp_path: Path, after_step: AfterStep, options: dict[str, Any]
) -> None:
    first = train(tiny_config(data, tmp_path / "whole", epochs=2, **options), bundle=bundle)
    after_step(STEPS - 2, interrupt)
    config = tiny_config(data, tmp_path / "run", epochs=2, **options)
    with pytest.raises(Interrupted):
        train(config, bundle=bundle)
    assert same(outcome(train(config, resume=tmp_path / "run", bundle=bundle)), outcome(first))


def test_large_images_streamed_by_workers_resume_alike(tmp_path: Path, after_step: AfterStep) -> None:
    options = {"image_size": 66, "model": "vgg_xs", "anchors": None, "epochs": 2, "batch_size": 4, "crop_padding": 0}
    photos = write_folder(tmp_path / "photos", count=6, side=80)
    first = train(tiny_config(photos, tmp_path / "whole", workers=0, **options))
    after_step(2, interrupt)
    config = tiny_config(photos, tmp_path / "run", workers=1, **options)
    with pytest.raises(Interrupted):
        train(config)
    assert same(outcome(train(config, resume=tmp_path / "run")), outcome(first))


def test_a_normalisation_that_is_given_is_the_runs(data: Path, tmp_path: Path) -> None:
    mean, std = [0.5, 0.25, 0.125], [0.25, 0.5, 1.0]
    folder = train(tiny_config(data, tmp_path / "run", epochs=1, mean=mean, std=std))
    assert (folder.read_json("model.json")["mean"], folder.read_json("model.json")["std"]) == (mean, std)
    assert (load_run(folder.path).mean, load_run(folder.path).std) == (mean, std)


def test_the_seed_decides_everything(data: Path, bundle: DataBundle, whole: RunFolder, tmp_path: Path) -> None:
    torch.manual_seed(99)  # what the caller did before does not matter
    again = train(tiny_config(data, tmp_path / "again"), bundle=bundle)
    assert same(outcome(again), outcome(whole))
    other = train(tiny_config(data, tmp_path / "other", seed=1), bundle=bundle)
    assert not same(outcome(other)["last"]["model"], outcome(whole)["last"]["model"])


def test_validation_does_not_touch_the_training_numbers(
    data: Path, bundle: DataBundle, whole: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(*arguments: Any, **options: Any) -> Any:
        torch.rand(7)  # even a validation that draws from the global generator
        predict(*arguments, **options)
        return predict(*arguments, **options)

    monkeypatch.setattr(loop, "predict", twice)
    assert same(outcome(train(tiny_config(data, tmp_path / "twice"), bundle=bundle)), outcome(whole))


def test_evaluation_is_deterministic_and_leaves_the_generator_alone(whole: RunFolder) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = evaluate(whole.path)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert evaluate(whole.path) == first
    drawn = evaluate(whole.path, samples=(2, 2), seed=1)
    assert evaluate(whole.path, samples=(2, 2), seed=1) == drawn
    assert evaluate(whole.path, samples=(2, 2), seed=2)["cross_entropy"] != drawn["cross_entropy"] != first["cross_entropy"]


def seen_images(data: Path, out: Path, bundle: DataBundle, monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[list[bytes]]:
    """The images that went into the network, as bytes, for each of two epochs."""
    normalize, seen = loop.normalize, []

    def spy(images: torch.Tensor, *arguments: Any) -> torch.Tensor:
        if len(images) == 16:
            seen.extend(image.numpy().tobytes() for image in images)
        return normalize(images, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "normalize", spy)
        train(tiny_config(data, out, epochs=2, model="vgg_xs", anchors=None, **options), bundle=bundle)
    epochs = seen[-2 * 96 :]
    return [epochs[:96], epochs[96:]]


def test_epochs_differ_in_order_and_augmentation_and_runs_of_one_seed_do_not(
    data: Path, bundle: DataBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = seen_images(data, tmp_path / "plain", bundle, monkeypatch, crop_padding=0, flip=False)
    assert set(plain[0]) == set(plain[1])  # every image once an epoch,
    assert len(set(plain[0])) == 96
    assert plain[0] != plain[1]  # in another order
    varied = seen_images(data, tmp_path / "varied", bundle, monkeypatch, crop_padding=4, flip=True)
    # 162 variants of each image: a second epoch repeats hardly any
    assert len(set(varied[0]) & set(varied[1])) < 10
    assert seen_images(data, tmp_path / "again", bundle, monkeypatch, crop_padding=4, flip=True) == varied
    assert seen_images(data, tmp_path / "other", bundle, monkeypatch, crop_padding=4, flip=True, seed=1) != varied


def test_images_that_take_turns_are_seen_both_ways_in_two_epochs(
    data: Path, bundle: DataBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape, options = (3, *bundle.image_size), {"crop_padding": 0, "alternate_flip": True}
    first, second = seen_images(data, tmp_path / "turns", bundle, monkeypatch, flip=True, **options)
    mirrored = [torch.frombuffer(bytearray(image), dtype=torch.uint8).view(shape).flip(2) for image in first]
    assert {image.numpy().tobytes() for image in mirrored} == set(second)
    assert 20 < len({bytes(image.numpy().tobytes()) for image in bundle.train.images} & set(first)) < 76  # half of 96 as they are


def test_the_noise_of_a_step_depends_on_seed_and_step_alone() -> None:
    seeds = {mixed_seed(seed, step, 1) for seed in range(30) for step in range(300)}
    assert len(seeds) == 30 * 300
    assert mixed_seed(1, 2) != mixed_seed(2, 1)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_run_killed_before_its_first_checkpoint_starts_again(data: Path, whole: RunFolder, tmp_path: Path) -> None:
    RunFolder(tmp_path / "run").create(tiny_config(data, tmp_path / "run"))
    leftover = tmp_path / "run" / "checkpoints" / ".last.ckpt.123.tmp"
    leftover.write_bytes(b"half")
    assert same(outcome(train(tiny_config(data, "elsewhere"), resume=tmp_path / "run")), outcome(whole))
    assert not leftover.exists()
    assert (tmp_path / "run" / "environment.json").exists()


def test_a_log_that_is_ahead_of_the_checkpoint_or_cut_is_brought_back(data: Path, tmp_path: Path, after_step: AfterStep) -> None:
    after_step(STEPS + 2, interrupt)
    with pytest.raises(Interrupted):
        train(tiny_config(data, tmp_path / "run"))
    folder = RunFolder(tmp_path / "run")
    with folder.metrics.open("a") as file:
        file.write(json.dumps({"epoch": 2, "from": "a lost future"}) + "\n" + '{"epoch": 3, "cu')
    train(tiny_config(data, "elsewhere"), resume=tmp_path / "run")
    assert [row["epoch"] for row in rows(folder)] == [1, 2, 3]
    assert "lost future" not in folder.metrics.read_text()


def test_a_run_is_not_started_over_when_only_its_last_checkpoint_is_gone(tmp_path: Path, data: Path) -> None:
    folder = train(tiny_config(data, tmp_path / "run", epochs=1))
    kept = folder.metrics.read_text()
    folder.last.unlink()
    with pytest.raises(ValueError, match=r"last\.ckpt is missing, but .*best\.ckpt"):
        train(TrainConfig(), resume=folder.path)
    assert folder.metrics.read_text() == kept
    state = load_checkpoint(folder.best)
    save_checkpoint(folder.last, {key: value for key, value in state.items() if key != "state"})
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged: it lacks state"):
        train(TrainConfig(), resume=folder.path)
    save_checkpoint(folder.last, {**state, "state": {**state["state"], "novelty": 1}})
    with pytest.raises(ValueError, match="another version of aib"):
        train(TrainConfig(), resume=folder.path)


def test_images_are_counted_where_there_are_fewer_than_a_batch_takes(
    data: Path, bundle: DataBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count()
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    folder = train(tiny_config(data, tmp_path / "run", epochs=1, batch_size=512), bundle=bundle)
    (row,) = folder.log()
    assert len(bundle.train) <= row["images_per_second"] * row["seconds"] < 2 * len(bundle.train)
    folder.write_json("model.json", {**folder.read_json("model.json"), "macs": 10**12})
    result = {"data": "squares", "split": "test", "samples": None, "mirror": False, "error": 0.5, "error_interval": (0.4, 0.6)}
    record_run(folder.path, {**result, "last_error": None}, tmp_path / "runs.csv", TrainConfig())
    with (tmp_path / "runs.csv").open() as file:
        (recorded,) = csv.DictReader(file)
    assert float(recorded["training_pflop"]) == pytest.approx(6 * 10**12 * len(bundle.train) / 1e15)

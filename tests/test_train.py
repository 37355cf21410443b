"""The training loop: resumed runs equal whole ones bit for bit, randomness is a function of the seed, nothing bad is kept."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from aib.data import open_data
from aib.data.bundle import DataBundle
from aib.models.build import build_model
from aib.train import loop
from aib.train.checkpoint import load_checkpoint
from aib.train.checks import collapse_warnings
from aib.train.config import OptimConfig
from aib.train.evaluate import evaluate
from aib.train.loop import DivergedError, Interrupted, train
from aib.train.macs import count_macs
from aib.train.optim import build_optimizer, lr_factor, parameter_groups, warmed_share
from aib.train.predict import predict
from aib.train.run_folder import RunFolder
from aib.train.running import RunningMeans
from tiny import outcome, rows, same, tiny_config, write_folder, write_npz

STEPS = 6
"""Of an epoch: 96 images in batches of 16."""

AfterStep = Callable[[int, Callable[[Any], None]], None]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_npz(tmp_path_factory.mktemp("data") / "squares.npz")


@pytest.fixture(scope="module")
def bundle(data: Path) -> DataBundle:
    return open_data(str(data))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of three epochs that nothing disturbed."""
    return train(tiny_config(data, tmp_path_factory.mktemp("runs") / "whole"))


@pytest.fixture
def after_step(monkeypatch: pytest.MonkeyPatch) -> AfterStep:
    """Do something after the k-th optimiser step from now."""

    def arrange(k: int, act: Callable[[Any], None]) -> None:
        original, taken = loop._Fit._step, 0

        def step(self: Any, *arguments: Any) -> Any:
            nonlocal taken
            result = original(self, *arguments)
            taken += 1
            if taken == k:
                monkeypatch.setattr(loop._Fit, "_step", original)
                act(self)
            return result

        monkeypatch.setattr(loop._Fit, "_step", step)

    return arrange


def interrupt(_: Any) -> None:
    signal.raise_signal(signal.SIGINT)


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


def test_the_noise_of_a_step_depends_on_seed_and_step_alone() -> None:
    seeds = {loop._mix(seed, step, 1) for seed in range(30) for step in range(300)}
    assert len(seeds) == 30 * 300
    assert loop._mix(1, 2) != loop._mix(2, 1)
    assert all(0 <= seed < 2**63 for seed in seeds)


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


def test_a_loss_that_diverges_at_once_leaves_no_weights(data: Path, bundle: DataBundle, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"step \d; there is no checkpoint yet; try a lower --lr"):
        train(tiny_config(data, tmp_path / "run", lr=1e3), bundle=bundle)
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
    assert "the attention map is constant over positions and images" in warnings
    assert any("anchors are in use" in warning for warning in warnings)
    assert "warning: the attention map is constant" in capsys.readouterr().out


def test_a_healthy_run_and_a_warming_beta_are_not_warned_about(whole: RunFolder) -> None:
    model = build_model("vgg_xs_aib_qt", 3, anchors=8)
    healthy = {"rate_bits": 5.0, "map_std": 0.1, "anchors_used": 4}
    assert collapse_warnings(healthy, model, warm=True) == []
    assert collapse_warnings({**healthy, "rate_bits": 0.1}, model, warm=False) == []
    assert len(collapse_warnings({"rate_bits": 0.1, "map_std": 1e-4, "anchors_used": 3}, model, warm=True)) == 3
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


# --- schedules and parameter groups


def test_one_cycle_rises_to_one_at_a_quarter_and_falls_to_nearly_nothing() -> None:
    config = OptimConfig(epochs=8, schedule="one_cycle")
    factors = [lr_factor(step, 10, config) for step in range(80)]
    assert max(factors) == factors[20] == 1.0
    assert factors[0] == pytest.approx(1 / 21)
    assert factors[10] == pytest.approx(11 / 21)
    assert factors[50] == pytest.approx(0.5)
    assert factors[79] == pytest.approx(1 / 60)
    assert np.allclose(np.diff(factors, 2)[:18], 0)
    assert np.allclose(np.diff(factors, 2)[20:], 0)
    late = OptimConfig(epochs=8, schedule="one_cycle", warmup_epochs=6)
    assert max(range(80), key=lambda step: lr_factor(step, 10, late)) == 60


def test_cosine_step_and_constant_after_a_linear_warm_up() -> None:
    cosine = OptimConfig(epochs=10, schedule="cosine")
    assert [lr_factor(step, 10, cosine) for step in (0, 50)] == pytest.approx([1.0, 0.5])
    assert 0 < lr_factor(99, 10, cosine) < 0.001
    step = OptimConfig(epochs=10, schedule="step", step_epochs=(4, 8), step_factor=0.2)
    assert [lr_factor(s, 10, step) for s in (0, 39, 40, 79, 80, 99)] == pytest.approx([1, 1, 0.2, 0.2, 0.04, 0.04])
    constant = OptimConfig(epochs=10, schedule="constant", warmup_epochs=1)
    assert [lr_factor(s, 9, constant) for s in (0, 4, 8, 9, 89)] == pytest.approx([0.1, 0.5, 0.9, 1.0, 1.0])
    warm = OptimConfig(epochs=10, schedule="cosine", warmup_epochs=2)
    assert lr_factor(20, 10, warm) == 1.0
    assert lr_factor(60, 10, warm) == pytest.approx(0.5)


def test_beta_rises_from_nothing_and_stays() -> None:
    config = OptimConfig(beta=0.04, beta_warmup_epochs=2)
    assert [warmed_share(step, 10, config) for step in (0, 5, 10, 20, 1000)] == pytest.approx([0, 0.25, 0.5, 1, 1])
    assert warmed_share(0, 10, OptimConfig()) == 1


def test_the_log_has_the_rate_and_beta_of_the_last_step(data: Path, bundle: DataBundle, tmp_path: Path) -> None:
    folder = train(tiny_config(data, tmp_path / "run", epochs=2, beta_warmup_epochs=2.0), bundle=bundle)
    config = folder.config.optim
    assert [row["lr"] for row in rows(folder)] == [config.lr * lr_factor(step, STEPS, config) for step in (5, 11)]
    assert [row["beta"] for row in rows(folder)] == [config.beta * warmed_share(step, STEPS, config) for step in (5, 11)]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_every_parameter_is_in_one_group_and_anchors_do_not_decay(optimizer: str) -> None:
    model = build_model("vgg_xs_aib_qt", 3)
    config = OptimConfig(optimizer=optimizer, lr=0.2, weight_decay=0.3, anchor_lr_scale=0.5)  # type: ignore[arg-type]
    groups = build_optimizer(model, config, torch.device("cpu")).param_groups
    members = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(members) == sorted(id(parameter) for parameter in model.parameters())
    (anchors,) = [g for g in groups if any(p is model.quantizer.anchors for p in g["params"])]  # type: ignore[union-attr]
    assert len(anchors["params"]) == 1
    assert (anchors["weight_decay"], anchors["base_lr"]) == (0.0, 0.1)
    assert [(g["weight_decay"], g["base_lr"]) for g in groups if g is not anchors] == [(0.3, 0.2)]


def test_without_anchors_there_is_one_group_and_without_parameters_an_error() -> None:
    assert len(parameter_groups(build_model("vgg_xs", 3), OptimConfig())) == 1
    frozen = build_model("vgg_xs", 3).requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter"):
        parameter_groups(frozen, OptimConfig())


def test_anchors_move_at_their_own_rate(data: Path, bundle: DataBundle, tmp_path: Path) -> None:
    still = train(tiny_config(data, tmp_path / "still", anchor_lr_scale=0.0, epochs=1), bundle=bundle)
    moved = train(tiny_config(data, tmp_path / "moved", anchor_lr_scale=1.0, epochs=1), bundle=bundle)
    start = torch.linspace(0, 1, 8)
    assert torch.equal(load_checkpoint(still.last)["model"]["quantizer.anchors"], start)
    assert not torch.equal(load_checkpoint(moved.last)["model"]["quantizer.anchors"], start)


# --- small parts


def test_running_means_weigh_by_images_and_keep_the_first_bad_step() -> None:
    means = RunningMeans(torch.device("cpu"))
    means.add({"loss": torch.tensor(1.0), "rate": torch.tensor(math.log(2))}, torch.tensor(1), 3, 0)
    means = RunningMeans(torch.device("cpu"), means.sums)
    means.add({"loss": torch.tensor(5.0), "rate": torch.tensor(math.log(2))}, torch.tensor(1), 1, 1)
    assert means.means() == pytest.approx({"loss": 2.0, "rate_bits": 1.0, "error": 0.5})
    assert means.bad_step() is None
    for step, loss in enumerate((math.inf, 1.0, math.nan), start=2):
        means.add({"loss": torch.tensor(loss), "rate": torch.tensor(0.0)}, torch.tensor(0), 1, step)
    assert means.bad_step() == 2


def test_a_part_that_joins_late_counts_as_zero_before() -> None:
    means = RunningMeans(torch.device("cpu"))
    means.add({"loss": torch.tensor(1.0)}, torch.tensor(0), 2, 0)
    means.add({"loss": torch.tensor(1.0), "sparsity_loss": torch.tensor(0.5)}, torch.tensor(0), 2, 1)
    assert means.means()["sparsity_loss"] == pytest.approx(0.25)


def test_sums_of_processes_that_know_other_names_add_up() -> None:
    first, second, idle = (RunningMeans(torch.device("cpu")) for _ in range(3))
    first.add({"loss": torch.tensor(1.0), "rate": torch.tensor(2.0)}, torch.tensor(1), 3, 0)
    second.add({"sparsity_loss": torch.tensor(4.0), "rate": torch.tensor(6.0), "loss": torch.tensor(5.0)}, torch.tensor(2), 1, 0)
    sent: list[list[torch.Tensor]] = []
    for means in (first, second, idle):
        sent.append([])
        means.total(lambda value, mine=sent[-1]: mine.append(value) or value)  # type: ignore[func-returns-value, misc]
    answers = iter([sum(each) for each in zip(*sent)])
    total = RunningMeans(torch.device("cpu"), idle.total(lambda _: next(answers)))  # type: ignore[arg-type, return-value]
    assert total.means() == pytest.approx({"loss": 2.0, "sparsity_loss": 1.0, "rate_bits": 3 / math.log(2), "error": 0.75})


def test_macs_of_a_network_counted_by_hand() -> None:
    shared = nn.Conv2d(4, 4, 3, padding=1)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), shared, shared, nn.Flatten(), nn.Linear(4 * 16, 5))
    # 4x4 positions: 27 * 4, twice 36 * 4, and 64 * 5
    assert count_macs(model, (3, 8, 8)) == 16 * 27 * 4 + 2 * 16 * 36 * 4 + 64 * 5
    assert not any(module._forward_hooks for module in model.modules())

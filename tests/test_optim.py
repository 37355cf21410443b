"""Learning rate and beta follow their schedules, and every parameter is in one group with its own rate and decay."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import short_runs
from aib.data.bundle import DataBundle
from aib.models.build import build_model
from aib.train.checkpoint import load_checkpoint
from aib.train.config import OptimConfig
from aib.train.loop import train
from aib.train.optim import build_optimizer, lr_factor, parameter_groups, warmed_share
from short_runs import STEPS
from tiny import rows, tiny_config

data, bundle = short_runs.data, short_runs.bundle


@pytest.mark.parametrize("schedule", ["constant", "step", "cosine", "one_cycle"])
def test_shares_of_the_first_epochs_stand_in_the_place_of_the_schedule(schedule: str) -> None:
    plain = OptimConfig(epochs=8, schedule=schedule, warmup_epochs=3.0, step_epochs=(1, 5))
    shared = replace(plain, warmup_shares=(0.01, 0.3))
    factors = [lr_factor(step, 10, shared) for step in range(80)]
    assert factors[:20] == [0.01] * 10 + [0.3] * 10
    assert factors[20:] == [lr_factor(step, 10, plain) for step in range(20, 80)]


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


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
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


def test_adam_has_its_weight_decay_in_the_gradient_and_adamw_beside_it() -> None:
    # the first step of Adam is lr * sign(gradient + decay * weight), whatever the scale of the loss; AdamW shrinks apart
    def moved(optimizer: str, scale: float) -> torch.Tensor:
        layer = nn.Linear(2, 1, bias=False)
        nn.init.constant_(layer.weight, 1.0)
        config = OptimConfig(optimizer=optimizer, lr=0.01, momentum=0.5, weight_decay=3.0 * scale)  # type: ignore[arg-type]
        step = build_optimizer(layer, config, torch.device("cpu"))
        (scale * layer(torch.tensor([[-1.0, -5.0]]))).sum().backward()
        step.step()
        return layer.weight.detach()[0] - 1

    for scale in (1.0, math.log(2)):  # nats and bits
        torch.testing.assert_close(moved("adam", scale), torch.tensor([-0.01, 0.01]))
        torch.testing.assert_close(moved("adamw", scale), torch.tensor([0.01, 0.01]) - 0.03 * scale)


def test_without_anchors_there_is_one_group_and_without_parameters_an_error() -> None:
    assert len(parameter_groups(build_model("vgg_xs", 3), OptimConfig())) == 1
    frozen = build_model("vgg_xs", 3).requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter"):
        parameter_groups(frozen, OptimConfig())


def test_biases_of_normalisation_learn_at_their_own_rate_and_decay_as_the_others() -> None:
    model = build_model("fast_aib_qt", 10)
    groups = parameter_groups(model, OptimConfig(lr=0.5, weight_decay=0.01, norm_bias_lr_scale=16))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    (biases,) = [g for g in groups if g["base_lr"] == 8.0]
    assert {id(p) for p in biases["params"]} == {id(norm.bias) for norm in norms}  # type: ignore[attr-defined]
    assert biases["weight_decay"] * biases["base_lr"] == pytest.approx(0.01 * 0.5)  # type: ignore[operator]
    members = [id(parameter) for group in groups for parameter in group["params"]]  # type: ignore[attr-defined]
    assert sorted(members) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_anchors_move_at_their_own_rate(data: Path, bundle: DataBundle, tmp_path: Path) -> None:
    still = train(tiny_config(data, tmp_path / "still", anchor_lr_scale=0.0, epochs=1), bundle=bundle)
    moved = train(tiny_config(data, tmp_path / "moved", anchor_lr_scale=1.0, epochs=1), bundle=bundle)
    start = torch.linspace(0, 1, 8)
    assert torch.equal(load_checkpoint(still.last)["model"]["quantizer.anchors"], start)
    assert not torch.equal(load_checkpoint(moved.last)["model"]["quantizer.anchors"], start)

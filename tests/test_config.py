"""The configuration: every field survives TOML, and what is wrong with a file is said in one line that names the way out."""

from __future__ import annotations

import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from aib.train.config import RunConfig, TrainConfig, config_from_dict, config_to_dict, read_config, with_machine

CHANGED: dict[str, dict[str, Any]] = {
    "data": {
        "data": "photos with spaces/ünïcode", "root": "elsewhere", "image_size": 48, "val_fraction": 0.25, "split_seed": 7,
        "mean": (0.5,), "std": (0.25,), "crop_padding": 3, "flip": True, "alternate_flip": True, "download": True,
        "skip_bad": True, "workers": 0, "boxes": "keep",
    },
    "model": {
        "model": "resnet18", "attend": "layer2", "anchors": 12, "latent_dim": 32, "modulation": "plain",
        "min_std": 0.5, "width": 0.5, "pretrained": "yes",
    },
    "optim": {
        "epochs": 9, "batch_size": 17, "optimizer": "adamw", "lr": 0.003, "momentum": 0.5, "nesterov": False, "weight_decay": 0.125,
        "schedule": "step", "warmup_epochs": 1.5, "warmup_shares": (0.25, 0.5), "step_epochs": (3, 6), "step_factor": 0.5,
        "label_smoothing": 0.25, "clip_norm": 2.5, "beta": 0.5, "beta_warmup_epochs": 2.5, "kl": "reference", "lambda_anchor": 0.75,
        "lambda_commitment": 0.25, "lambda_sparsity": 0.125, "anchor_lr_scale": 0.5,
        "norm_bias_lr_scale": 64.0, "revive_anchors": True,
    },
    "run": {
        "recipe": "some/recipe", "out": "runs/x", "seed": 4, "device": "cpu", "devices": 2, "accumulate": 3,
        "precision": "bf16-mixed", "channels_last": True, "compile": True, "compile_mode": "reduce-overhead",
        "checkpoint_minutes": 1.5, "quiet": True,
    },
}  # fmt: skip
"""A value other than the default for every field."""


def changed() -> TrainConfig:
    base = TrainConfig()
    return replace(base, **{table: replace(getattr(base, table), **values) for table, values in CHANGED.items()})


def test_a_resumed_run_takes_only_the_machines_options_from_outside() -> None:
    stored = config_from_dict(tomllib.loads(tomli_w.dumps(CHANGED)))
    given = replace(TrainConfig(), run=replace(RunConfig(), device="cuda", quiet=True, seed=99))
    mixed = with_machine(stored, given)
    assert mixed == replace(stored, run=replace(stored.run, device="cuda", quiet=True))
    assert with_machine(stored, TrainConfig()) == stored


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_table_above_changes_every_field() -> None:
    base = TrainConfig()
    for table in fields(TrainConfig):
        default = getattr(base, table.name)
        assert set(CHANGED[table.name]) == {field.name for field in fields(default)}
        for name, value in CHANGED[table.name].items():
            assert getattr(default, name) != value, name


@pytest.mark.parametrize("config", [TrainConfig(), changed()], ids=["default", "changed"])
def test_every_field_survives_toml(config: TrainConfig, tmp_path: Path) -> None:
    path = write(tmp_path / "config.toml", tomli_w.dumps(config_to_dict(config)))
    assert read_config(path) == config


@pytest.mark.parametrize("table", list(CHANGED))
def test_one_field_at_a_time_keeps_the_others(table: str, tmp_path: Path) -> None:
    for name, value in CHANGED[table].items():
        given_value = list(value) if isinstance(value, tuple) else value
        config = config_from_dict({table: {name: given_value}})
        assert getattr(getattr(config, table), name) == value
        expected = replace(TrainConfig(), **{table: replace(getattr(TrainConfig(), table), **{name: value})})
        assert config == expected


def test_absent_keys_keep_the_values_of_the_base() -> None:
    config = config_from_dict({"optim": {"epochs": 30}}, base=changed())
    assert config == replace(changed(), optim=replace(changed().optim, epochs=30))


NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
"""Texts but for those that are refused: a null character is in no file's name, and half a surrogate pair in no file."""


@given(st.floats(0, 1e3), st.integers(1, 10**6), st.lists(st.integers(0, 100), max_size=4), NAMES)
def test_values_of_any_size_survive_toml(lr: float, epochs: int, steps: list[int], name: str) -> None:
    tables = {"optim": {"lr": lr, "epochs": epochs, "step_epochs": steps}, "data": {"data": name}}
    config = config_from_dict(tables)
    assert config_from_dict(tomllib.loads(tomli_w.dumps(config_to_dict(config)))) == config
    assert (config.optim.lr, config.optim.step_epochs, config.data.data) == (lr, tuple(steps), name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[optim]\nepocs = 3", r"unknown key in \[optim\]: 'epocs'; did you mean 'epochs'\?"),
        ("[model]\nanchor = 3", r"unknown key in \[model\]: 'anchor'; did you mean 'anchors'\?"),
        ("[data]\nzzz = 3", r"unknown key in \[data\]: 'zzz'; it takes data, root, image_size"),
        ("[optimizer]\nlr = 1", r"unknown table: 'optimizer'; did you mean 'optim'\?"),
        ("epochs = 3", r"unknown table: 'epochs'; it takes data, model, optim, run"),
        ("optim = 3", r"optim is a int; it must be a table \[optim\]"),
        ("[optim]\nepochs = '3'", "optim.epochs is '3'; it must be a whole number"),
        ("[optim]\nepochs = 3.0", "optim.epochs is 3.0; it must be a whole number"),
        ("[optim]\nepochs = true", "optim.epochs is True; it must be a whole number"),
        ("[optim]\nlr = 'fast'", "optim.lr is 'fast'; it must be a number"),
        ("[optim]\nlr = false", "optim.lr is False; it must be a number"),
        ("[optim]\nnesterov = 1", "optim.nesterov is 1; it must be true or false"),
        ("[optim]\noptimizer = 'lion'", "optim.optimizer is 'lion'; it must be 'sgd' or 'adam' or 'adamw'"),
        ("[optim]\nstep_epochs = 3", "optim.step_epochs is 3; it must be a list of whole numbers"),
        ("[optim]\nstep_epochs = [1.5]", r"optim.step_epochs is \[1.5\]; it must be a list of whole numbers"),
        ("[optim]\nclip_norm = 'x'", "optim.clip_norm is 'x'; it must be a number"),
        ("[model]\nmodulation = 'both'", "model.modulation is 'both'; it must be 'residual' or 'plain'"),
        ("[model]\nattend = 3", "model.attend is 3; it must be a text"),
        ("[run]\nprecision = 16", "run.precision is 16; it must be '32-true' or"),
        ("[optim\nlr = 1", "is not a readable TOML file"),
        ("# nothing\n", r"is empty; a recipe has tables such as \[data\]"),
        ("[optim]\nlr = 1\nlr = 2", "is not a readable TOML file"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "mine.toml", text)
    with pytest.raises(ValueError, match=message) as caught:
        read_config(path)
    assert "\n" not in str(caught.value)
    assert "mine.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[optim]\nepochs = 0", "epochs is 0; it must lie between 1 and"),
        ("[optim]\nbatch_size = 0", "batch_size is 0"),
        ("[optim]\nlr = -0.1", "lr is -0.1"),
        ("[optim]\nlr = nan", "lr is nan"),
        ("[optim]\nlr = inf", "lr is inf"),
        ("[optim]\nmomentum = 1.0", "momentum is 1.0"),
        ("[optim]\nepochs = 3\nwarmup_epochs = 4.0", "warmup_epochs is 4.0; it must lie between 0 and 3"),
        ("[optim]\nwarmup_shares = [0.1, 2.0]", r"warmup_shares is \(0\.1, 2\.0\); they must lie between 0 and 1"),
        ("[optim]\nlabel_smoothing = 1.0", "label_smoothing is 1.0"),
        ("[optim]\nclip_norm = 0.0", "clip_norm is 0.0; it must be above 0"),
        ("[optim]\nbeta = -1.0", "beta is -1.0"),
        ("[data]\nval_fraction = 1.0", "val_fraction is 1.0"),
        ("[data]\nflip = false\nalternate_flip = true", "alternate_flip is on and flip is off"),
        ("[data]\nval_fraction = -0.1", "val_fraction is -0.1; it must be 0, for none, or below 1"),
        ("[data]\ncrop_padding = -1", "crop_padding is -1"),
        ("[run]\nseed = -1", "seed is -1"),
        ("[run]\nseed = 4294967296", "seed is 4294967296"),
        ("[run]\ndevices = 0", "devices is 0"),
    ],
)
def test_values_out_of_range_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_config(write(tmp_path / "mine.toml", text))


def test_a_file_that_is_absent_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no recipe at"):
        read_config(tmp_path / "absent.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "binary.toml", tmp_path):
        with pytest.raises(ValueError, match="is not a readable TOML file"):
            read_config(path)

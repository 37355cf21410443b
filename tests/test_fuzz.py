"""Hostile input: a share of the cases of `benchmarks/fuzz_inputs.py`, structured ones by Hypothesis, the famous ones by name."""

from __future__ import annotations

import contextlib
import io
import json
import mmap
import os
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fuzz_checkpoints
import fuzz_data
import fuzz_images
import fuzz_runs
import fuzzing
from aib.cli import main
from aib.data import arrays, open_data
from aib.report import build_report
from aib.train.config import TrainConfig, config_from_dict, config_to_dict, read_config
from aib.train.loop import train
from aib.train.weights import load_run
from fuzz_checkpoints import copied
from fuzzing import Case, judge, judged, run_cases

MAKERS = {**fuzz_images.MAKERS, **fuzz_data.MAKERS, **fuzz_checkpoints.MAKERS, **fuzz_runs.MAKERS}

SLOW = ("checkpoint", "run", "report", "pretrained")

SMALL = 300
"""Megabytes that a refusal may take."""


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fuzz_runs.make_seeds(tmp_path_factory.mktemp("seeds"))


# --- the judge


def test_a_share_of_the_cases_ends_well_or_in_one_line(seeds: Path, tmp_path: Path) -> None:
    plan = [(kind, i) for kind in MAKERS for i in range(4 if kind in SLOW else 14)]
    verdicts = list(run_cases(MAKERS, plan, 2026, tmp_path, seeds))
    assert [(verdict.kind, verdict.number) for verdict in verdicts] == plan
    assert [verdict for verdict in verdicts if verdict.outcome == "BUG"] == []
    assert {"success", "refused"} == {verdict.outcome for verdict in verdicts}


def test_cases_are_functions_of_seed_and_number(seeds: Path, tmp_path: Path) -> None:
    plan = [("npz", 3), ("archive", 5), ("recipe", 2)]
    first, again, other = (list(run_cases(MAKERS, plan, seed, tmp_path, seeds)) for seed in (7, 7, 8))
    assert [v.said for v in first] == [v.said for v in again] != [v.said for v in other]


def test_what_must_not_happen_is_seen(seeds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzzing, "WAIT", 5)
    monkeypatch.setattr(fuzzing, "MEGABYTES", 50)
    outside = tmp_path / "outside"

    def refuse(message: str) -> None:
        raise ValueError(message)

    def take(size: int) -> None:
        mmap.mmap(-1, size).write(bytes(size))  # pages of its own: malloc may have as much left from before

    acts: dict[str, Callable[[Path], object]] = {
        "KeyError": lambda folder: {}["key"], "not one line": lambda folder: refuse("two\nlines"),
        "not one": lambda folder: refuse(""), "hangs": lambda folder: time.sleep(60), "ended with 7": lambda folder: os._exit(7),
        "MB; success": lambda folder: take(70_000_000), f"open of {outside}": lambda folder: outside.write_text("x"),
        "os.system": lambda folder: os.system("true"), "MemoryError": lambda folder: np.ones(10**9),
        "symlink": lambda folder: outside.symlink_to(folder),
    }  # fmt: skip
    for name, verdict in judged(tmp_path / "cases", acts, seeds).items():
        assert (verdict.outcome, name in verdict.said) == ("BUG", True), verdict
    told = judged(tmp_path / "named", {"unnamed": lambda folder: refuse("bad")}, seeds, Path("/a/file"))["unnamed"]
    assert (told.outcome, "not named" in told.said) == ("BUG", True)
    fine: dict[str, Callable[[Path], object]] = {
        "refused": lambda folder: refuse("a reason"), "success": lambda folder: (folder / "own").write_text("x")
    }  # fmt: skip
    assert {name: verdict.outcome for name, verdict in judged(tmp_path / "fine", fine, seeds).items()} == {v: v for v in fine}


# --- what expands


@pytest.mark.parametrize("padded", [False, True])
def test_padding_makes_no_honest_archive_of_a_bomb(padded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "BOMB_BYTES", 1 << 18)
    noise = np.random.default_rng(0).integers(0, 256, (200, 64, 64), np.uint8)
    named = {"y_train": np.arange(200) % 2, "x_test": noise[:4], "y_test": np.arange(4) % 2}
    bomb = {"x_train": np.zeros((200, 64, 64), np.uint8), **named, **({"pad": noise[:50]} if padded else {})}
    np.savez_compressed(tmp_path / "bomb.npz", **bomb)
    with pytest.raises(ValueError, match=r"bomb\.npz would unpack to 819,\d+ bytes, more than 200 times their size in it"):
        open_data(str(tmp_path / "bomb.npz"))
    # as many bytes of masks in which nothing is marked are honest beside images
    np.savez_compressed(tmp_path / "honest.npz", x_train=noise, masks_train=np.zeros((200, 64, 64), bool), **named)
    assert open_data(str(tmp_path / "honest.npz")).train.masks is not None
    overlapping = bytearray((tmp_path / "bomb.npz").read_bytes())
    at = overlapping.find(b"PK\x01\x02")  # of the first array: the compressed size that the archive tells
    struct.pack_into("<I", overlapping, at + 20, len(overlapping) - 100)
    (tmp_path / "bomb.npz").write_bytes(overlapping)
    with pytest.raises(ValueError, match=r"bomb\.npz has arrays that overlap"):
        open_data(str(tmp_path / "bomb.npz"))


def test_a_large_archive_that_shrinks_as_no_photographs_do_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = np.repeat(np.random.default_rng(0).integers(0, 2, (400, 32, 4), np.uint8) * 255, 8, 2).repeat(2, 1)
    split = {"y_train": np.arange(400) % 2, "x_test": shapes[:4], "y_test": np.arange(4) % 2}
    np.savez_compressed(tmp_path / "shapes.npz", x_train=shapes, **split)
    open_data(str(tmp_path / "shapes.npz"))
    monkeypatch.setattr(arrays, "LARGE_BYTES", 1 << 18)
    with pytest.raises(ValueError, match=r"shapes\.npz would unpack to 8\d\d,\d+ bytes, more than 20 times their size in it"):
        open_data(str(tmp_path / "shapes.npz"))
    np.savez(tmp_path / "shapes.npz", x_train=shapes, **split)
    open_data(str(tmp_path / "shapes.npz"))


def test_one_number_called_millions_is_refused(tmp_path: Path, seeds: Path) -> None:
    run = copied(seeds, "halfway", tmp_path)
    content = torch.load(run.last, weights_only=True)
    many = torch.zeros(1, dtype=torch.half).expand(700_000_000)
    acts: dict[str, Callable[[Path], object]] = {}
    for name, part in (("optimizer", content["optimizer"]["state"][0]), ("model", content["model"])):
        first = next(iter(part))
        kept, part[first] = part[first], many
        torch.save(content, tmp_path / f"{name}.ckpt")
        part[first] = kept

        def act(folder: Path, name: str = name) -> object:
            spoilt = copied(run.path.parent, "run", folder)
            shutil.copy(tmp_path / f"{name}.ckpt", spoilt.last)
            return train(TrainConfig(), resume=spoilt.path)

        acts[name] = act
    for name, verdict in judged(tmp_path / "cases", acts, seeds).items():
        assert (verdict.outcome, f"last.ckpt is damaged: its {name}" in verdict.said) == ("refused", True), verdict
        assert verdict.megabytes < SMALL, verdict


# --- structured input

TEXT = st.text(max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
FIELDS = {name: list(table) for name, table in config_to_dict(TrainConfig()).items()}
TOML = (
    st.booleans()
    | st.integers()
    | st.floats()
    | TEXT.filter(lambda text: "\ud800" not in text)
    | st.lists(st.integers(), max_size=3)
)


def ends_well(case: Case) -> None:
    outcome, said = judge(case)
    assert outcome != "BUG", said


@given(st.dictionaries(st.sampled_from([*FIELDS, "x"]), st.dictionaries(st.sampled_from(sum(FIELDS.values(), ["width"])), TOML)))
@settings(max_examples=60)
def test_any_tables_are_a_recipe_or_refused(tmp_path_factory: pytest.TempPathFactory, tables: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "mine.toml"
    path.write_text(tomli_w.dumps(tables), encoding="utf-8")

    def act() -> None:
        config = read_config(path)
        assert config_from_dict(config_to_dict(config)) == config

    ends_well(Case(act, path))


@given(st.sampled_from(["class_names", "mean", "image_size", "channels", "options", "format", "name", ""]), JSON)
@settings(max_examples=40)
def test_any_description_of_a_model_is_read_or_refused(seeds: Path, key: str, value: Any) -> None:
    run = seeds / "described"
    if not run.exists():
        copied(seeds, "run", seeds / "copy").path.rename(run)
    card = json.loads((seeds / "run" / "model.json").read_text())
    (run / "model.json").write_text(json.dumps({**card, key: value} if key else value))
    ends_well(Case(lambda: load_run(run), run))


@given(st.sampled_from(["confusion", "classes", "anchors", "calibration", "error_interval", "n", "localization", ""]), JSON)
@settings(max_examples=25)
def test_any_evaluation_is_reported_or_refused(seeds: Path, key: str, value: Any) -> None:
    run = seeds / "evaluated"
    run.mkdir(exist_ok=True)
    for name in ("model.json", "eval/test.json"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_bytes((seeds / "shown" / name).read_bytes())
    evaluation = json.loads((run / "eval/test.json").read_text())
    (run / "eval/test.json").write_text(json.dumps({**evaluation, key: value} if key else value))
    ends_well(Case(lambda: build_report([run], run / "report.html"), run))


WORDS = (
    st.sampled_from(["--data", "--model", "--help", "--split", "--out", "--recipe", "--samples", "2", "nan", "-1", "--lr=x"]) | TEXT
)


@given(st.sampled_from(["eval", "explain", "report", "convert", "recipes", "figure"]), st.lists(WORDS, max_size=4))
@settings(max_examples=40)
def test_any_words_are_a_command_or_one_line(tmp_path_factory: pytest.TempPathFactory, verb: str, words: list[str]) -> None:
    os.chdir(tmp_path_factory.mktemp("empty"))
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        code = main([verb, *words])
    assert code in (0, 2)
    assert len(errors.getvalue().splitlines()) == (code == 2)

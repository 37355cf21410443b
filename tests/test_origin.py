"""A run is used from any folder, and knows its own data from others at the place where they were."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from aib.cli import main
from aib.commands.eval import EvalOptions
from aib.commands.figure import FigureOptions
from aib.data import open_data
from aib.data.bundle import TensorSplit
from aib.data.fingerprint import CLOSE, fingerprint, other_split
from aib.models import create_model
from aib.train.config import TrainConfig, config_from_dict
from aib.train.loop import train
from aib.train.run_folder import RunFolder
from aib.train.score_settings import ScoreSettings
from aib.train.unused import unused_options
from tiny import squares, tiny_config, write_folder, write_npz

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a recipe, in which a run was trained with paths as a person types them."""
    here = tmp_path_factory.mktemp("workshop")
    (here / "data").mkdir()
    write_npz(here / "data" / "squares.npz")
    (here / "mine.toml").write_text("[optim]\nbatch_size = 32\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        given = "--model vgg_xs_aib_qt --anchors 8 --epochs 1 --device cpu --quiet --data data/squares.npz --out runs/mine"
        assert main(["train", "--recipe", "mine.toml", *given.split()]) == 0
    return here


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another working directory, with a data file of the same name that holds other images."""
    there = tmp_path / "elsewhere"
    (there / "data").mkdir(parents=True)
    monkeypatch.chdir(there)
    return there


def refused(capsys: Capture, *arguments: object) -> str:
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_run_is_evaluated_and_recorded_from_another_folder(workshop: Path, elsewhere: Path, capsys: Capture) -> None:
    write_npz(elsewhere / "data" / "squares.npz", test=20)  # not the run's: where it was started goes first
    assert main(["eval", str(workshop / "runs" / "mine"), "--record", "here.csv", "--device", "cpu"]) == 0
    assert "40 (squares, test)" in capsys.readouterr().out
    (workshop / "mine.toml").rename(workshop / "gone.toml")
    try:
        assert main(["eval", str(workshop / "runs" / "mine"), "--record", "gone.csv", "--device", "cpu"]) == 0
    finally:
        (workshop / "gone.toml").rename(workshop / "mine.toml")
    assert Path("here.csv").read_text() == Path("gone.csv").read_text()
    with Path("here.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert "--recipe mine.toml" in row["command"]
    assert "--batch-size" not in row["command"]


def test_a_recipe_that_nobody_kept_is_written_out(workshop: Path, elsewhere: Path) -> None:
    copy = Path(shutil.copytree(workshop / "runs" / "mine", elsewhere / "old"))
    (copy / "recipe.toml").unlink()  # as of a run that is older
    assert main(["eval", str(copy), "--record", "old.csv", "--device", "cpu"]) == 0
    with Path("old.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert "--recipe" not in row["command"]
    assert "--batch-size 32" in row["command"]


def test_a_copied_run_takes_no_other_data_for_its_own(workshop: Path, elsewhere: Path, capsys: Capture) -> None:
    copy = Path(shutil.copytree(workshop / "runs" / "mine", elsewhere / "copy", ignore=shutil.ignore_patterns("eval")))
    origin = json.loads((copy / "origin.json").read_text())
    (copy / "origin.json").write_text(json.dumps({**origin, "folder": "/gone"}))
    said = refused(capsys, "eval", copy, "--device", "cpu")
    assert f"are not in /gone/data/squares.npz nor in {elsewhere}/data/squares.npz; name the folder" in said
    assert "with --root" in said

    other = write_npz(elsewhere / "data" / "squares.npz", test=20)
    said = refused(capsys, "eval", copy, "--device", "cpu")
    assert f"{other} holds other data than {copy} was trained on (20 test images, not 40)" in said
    assert "--root" in said
    assert "--data" in said
    assert not list(copy.glob("eval/*"))
    assert main(["eval", str(copy), "--data", "data/squares.npz", "--device", "cpu"]) == 0
    assert json.loads((copy / "eval" / "squares-test.json").read_text())["data"] == "squares-other"
    said = refused(capsys, "train", "--resume", copy)
    assert f"holds other data than {copy} was trained on" in said
    assert "start a new run" in said

    assert main(["eval", str(copy), "--root", str(workshop / "data"), "--device", "cpu"]) == 0
    assert json.loads((copy / "eval" / "test.json").read_text())["data"] == "squares"
    (copy / "origin.json").unlink()  # an older run takes what it finds, as it did
    assert main(["eval", str(copy), "--device", "cpu"]) == 0
    assert json.loads((copy / "eval" / "test.json").read_text())["n"] == 20


def test_a_run_goes_on_from_another_folder_with_its_data_moved(tmp_path: Path, elsewhere: Path, capsys: Capture) -> None:
    config = tiny_config("data/squares.npz", tmp_path / "run", epochs=1)
    write_npz(elsewhere / "data" / "squares.npz")
    folder = train(config)
    text = (folder.path / "config.toml").read_text()
    (folder.path / "config.toml").write_text(text.replace("epochs = 1\n", "epochs = 2\n"))
    (tmp_path / "moved").mkdir()
    (elsewhere / "data" / "squares.npz").rename(tmp_path / "moved" / "squares.npz")
    said = refused(capsys, "train", "--resume", folder.path)
    assert f"the run's data, data/squares.npz, are not in {elsewhere}/data/squares.npz; name the folder" in said
    assert main(["train", "--resume", str(folder.path), "--root", str(tmp_path / "moved")]) == 0
    assert RunFolder(folder.path).finished_epochs == 2


@pytest.mark.parametrize(
    ("verb", "options"), [(["eval"], EvalOptions), (["score"], ScoreSettings), (["figure", "3"], FigureOptions)]
)
def test_advice_names_options_that_the_verb_has(
    verb: list[str], options: type, workshop: Path, elsewhere: Path, capsys: Capture
) -> None:
    own = {f"--{field.name}" for field in fields(options)}
    named = write_npz(elsewhere / "named.npz", class_names=np.array(["one", "two", "three"]))
    for data, advised in (("cifar10", "--download"), (str(named), "--labels")):
        said = refused(capsys, *verb, workshop / "runs" / "mine", "--data", data, "--device", "cpu")
        assert advised in said
        assert set(re.findall(r"--[a-z-]+", said)) <= own


@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_a_fingerprint_tells_a_change_from_none(kind: str, tmp_path: Path) -> None:
    source = write_npz(tmp_path / "squares.npz") if kind == "npz" else write_folder(tmp_path / "photos", side=80)
    bundle = open_data(str(source))
    kept = json.loads(json.dumps(fingerprint(bundle)))
    assert other_split(kept, open_data(str(source))) is None
    assert other_split(kept, open_data(str(source), seed=1)) == ("test" if kind == "folder" else None)
    if kind == "folder":
        first = tmp_path / "photos" / "red" / "000.png"
        first.unlink()
        assert other_split(kept, open_data(str(source))) is not None
        return
    test = bundle.test
    assert isinstance(test, TensorSplit)
    nearly = test.images.clone()
    nearly[0, :, 0, 0] ^= 1  # as another decoder may round it: 1 level of 64 pixels
    assert CLOSE > 1 / 64
    assert other_split(kept, replace(bundle, test=replace(test, images=nearly))) is None
    other = torch.from_numpy(squares(40, seed=9)[0]).permute(0, 3, 1, 2)
    assert other_split(kept, replace(bundle, test=replace(test, images=other))) == "test"  # the same labels
    turned = replace(test, labels=test.labels.roll(1))
    assert other_split(kept, replace(bundle, train=turned)) == "train"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vgg_xs", {}), ("vgg_xs_aib", {}), ("vgg_xs_aib", {"anchors": 8}), ("vgg_xs_aib_qt", {}), ("fast", {}), ("fast_aib", {}),
        ("vgg_aib", {"width": 0.125}), ("vgg_aib_qt", {"width": 0.125}), ("wrn_aib_qt", {"width": 0.1}),
        ("vgg_dvib", {"width": 0.125}), ("vgg_att2", {"width": 0.125}), ("vgg_gap", {"width": 0.125}),
    ],
)  # fmt: skip
def test_options_are_called_unused_where_the_loss_has_no_such_part(name: str, options: dict[str, float]) -> None:
    details = create_model(name, 3, **options).eval().forward_details(torch.rand(2, 3, 32, 32))
    config = config_from_dict({"model": {"model": name, **options}})
    parts = {"beta": details.rate, "lambda_anchor": details.anchor_values, "lambda_sparsity": details.attention_mean}
    for option, part in parts.items():
        said = unused_options(config, [option, "epochs"])
        assert bool(said) == (part is None), option
        assert all(f"--{option.replace('_', '-')} changes nothing: {name} as given has no " in line for line in said)


def test_a_timm_model_uses_beta_where_attention_is_attached() -> None:
    plain = config_from_dict({"model": {"model": "resnet18"}})
    attached = config_from_dict({"model": {"model": "resnet18", "attend": "layer3"}})
    assert unused_options(plain, ["beta", "kl"]) == ["--beta and --kl change nothing: resnet18 as given has no latent"]
    assert unused_options(attached, ["beta", "lambda_anchor"]) == [
        "--lambda-anchor changes nothing: resnet18 as given has no anchors"
    ]
    assert unused_options(TrainConfig(), ["beta", "lambda_anchor"]) == []

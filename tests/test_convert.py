"""Checkpoints of the published code: written out here once more from its description, converted, and compared number by number."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import aib
from aib.cli import main
from aib.models.reference import REFERENCE_MODELS, convert_reference, identify_reference
from aib.recipes import load_recipe
from aib.train.config import read_config
from aib.train.convert import CLASS_NAMES, read_published
from aib.train.weights import load_run
from published import Published, hollow, lived_in, published

# count and digest of the lines "key shape" of the published networks with 10 classes (Q = 20 for the VGG, 50 for the WRN)
PUBLISHED_KEYS = {
    "vgg_aib": (117, "af1c3c84f658c8fa"), "vgg_aib_qt": (118, "c328507d7d8b9a7e"),
    "wrn_aib": (345, "b11223c0c125dd81"), "wrn_aib_qt": (346, "6c1244f9db605c07"),
}  # fmt: skip
VGG_COLOURS = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
WRN_COLOURS = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


@pytest.mark.parametrize("name", REFERENCE_MODELS)
def test_the_networks_here_have_the_published_keys_and_shapes(name: str) -> None:
    lines = sorted(f"{key} {'x'.join(map(str, value.shape))}" for key, value in hollow(name).items())
    assert (len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]) == PUBLISHED_KEYS[name]


# --- the same numbers


@pytest.mark.parametrize("name", REFERENCE_MODELS)
def test_a_converted_network_computes_what_the_published_one_does(name: str) -> None:
    theirs = lived_in(published(name))
    state = theirs.state_dict()
    if name.endswith("qt"):  # as saved from several devices
        state = {f"module.{key}": value for key, value in state.items()}
    with torch.device("meta"):  # a start of 65 M weights takes seconds
        model = aib.create_model(name, num_classes=10)
    model.load_state_dict(aib.convert_reference(state, name), assign=True)
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        wanted, details = theirs.maps(images), model.eval().forward_details(images)
        for key, value in wanted.items():
            torch.testing.assert_close(getattr(details, key), value, rtol=1e-4, atol=1e-4)
        assert wanted["attention_mean"].std() > 0.02  # neither a constant map nor saturated: the comparison can fail
        assert wanted["logits"].std() > 0.01
        assert wanted["map"].unique().numel() > 5
        # the negative control: two tensors of one shape exchanged
        vgg, wrn = ("encoder.13", "encoder.16"), ("encoder.0.1.conv1", "encoder.0.1.conv2")
        one, other = (model.backbone.get_submodule(layer).weight for layer in (vgg if name.startswith("vgg") else wrn))  # type: ignore[union-attr]
        one[:], other[:] = other.clone(), one.clone()
        assert (model(images) - wanted["logits"]).abs().max() > 1e-3


def test_other_sizes_than_the_published_ones_are_read_from_the_shapes() -> None:
    theirs = published("vgg_aib_qt", classes=7, latent=12, anchors=5)
    found = identify_reference(theirs.state_dict())
    assert (found.name, found.num_classes, found.options) == ("vgg_aib_qt", 7, {"latent_dim": 12, "anchors": 5})
    converted = convert_reference(theirs.state_dict(), "vgg_aib_qt")
    assert torch.equal(converted["quantizer.anchors"], theirs.emb["weight"][0])  # type: ignore[index]
    aib.create_model("vgg_aib_qt", 7, **found.options).load_state_dict(converted)


def test_converting_draws_no_random_number_and_keeps_the_order_of_ours() -> None:
    before = torch.get_rng_state()
    converted = convert_reference(hollow("wrn_aib"), "wrn_aib")
    assert torch.equal(before, torch.get_rng_state())
    with torch.device("meta"):
        ours = aib.create_model("wrn_aib", 10).state_dict()
    assert list(converted) == list(ours)
    assert {key: (t.shape, t.dtype) for key, t in converted.items()} == {key: (t.shape, t.dtype) for key, t in ours.items()}


def test_half_precision_weights_become_float32() -> None:
    state = {key: value.half() if value.is_floating_point() else value for key, value in hollow("vgg_aib").items()}
    assert {t.dtype for t in convert_reference(state, "vgg_aib").values()} == {torch.float32, torch.int64}


# --- nothing is dropped, nothing guessed

OTHER = {"layer1.0.conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}


def changed(name: str, key: str, value: Tensor | None = None, to: str | None = None) -> dict[str, Tensor]:
    state = hollow(name)
    old = state.pop(key)
    if value is not None or to is not None:
        state[to or key] = old if value is None else value
    return state


@pytest.mark.parametrize(
    ("state", "name", "words"),
    [
        (lambda: hollow("vgg_aib"), "vgg_aibqt", ["no published weights for 'vgg_aibqt'", "did you mean 'vgg_aib_qt'", "wrn_aib"]),
        (lambda: hollow("vgg_aib"), "vgg_aib_qt", ["that of vgg_aib, not of vgg_aib_qt", "as 'vgg_aib'"]),
        (lambda: hollow("wrn_aib_qt"), "vgg_aib_qt", ["that of wrn_aib_qt, not of vgg_aib_qt"]),
        (
            lambda: changed("vgg_aib", "encode.5.weight", to="encode.5.wieght"), "vgg_aib",
            ["has encode.5.wieght", "did you mean encode.5.weight?", "lacks encode.5.weight"],
        ),
        (lambda: {**hollow("vgg_aib"), "fc.weight": torch.zeros(1)}, "vgg_aib", ["it has fc.weight, which vgg_aib has not"]),
        (lambda: changed("wrn_aib", "bn_att3.running_var"), "wrn_aib", ["lacks bn_att3.running_var"]),
        (
            lambda: {k: v for k, v in hollow("wrn_aib").items() if not k.startswith("block1")}, "wrn_aib",
            ["lacks block1.layer.0.bn1.weight, block1.layer.0.bn1.bias", "and 46 more"],
        ),
        (
            lambda: changed("vgg_aib", "encode.8.weight", torch.zeros(512, 640)), "vgg_aib",
            ["wrong shape: encode.8.weight is 512x640 instead of 512x512"],
        ),
        (lambda: changed("vgg_aib", "decode.2.weight", torch.zeros(10)), "vgg_aib", ["decode.2.weight has shape 10"]),
        (lambda: changed("vgg_aib_qt", "emb.weight", torch.zeros(20, 1)), "vgg_aib_qt", ["emb.weight has shape 20x1", "1xQ"]),
        (lambda: changed("vgg_aib", "decode.0.bias", torch.full((256,), torch.nan)), "vgg_aib", ["decode.0.bias", "not finite"]),
        (
            lambda: changed("vgg_aib", "decode.0.bias", torch.zeros(256, dtype=torch.int64)), "vgg_aib",
            ["decode.0.bias is of type int64", "float32"],
        ),
        (
            lambda: changed("wrn_aib", "att_module_mu.6.weight", torch.ones(1)), "wrn_aib",
            ["att_module_mu.6.weight differs from bn_att3.weight", "two names of one tensor"],
        ),
        (
            lambda: changed("wrn_aib", "encode.0.layer.3.conv2.weight", torch.ones(640, 640, 3, 3)), "wrn_aib",
            ["encode.0.layer.3.conv2.weight differs from block3.layer.3.conv2.weight"],
        ),
        (lambda: dict(OTHER), "wrn_aib", ["of no published network: it has layer1.0.conv1.weight, fc.bias"]),
        (dict, "wrn_aib", ["the state dict is empty"]),
        (lambda: [1], "wrn_aib", ["the state dict is a list"]),
        (lambda: {"epoch": 3}, "wrn_aib", ["has a value of type int under 'epoch'"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(state: Callable[[], Any], name: str, words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        convert_reference(state(), name)
    said = str(caught.value)
    assert all(word in said for word in words), said
    assert "\n" not in said


# --- the file


TINY = {"conv1.weight": torch.arange(4.0)}
EXTRA = {
    "epoch": 187, "args": argparse.Namespace(dataset="CIFAR10", lr=np.float64(0.01), gpu_id="0"), "test_acc": np.float64(95.9),
    "history": np.arange(3.0), "amp": OrderedDict(loss_scaler0={"loss_scale": 65536.0}),
}  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("layout", [{"model_states": {"net": TINY}}, {"state_dict": OrderedDict(TINY)}, TINY])
def test_the_state_dict_is_found_where_the_published_code_puts_it(tmp_path: Path, layout: dict[str, Any], zipped: bool) -> None:
    content = layout if layout is TINY else {**layout, **EXTRA}
    path = tmp_path / "best_acc.tar"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    if not zipped:  # a module's name of the numpy that the published code ran on
        path.write_bytes(path.read_bytes().replace(b"numpy._core", b"numpy.core"))
    found = read_published(path)
    assert list(found.state_dict) == list(TINY)
    assert torch.equal(found.state_dict["conv1.weight"], TINY["conv1.weight"])
    assert (found.epoch, found.dataset) == ((None, None) if layout is TINY else (187, "CIFAR10"))


class Trap:
    """Something that a pickle would run on loading."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def write_bad(kind: str, path: Path) -> None:
    """A file that is no checkpoint of the published code, in one of many ways."""
    whole = path.with_name("whole.tar")
    torch.save({"state_dict": {"a": torch.randn(5000)}}, whole, _use_new_zipfile_serialization=kind != "cut legacy")
    if kind.startswith("cut"):
        path.write_bytes(whole.read_bytes()[:-3000])
    elif kind == "text":
        path.write_text("state_dict")
    elif kind == "empty":
        path.touch()
    elif kind in ("folder", "run"):
        path.mkdir()
        if kind == "run":
            (path / "config.toml").touch()
    elif kind == "npz":
        with path.open("wb") as file:
            np.savez(file, a=np.zeros(3))
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"state_dict": {"a": 1}}, protocol=4))
    elif kind == "trap":
        torch.save({"state_dict": TINY, "x": Trap(path.with_name("sprung"))}, path)
    elif kind == "module":
        torch.save({"state_dict": nn.Linear(2, 2)}, path)
    elif kind != "absent":
        content: dict[str, Any] = {
            "keys": {"epoch": 3, "optimizer": {}, "model_states": {"net_ema": TINY}}, "list": [TINY], "hollow": {},
            "other": {"state_dict": OTHER}, "ours": {"format": 1, "model": TINY, "state": {"epoch": 1}},
        }  # fmt: skip
        torch.save(content[kind], path)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("absent", ["no checkpoint at"]),
        ("folder", ["is a folder"]),
        ("run", ["is already a run of aib; go on with aib eval"]),
        ("empty", ["no checkpoint that torch.save wrote"]),
        ("text", ["is a text file, not a checkpoint"]),
        ("npz", [".npy), not a checkpoint; expected what torch.save wrote"]),
        ("pickle", ["no checkpoint that torch.save wrote"]),
        ("cut", ["is cut or damaged"]),
        ("cut legacy", ["cut or damaged"]),
        ("trap", ["mkdir, and building it could run code", "save the state dict alone"]),
        ("module", ["torch.nn.modules.linear.Linear"]),
        ("keys", ["no state dict", "epoch, optimizer, model_states, model_states.net_ema"]),
        ("hollow", ["it has nothing"]),
        ("ours", ["is a checkpoint of a run of aib, which needs none of this"]),
        ("list", ["holds a list"]),
        ("other", ["of no published network: it has layer1.0.conv1.weight, fc.bias"]),
    ],
)
def test_a_bad_file_is_one_line_and_leaves_nothing(
    kind: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "best_acc.tar"
    write_bad(kind, path)
    with warnings.catch_warnings(record=True, action="always") as said:
        assert main(["convert", str(path), "--out", str(tmp_path / "run")]) == 2
    assert not said  # a warning is two more lines
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("aib convert: ")
    assert all(word in line for word in words), line
    assert str(path) in line
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "sprung").exists()


# --- the run


def write_images(path: Path, classes: int = 10, side: int = 32) -> Path:
    """Noise for every class: two training images, one for validation, and two test images in all."""
    rng = np.random.default_rng(0)
    counts = {"train": 2 * classes, "val": classes, "test": 2}
    arrays: dict[str, Any] = {f"x_{k}": rng.integers(0, 256, (n, side, side, 3)).astype(np.uint8) for k, n in counts.items()}
    arrays |= {f"y_{k}": np.arange(n) % classes for k, n in counts.items()}
    np.savez(path, **arrays, class_names=np.array([f"class {i}" for i in range(classes)]))
    return path


@dataclass(frozen=True)
class Conversion:
    """A network, the run made of its checkpoint, the data it is told of, and what was said."""

    theirs: Published
    run: Path
    data: Path
    said: str


@pytest.fixture(scope="module")
def conversion(tmp_path_factory: pytest.TempPathFactory) -> Conversion:
    folder = tmp_path_factory.mktemp("convert")
    torch.manual_seed(0)
    theirs, data = lived_in(published("vgg_aib_qt")), write_images(folder / "images.npz")
    state = {f"module.{key}": value for key, value in theirs.state_dict().items()}
    torch.save({"model_states": {"net": state}, **EXTRA}, folder / "best_acc.tar")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        arguments = ["convert", folder / "best_acc.tar", "--model", "vgg_aib_qt", "--out", folder / "run", "--data", data]
        assert main([str(word) for word in arguments]) == 0
    return Conversion(theirs, folder / "run", data, said.getvalue())


def test_the_card_of_a_converted_run_says_where_it_comes_from(conversion: Conversion) -> None:
    assert "vgg_aib_qt with 10 classes of images, latent dim 256, anchors 20" in conversion.said
    assert "mean 0.5071, 0.4867, 0.4408 and std 0.2675, 0.2565, 0.2761 (CIFAR-100's" in conversion.said
    card = json.loads((conversion.run / "model.json").read_text())
    assert (card["epoch"], round(card["macs"] / 1e9, 6), card["parameters"]) == (187, 3.787265, 20_040_809)
    checkpoint = conversion.run.with_name("best_acc.tar")
    assert card["converted_from"]["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert load_run(conversion.run).folder.config.optim.kl == "reference"


@pytest.mark.parametrize("name", REFERENCE_MODELS)
def test_a_converted_run_has_the_settings_of_its_recipe(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": hollow(name)}, "model_best.pth.tar")
    assert main(["convert", "model_best.pth.tar", "--out", "run"]) == 0
    found, recipe = read_config(Path("run/config.toml")), load_recipe(f"reference/cifar10/{name}")
    assert found.optim == recipe.optim
    assert found.data == replace(recipe.data, val_fraction=0.0)  # there all images train: none of them can validate
    assert (found.model.model, found.model.anchors, found.model.latent_dim) == (name, recipe.model.anchors, recipe.model.latent_dim)


def test_evaluating_a_converted_run_gives_the_published_logits(conversion: Conversion) -> None:
    assert main(["eval", str(conversion.run), "--device", "cpu"]) == 0
    found = np.load(conversion.run / "eval" / "test.npz")
    pixels = torch.from_numpy(np.load(conversion.data)["x_test"]).permute(0, 3, 1, 2).double() / 255
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in VGG_COLOURS)
    with torch.no_grad():
        wanted = conversion.theirs.maps(((pixels - mean) / std).float())["logits"]
    torch.testing.assert_close(torch.from_numpy(found["logits"]), wanted, rtol=1e-4, atol=1e-4)


def test_a_converted_run_is_explained_and_reported_but_not_resumed(
    conversion: Conversion, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(conversion.run)
    Image.fromarray(np.load(conversion.data)["x_test"][0]).save(tmp_path / "one.png")
    assert main(["explain", run, str(tmp_path / "one.png"), "--out", str(tmp_path / "explained"), "--device", "cpu"]) == 0
    assert np.load(tmp_path / "explained" / "one.npy").shape == (16, 16)
    assert main(["report", run, "--out", str(tmp_path / "report.html")]) == 0
    assert "best_acc.tar" in (tmp_path / "report.html").read_text(encoding="utf-8")
    capsys.readouterr()
    assert main(["train", "--resume", run]) == 2  # there is no state of a training to go on from
    assert "last.ckpt is missing" in capsys.readouterr().err
    assert main(["train", "--data", "clutter", "--out", run]) == 2
    assert "is not empty: choose another folder" in capsys.readouterr().err  # and no word of --resume
    for verb in ("eval", "score"):  # a table of trainings has no place for it: said before the work
        assert main([verb, run, "--record", str(tmp_path / "table.csv")]) == 2
        captured = capsys.readouterr()
        assert "has no environment.json, as a converted run: there is no training to record" in captured.err
        assert captured.out == ""


@pytest.mark.parametrize(
    ("name", "classes", "args", "options", "data", "colours"),
    [
        ("vgg_aib", 10, "CIFAR10", ["--data", "images.npz"], "images", VGG_COLOURS),
        ("wrn_aib_qt", 10, None, [], "cifar10", WRN_COLOURS),
        ("vgg_aib", 100, "CIFAR100", [], "cifar100", VGG_COLOURS),
        ("vgg_aib", 10, "SVHN", [], "svhn", ((0.5,) * 3, (0.5,) * 3)),
        ("vgg_aib", 10, None, ["--mean", "0", "0", ".1", "--std", "1", "1", "2"], "cifar10", ((0.0, 0.0, 0.1), (1.0, 1.0, 2.0))),
    ],
)
def test_data_and_normalisation_go_by_the_checkpoint(
    name: str, classes: int, args: str | None, options: list[str], data: str, colours: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)  # no CIFAR here: its class names are known without it
    write_images(tmp_path / "images.npz")
    content: dict[str, Any] = {"state_dict": hollow(name, classes=classes)}
    torch.save(content | ({"args": argparse.Namespace(dataset=args)} if args else {}), "model_best.pth.tar")
    assert main(["convert", "model_best.pth.tar", "--out", "run", *options]) == 0
    card = json.loads(Path("run/model.json").read_text())
    assert (card["name"], card["data"], card["num_classes"], card["epoch"]) == (name, data, classes, None)
    assert (tuple(card["mean"]), tuple(card["std"])) == colours
    assert card["class_names"] == (list(CLASS_NAMES[data]) if data in CLASS_NAMES else [f"class {i}" for i in range(10)])


@pytest.mark.parametrize(
    ("classes", "args", "options", "words"),
    [
        (10, None, ["--model", "vgg_aib_qt"], ["best.tar: the state dict is that of vgg_aib, not of vgg_aib_qt"]),
        (10, None, ["--model", "vgg"], ["no published weights for 'vgg'", "vgg_aib_qt"]),
        (10, None, ["--mean", "0", "0", "0"], ["mean is given without std"]),
        (10, None, ["--mean", "0", "0", "0", "--std", "1", "1", "0"], ["std is 1.0, 1.0, 0.0", "above 0"]),
        (10, "TinyImageNet", [], ["was trained on TinyImageNet, not on cifar10", "--data"]),
        (7, None, [], ["has 7 classes", "--data"]),
        (7, None, ["--data", "images.npz"], ["images.npz has 10 classes, the network has 7"]),
        (10, None, ["--data", "cifar1O"], ["did you mean 'cifar10'"]),
        (10, None, ["--out", "taken"], ["taken exists and is not empty"]),
    ],
)
def test_mistakes_in_the_options_are_one_line(
    classes: int, args: str | None, options: list[str], words: list[str], tmp_path: Path, monkeypatch: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images.npz")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    torch.save(
        {"state_dict": hollow("vgg_aib", classes=classes), "args": argparse.Namespace(**({"dataset": args} if args else {}))},
        "best.tar",
    )
    assert main(["convert", "best.tar", *(["--out", "run"] if "--out" not in options else []), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(word in line for word in words), line
    assert not (tmp_path / "run").exists()

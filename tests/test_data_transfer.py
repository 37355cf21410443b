"""A run evaluated on another data set with other classes: CIFAR-10's models on STL-10, by name and by index."""

from __future__ import annotations

import colorsys
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aib.commands.eval import summary_lines
from aib.data.benchmarks import STL10_CLASSES
from aib.train.evaluate import evaluate
from aib.train.loop import train
from aib.train.run_data import open_run_data
from aib.train.run_folder import RunFolder
from aib.train.weights import load_run
from test_data_cub import write_cub
from tiny import tiny_config

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
HUES = {name: i / 11 for i, name in enumerate((*CIFAR10, "monkey"))}


def painted(names: tuple[str, ...], count: int, side: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, side, side, 3) in the colour of their class with noise in blocks, and labels (N,) in the order of ``names``."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % len(names))
    colours = np.array([colorsys.hsv_to_rgb(HUES["automobile" if name == "car" else name], 0.9, 0.8) for name in names]) * 255
    noise = rng.normal(0, 25, (count, 16, 16, 3)).repeat(side // 16, 1).repeat(side // 16, 2)
    return (colours[labels][:, None, None] + noise).clip(0, 255).astype(np.uint8), labels


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run on images like CIFAR-10's, with files like STL-10's in the same root."""
    root = tmp_path_factory.mktemp("transfer")
    arrays: dict[str, Any] = {"class_names": np.array(CIFAR10)}
    for seed, (split, count) in enumerate({"train": 400, "test": 50}.items()):
        arrays[f"x_{split}"], arrays[f"y_{split}"] = painted(CIFAR10, count, 32, seed)
    np.savez(root / "cifar10.npz", **arrays)
    folder = root / "stl10_binary"
    folder.mkdir()
    for seed, (split, count) in enumerate({"train": 60, "test": 80}.items()):
        images, labels = painted(STL10_CLASSES, count, 96, 10 + seed)
        images.transpose(0, 3, 2, 1).tofile(folder / f"{split}_X.bin")
        (labels + 1).astype(np.uint8).tofile(folder / f"{split}_y.bin")
    settings = {"root": str(root), "epochs": 8, "batch_size": 20, "lr": 0.02, "flip": False, "crop_padding": 0}
    return train(tiny_config("cifar10", root / "run", **settings))


@pytest.fixture(autouse=True)
def _official(trained: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import STL10

    folder = trained.path.parent / "stl10_binary"
    files = {
        split: [[f"{split}_{part}.bin", hashlib.md5((folder / f"{split}_{part}.bin").read_bytes()).hexdigest()] for part in "Xy"]
        for split in ("train", "test")
    }
    monkeypatch.setattr(STL10, "train_list", files["train"])
    monkeypatch.setattr(STL10, "test_list", files["test"])


def arrays_of(folder: RunFolder, name: str) -> dict[str, np.ndarray]:
    with np.load(folder.path / "eval" / f"{name}.npz") as arrays:
        return dict(arrays)


def test_by_name_is_the_honest_number_and_by_index_can_get_six_of_ten_right(trained: RunFolder) -> None:
    own = evaluate(trained.path)
    assert own["error"] < 0.2, "the run has learnt nothing: the rest says nothing"
    assert "labels" not in own
    by_name = evaluate(trained.path, data="stl10")
    by_index = evaluate(trained.path, data="stl10", labels="by-index")
    assert (by_name["n"], by_index["n"]) == (72, 80)
    assert by_name["error"] < 0.2
    assert by_index["error"] == pytest.approx(0.4, abs=0.15)
    assert by_index["error"] > by_name["error"] + 0.2
    assert by_name["labels"]["convention"] == "by-name"
    assert (by_name["labels"]["left_out"], by_name["labels"]["classes_left_out"]) == (8, ["monkey"])
    assert by_name["labels"]["classes_shared"] == [name for name in CIFAR10 if name != "frog"]
    assert [row["name"] for row in by_name["classes"]] == by_name["labels"]["classes_shared"]
    assert by_index["labels"] == {
        "convention": "by-index", "left_out": 0, "classes_left_out": [],
        "classes_shared": ["airplane", "cat", "deer", "dog", "ship", "truck"],
    }  # fmt: skip
    assert (by_name["data"], by_index["data"]) == ("stl10", "stl10-by-index")
    assert "by name, 9 of 10 classes; 8 images left out (monkey)" in "\n".join(summary_lines(by_name))
    assert "by index; 6 of 10 classes have the same name" in "\n".join(summary_lines(by_index))


def test_both_conventions_have_files_of_their_own_that_agree(trained: RunFolder) -> None:
    evaluate(trained.path, data="stl10")
    evaluate(trained.path, data="stl10", labels="by-index")
    assert trained.read_json("eval/stl10-test-by-name.json")["labels"]["convention"] == "by-name"
    assert trained.read_json("eval/stl10-test-by-index.json")["labels"]["convention"] == "by-index"
    _, stl = painted(STL10_CLASSES, 80, 96, 11)
    name, index = arrays_of(trained, "stl10-test-by-name"), arrays_of(trained, "stl10-test-by-index")
    assert np.array_equal(index["labels"], stl)
    kept = stl != STL10_CLASSES.index("monkey")
    assert np.array_equal(index["predictions"][kept], name["predictions"])
    said = ["automobile" if STL10_CLASSES[i] == "car" else STL10_CLASSES[i] for i in stl[kept]]
    assert [CIFAR10[i] for i in name["labels"]] == said
    right = sum(CIFAR10[p] == s for p, s in zip(index["predictions"][kept], said))
    assert trained.read_json("eval/stl10-test-by-name.json")["error"] == pytest.approx(1 - right / kept.sum())
    shown = {item["true"] for item in trained.read_json("eval/stl10-test-by-index-gallery.json")}
    assert shown <= {*CIFAR10, "automobile (here bird)", "bird (here car)", "frog (here horse)", "horse (here monkey)"}


def test_the_whole_training_split_of_another_set_is_evaluated(trained: RunFolder) -> None:
    assert evaluate(trained.path, data="stl10", labels="by-index", split="train")["n"] == 60
    assert evaluate(trained.path, data="stl10", split="train")["n"] == 54
    assert (trained.path / "eval" / "stl10-train-by-name.json").exists()
    assert evaluate(trained.path, split="train")["n"] == 360  # of its own what it was trained on
    with pytest.raises(ValueError, match="stl10 has no val images: it brings none, and none were held out"):
        evaluate(trained.path, data="stl10", split="val")


def test_labels_are_for_another_data_set(trained: RunFolder) -> None:
    with pytest.raises(ValueError, match=r"labels is 'by-name', but the run is evaluated on its own data; .* --data"):
        evaluate(trained.path, labels="by-name")
    with pytest.raises(ValueError, match="labels is 'name'; it must be 'by-name' or 'by-index'"):
        evaluate(trained.path, data="stl10", labels="name")  # type: ignore[arg-type]
    run = load_run(trained.path)
    bundle = open_run_data(run, "stl10")
    with pytest.raises(ValueError, match="the data are open already"):
        evaluate(trained.path, bundle=bundle, labels="by-name")
    few = trained.path.parent / "few.npz"
    images, labels = painted(STL10_CLASSES, 40, 32, 5)
    np.savez(few, x_train=images, y_train=labels, x_test=images, y_test=labels, class_names=np.array(STL10_CLASSES))
    with pytest.raises(ValueError, match=r"few has other classes than the run was trained on .*--labels by-name evaluates those"):
        evaluate(trained.path, data=str(few))
    assert evaluate(trained.path, data=str(few), labels="by-name")["n"] == 36


def test_a_run_on_cub_crops_or_keeps_and_is_evaluated_as_it_was_trained(tmp_path: Path) -> None:
    write_cub(tmp_path, each=16)
    settings: dict[str, Any] = {"root": str(tmp_path), "image_size": 32, "epochs": 1, "workers": 0, "crop_padding": 4}
    for boxes in ("crop", "keep"):
        run = train(tiny_config("cub200", tmp_path / boxes, boxes=boxes, **settings))
        found = evaluate(run.path)
        assert found["n"] == 24
        assert ("localization" in found) == (boxes == "keep")
        masks = [item.get("mask") for item in run.read_json("eval/test-gallery.json")]
        assert all(masks) if boxes == "keep" else not any(masks)
    with pytest.raises(ValueError, match="boxes is 'keep', but clutter has no boxes"):
        train(tiny_config("clutter", tmp_path / "clutter", boxes="keep"))


def test_many_pixels_are_localised_on_a_part_of_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aib.train import evaluate as module

    write_cub(tmp_path, each=16)
    settings: dict[str, Any] = {"root": str(tmp_path), "image_size": 32, "epochs": 1, "workers": 0, "boxes": "keep"}
    run = train(tiny_config("cub200", tmp_path / "run", **settings))
    everything = evaluate(run.path)["localization"]
    monkeypatch.setattr(module, "LOCALIZATION_PIXELS", 10 * 32 * 32)
    some = evaluate(run.path)["localization"]
    assert (everything["n"], some["n"]) == (24, 10)
    _, low, high = some["maps"]["uniform"]["pointing_game"]
    assert low < everything["maps"]["uniform"]["pointing_game"][0] < high

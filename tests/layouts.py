"""Tiny data sets in the files of the official ones, for the tests of the loaders and of the recipes."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

CLASSES = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross")
GREEN, RED = (20, 200, 30), (200, 20, 30)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_cifar(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files as Toronto's of CIFAR-10 and -100: pickled rows of pixels, two images a class for each part."""
    from torchvision.datasets import CIFAR10, CIFAR100

    rng = np.random.default_rng(0)
    for source, classes, key, names in ((CIFAR10, 10, "labels", "label_names"), (CIFAR100, 100, "fine_labels", "fine_label_names")):
        folder = root / source.base_folder
        folder.mkdir(parents=True)

        def written(name: str, content: object, folder: Path = folder) -> str:
            (folder / name).write_bytes(pickle.dumps(content))
            return md5(folder / name)

        labels = [label % classes for label in range(2 * classes)]
        rows = rng.integers(0, 256, (len(labels), 3 * 32 * 32), np.uint8)
        for part in ("train", "test"):
            monkeypatch.setattr(source, f"{part}_list", [[part, written(part, {"data": rows, key: labels})]])
        meta = written("meta", {names: [f"thing {i}" for i in range(classes)]})
        monkeypatch.setattr(source, "meta", {"filename": "meta", "key": names, "md5": meta})


def write_svhn(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Files as Stanford's: X (32, 32, 3, N) and y (N, 1), where 10 stands for the digit 0; images (N, 3, 32, 32) and digits."""
    from torchvision.datasets import SVHN

    rng = np.random.default_rng(0)
    made, known = {}, {}
    for part, count in (("train", 50), ("test", 20), ("extra", 30)):
        images, digits = rng.integers(0, 256, (count, 32, 32, 3), np.uint8), np.arange(count) % 10
        path = root / f"{part}_32x32.mat"
        savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": np.where(digits == 0, 10, digits)[:, None].astype(np.uint8)})
        known[part] = ["http://127.0.0.1:9/none", path.name, md5(path)]
        made[part] = (images.transpose(0, 3, 1, 2), digits)
    monkeypatch.setattr(SVHN, "split_list", known)
    return made


def write_cub(root: Path, each: int = 10) -> Path:
    """The official layout: red photographs with a green box in each, whose place is in the list; odd images are for training."""
    folder = root / "CUB_200_2011"
    rng = np.random.default_rng(0)
    lists: dict[str, list[str]] = {name: [] for name in ("images", "image_class_labels", "train_test_split", "bounding_boxes")}
    number = 0
    for label, name in enumerate(CLASSES, start=1):
        (folder / "images" / name).mkdir(parents=True)
        for i in range(each):
            number += 1
            width, height = (100, 70) if i % 3 else (60, 90)
            left, top = (int(v) for v in rng.integers(5, 20, 2))
            box_width, box_height = (int(v) for v in rng.integers(25, 35, 2))
            pixels = np.full((height, width, 3), RED, np.uint8)
            pixels[top : top + box_height, left : left + box_width] = GREEN
            path = f"{name}/{name[4:]}_{i:04d}_{number}.jpg"
            Image.fromarray(pixels).save(folder / "images" / path, quality=100, subsampling=0)
            lists["images"].append(f"{number} {path}")
            lists["image_class_labels"].append(f"{number} {label}")
            lists["train_test_split"].append(f"{number} {number % 2}")
            lists["bounding_boxes"].append(f"{number} {left:.1f} {top:.1f} {box_width:.1f} {box_height:.1f}")
    lists["classes"] = [f"{i} {name}" for i, name in enumerate(CLASSES, start=1)]
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder

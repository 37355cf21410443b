"""Arrays in both conventions, every layout and type, and what is refused; the benchmarks on files made here."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aib.data.arrays import bundle_arrays, open_arrays
from aib.data.benchmarks import open_benchmark
from aib.data.bundle import TensorSplit

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (60, 6, 5, 3), np.uint8)
LABELS = np.arange(60) % 3


def keras(**changes: Any) -> dict[str, np.ndarray]:
    """40 training and 20 test images of three classes; ``None`` removes a key."""
    arrays = {"x_train": IMAGES[:40], "y_train": LABELS[:40], "x_test": IMAGES[40:], "y_test": LABELS[40:]} | changes
    return {key: array for key, array in arrays.items() if array is not None}


def opened(tmp_path: Path, arrays: dict[str, np.ndarray], **options: Any) -> Any:
    np.savez_compressed(tmp_path / "set.npz", **arrays)
    return open_arrays(tmp_path / "set.npz", **options)


def planes(split: Any) -> np.ndarray:
    assert isinstance(split, TensorSplit)
    assert split.images.is_contiguous()
    return split.images.numpy()


def test_keras_convention_holds_a_stratified_val_out(tmp_path: Path) -> None:
    bundle = opened(tmp_path, keras(class_names=np.array(["cat", "dog", "owl"])), val_fraction=0.25, seed=1)
    assert bundle.class_names == ("cat", "dog", "owl")
    assert np.array_equal(planes(bundle.test), IMAGES[40:].transpose(0, 3, 1, 2))
    train, val = planes(bundle.train), planes(bundle.val)
    assert np.bincount(bundle.val.labels).tolist() == [4, 3, 3]
    # together they are the training images, each once, with its label
    found = {
        image.tobytes(): int(label) for split in (bundle.train, bundle.val) for image, label in zip(planes(split), split.labels)
    }
    assert found == {image.transpose(2, 0, 1).tobytes(): int(label) for image, label in zip(IMAGES[:40], LABELS)}
    assert len(train) + len(val) == 40
    assert np.allclose(bundle.mean, train.mean((0, 2, 3)) / 255)
    assert np.allclose(bundle.std, train.std((0, 2, 3)) / 255)
    other = opened(tmp_path, keras(), val_fraction=0.25, seed=2)
    assert not np.array_equal(planes(other.val), val)
    assert other.class_names == ("0", "1", "2")


def test_medmnist_convention_with_its_own_val(tmp_path: Path) -> None:
    grey = IMAGES[..., 0]
    arrays = {
        "train_images": grey[:30], "train_labels": LABELS[:30, None].astype(np.uint8),
        "val_images": grey[30:40], "val_labels": LABELS[30:40, None].astype(np.uint8),
        "test_images": grey[40:], "test_labels": LABELS[40:, None].astype(np.uint8),
    }  # fmt: skip
    bundle = opened(tmp_path, arrays)
    assert bundle.channels == 1
    assert bundle.image_size == (6, 5)
    assert np.array_equal(planes(bundle.val)[:, 0], grey[30:40])
    assert bundle.val.labels.dtype == torch.int64
    assert bundle.val.labels.tolist() == LABELS[30:40].tolist()


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x.transpose(0, 3, 1, 2),
        lambda x: x.astype(np.int64),
        lambda x: x.astype(np.float32),
        lambda x: x.astype(np.float32) / 255,
        lambda x: x.astype(np.float64) / 255,
        lambda x: x.astype(">f4") / 255,
        lambda x: (x / 255).astype(np.float16),
    ],
    ids=["nchw", "int64", "float-255", "float-1", "double-1", "big-endian", "half-1"],
)
def test_every_layout_and_type_gives_the_same_bytes(tmp_path: Path, convert: Any) -> None:
    bundle = opened(tmp_path, keras(x_train=convert(IMAGES[:40]), x_test=convert(IMAGES[40:])))
    assert np.array_equal(planes(bundle.test), IMAGES[40:].transpose(0, 3, 1, 2))
    plain = bundle_arrays(keras(), name="set", source="here")
    assert np.array_equal(planes(bundle.train), planes(plain.train))


def test_conversion_goes_on_over_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aib.data.arrays.CHUNK_ELEMENTS", 7 * 6 * 5 * 3)
    floats = keras(x_train=IMAGES[:40] / 255, x_test=IMAGES[40:] / 255)
    chunked = bundle_arrays(floats, name="set", source="here")
    assert np.array_equal(planes(chunked.test), IMAGES[40:].transpose(0, 3, 1, 2))
    floats["x_train"] = floats["x_train"].copy()
    floats["x_train"][23, 2, 2, 1] = np.nan
    with pytest.raises(ValueError, match="x_train has NaN or infinite pixels, first in image 23"):
        bundle_arrays(floats, name="set", source="here")


def test_masks_follow_their_images(tmp_path: Path) -> None:
    masks = IMAGES[..., 0] > 128
    bundle = opened(tmp_path, keras(masks_train=masks[:40].astype(np.uint8), masks_test=masks[40:, :, :, None]))
    for split in (bundle.train, bundle.val, bundle.test):
        assert split.masks.dtype == torch.bool
        assert torch.equal(split.masks, split.images[:, :1] > 128)
    assert opened(tmp_path, keras()).train.masks is None


BAD = {
    "missing": (keras(y_test=None), r"has x_test, x_train, y_train; expected .* \(Keras\) or train_images"),
    "half-val": (keras(x_val=IMAGES[:3]), "only one of x_val and y_val"),
    "rgba": (keras(x_train=np.zeros((40, 6, 5, 4), np.uint8)), r"x_train has shape \(40, 6, 5, 4\); expected"),
    "volume": (keras(x_train=np.zeros((40, 6, 5, 5, 1), np.uint8)), r"x_train has shape \(40, 6, 5, 5, 1\)"),
    "grey-test": (keras(x_test=IMAGES[40:, :, :, 0]), "x_test has images 6x5 with 1 channel, those of train are 6x5 with 3"),
    "lengths": (keras(y_train=LABELS[:39]), "x_train has 40 images but y_train has 39 labels"),
    "negative": (keras(y_train=LABELS[:40] - 1), "y_train has label -1 at position 0"),
    "beyond": (keras(y_test=LABELS[40:] + 1), "y_test has label 3 at position .*; with 3 classes labels go from 0 to 2"),
    "beyond-names": (keras(class_names=np.array(["a", "b"])), "y_train has label 2 at position 2; with 2 classes"),
    "huge": (keras(y_train=LABELS[:40] + 2**40), "y_train has label 1099511627778 but only 40 images"),
    "unsigned": (keras(y_train=np.full(40, 2**64 - 1, np.uint64)), "y_train has label 18446744073709551615, which is out of range"),
    "float-labels": (keras(y_train=LABELS[:40] + 0.5), "y_train is of type float64; labels must be integers"),
    "one-hot": (keras(y_train=np.eye(3, dtype=int)[LABELS[:40]]), r"y_train has shape \(40, 3\); expected \(N,\) or \(N, 1\)"),
    "text": (keras(x_train=np.full((40, 6, 5, 3), "a")), "x_train is of type <U1"),
    "nan": (keras(x_test=np.full((20, 6, 5, 3), np.nan)), "x_test has NaN or infinite pixels, first in image 0"),
    "inf": (keras(x_test=np.full((20, 6, 5, 3), np.inf, np.float32)), "x_test has NaN or infinite pixels"),
    "16-bit": (keras(x_train=IMAGES[:40].astype(np.uint16) * 257), "x_train has pixels from 0 to 65535; expected"),
    "centred": (keras(x_train=IMAGES[:40] / 127.5 - 1), "x_train has pixels from -1 to"),
    "two-ranges": (keras(x_train=IMAGES[:40] / 255, x_test=IMAGES[40:] / 1), r"x_test has floats in \[0, 255\], train .* \[0, 1\]"),
    "one-class": (keras(y_train=LABELS[:40] * 0, y_test=LABELS[40:] * 0), "one class, '0'"),
    "from-one": (keras(y_train=LABELS[:40] + 1, y_test=LABELS[40:] + 1), "class '0' has no image in the train split"),
    "one-image": (keras(y_train=np.r_[LABELS[:39], 3]), "class '3' has 1 image in the train split; 2 are needed"),
    "not-in-val": (keras(x_val=IMAGES[:2], y_val=LABELS[:2]), "class '2' has no image in the val split"),
    "none": (keras(x_train=IMAGES[:0], y_train=LABELS[:0]), "y_train is empty"),
    "no-pixels": (keras(x_train=np.zeros((40, 0, 5, 3), np.uint8)), "it holds no image"),
    "mask-size": (keras(masks_train=np.ones((40, 5, 5))), r"masks_train has shape \(40, 5, 5\); expected \(40, 6, 5\)"),
    "objects": (keras(y_train=np.array([None] * 40)), "y_train holds Python objects"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_arrays_are_refused_on_one_line(tmp_path: Path, case: str) -> None:
    arrays, message = BAD[case]
    with pytest.raises(ValueError, match=message) as info:
        opened(tmp_path, arrays)
    assert "\n" not in str(info.value)
    assert str(tmp_path / "set.npz") in str(info.value)


def test_a_test_split_may_lack_a_class(tmp_path: Path) -> None:
    assert opened(tmp_path, keras(x_test=IMAGES[:2], y_test=LABELS[:2])).num_classes == 3


def test_files_that_are_no_npz_are_refused_on_one_line(tmp_path: Path) -> None:
    whole = tmp_path / "whole.npz"
    np.savez(whole, **keras())
    data = whole.read_bytes()
    damaged = bytearray(data)
    damaged[600] ^= 0xFF
    for name, content, message in [
        ("cut.npz", data[: len(data) // 2], r"cut\.npz is cut off or damaged"),
        ("damaged.npz", bytes(damaged), r"damaged\.npz: x_train cannot be read: Bad CRC"),
        ("text.npz", b"hello", r"text\.npz is not an \.npz file"),
        ("empty.npz", b"", r"empty\.npz is not an \.npz file"),
        ("pickle.npz", pickle.dumps({"x_train": 1}), r"pickle\.npz is not an \.npz file"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message) as info:
            open_arrays(tmp_path / name)
        assert "\n" not in str(info.value)
    with pytest.raises(ValueError, match="there is no file"):
        open_arrays(tmp_path / "gone.npz")
    with pytest.raises(ValueError, match="is a folder"):
        open_arrays(tmp_path)


def cifar_like(classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    return RNG.integers(0, 256, (5 * classes, 32, 32, 3), np.uint8), np.arange(5 * classes) % classes


def test_benchmark_prefers_the_local_npz(tmp_path: Path) -> None:
    x, y = cifar_like(100)
    np.savez(tmp_path / "cifar100.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    bundle = open_benchmark("cifar100", tmp_path, val_fraction=0.2)
    assert (bundle.name, bundle.num_classes, bundle.mirror, len(bundle.val)) == ("cifar100", 100, True, 100)
    (tmp_path / "cifar100.npz").rename(tmp_path / "cifar10.npz")
    with pytest.raises(ValueError, match=r"cifar10\.npz is not cifar10: it has 100 classes of 32x32 images"):
        open_benchmark("cifar10", tmp_path)


def test_benchmark_that_is_not_there_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"cifar10\.npz nor in .*cifar-10-batches-py nor in .*cifar-10-python\.tar\.gz; fetch it with --download"
    ) as info:
        open_benchmark("cifar10", tmp_path)
    assert "\n" not in str(info.value)
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(ValueError, match="cifar-10-batches-py is incomplete or damaged"):
        open_benchmark("cifar10", tmp_path)
    with pytest.raises(ValueError, match="did you mean 'cifar100'"):
        open_benchmark("cifar-100", tmp_path)


def test_benchmark_whose_download_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    # the discard port: nothing listens, the connection is refused at once
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    with pytest.raises(
        ValueError, match=r"the download of cifar10 failed: .*refused.*; bring .*cifar-10-batches-py or .*cifar10\.npz"
    ) as info:
        open_benchmark("cifar10", tmp_path, download=True)
    assert "\n" not in str(info.value)


def test_benchmark_reads_the_files_of_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR100

    x, y = cifar_like(100)
    folder = tmp_path / CIFAR100.base_folder
    folder.mkdir()

    def written(name: str, content: object) -> str:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    rows = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
    content = {"data": rows, "fine_labels": y.tolist(), "coarse_labels": (y // 5).tolist()}
    monkeypatch.setattr(CIFAR100, "train_list", [["train", written("train", content)]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", written("test", content)]])
    names = [f"thing {i}" for i in range(100)]
    meta = written("meta", {"fine_label_names": names})
    monkeypatch.setattr(CIFAR100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": meta})
    bundle = open_benchmark("cifar100", tmp_path, val_fraction=0.2)
    assert bundle.class_names == tuple(names)
    assert np.array_equal(planes(bundle.test), x.transpose(0, 3, 1, 2))
    assert bundle.test.labels.tolist() == y.tolist()
    (folder / "meta").write_bytes(b"damaged")
    said = (
        rf"meta is damaged or another file: its MD5 is .* file {meta}; remove .*{folder.name}, and fetch it again with --download"
    )
    for download in (False, True):  # torchvision fetches nothing while the images are whole
        with pytest.raises(ValueError, match=said):
            open_benchmark("cifar100", tmp_path, download=download)

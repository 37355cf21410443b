"""SVHN and STL-10 from tiny files laid out as the official ones, and classes matched by name and by index."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aib.cli import main
from aib.data import match_classes, open_data
from aib.data.benchmarks import BENCHMARKS, STL10_CLASSES, open_benchmark
from aib.data.bundle import DataBundle, Split, TensorSplit, batch_indices
from aib.data.classes import index_classes
from aib.data.images import read_image
from aib.data.open import LOCK
from aib.train.run_data import reopen_training_data
from aib.train.run_folder import RunFolder
from aib.train.weights import load_run
from layouts import md5, write_svhn

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def pixels(split: Split) -> np.ndarray:
    assert isinstance(split, TensorSplit)
    return split.images.numpy()


# --- SVHN


def test_svhn_reads_the_official_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = write_svhn(tmp_path, monkeypatch)
    bundle = open_data("svhn", root=tmp_path, val_fraction=0.2, seed=1)
    assert (bundle.name, bundle.class_names, bundle.image_size) == ("svhn", tuple("0123456789"), (32, 32))
    assert not bundle.mirror  # a mirrored 2 is no digit
    assert (len(bundle.train), len(bundle.val), len(bundle.test)) == (40, 10, 20)
    assert np.array_equal(pixels(bundle.test), made["test"][0])
    assert bundle.test.labels.tolist() == made["test"][1].tolist()
    assert sorted(bundle.val.labels.tolist()) == list(range(10))
    digit = {image.tobytes(): label for image, label in zip(*made["train"])}
    both = [*zip(pixels(bundle.train), bundle.train.labels), *zip(pixels(bundle.val), bundle.val.labels)]
    assert [digit.pop(image.tobytes()) for image, _ in both] == [int(label) for _, label in both]
    assert digit == {}  # every training image is in one of the two, once
    images = pixels(bundle.train) / 255
    assert np.allclose(bundle.mean, images.mean((0, 2, 3)))
    other = open_data("svhn", root=tmp_path, val_fraction=0.2, seed=2)
    assert not np.array_equal(pixels(bundle.val), pixels(other.val))


def test_svhn_takes_the_extra_images_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = write_svhn(tmp_path, monkeypatch)
    bundle = open_benchmark("svhn", tmp_path, extra=True, val_fraction=None)
    assert (len(bundle.train), len(bundle.val), len(bundle.test)) == (80, 0, 20)
    assert np.array_equal(pixels(bundle.train), np.concatenate([made["train"][0], made["extra"][0]]))
    assert bundle.train.labels.tolist() == [*made["train"][1], *made["extra"][1]]
    with pytest.raises(ValueError, match="stl10 has no extra training images; only svhn does"):
        open_benchmark("stl10", tmp_path, extra=True)
    (tmp_path / "extra_32x32.mat").unlink()
    with pytest.raises(ValueError, match=r"test_32x32\.mat, extra_32x32\.mat\); fetch it with --download \(250 MB, and 1\.3 GB of"):
        open_benchmark("svhn", tmp_path, extra=True)


def test_only_the_training_images_of_svhn_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = write_svhn(tmp_path, monkeypatch)
    alone, more = (open_data(name, root=tmp_path, val_fraction=0.2, seed=1) for name in ("svhn", "svhn+extra"))
    assert (alone.name, more.name, more.mirror) == ("svhn", "svhn+extra", False)
    assert (len(alone.train), len(more.train)) == (40, 70)
    assert np.array_equal(pixels(more.train), np.concatenate([pixels(alone.train), made["extra"][0]]))
    for split in ("val", "test"):  # an extra image held out would make errors of the two incomparable
        assert np.array_equal(pixels(more.split(split)), pixels(alone.split(split)))
        assert torch.equal(more.split(split).labels, alone.split(split).labels)
    assert np.allclose(more.mean, (pixels(more.train) / 255).mean((0, 2, 3)))


@pytest.mark.slow
def test_a_run_on_the_extra_images_is_evaluated_with_them_and_on_svhn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_svhn(tmp_path, monkeypatch)
    run = tmp_path / "run"
    options = ["--root", str(tmp_path), "--device", "cpu", "--quiet"]
    small = ["--model", "vgg_xs_aib_qt", "--anchors", "4", "--epochs", "1", "--batch-size", "35"]
    assert main(["train", "--data", "svhn+extra", *options, *small, "--out", str(run)]) == 0
    assert RunFolder.open(run).read_json("model.json")["data"] == "svhn+extra"
    assert json.loads((run / "metrics.jsonl").read_text())["step"] == 2  # 50 - 10 % + 30 images
    assert main(["eval", str(run), "--data", "svhn"]) == 0
    assert main(["eval", str(run)]) == 0
    loaded = load_run(run)
    assert reopen_training_data(loaded.folder, loaded.folder.config.data).name == "svhn+extra"  # as a run that goes on does
    assert [name for name in ("svhn", "svhn+extra", "cifar10") if loaded.trained_on(name)] == ["svhn", "svhn+extra"]
    capsys.readouterr()
    (tmp_path / "extra_32x32.mat").unlink()
    assert main(["eval", str(run)]) == 2
    assert f"the run's data, svhn+extra, are not in {tmp_path}; say where with --root" in capsys.readouterr().err


def test_a_sweep_on_extra_images_that_are_absent_says_so_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--set", "data=svhn+extra", f"root={tmp_path}", "model=vgg_xs", "--out", str(tmp_path / "sweep")]
    assert main(["sweep", *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "extra_32x32.mat); fetch it with --download (250 MB, and 1.3 GB of extra images)" in line


@pytest.mark.parametrize("name", BENCHMARKS)
def test_what_is_absent_says_where_it_was_looked_for_and_how_to_get_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{name} is neither in .*{name}\.npz nor in .*--download \([\d.]+ [GM]B\)") as info:
        open_data(name, root=tmp_path / "nowhere")
    assert "\n" not in str(info.value)
    known = BENCHMARKS[name]
    assert str(info.value).endswith(f"put {'the archive' if known.archive else 'these files'} there, from {known.page}")
    assert known.archive is None or f" nor in {tmp_path / 'nowhere' / known.archive}; " in str(info.value)


def test_a_damaged_file_is_named_with_both_checksums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_svhn(tmp_path, monkeypatch)
    victim = tmp_path / "test_32x32.mat"
    official = md5(victim)
    victim.write_bytes(victim.read_bytes()[:-10])
    with pytest.raises(ValueError, match=f"{victim} is damaged or another file: its MD5 is {md5(victim)}, .* {official}") as info:
        open_data("svhn", root=tmp_path)
    assert "\n" not in str(info.value)
    with pytest.raises(ValueError, match=r"the download of svhn failed: .*refused.*; bring "):
        open_data("svhn", root=tmp_path, download=True)


def test_other_benchmarks_keep_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_svhn(tmp_path, monkeypatch)
    assert open_data("svhn", root=tmp_path, image_size=32).image_size == (32, 32)
    with pytest.raises(ValueError, match="image_size is 64 but svhn has 32x32 images; only folders, stl10 and cub200 are resized"):
        open_data("svhn", root=tmp_path, image_size=64)
    with pytest.raises(ValueError, match="boxes is 'keep', but svhn has no boxes; only cub200 does"):
        open_data("svhn", root=tmp_path, boxes="keep")


# --- STL-10


def write_stl10(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Files as Stanford's: images column by column, one channel after the other, labels from 1; without the unlabelled."""
    from torchvision.datasets import STL10

    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    made, known = {}, {}
    for part, count in (("train", 30), ("test", 20)):
        images = rng.integers(0, 256, (count, 96, 96, 3), np.uint8)
        labels = rng.permutation(np.arange(count) % 10)
        images.transpose(0, 3, 2, 1).tofile(folder / f"{part}_X.bin")
        (labels + 1).astype(np.uint8).tofile(folder / f"{part}_y.bin")
        known[part] = [[name, md5(folder / name)] for name in (f"{part}_X.bin", f"{part}_y.bin")]
        made[part] = (images, labels)
    (folder / "class_names.txt").write_text("\n".join(STL10_CLASSES))
    monkeypatch.setattr(STL10, "train_list", [*known["train"], ["unlabeled_X.bin", "0" * 32]])
    monkeypatch.setattr(STL10, "test_list", known["test"])
    return made


def test_stl10_reads_the_official_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = write_stl10(tmp_path, monkeypatch)
    bundle = open_data("stl10", root=tmp_path, val_fraction=0.34)
    assert (bundle.name, bundle.class_names, bundle.image_size, bundle.mirror) == ("stl10", STL10_CLASSES, (96, 96), True)
    assert (len(bundle.train), len(bundle.val), len(bundle.test)) == (20, 10, 20)
    assert np.array_equal(pixels(bundle.test), made["test"][0].transpose(0, 3, 1, 2))
    assert bundle.test.labels.tolist() == made["test"][1].tolist()


def test_stl10_is_resized_as_files_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = write_stl10(tmp_path, monkeypatch)
    bundle = open_data("stl10", root=tmp_path, image_size=32)
    assert bundle.image_size == (32, 32)
    for image, resized in zip(made["test"][0], bundle.test.images):  # type: ignore[attr-defined]
        Image.fromarray(image).save(tmp_path / "one.png")
        assert torch.equal(resized, read_image(tmp_path / "one.png", 32))
        aliased = torch.from_numpy(image[1::3, 1::3].transpose(2, 0, 1).copy())
        area = torch.from_numpy(image).float().view(32, 3, 32, 3, 3).mean((1, 3)).permute(2, 0, 1)
        assert (resized - area).abs().mean() < (aliased - area).abs().mean()  # with antialiasing it is near the mean of the area
    train = pixels(bundle.train) / 255
    assert np.allclose(bundle.std, train.std((0, 2, 3)))
    assert open_data("stl10", root=tmp_path, image_size=(32, 48)).image_size == (32, 48)


def test_stl10_is_unpacked_from_the_official_archive_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import STL10

    write_stl10(tmp_path / "made", monkeypatch)
    archive = tmp_path / "stl10_binary.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(tmp_path / "made" / "stl10_binary", "stl10_binary")
    known = f"{archive} is damaged or another file: its MD5 is {md5(archive)}, .* {STL10.tgz_md5}"
    with pytest.raises(ValueError, match=rf"{known}; remove it, and fetch it with --download \(2.6 GB\)"):
        open_data("stl10", root=tmp_path)
    assert not (tmp_path / "stl10_binary").exists()
    monkeypatch.setattr(STL10, "tgz_md5", md5(archive))
    assert len(open_data("stl10", root=tmp_path).test) == 20
    assert [path.name for path in tmp_path.glob(".*")] == [LOCK]


def test_an_npz_file_goes_before_the_official_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (20, 96, 96, 3), np.uint8), np.arange(20) % 10
    np.savez(tmp_path / "stl10.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    bundle = open_data("stl10", root=tmp_path, image_size=24)
    assert (bundle.class_names, bundle.image_size) == (STL10_CLASSES, (24, 24))
    (tmp_path / "stl10.npz").rename(tmp_path / "svhn.npz")
    with pytest.raises(ValueError, match=r"svhn\.npz is not svhn: it has 10 classes of 96x96 images"):
        open_data("svhn", root=tmp_path)


# --- classes of another model


def coded(names: tuple[str, ...], each: int = 2) -> DataBundle:
    """Images that hold their class's number and their own."""
    labels = torch.arange(len(names)).repeat(each)
    images = torch.stack([labels, torch.arange(len(labels))], 1).to(torch.uint8)[:, :, None, None]
    split = TensorSplit(images, labels, names=[f"{i}" for i in range(len(labels))])
    return DataBundle("coded", split, split.select(torch.arange(0)), split, names, (0.5, 0.5), (0.1, 0.1), (1, 1))


def test_classes_are_matched_by_name() -> None:
    bundle = match_classes(coded(STL10_CLASSES), CIFAR10)
    assert bundle.class_names == CIFAR10
    (batch,) = bundle.test.batches(batch_indices(torch.arange(len(bundle.test)), 100))
    assert len(bundle.test) == 18
    assert len(bundle.val) == 0
    for code, label, position in zip(batch.images[:, 0].flatten().tolist(), batch.labels.tolist(), batch.positions.tolist()):
        assert {"car": "automobile"}.get(STL10_CLASSES[code], STL10_CLASSES[code]) == CIFAR10[label]
        assert bundle.test.names is not None
        assert bundle.test.names[position] == str(int(batch.images[position, 1, 0, 0]))
    assert sorted(set(batch.labels.tolist())) == [0, 1, 2, 3, 4, 5, 7, 8, 9]  # no frog
    assert bundle.left_out == {"train": {"monkey": 2}, "val": {}, "test": {"monkey": 2}}


def test_matching_goes_both_ways_and_prefers_the_name_as_it_stands() -> None:
    back = match_classes(coded(CIFAR10), STL10_CLASSES)
    assert back.left_out["test"] == {"frog": 2}
    assert back.test.labels[1] == STL10_CLASSES.index("car")
    both = match_classes(coded(("car", "automobile", "Ship")), ("automobile", "car", "ship"))
    assert both.test.labels.tolist() == [1, 0, 2, 1, 0, 2]
    same = match_classes(coded(CIFAR10), CIFAR10)
    assert torch.equal(same.test.labels, coded(CIFAR10).test.labels)
    with pytest.raises(ValueError, match="no class name in common with the model: its classes are x, y, the model's airplane"):
        match_classes(coded(("x", "y")), CIFAR10)


def test_by_index_labels_stay_and_only_six_of_ten_mean_the_same() -> None:
    bundle = index_classes(coded(STL10_CLASSES), CIFAR10)
    assert bundle.name == "coded-by-index"
    assert torch.equal(bundle.test.labels, coded(STL10_CLASSES).test.labels)
    assert sum(name in CIFAR10 for name in bundle.class_names) == 6
    assert bundle.class_names[1] == "automobile (here bird)"
    assert index_classes(coded(("airplane", "bird")), CIFAR10).class_names[2:] == CIFAR10[2:]
    with pytest.raises(ValueError, match="coded has 10 classes and the model 2; by index the model needs as many"):
        index_classes(coded(CIFAR10), ("x", "y"))

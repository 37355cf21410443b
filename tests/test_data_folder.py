"""Folders of real image files made here: the layouts people have, streaming through workers, and what is refused."""

from __future__ import annotations

import contextlib
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aib.data import images
from aib.data.bundle import DataBundle, Split, TensorSplit
from aib.data.folder import FileSplit, open_folder
from aib.data.images import read_image

RNG = np.random.default_rng(0)


def fill(folder: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 10, side: int = 8) -> Path:
    """``count`` PNG files of ``side`` x ``side`` random pixels in every class folder."""
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(RNG.integers(0, 256, (side, side, 3), np.uint8)).save(folder / name / f"{i}.png")
    return folder


def names(split: Split) -> list[str]:
    assert split.names is not None
    return list(split.names)


def everything(split: Split, **options: object) -> torch.Tensor:
    batches = split.batches(list(torch.arange(len(split)).split(4)), **options)  # type: ignore[arg-type]
    return torch.cat([batch.images for batch in batches])


def test_classes_and_files_sort_naturally_and_labels_follow(tmp_path: Path) -> None:
    for label in range(1, 12):
        (tmp_path / str(label)).mkdir()
        for i in range(1, 12):
            Image.new("RGB", (4, 4), (label, i, 0)).save(tmp_path / str(label) / f"img{i}.png")
    bundle = open_folder(tmp_path)
    assert bundle.class_names == tuple(str(i) for i in range(1, 12))
    for split in (bundle.train, bundle.val, bundle.test):
        assert isinstance(split, TensorSplit)
        for name, label, image in zip(names(split), split.labels.tolist(), split.images):
            # the colour of every image says which file it was made for
            assert name == f"{image[0, 0, 0]}/img{image[1, 0, 0]}.png"
            assert bundle.class_names[label] == name.split("/")[0]
    numbers = [int(name.split("/img")[1][:-4]) for name in names(bundle.train) if name.startswith("3/")]
    assert numbers == sorted(numbers)


def test_threads_that_decode_leave_the_warnings_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, count=3)
    both, opened = threading.Barrier(2, timeout=5), images.Image.open

    def beside(path: Path) -> Image.Image:
        if threading.current_thread() is not threading.main_thread():
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait()  # two threads are in here at a time, and leave in any order
            time.sleep(0.01 * (path.name == "0.png"))
            warnings.warn("of damage", UserWarning, stacklevel=1)
        return opened(path)

    monkeypatch.setattr(images.Image, "open", beside)
    with warnings.catch_warnings(record=True, action="always") as heard:
        before = list(warnings.filters)
        open_folder(tmp_path, workers=2)
        assert warnings.filters == before
        assert heard == []
        warnings.warn("of the user", UserWarning, stacklevel=1)
        assert len(heard) == 1


def test_large_images_are_decoded_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "small", count=3)
    fill(tmp_path / "large", count=3, side=16)
    monkeypatch.setattr(images, "LARGE_PIXELS", 100)
    for kind, most in (("small", 4), ("large", 1)):
        now: list[int] = []
        together: list[int] = []

        def converted(image: Image.Image, now: list[int] = now, together: list[int] = together) -> Image.Image:
            now.append(1)
            together.append(len(now))
            time.sleep(0.2)
            now.pop()
            return image.convert("RGB")

        with monkeypatch.context() as patch:
            patch.setattr(images, "to_rgb", converted)
            open_folder(tmp_path / kind, image_size=8, workers=4)
        assert (max(together) == 1) == (most == 1), (kind, together)


def test_hold_outs_are_stratified_disjoint_and_seeded(tmp_path: Path) -> None:
    fill(tmp_path, count=20)
    bundle = open_folder(tmp_path, val_fraction=0.25, test_fraction=0.2, seed=1)
    parts = [names(split) for split in (bundle.train, bundle.val, bundle.test)]
    assert [len(part) for part in parts] == [24, 8, 8]
    assert len(set().union(*parts)) == 40
    assert bundle.test.labels.bincount().tolist() == bundle.val.labels.bincount().tolist() == [4, 4]
    assert names(open_folder(tmp_path, val_fraction=0.25, test_fraction=0.2, seed=1).val) == parts[1]
    assert names(open_folder(tmp_path, val_fraction=0.25, test_fraction=0.2, seed=2).val) != parts[1]


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_given_splits_are_kept(tmp_path: Path, val: str) -> None:
    for split, count in [("train", 6), (val, 3), ("test", 2)]:
        fill(tmp_path / split, count=count)
    bundle = open_folder(tmp_path)
    assert [len(split) for split in (bundle.train, bundle.val, bundle.test)] == [12, 6, 4]
    assert all(name.startswith(f"{val}/") for name in names(bundle.val))


def test_missing_splits_are_held_out_of_train(tmp_path: Path) -> None:
    fill(tmp_path / "train", count=10)
    fill(tmp_path / "val", count=3)
    bundle = open_folder(tmp_path)
    assert [len(split) for split in (bundle.train, bundle.val, bundle.test)] == [18, 6, 2]
    assert all(name.startswith("train/") for name in names(bundle.test))


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert open_folder(fill(tmp_path, classes=("bus", "train"))).class_names == ("bus", "train")


def test_clutter_of_operating_systems_nested_folders_and_links(tmp_path: Path) -> None:
    photos = fill(tmp_path / "photos")
    (photos / ".git").mkdir()
    (photos / "__MACOSX").mkdir()
    (photos / "cat" / ".DS_Store").write_text("x")
    (photos / "cat" / "Thumbs.db").write_text("x")
    (photos / "cat" / "._0.png").write_text("x")
    (photos / "README.txt").write_text("files beside the class folders are nobody's business")
    fill(photos / "cat", classes=("kittens",), count=3)
    (photos / "cat" / "up").symlink_to(photos)
    (photos / "self").symlink_to(photos)
    (photos / "loop").symlink_to(photos / "loop")
    fill(tmp_path / "elsewhere", classes=("owls",))
    (photos / "owl").symlink_to(tmp_path / "elsewhere" / "owls")
    bundle = open_folder(photos)
    assert bundle.class_names == ("cat", "dog", "owl")
    every = [name for split in (bundle.train, bundle.val, bundle.test) for name in names(split)]
    assert len(every) == len(set(every)) == 33
    assert "cat/kittens/2.png" in every
    assert bundle.skipped == ()


def test_nothing_is_held_out_for_validation_when_not_wanted(tmp_path: Path) -> None:
    fill(tmp_path / "one")
    with_val, without = open_folder(tmp_path / "one"), open_folder(tmp_path / "one", val_fraction=None)
    assert set(names(without.train)) == {*names(with_val.train), *names(with_val.val)}
    assert (len(without.val), names(without.test)) == (0, names(with_val.test))
    assert everything(without.train).shape[0] == len(without.train)


def test_the_size_of_small_equal_images_is_kept(tmp_path: Path) -> None:
    fill(tmp_path / "small", side=16)
    assert open_folder(tmp_path / "small").image_size == (16, 16)
    Image.new("RGB", (17, 16)).save(tmp_path / "small" / "cat" / "other.png")
    mixed = open_folder(tmp_path / "small", workers=0)
    assert mixed.image_size == (224, 224)
    assert isinstance(mixed.train, FileSplit)
    resized = open_folder(tmp_path / "small", image_size=(12, 20))
    assert isinstance(resized.train, TensorSplit)
    assert resized.train.images.shape[1:] == (3, 12, 20)
    assert isinstance(open_folder(tmp_path / "small", image_size=12, in_memory_limit_bytes=1000, workers=0).train, FileSplit)


def test_mean_and_deviation_are_those_of_the_training_images(tmp_path: Path) -> None:
    fill(tmp_path)
    tensor = open_folder(tmp_path)
    files = open_folder(tmp_path, in_memory_limit_bytes=0, workers=0)
    for bundle in (tensor, files):
        images = everything(bundle.train).double() / 255
        assert torch.allclose(images.mean((0, 2, 3)), torch.tensor(bundle.mean, dtype=torch.float64))
        assert torch.allclose(images.std((0, 2, 3), correction=0), torch.tensor(bundle.std, dtype=torch.float64))


# Files streamed through workers


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> DataBundle:
    """Photographs of different sizes, batches of 48x48."""
    root = tmp_path_factory.mktemp("photos")
    for i in range(24):
        folder = root / ("cat" if i % 2 else "dog")
        folder.mkdir(exist_ok=True)
        noise = Image.fromarray(RNG.integers(0, 256, (4, 5, 3), np.uint8))
        noise.resize((70 + 3 * i, 90 - 2 * i), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg")
    return open_folder(root, image_size=48, in_memory_limit_bytes=0, workers=0)


def with_workers(split: Split, workers: int) -> FileSplit:
    assert isinstance(split, FileSplit)
    return FileSplit(split.root, split.names, split.labels, split.size, workers)


@pytest.mark.parametrize("train", [False, True])
def test_workers_do_not_change_the_batches(streamed: DataBundle, train: bool) -> None:
    indices = list(torch.randperm(len(streamed.train)).split(5))
    state = torch.get_rng_state()
    alone, together = (list(with_workers(streamed.train, n).batches(indices, train=train, seed=7)) for n in (0, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(alone) == len(together) == len(indices)
    for a, b, index in zip(alone, together, indices):
        assert a.images.dtype == torch.uint8
        assert a.images.shape == (len(index), 3, 48, 48)
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.positions, index)
        assert torch.equal(b.positions, index)


def test_crops_depend_on_seed_and_position_alone(streamed: DataBundle) -> None:
    split = streamed.train
    forward = everything(split, train=True, seed=1)
    (alone,) = split.batches([torch.tensor([6, 2])], train=True, seed=1)
    assert torch.equal(alone.images, forward[[6, 2]])
    other = everything(split, train=True, seed=2)
    centred = everything(split)
    for a, b in [(forward, other), (forward, centred)]:
        assert not any(torch.equal(x, y) for x, y in zip(a, b))
    assert torch.equal(centred, everything(split, seed=9))
    assert torch.equal(centred[3], read_image(split.root / split.names[3], 48))  # type: ignore[attr-defined]


def test_copies_of_an_image_are_cropped_each_in_its_own_way(tmp_path: Path) -> None:
    fill(tmp_path, count=6, side=32)
    original = (tmp_path / "cat" / "0.png").read_bytes()
    for file in tmp_path.glob("*/*.png"):
        file.write_bytes(original)
    split = open_folder(tmp_path, image_size=16, in_memory_limit_bytes=0, workers=0).train
    assert len(torch.unique(everything(split, train=True), dim=0)) == len(split)
    assert len(torch.unique(everything(split), dim=0)) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_goes_bad_later_is_named_on_one_line(tmp_path: Path, workers: int) -> None:
    bundle = open_folder(fill(tmp_path), in_memory_limit_bytes=0, workers=workers)
    victim = tmp_path / names(bundle.train)[5]
    victim.write_bytes(victim.read_bytes()[:60])
    with pytest.raises(ValueError, match=f"{victim} cannot be read as an image") as info:
        everything(bundle.train)
    assert "\n" not in str(info.value)


def test_stopping_early_leaves_no_worker_behind(streamed: DataBundle) -> None:
    import torch.multiprocessing

    batches = with_workers(streamed.train, 2).batches(list(torch.arange(18).split(2)))
    next(batches)
    assert len(torch.multiprocessing.active_children()) == 2
    batches.close()  # type: ignore[attr-defined]
    assert torch.multiprocessing.active_children() == []


# What is refused


@pytest.mark.parametrize("limit", [0, 1 << 20])
def test_bad_files_stop_or_are_listed(tmp_path: Path, limit: int) -> None:
    fill(tmp_path)
    (tmp_path / "cat" / "3.png").write_text("text")
    whole = (tmp_path / "dog" / "4.png").read_bytes()
    (tmp_path / "dog" / "4.png").write_bytes(whole[:100])
    with pytest.raises(ValueError, match=r"cat/3\.png cannot be read as an image: .* \(and 1 more\); .*--skip-bad") as info:
        open_folder(tmp_path, in_memory_limit_bytes=limit, workers=0)
    assert "\n" not in str(info.value)
    bundle = open_folder(tmp_path, in_memory_limit_bytes=limit, workers=0, skip_bad=True)
    assert len(bundle.skipped) == 2
    assert bundle.skipped[0] == "cat/3.png: it is not an image that Pillow knows"
    assert bundle.skipped[1].startswith("dog/4.png: ")
    every = [name for split in (bundle.train, bundle.val, bundle.test) for name in names(split)]
    assert len(every) == 18
    assert not {"cat/3.png", "dog/4.png"} & set(every)
    for image in (tmp_path / "cat").iterdir():
        image.write_text("text")
    with pytest.raises(ValueError, match="class 'cat' has no image in the train split"):
        open_folder(tmp_path, in_memory_limit_bytes=limit, workers=0, skip_bad=True)


def _no_classes(root: Path) -> None:
    Image.new("RGB", (8, 8)).save(root / "a.png")


def _empty_class(root: Path) -> None:
    fill(root)
    (root / "owl").mkdir()


def _class_missing(root: Path) -> None:
    fill(root / "train", classes=("cat", "dog", "owl"))
    fill(root / "val")


def _class_extra(root: Path) -> None:
    fill(root / "train")
    fill(root / "test", classes=("cat", "dog", "dogs"))


def _empty_in_val(root: Path) -> None:
    fill(root / "train")
    fill(root / "val", classes=("cat",))
    (root / "val" / "dog").mkdir()


def _two_vals(root: Path) -> None:
    for split in ("train", "val", "valid"):
        fill(root / split)


def _stray(root: Path) -> None:
    for split in ("train", "test", "unlabelled"):
        fill(root / split)


def _no_train(root: Path) -> None:
    fill(root / "val")
    fill(root / "test")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_no_classes, "has no class folders; expected"),
        (lambda root: (root / "train").mkdir(), "train has no class folders"),
        (_empty_class, "class 'owl' has no image in the train split"),
        (lambda root: fill(root, classes=("cat",)), "has one class, 'cat'; a classifier needs at least two"),
        (_class_missing, "class 'owl' is in train but not in the val split"),
        (_class_extra, "class 'dogs' is in the test split but not in train; did you mean 'dog'"),
        (_empty_in_val, "class 'dog' has no image in the val split"),
        (lambda root: fill(root, count=2), "class 'cat' has 2 images in the train split; 3 are needed"),
        (_two_vals, "has both 'val(id)?' and 'val(id)?'; keep one folder for the val split"),
        (_stray, "has 'unlabelled' beside "),
        (_no_train, "has 'test' and 'val' but no 'train' folder"),
    ],
)
def test_bad_folders_are_refused_on_one_line(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    make(tmp_path)
    with pytest.raises(ValueError, match=message) as info:
        open_folder(tmp_path)
    assert "\n" not in str(info.value)


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    fill(tmp_path)
    with pytest.raises(ValueError, match=r"there is no folder .*gone"):
        open_folder(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"0\.png is not a folder"):
        open_folder(tmp_path / "cat" / "0.png")
    with pytest.raises(ValueError, match="image_size is -1"):
        open_folder(tmp_path, image_size=-1)
    with pytest.raises(ValueError, match="workers is -1"):
        open_folder(tmp_path, workers=-1)
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        open_folder(tmp_path, val_fraction=1.5)

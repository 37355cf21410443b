"""CUB-200-2011 from tiny photographs laid out as the official ones: split, boxes, crops, and what is mistaken for it."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aib.data import cub, open_data
from aib.data.bundle import DataBundle, Split, batch_indices
from aib.data.cub import BoxSplit, open_cub
from aib.data.images import read_image
from aib.data.open import LOCK
from layouts import CLASSES, write_cub


def opened(root: Path, **options: object) -> DataBundle:
    return open_data("cub200", root=root, **{"workers": 0, "image_size": 32, "val_fraction": 0.2, **options})  # type: ignore[arg-type]


def names(folder: Path) -> list[str]:
    """Of what is in a folder of data sets, but for the lock that stays."""
    return sorted(path.name for path in folder.iterdir() if path.name != LOCK)


def everything(split: Split, **options: object) -> torch.Tensor:
    return torch.cat([b.images for b in split.batches(batch_indices(torch.arange(len(split)), 7), **options)])  # type: ignore[arg-type]


def green(images: torch.Tensor) -> torch.Tensor:
    """(N, 1, H, W) bool, where images (N, 3, H, W) are more green than red."""
    return images[:, 1:2].int() > images[:, :1].int()


def test_the_official_split_classes_and_names(tmp_path: Path) -> None:
    folder = write_cub(tmp_path)
    bundle = opened(tmp_path)
    assert (bundle.name, bundle.class_names, bundle.image_size, bundle.mirror) == ("cub200", CLASSES, (32, 32), True)
    assert (len(bundle.train), len(bundle.val), len(bundle.test)) == (12, 3, 15)
    names = [name for split in (bundle.train, bundle.val, bundle.test) for name in split.names or ()]
    assert len(set(names)) == 30
    for split, training in ((bundle.train, 1), (bundle.val, 1), (bundle.test, 0)):
        for name, label in zip(split.names or (), split.labels.tolist()):
            assert name.startswith(CLASSES[label])
            assert int(name.split("_")[-1].removesuffix(".jpg")) % 2 == training
    assert sorted(bundle.val.labels.tolist()) == [0, 1, 2]
    assert opened(folder).test.names == bundle.test.names  # the folder itself
    assert open_cub(tmp_path, workers=0).image_size == (224, 224)
    images = everything(bundle.train).double() / 255
    assert torch.allclose(images.mean((0, 2, 3)), torch.tensor(bundle.mean, dtype=torch.float64))


def test_the_published_crop_is_the_box_and_the_box_is_all(tmp_path: Path) -> None:
    write_cub(tmp_path)
    for bundle in (opened(tmp_path), opened(tmp_path, boxes="crop")):
        assert bundle.test.masks is None
        for split, options in ((bundle.test, {}), (bundle.train, {"train": True, "seed": 3})):
            inside = green(everything(split, **options))[:, :, 1:-1, 1:-1]  # JPEG blurs the edge
            assert bool(inside.all())
    assert not bool(green(everything(opened(tmp_path, boxes="keep").test)).all())


def test_a_crop_is_that_part_of_the_photograph_and_stretched(tmp_path: Path) -> None:
    folder = write_cub(tmp_path)
    first = sorted((folder / "images" / CLASSES[0]).iterdir())[1]
    pixels = np.random.default_rng(0).integers(0, 256, (70, 100, 3), np.uint8)
    Image.fromarray(pixels).save(first, format="PNG")
    lines = (folder / "bounding_boxes.txt").read_text().splitlines()
    (folder / "bounding_boxes.txt").write_text("\n".join([lines[0], "2 90 10 40 20", *lines[2:]]))  # past the right edge
    split = opened(tmp_path, image_size=(20, 20)).test
    assert split.names is not None
    assert split.names[0].endswith(first.name)
    part = Image.fromarray(pixels[10:30, 90:100]).resize((20, 20), Image.Resampling.BILINEAR)
    (batch,) = split.batches([torch.tensor([0])])
    assert np.abs(batch.images[0].permute(1, 2, 0).numpy().astype(int) - np.asarray(part)).mean() < 8
    outside = [lines[0], "2 300 10 40 20", *lines[2:]]
    (folder / "bounding_boxes.txt").write_text("\n".join(outside))
    with pytest.raises(ValueError, match=r"it has 100x70 pixels, and its box \(300, 10, 340, 30: .*\) lies outside") as info:
        everything(opened(tmp_path).test)
    assert str(first) in str(info.value)


@pytest.mark.parametrize("size", [32, (24, 40), 200])
def test_kept_boxes_become_masks_where_the_object_is(size: int, tmp_path: Path) -> None:
    write_cub(tmp_path)
    bundle = opened(tmp_path, boxes="keep", image_size=size)
    for split in (bundle.train, bundle.val, bundle.test):
        masks, shown = split.masks, green(everything(split))
        assert masks is not None
        assert masks.dtype == torch.bool
        assert masks.shape == shown.shape
        assert bool(masks.any())
        wrong = (masks ^ shown).double().mean()
        assert wrong < 0.03, wrong  # the border's pixels
        assert (masks.roll(3, 3) ^ shown).double().mean() > 2 * wrong  # the control: masks a little to the side
    split = bundle.test
    assert isinstance(split, BoxSplit)
    some = split.select(torch.tensor([4, 1]))
    assert some.masks is not None
    assert split.masks is not None
    assert torch.equal(some.masks, split.masks[[4, 1]])
    assert torch.equal(everything(some), everything(split)[[4, 1]])
    assert some.labels.tolist() == split.labels[[4, 1]].tolist()
    assert torch.equal(everything(split)[0], read_image(split.root / split.names[0], size))
    again = [everything(bundle.train, train=True, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(again[0], again[1])
    assert not torch.equal(again[0], again[2])  # whole photographs are cropped at random in training


def test_workers_decode_the_same(tmp_path: Path) -> None:
    write_cub(tmp_path)
    for boxes in cub.BOXES:
        alone, together = (opened(tmp_path, boxes=boxes, workers=workers).test for workers in (0, 2))
        assert torch.equal(everything(alone), everything(together))


def test_boxes_is_crop_or_keep(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"boxes is 'crops'; it must be 'crop' \(as published\) or 'keep'; did you mean 'crop'"):
        opened(tmp_path, boxes="crops")


# --- what is not CUB-200-2011


def test_nothing_there_says_where_it_looked_and_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"neither in .*CUB_200_2011 nor in .*CUB_200_2011\.tgz; fetch it with --download \(1\.1 GB\), or put .* https:",
    ) as info:
        opened(tmp_path / "nowhere")
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("archives", [cub.ARCHIVES_OF_2010, cub.ARCHIVES_OF_2010[:1]])
def test_the_archives_of_2010_are_told(archives: tuple[str, ...], tmp_path: Path) -> None:
    for name in archives:
        (tmp_path / name).touch()
    with pytest.raises(
        ValueError, match=r"so the archives of CUB-200-2010 are called; CUB-200-2011 is needed: fetch it with --download"
    ):
        open_cub(tmp_path)


@pytest.mark.parametrize("where", ["CUB_200_2011", "CUB_200_2010", "."])
@pytest.mark.parametrize("layout", [("images", "annotations-mat", "lists", "attributes"), ("images", "lists")])
def test_the_edition_of_2010_is_told(where: str, layout: tuple[str, ...], tmp_path: Path) -> None:
    for name in layout:
        (tmp_path / where / name).mkdir(parents=True)
    (tmp_path / where / "lists" / "train.txt").write_text("001.Black_footed_Albatross/one.jpg\n")
    if "attributes" in layout:
        (tmp_path / where / "attributes" / "images.txt").write_text("1 001.Black_footed_Albatross/one.jpg\n")
    with pytest.raises(ValueError, match="this is CUB-200-2010; CUB-200-2011 is needed") as info:
        opened(tmp_path)
    assert "\n" not in str(info.value)
    write_cub(tmp_path / "other")
    assert len(opened(tmp_path / "other").test) == 15
    if where == "CUB_200_2010":  # beside the right one it does no harm
        write_cub(tmp_path)
        assert len(opened(tmp_path).test) == 15


def test_a_folder_of_other_images_and_lists_is_not_called_an_older_edition(tmp_path: Path) -> None:
    for name in ("images", "lists"):
        (tmp_path / "dogs" / name).mkdir(parents=True)
    with pytest.raises(ValueError, match="cub200 is neither in"):
        opened(tmp_path)


def packed(root: Path) -> Path:
    """The archive as it is published: the folder, and a list of attributes beside it."""
    write_cub(root / "made")
    (root / "made" / "attributes.txt").write_text("1 has_bill_shape::curved\n")
    archive = root / "CUB_200_2011.tgz"
    with tarfile.open(archive, "w:gz") as file:
        for name in ("attributes.txt", "CUB_200_2011"):
            file.add(root / "made" / name, name)
    shutil.rmtree(root / "made")
    return archive


def test_the_official_archive_is_checked_and_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = packed(tmp_path)
    found = hashlib.md5(archive.read_bytes()).hexdigest()
    for download in (False, True):
        with pytest.raises(ValueError, match=f"{archive} is damaged or another file: its MD5 is {found}, .* {cub.MD5}; ") as info:
            opened(tmp_path, download=download)
        assert "\n" not in str(info.value)
        assert names(tmp_path) == [archive.name]
    monkeypatch.setattr(cub, "MD5", found)
    assert len(opened(tmp_path).test) == 15
    assert names(tmp_path) == ["CUB_200_2011", archive.name]


def test_a_download_is_checked_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import utils

    monkeypatch.setattr(cub, "URL", f"http://127.0.0.1:9/{cub.ARCHIVE}")  # the discard port refuses at once
    with pytest.raises(
        ValueError, match=r"the download of cub200 failed: .*refused.*; put .*CUB_200_2011\.tgz there yourself"
    ) as info:
        opened(tmp_path, download=True)
    assert "\n" not in str(info.value)
    assert names(tmp_path) == []
    archive = packed(tmp_path)
    content = archive.read_bytes()
    archive.unlink()
    monkeypatch.setattr(utils, "_get_redirect_url", lambda url, max_hops: url)
    monkeypatch.setattr(utils, "_urlretrieve", lambda url, path: Path(path).write_bytes(content))
    found = hashlib.md5(content).hexdigest()
    with pytest.raises(ValueError, match=f"the download of cub200 failed: .*its MD5 is {found}, .*official file {cub.MD5}"):
        opened(tmp_path, download=True)
    assert names(tmp_path) == []
    monkeypatch.setattr(cub, "MD5", found)
    assert len(opened(tmp_path, download=True).test) == 15


def cut(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        lines = (folder / name).read_text().splitlines()
        (folder / name).write_text("\n".join(lines[:-2]))

    return spoil


def line(name: str, text: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        lines = (folder / name).read_text().splitlines()
        (folder / name).write_text("\n".join([*lines[:4], text, *lines[5:]]))

    return spoil


def no_photograph(folder: Path) -> None:
    for path in sorted((folder / "images" / CLASSES[1]).iterdir())[:3]:
        path.unlink()


SPOILT = {
    "no-list": (lambda folder: (folder / "bounding_boxes.txt").unlink(), r"bounding_boxes\.txt cannot be read: it is missing"),
    "no-images-list": (lambda folder: (folder / "images.txt").unlink(), "CUB_200_2011 is incomplete, it has no images.txt"),
    "cut": (cut("image_class_labels.txt"), r"image (29|30) is in images\.txt but not in image_class_labels\.txt; is the file cut"),
    "cut-images": (cut("images.txt"), r"image (29|30) is in image_class_labels\.txt but not in images\.txt"),
    "class": (line("image_class_labels.txt", "5 4"), "line 5: '5 4'; expected a number, then a class from 1 to 3"),
    "split": (line("train_test_split.txt", "5 yes"), r"line 5: '5 yes'; expected a number, then 0 \(test\) or 1"),
    "box": (line("bounding_boxes.txt", "5 1.0 2.0 0.0 4.0"), "line 5: '5 1.0 2.0 0.0 4.0'; .*the last two above 0"),
    "box-nan": (line("bounding_boxes.txt", "5 1.0 nan 3.0 4.0"), "line 5: '5 1.0 nan 3.0 4.0'"),
    "box-short": (line("bounding_boxes.txt", "5 1.0 2.0"), "line 5: '5 1.0 2.0'"),
    "no-value": (line("images.txt", "5"), "line 5: '5'; expected a number, then a path"),
    "empty": (lambda folder: (folder / "classes.txt").write_text(""), r"classes\.txt is empty"),
    "photographs": (no_photograph, "incomplete: 3 of 30 images are missing, first images/002"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_what_is_spoilt_is_told_on_one_line(kind: str, tmp_path: Path) -> None:
    spoil, message = SPOILT[kind]
    spoil(write_cub(tmp_path))
    with pytest.raises(ValueError, match=message) as info:
        opened(tmp_path)
    assert "\n" not in str(info.value)

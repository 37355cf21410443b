"""CUB-200-2011: 11,788 photographs of 200 species of birds, each with a box around the bird."""

from __future__ import annotations

import contextlib
import difflib
import math
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from aib.data.augment import channel_statistics
from aib.data.bundle import DataBundle, check_classes, stratified_split
from aib.data.checksums import odd_file, unpack
from aib.data.folder import FileSplit, statistics_batches
from aib.data.images import decode_image, largest_box, size_pair, upright_size
from aib.data.texts import read_text, typed_path

__all__ = ["BoxSplit", "has_cub", "open_cub"]

FOLDER = "CUB_200_2011"
ARCHIVE = "CUB_200_2011.tgz"
URL = f"https://data.caltech.edu/records/65de6-vp158/files/{ARCHIVE}"
MD5 = "97eceeb196236b17998738112f37df78"
SIZE = "1.1 GB"

ARCHIVES_OF_2010 = ("images.tgz", "lists.tgz")

SIDE = 224
"""Of the batches unless another is asked for, as published."""

BOXES = ("crop", "keep")


@dataclass(frozen=True)
class BoxSplit(FileSplit):
    """Photographs in files with a box around the object in each.

    Attributes:
        boxes: (N, 4) float64 left, top, right and bottom in pixels of the upright photograph.
        cropped: the batches show the box and nothing else, stretched to ``size``; in training too, so that augmentation is the
            trainer's. Otherwise they show the photograph, as those of a folder do.
    """

    boxes: Tensor = field(kw_only=True)
    cropped: bool = field(kw_only=True)

    @property
    def masks(self) -> Tensor | None:
        """(N, 1, H, W) bool, True where the centre of a pixel lies in the box; None if ``cropped``: the box is the whole picture.

        Drawn anew each time, from the headers of the files: N * H * W bytes that nobody should hold for long. `select` the
        images first where a part is enough. Of a box cut by the centre crop the rest is drawn; there may be none.

        Raises:
            ImageError: a file cannot be read.
        """
        if self.cropped:
            return None
        height, width = self.size
        masks = torch.zeros(len(self), 1, height, width, dtype=torch.bool)
        for mask, name, box in zip(masks, self.names, self.boxes.tolist()):
            rows, columns = upright_size(self.root / name)
            shown = largest_box((columns, rows), self.size)
            across = shown[0] + (torch.arange(width, dtype=torch.float64) + 0.5) * ((shown[2] - shown[0]) / width)
            down = shown[1] + (torch.arange(height, dtype=torch.float64) + 0.5) * ((shown[3] - shown[1]) / height)
            mask[0] = ((down >= box[1]) & (down < box[3]))[:, None] & (across >= box[0]) & (across < box[2])
        return masks

    def select(self, positions: Tensor, labels: Tensor | None = None) -> Self:
        """See `Split.select`."""
        return replace(super().select(positions, labels), boxes=self.boxes[positions])

    def decode(self, position: int, crop: np.random.Generator | None = None) -> np.ndarray:
        """See `FileSplit.decode`; ``crop`` counts for whole photographs only."""
        if not self.cropped:
            return super().decode(position, crop)
        left, top, right, bottom = self.boxes[position].tolist()
        return decode_image(self.root / self.names[position], self.size, region=(left, top, right, bottom))


def open_cub(
    root: Path | str = "data",
    *,
    image_size: int | tuple[int, int] | None = None,
    boxes: str | None = None,
    download: bool = False,
    val_fraction: float | None = 0.1,
    seed: int = 0,
    workers: int = 2,
) -> DataBundle:
    """CUB-200-2011 with its official split, 5,994 training images, of which ``val_fraction`` is held out, and 5,794 for the test.

    Read from ``root/CUB_200_2011`` (or ``root`` itself, if it is that folder), else unpacked from ``root/CUB_200_2011.tgz`` after a
    check of its MD5. Images stay files and are decoded batch by batch.

    Args:
        root: the folder of data sets.
        image_size: side or (height, width) of the batches, 224 by default.
        boxes: ``"crop"``, as published and by default: each picture is the box around the bird, stretched to the batches' size, and
            there are no masks, for the box is the whole picture. ``"keep"``: photographs with their shorter side resized, cropped
            to the centre (at random in training), and the boxes as masks.
        download: fetch the official archive (1.1 GB) if the images are not there.
        val_fraction, seed: of the stratified hold-out; None holds none out and leaves ``val`` empty.
        workers: processes that decode; 0 decodes in this one.

    Raises:
        ValueError: the images are not there, incomplete, those of CUB-200-2010 or in an archive that is not the official one, the
            download failed, a list is malformed, or an argument is out of range.
    """
    if boxes not in (None, *BOXES):
        near = difflib.get_close_matches(str(boxes), BOXES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"boxes is {boxes!r}; it must be 'crop' (as published) or 'keep'{hint}")
    if workers < 0:
        raise ValueError(f"workers is {workers}; it must be 0 or more")
    size = size_pair(SIDE if image_size is None else image_size)
    folder = _find(typed_path(root), download)
    lists = _Lists.read(folder)
    whole = BoxSplit(folder / "images", lists.names, lists.labels, size, workers, boxes=lists.boxes, cropped=boxes != "keep")
    train, test = lists.train.nonzero().flatten(), (~lists.train).nonzero().flatten()
    check_classes(lists.labels[train], lists.class_names, "train", least=1 if val_fraction is None else 2)
    kept, held = stratified_split(lists.labels[train], val_fraction, seed)
    split = whole.select(train[kept])
    mean, std = channel_statistics(batch.images for batch in split.batches(statistics_batches(split, seed)))
    return DataBundle("cub200", split, whole.select(train[held]), whole.select(test), lists.class_names, mean, std, size)


def has_cub(root: Path) -> bool:
    """Whether ``root`` holds what `open_cub` reads: the folder, its content, or the archive."""
    return any((root / name).exists() for name in (FOLDER, ARCHIVE, "images.txt"))


def _find(root: Path, download: bool) -> Path:
    """The folder with the lists, unpacked or fetched if need be."""
    folder, archive = root / FOLDER, root / ARCHIVE
    for place, lists in ((folder, ("images.txt",)), (root, ("images.txt", "bounding_boxes.txt"))):
        if not _is_2010(place) and all((place / name).is_file() for name in lists):
            return place
    edition = _folder_of_2010(root)
    if edition is not None and (folder.exists() or not (download or archive.is_file())):
        raise ValueError(
            f"{edition}: this is CUB-200-2010; CUB-200-2011 is needed (11,788 images, not 6,033): "
            f"put it at {folder}, or fetch it with --download ({SIZE}) into another --root"
        )
    if folder.exists():
        raise ValueError(f"{folder} is incomplete, it has no images.txt; remove it, and fetch it with --download ({SIZE})")
    if not archive.is_file():
        if not download:
            if older := [name for name in ARCHIVES_OF_2010 if (root / name).is_file()]:
                raise ValueError(
                    f"{' and '.join(older)} in {root}: so the archives of CUB-200-2010 are called; CUB-200-2011 is needed: "
                    f"fetch it with --download ({SIZE}), or put {archive} there, from {URL}"
                )
            raise ValueError(
                f"cub200 is neither in {folder} nor in {archive}; fetch it with --download ({SIZE}), "
                f"or put the archive there, from {URL}"
            )
        _fetch(archive)
    try:
        return unpack(archive, MD5, FOLDER)
    except ValueError as error:
        raise ValueError(f"{error}; remove it and fetch it with --download ({SIZE}) or from {URL}") from error


def _folder_of_2010(root: Path) -> Path | None:
    """The folder of CUB-200-2010 where it is at or in ``root``, whatever it is called."""
    inside = sorted(place for place in root.iterdir() if place.is_dir()) if root.is_dir() else []
    return next((place for place in (root, *inside) if _is_2010(place)), None)


def _is_2010(folder: Path) -> bool:
    """Whether a folder is laid out as CUB-200-2010, which has Matlab files for boxes and its lists in a folder, without numbers."""
    if (folder / "train_test_split.txt").exists() or not (folder / "images").is_dir():
        return False
    return (folder / "annotations-mat").is_dir() or (folder / "lists" / "train.txt").is_file()


def _fetch(archive: Path) -> None:
    """Download the official archive; whole and checked, or not at all."""
    from torchvision.datasets.utils import download_url

    part = archive.with_name(f".{archive.name}.part")
    try:
        download_url(URL, str(archive.parent), part.name, MD5)
        part.replace(archive)
    except (OSError, RuntimeError, HTTPException) as error:
        # torchvision's words for a wrong checksum name neither of the two
        wrong = odd_file([(part, MD5)]) if isinstance(error, RuntimeError) else None
        reason = wrong or " ".join(str(error).split())
        raise ValueError(f"the download of cub200 failed: {reason}; put {archive} there yourself, from {URL}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Lists:
    """The five lists, in the order of images.txt.

    Attributes:
        names: paths below ``images``.
        labels: (N,) int64 from 0.
        train: (N,) bool, the official training images.
        boxes: as in `BoxSplit`.
        class_names: as in classes.txt, ``001.Black_footed_Albatross``.
    """

    names: tuple[str, ...]
    labels: Tensor
    train: Tensor
    boxes: Tensor
    class_names: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path) -> _Lists:
        """Read and check the lists, and that every image is there.

        Raises:
            ValueError: a list is missing, cut or malformed, they are of different images, or an image is missing.
        """
        classes = dict(_rows(folder / "classes.txt", str, "a name"))
        if sorted(classes) != list(range(1, len(classes) + 1)):
            raise ValueError(f"{folder / 'classes.txt'} does not number its {len(classes)} classes from 1")
        names = dict(_rows(folder / "images.txt", _inside, "a path below images"))

        def of_images(name: str, read: Callable[[str], Any], wanted: str) -> dict[int, Any]:
            found = dict(_rows(folder / name, read, wanted))
            for image in names.keys() ^ found.keys():
                one, other = ("images.txt", name) if image in names else (name, "images.txt")
                raise ValueError(f"{folder}: image {image} is in {one} but not in {other}; is the file cut?")
            return found

        labels = of_images("image_class_labels.txt", lambda text: _one_of(int(text), classes), f"a class from 1 to {len(classes)}")
        train = of_images("train_test_split.txt", lambda text: _one_of(int(text), (0, 1)), "0 (test) or 1 (training)")
        boxes = of_images("bounding_boxes.txt", _corners, "left, top, width and height, the last two above 0")
        lost = [name for name in names.values() if not (folder / "images" / name).is_file()]
        if lost:
            raise ValueError(f"{folder} is incomplete: {len(lost)} of {len(names)} images are missing, first images/{lost[0]}")
        if set(train.values()) != {0, 1}:
            raise ValueError(f"{folder / 'train_test_split.txt'} has no {'test' if 1 in train.values() else 'training'} image")
        return cls(
            tuple(names.values()),
            torch.tensor([labels[i] for i in names], dtype=torch.int64) - 1,
            torch.tensor([train[i] == 1 for i in names]),
            torch.tensor([boxes[i] for i in names], dtype=torch.float64),
            tuple(classes[i] for i in sorted(classes)),
        )


def _rows(file: Path, read: Callable[[str], Any], wanted: str) -> Iterator[tuple[int, Any]]:
    """Number and value of every line.

    Raises:
        ValueError: the file is missing or empty, or a line is not a number and what ``wanted`` says.
    """
    try:
        lines = read_text(file).splitlines()
    except (OSError, ValueError) as error:
        reason = "it is missing" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())
        raise ValueError(f"{file} cannot be read: {reason}") from error
    if not lines:
        raise ValueError(f"{file} is empty")
    for number, line in enumerate(lines, start=1):
        first, _, rest = line.strip().partition(" ")
        try:
            if not rest:
                raise ValueError
            yield int(first), read(rest)
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {line[:80]!r}; expected a number, then {wanted}") from error


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not name.isprintable():
        raise ValueError
    return name


def _one_of(value: int, allowed: Container[int]) -> int:
    if value not in allowed:
        raise ValueError
    return value


def _corners(text: str) -> tuple[float, float, float, float]:
    left, top, width, height = map(float, text.split())
    if not (all(map(math.isfinite, (left, top, width, height))) and width > 0 and height > 0):
        raise ValueError
    return left, top, left + width, top + height

"""A folder of class folders of images, ``photos/<class>/*.jpg``, with or without ``train``, ``val`` and ``test`` above them."""

from __future__ import annotations

import difflib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from natsort import natsorted, ns
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from aib.data.augment import channel_statistics
from aib.data.bundle import Batch, DataBundle, Split, TensorSplit, check_classes, stratified_split
from aib.data.images import ImageError, decode_image, read_image, silence, size_pair, upright_size
from aib.data.texts import printable, typed_path

__all__ = ["FileSplit", "open_folder", "read_image", "statistics_batches"]

SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Folder names, in any case, that stand for a split."""

IGNORED = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir"}
"""What operating systems leave in folders, in lower case; hidden files and folders are ignored too."""

SMALL_SIDE = 64
"""Largest side of images that are kept in memory and trained at their own size."""

LARGE_SIZE = (224, 224)
"""Size of the batches where images are large or differ in size."""

WATCH_SECONDS = 0.5
"""How often a process that decodes looks whether the one that started it is there."""

STATISTICS_IMAGES = 2000
"""Training images that mean and deviation are estimated from where images stay files."""


@dataclass(frozen=True)
class FileSplit:
    """A split whose images are decoded from files, batch by batch, in ``workers`` processes (0: in this one).

    Attributes:
        root: the folder that ``names`` are relative to.
        names: the path of every image below ``root``.
        labels: (N,) int64.
        size: (height, width) of the batches.
        workers: processes that decode.
    """

    root: Path
    names: tuple[str, ...]
    labels: Tensor
    size: tuple[int, int]
    workers: int = 2

    @property
    def masks(self) -> Tensor | None:
        return None

    def __len__(self) -> int:
        return len(self.names)

    def select(self, positions: Tensor, labels: Tensor | None = None) -> Self:
        """See `Split.select`."""
        names = tuple(self.names[i] for i in positions.tolist())
        return replace(self, names=names, labels=self.labels[positions] if labels is None else labels)

    def decode(self, position: int, crop: np.random.Generator | None = None) -> np.ndarray:
        """(H, W, 3) uint8 of the image at ``position``; with ``crop`` a random part of it, as in training.

        Raises:
            ImageError: the file cannot be read.
        """
        return decode_image(self.root / self.names[position], self.size, crop)

    def batches(self, indices: Sequence[Tensor], *, train: bool = False, seed: int = 0) -> Iterator[Batch]:
        """See `Split.batches`; images (N, 3, H, W) are on the CPU. ``train`` takes a random crop resized instead of the centre.

        Raises:
            ValueError: a file cannot be read any more; the message names it.
        """
        decoder = _BatchDecoder(self, indices, train, seed)
        workers = min(self.workers, len(indices))
        decoded: Iterator[np.ndarray | str] = map(decoder.__getitem__, range(len(indices)))
        if workers > 0:
            # its own generator: a loader takes its base seed from the global one, and evaluation must not advance that
            generator = torch.Generator().manual_seed(0)
            loader = DataLoader(
                decoder, None, num_workers=workers, collate_fn=_as_is, worker_init_fn=_start_worker, generator=generator
            )
            decoded = iter(loader)
        try:
            for index, images in zip(indices, decoded):
                if isinstance(images, str):
                    raise ValueError(images)
                yield Batch(torch.from_numpy(images), self.labels[index], index)
        finally:
            # workers end with the iterator, which the traceback of an error would keep
            del decoded


class _BatchDecoder(Dataset):
    """Batch ``i`` as an array (N, 3, H, W) uint8, or the message of the file that could not be read.

    Arrays travel between processes through a pipe; tensors would need shared memory, of which containers have little. Messages
    are returned because an exception would arrive wrapped in the worker's traceback.
    """

    def __init__(self, split: FileSplit, indices: Sequence[Tensor], train: bool, seed: int) -> None:
        self.split = split
        self.positions = [index.tolist() for index in indices]
        self.train = train
        self.seed = seed & 0xFFFFFFFFFFFFFFFF

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, batch: int) -> np.ndarray | str:
        positions = self.positions[batch]
        images = np.empty((len(positions), 3, *self.split.size), np.uint8)
        for image, position in zip(images, positions):
            crop = self._crop(position) if self.train else None
            try:
                pixels = self.split.decode(position, crop)
            except ImageError as error:
                return str(error)
            image[:] = pixels.transpose(2, 0, 1)
        return images

    def _crop(self, position: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(position,)))


def _as_is(batch: Any) -> Any:
    return batch


def _start_worker(worker: int) -> None:
    # Ctrl-C reaches every process of the terminal, and SIGTERM every one of a cluster's job; the trainer decides what they mean and
    # still needs its batches
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_starter, args=(os.getppid(),), daemon=True, name="end with starter").start()


def _end_with_starter(parent: int) -> None:
    """End this process when the one that started it is gone, however that one ended.

    Torch's own watch lets a worker leave its loop, but at its end it waits for the last batch to go through a pipe, whose reading
    end it may hold itself by then: for ever.
    """
    starter = multiprocessing.parent_process()
    # that of a process that is gone is another's child; one that went before this began is told by its end of a pipe
    while os.getppid() == parent and (starter is None or starter.is_alive()):
        time.sleep(WATCH_SECONDS)
    os._exit(1)


def open_folder(
    path: Path | str,
    *,
    image_size: int | tuple[int, int] | None = None,
    val_fraction: float | None = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
    skip_bad: bool = False,
    workers: int = 2,
    in_memory_limit_bytes: int = 1 << 30,
) -> DataBundle:
    """Open ``path/<class>/…`` or ``path/{train,val,test}/<class>/…``; classes and files in natural order (2 before 10).

    Every file is decoded once here, so that a bad one is found now and not in the third epoch. Sets of small images (no side over
    64) are then kept in memory; others stay files. Folders inside a class folder belong to the class; links to folders are
    followed for class folders only.

    Args:
        path: the folder. Hidden files and what operating systems leave behind are ignored; any other file must be an image.
        image_size: (height, width) or side of the batches; by default that of the images where all have the same and it is at
            most 64, else 224.
        val_fraction: share of the training images of every class held out where there is no ``val`` (``valid``, ``validation``);
            None holds none out and leaves ``val`` empty.
        test_fraction: likewise, taken first, where there is no ``test``.
        seed: of both hold-outs.
        skip_bad: leave out files that cannot be read and list them in ``skipped``, instead of raising.
        workers: threads that check and processes that decode batches; 0 decodes in this process.
        in_memory_limit_bytes: most bytes of images kept in memory.

    Raises:
        ValueError: the folder is missing or not a folder, has no class folders or only one, a class is empty or too small to hold
            images out, the splits have different classes, a file cannot be read, or an argument is out of range.
    """
    root = typed_path(path)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder" if root.exists() else f"there is no folder {root}")
    if workers < 0:
        raise ValueError(f"workers is {workers}; it must be 0 or more")
    folders = _split_folders(root)
    given = {split: _class_files(folder) for split, folder in folders.items()}
    class_names = tuple(given["train"])
    if not class_names:
        raise ValueError(f"{folders['train']} has no class folders; expected {folders['train']}/<class>/*.jpg")
    _check_given(root, given)
    files = [file for split in given for name in class_names for file in given[split][name]]
    labels = torch.tensor([label for split in given for label, name in enumerate(class_names) for _ in given[split][name]])
    part = np.array([split for split in given for name in class_names for _ in given[split][name]])

    size = _common_size(files) if image_size is None else size_pair(image_size)
    in_memory = max(size) <= SMALL_SIDE and len(files) * 3 * size[0] * size[1] <= in_memory_limit_bytes
    images, bad = _decode_all(files, size, in_memory, workers)
    if bad and not skip_bad:
        first = min(bad)
        others = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise ValueError(f"{ImageError(files[first], bad[first])}{others}; remove it, or leave such files out with --skip-bad")
    names = [file.relative_to(root).as_posix() for file in files]
    part[list(bad)] = "bad"

    positions = {split: torch.from_numpy(np.flatnonzero(part == split)) for split in given}
    missing = [split for split in ("test", "val") if split not in given]
    held = len(missing) - (val_fraction is None and "val" in missing)
    for split in given:
        check_classes(labels[positions[split]], class_names, split, least=1 + held if split == "train" else 1)
    for split in missing:
        train = positions["train"]
        kept, rest = stratified_split(labels[train], test_fraction if split == "test" else val_fraction, seed)
        positions["train"], positions[split] = train[kept], train[rest]

    def made(split: str) -> Split:
        where = positions[split]
        chosen = tuple(names[i] for i in where.tolist())
        if images is not None:
            return TensorSplit(images[where], labels[where], names=chosen)
        return FileSplit(root, chosen, labels[where], size, workers)

    train_split = made("train")
    mean, std = channel_statistics(batch.images for batch in train_split.batches(statistics_batches(train_split, seed)))
    return DataBundle(
        name=root.resolve().name,
        train=train_split,
        val=made("val"),
        test=made("test"),
        class_names=class_names,
        mean=mean,
        std=std,
        image_size=size,
        skipped=tuple(f"{printable(names[i])}: {bad[i]}" for i in sorted(bad)),
    )


def _visible(name: str) -> bool:
    return not name.startswith(".") and name.casefold() not in IGNORED


def _folders(folder: Path) -> list[Path]:
    """Visible folders in ``folder``, naturally sorted; a link back to the folder or above it is none."""
    above = {folder.resolve(), *folder.resolve().parents}
    found = [entry for entry in _listed(folder) if _visible(entry.name) and entry.is_dir() and entry.resolve() not in above]
    # sorted first: names that are naturally equal (1 and 01) would keep the order of the file system
    return natsorted(sorted(found), key=lambda entry: entry.name)


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise _unreadable_folder(error) from error


def _unreadable_folder(error: OSError) -> ValueError:
    return ValueError(f"{printable(error.filename)} cannot be listed: {error.strerror}")


def _split_folders(root: Path) -> dict[str, Path]:
    """The folder of every split given; ``{"train": root}`` where the class folders lie directly in ``root``.

    Raises:
        ValueError: a split is there twice, there is none to train on, or class folders lie beside splits.
    """
    folders = _folders(root)
    found: dict[str, Path] = {}
    for folder in folders:
        split = SPLIT_FOLDERS.get(folder.name.casefold())
        if split in found:
            raise ValueError(f"{root} has both {found[split].name!r} and {folder.name!r}; keep one folder for the {split} split")
        if split:
            found[split] = folder
    others = [folder.name for folder in folders if folder not in found.values()]
    if not found or (others and not ("train" in found and len(found) > 1)):
        # a class may be called train or test
        return {"train": root}
    if others:
        raise ValueError(f"{root} has {others[0]!r} beside {', '.join(f.name for f in found.values())}; move it elsewhere")
    if "train" not in found:
        raise ValueError(f"{root} has {' and '.join(repr(f.name) for f in found.values())} but no 'train' folder")
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def _class_files(folder: Path) -> dict[str, list[Path]]:
    """Every class folder's visible files, at any depth, in natural order."""
    return {entry.name: _files_below(entry) for entry in _folders(folder)}


def _files_below(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise _unreadable_folder(error) from error

    found: list[Path] = []
    for where, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if _visible(name)]
        found += [Path(where, name) for name in files if _visible(name)]
    return natsorted(sorted(found), alg=ns.PATH)


def _check_given(root: Path, given: dict[str, dict[str, list[Path]]]) -> None:
    """Refuse folders without two classes, empty classes and splits whose classes differ from those of training."""
    expected = given["train"]
    for split, classes in given.items():
        for name in classes:
            if name not in expected:
                near = difflib.get_close_matches(name, expected, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"{root}: class {name!r} is in the {split} split but not in train{hint}")
        for name in expected:
            if name not in classes:
                raise ValueError(f"{root}: class {name!r} is in train but not in the {split} split")
            if not classes[name]:
                raise ValueError(f"{root}: class {name!r} has no image in the {split} split")
    if len(expected) < 2:
        raise ValueError(f"{root} has one class, {next(iter(expected))!r}; a classifier needs at least two")


def _common_size(files: Sequence[Path]) -> tuple[int, int]:
    """(height, width) that all images share, if small; else `LARGE_SIZE`. Unreadable files are left to the check that follows."""
    common: tuple[int, int] | None = None
    for file in files:
        try:
            size = upright_size(file)
        except ImageError:
            continue
        if max(size) > SMALL_SIDE or common not in (None, size):
            return LARGE_SIZE
        common = size
    return common or LARGE_SIZE


def _decode_all(files: Sequence[Path], size: tuple[int, int], keep: bool, workers: int) -> tuple[Tensor | None, dict[int, str]]:
    """(N, 3, H, W) uint8 images if ``keep`` (else None), and the reason for every position that could not be decoded."""
    images = np.zeros((len(files) if keep else 0, 3, *size), np.uint8)
    turn = threading.Lock()  # the memory of the decoders is that of one large image, however many threads there are

    def decode(position: int) -> str | None:
        try:
            pixels = decode_image(files[position], size, silenced=True, turn=turn)
        except ImageError as error:
            return error.reason
        if keep:
            images[position] = pixels.transpose(2, 0, 1)
        return None

    with silence(), ThreadPoolExecutor(max(workers, 1)) as pool:
        reasons = enumerate(pool.map(decode, range(len(files))))
        bad = {position: reason for position, reason in reasons if reason is not None}
    return torch.from_numpy(images) if keep else None, bad


def statistics_batches(split: Split, seed: int) -> list[Tensor]:
    """Positions to compute mean and deviation from: all of a split in memory, a seeded part of one in files."""
    order = torch.arange(len(split))
    if isinstance(split, FileSplit) and len(split) > STATISTICS_IMAGES:
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:STATISTICS_IMAGES]
    return list(order.split(64))

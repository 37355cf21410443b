"""Arrays in an ``.npz`` file, in the convention of Keras or of MedMNIST."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aib.data.augment import channel_statistics
from aib.data.bundle import DataBundle, TensorSplit, check_classes, stratified_split
from aib.data.texts import typed_path

__all__ = ["bundle_arrays", "open_arrays"]

CONVENTIONS = (("x_{}", "y_{}"), ("{}_images", "{}_labels"))
"""Keys of the images and labels of a split: Keras, then MedMNIST."""

CHUNK_ELEMENTS = 1 << 22
"""Pixels converted at a time, so that no copy of a whole array in floats is ever made."""

BOMB_BYTES, BOMB_RATIO = 1 << 28, 200
"""Arrays that unpack to more than the second times their compressed size may have so many bytes together, or as many as the others:
photographs shrink to a half, black and white shapes to a hundredth, a decompression bomb and nearly empty masks to a thousandth."""
LARGE_BYTES, LARGE_RATIO = 1 << 31, 20
"""No archive may unpack to more than the first and to more than the second times its size: large sets that shrink so much, as
photographs do not, are to be kept unpacked."""

SHOWN = 8
"""Keys that a message names before it counts the rest."""


def open_arrays(path: Path | str, *, val_fraction: float | None = 0.1, seed: int = 0) -> DataBundle:
    """Open an ``.npz`` file; see `bundle_arrays` for what it may hold. Nothing in it is ever unpickled.

    Raises:
        ValueError: the file is missing, cut, not an ``.npz`` file or a decompression bomb, or see `bundle_arrays`.
    """
    path = typed_path(path)
    if not path.is_file():
        raise ValueError(f"{path} is a folder, not an .npz file" if path.is_dir() else f"there is no file {path}")
    try:
        with path.open("rb") as file:
            cut = file.read(2) == b"PK"
        whole = zipfile.is_zipfile(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except zipfile.BadZipFile:  # of an archive that says that it has several disks
        whole = False
    if not whole:
        raise ValueError(f"{path} is {'cut off or damaged' if cut else 'not an .npz file'}; expected one written by numpy.savez")
    try:
        archive = np.load(path, allow_pickle=False)
        members = archive.zip.infolist()
    except Exception as error:  # zipfile raises whatever it trips over: NotImplementedError, struct.error, ...
        raise ValueError(f"{path} cannot be read: {_one_line(error)}") from error
    with archive:
        if sum(member.compress_size for member in members) > path.stat().st_size:
            raise ValueError(f"{path} has arrays that overlap; save it anew with numpy.savez")
        blown = [member.file_size > BOMB_RATIO * member.compress_size for member in members]
        unpacked, others = (sum(m.file_size for m, is_blown in zip(members, blown) if is_blown is kind) for kind in (True, False))
        limits = (
            (unpacked, BOMB_RATIO, max(BOMB_BYTES, others)),  # masks are no larger than the images that they are of
            (unpacked + others, LARGE_RATIO, max(LARGE_BYTES, LARGE_RATIO * path.stat().st_size)),
        )
        for total, ratio, limit in limits:
            if total > limit:
                raise ValueError(
                    f"{path} would unpack to {total:,} bytes, more than {ratio} times their size in it; if it is no "
                    "decompression bomb, save it anew with numpy.savez"
                )
        # a piece of bzip2 or LZMA has no bound on what it unpacks to, whatever size the archive tells
        if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
            raise ValueError(f"{path} is compressed in a way that numpy does not write; save it anew with numpy.savez")
        return bundle_arrays(archive, name=path.stem, source=str(path), val_fraction=val_fraction, seed=seed)


def bundle_arrays(
    arrays: Mapping[str, np.ndarray], *, name: str, source: str, val_fraction: float | None = 0.1, seed: int = 0
) -> DataBundle:
    """A bundle from arrays by name, each read once and only when needed.

    Keys are ``x_train, y_train, x_test, y_test`` (Keras) or ``train_images, train_labels, test_images, test_labels`` (MedMNIST),
    and optionally the same for ``val``, ``class_names`` (classes,) and ``masks_train``, ``masks_val``, ``masks_test``.

    - Images: (N, H, W) or (N, H, W, 1) grey, (N, H, W, 3) RGB, or channels first; uint8, other integers in [0, 255], floats in
      [0, 1] or [0, 255]. Grey stays one channel.
    - Labels: (N,) or (N, 1), integers from 0.
    - Masks: (N, H, W), (N, H, W, 1) or (N, 1, H, W), not zero where the object is.

    Args:
        arrays: arrays by key, such as an open ``.npz`` file.
        name: of the bundle.
        source: what messages call the arrays, such as the file's path.
        val_fraction: share of every class held out of training where there is no ``val``; None holds none out and leaves ``val``
            empty.
        seed: of the hold-out.

    Raises:
        ValueError: keys are missing, an array cannot be read or has a wrong shape, type, length or range, there is one class only,
            or a class has no image in train or val.
    """
    archive = _Arrays(arrays, source)
    image_key, label_key = _convention(archive)
    splits = [split for split in ("train", "val", "test") if image_key.format(split) in arrays]
    labels = {split: _labels(archive, label_key.format(split)) for split in splits}
    class_names = _class_names(archive, labels["train"], label_key.format("train"))
    for split in splits:
        _check_range(archive, labels[split], label_key.format(split), len(class_names))
    try:
        check_classes(labels["train"], class_names, "train", least=1 if "val" in splits or val_fraction is None else 2)
        if "val" in splits:
            check_classes(labels["val"], class_names, "val")
    except ValueError as error:
        raise archive.error(str(error)) from error

    made: dict[str, TensorSplit] = {}
    float_top: float | None = None
    for split in splits:
        key = image_key.format(split)
        images = _images(archive, key)
        if len(images) != len(labels[split]):
            raise archive.error(f"{key} has {len(images)} images but {label_key.format(split)} has {len(labels[split])} labels")
        if made and images.shape[1:] != made["train"].images.shape[1:]:
            raise archive.error(f"{key} has images {_text(images)}, those of train are {_text(made['train'].images)}")
        top = _top(archive, key, images)
        if images.dtype.kind == "f":
            float_top = float_top or top
            if top != float_top:
                raise archive.error(f"{key} has floats in [0, {top}], train has floats in [0, {float_top}]; use one range for both")
        masks = _masks(archive, f"masks_{split}", images)
        parts = {split: torch.arange(len(images))}
        if split == "train" and "val" not in splits:
            parts["train"], parts["val"] = stratified_split(labels["train"], val_fraction, seed)
        for part, where in parts.items():
            chosen = None if masks is None else masks[where]
            made[part] = TensorSplit(_pixels(images, where, top), labels[split][where], chosen)
        # the source of one split is freed before the next one is read
        del images

    train = made["train"].images
    mean, std = channel_statistics(train.split(_chunk_length(train.shape)))
    return DataBundle(name, made["train"], made["val"], made["test"], class_names, mean, std, (train.shape[2], train.shape[3]))


@dataclass(frozen=True)
class _Arrays:
    """The arrays and what messages call them."""

    arrays: Mapping[str, np.ndarray]
    source: str

    def error(self, message: str) -> ValueError:
        return ValueError(f"{self.source}: {message}")

    def read(self, key: str) -> np.ndarray:
        """The array called ``key``.

        Raises:
            ValueError: it holds Python objects, or is damaged or too large for the memory.
        """
        try:
            with np.errstate(all="ignore"):  # of the sizes in a damaged header: then it says so
                array = self.arrays[key]
        except Exception as error:  # of a damaged header or member: a dozen types, of numpy, zipfile, zlib, tokenize, ...
            if "allow_pickle" in str(error):
                raise self.error(f"{key} holds Python objects, which are not read; save it as an array of numbers") from error
            raise self.error(f"{key} cannot be read: {_one_line(error)}") from error
        if not isinstance(array, np.ndarray):
            raise self.error(f"{key} is not an array")
        if array.dtype == object:
            raise self.error(f"{key} holds Python objects; it must be an array of numbers")
        return array


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _text(images: np.ndarray | Tensor) -> str:
    channels, height, width = images.shape[1:]
    return f"{height}x{width} with {channels} channel{'s' if channels > 1 else ''}"


def _convention(archive: _Arrays) -> tuple[str, str]:
    """The templates of the image and label keys whose train and test arrays are all there."""
    for templates in CONVENTIONS:
        needed = [template.format(split) for split in ("train", "test") for template in templates]
        image_val, label_val = (template.format("val") for template in templates)
        if (image_val in archive.arrays) != (label_val in archive.arrays):
            raise archive.error(f"only one of {image_val} and {label_val} is there; a validation split needs both")
        if all(key in archive.arrays for key in needed):
            return templates
    keys = sorted(archive.arrays)
    found = ", ".join(key if key.isprintable() else repr(key) for key in keys[:SHOWN]) or "nothing"
    found += f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    raise archive.error(
        f"has {found}; expected x_train, y_train, x_test, y_test (Keras) "
        "or train_images, train_labels, test_images, test_labels (MedMNIST)"
    )


def _labels(archive: _Arrays, key: str) -> Tensor:
    """(N,) int64 labels, not yet checked against the number of classes."""
    labels = archive.read(key)
    if labels.dtype.kind not in "iub":
        raise archive.error(f"{key} is of type {labels.dtype}; labels must be integers from 0")
    if labels.ndim != 1 and (labels.ndim != 2 or labels.shape[1] != 1):
        raise archive.error(f"{key} has shape {labels.shape}; expected (N,) or (N, 1), one class index an image")
    if len(labels) == 0:
        raise archive.error(f"{key} is empty")
    if labels.dtype == np.uint64 and labels.max() > np.iinfo(np.int64).max:
        raise archive.error(f"{key} has label {labels.max()}, which is out of range")
    return torch.from_numpy(labels.reshape(-1).astype(np.int64))


def _class_names(archive: _Arrays, train_labels: Tensor, key: str) -> tuple[str, ...]:
    """Names from ``class_names`` if it is there, else the labels themselves as text."""
    if "class_names" in archive.arrays:
        names = archive.read("class_names")
        if names.ndim != 1 or len(names) == 0:
            raise archive.error(f"class_names has shape {names.shape}; expected (classes,)")
        if names.dtype.kind not in "USiu":
            raise archive.error(f"class_names is of type {names.dtype}; expected texts")
        try:
            texts = [name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in names.tolist()]
        except Exception as error:  # letters that there are not: a SystemError of Python's
            raise archive.error(f"class_names holds no texts: {_one_line(error)}") from error
        name, times = Counter(texts).most_common(1)[0]
        if times > 1:
            raise archive.error(f"class_names has {name!r} {times} times; every class needs a name of its own")
        return tuple(texts)
    count = int(train_labels.max()) + 1
    if count > len(train_labels):
        raise archive.error(
            f"{key} has label {count - 1} but only {len(train_labels)} images; labels must count the classes from 0"
        )
    return tuple(str(label) for label in range(max(count, 1)))


def _check_range(archive: _Arrays, labels: Tensor, key: str, num_classes: int) -> None:
    outside = ((labels < 0) | (labels >= num_classes)).nonzero().flatten()
    if len(outside):
        first = int(outside[0])
        raise archive.error(
            f"{key} has label {labels[first]} at position {first}; with {num_classes} classes labels go from 0 to {num_classes - 1}"
        )


def _images(archive: _Arrays, key: str) -> np.ndarray:
    """A view (N, C, H, W) of the images, of their own type."""
    images = archive.read(key)
    if images.dtype.kind not in "iuf":
        raise archive.error(f"{key} is of type {images.dtype}; expected uint8 or floats")
    shape = images.shape
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    elif images.ndim != 4 or shape[1] not in (1, 3):
        raise archive.error(f"{key} has shape {shape}; expected (N, H, W), (N, H, W, 1 or 3) or (N, 1 or 3, H, W)")
    if images.size == 0:
        raise archive.error(f"{key} has shape {shape}: it holds no image")
    return images


def _chunk_length(shape: tuple[int, ...]) -> int:
    return max(1, CHUNK_ELEMENTS // int(np.prod(shape[1:])))


def _top(archive: _Arrays, key: str, images: np.ndarray) -> int:
    """The value that stands for white: 255, or 1 for floats that stay within [0, 1].

    Raises:
        ValueError: a pixel is not finite or lies outside [0, 255].
    """
    if images.dtype == np.uint8:
        return 255
    low, high = 0.0, 0.0
    step = _chunk_length(images.shape)
    for start in range(0, len(images), step):
        chunk = images[start : start + step]
        bad = ~np.isfinite(chunk).all(axis=(1, 2, 3))
        if bad.any():
            raise archive.error(f"{key} has NaN or infinite pixels, first in image {start + int(bad.argmax())}")
        low, high = min(low, float(chunk.min())), max(high, float(chunk.max()))
    # resizing in floats overshoots by rounding errors
    tolerance = 1e-4 if images.dtype.kind == "f" else 0.0
    top = 1 if images.dtype.kind == "f" and high <= 1 + tolerance else 255
    if low < -tolerance or high > top + tolerance:
        raise archive.error(f"{key} has pixels from {low:g} to {high:g}; expected [0, 255], or [0, 1] for floats")
    return top


def _pixels(images: np.ndarray, where: Tensor, top: int) -> Tensor:
    """Images at the positions ``where`` as a tensor (n, C, H, W) uint8 with white at 255."""
    made = torch.empty((len(where), *images.shape[1:]), dtype=torch.uint8)
    step = _chunk_length(images.shape)
    for start in range(0, len(where), step):
        chunk = images[where[start : start + step].numpy()]
        if images.dtype != np.uint8:
            chunk = np.rint(chunk.astype(np.float32) * (255 / top)).clip(0, 255).astype(np.uint8)
        made[start : start + step] = torch.from_numpy(np.ascontiguousarray(chunk))
    return made


def _masks(archive: _Arrays, key: str, images: np.ndarray) -> Tensor | None:
    """(N, 1, H, W) bool masks of the images (N, C, H, W), or None where there are none."""
    if key not in archive.arrays:
        return None
    masks = archive.read(key)
    n, _, h, w = images.shape
    if masks.shape not in ((n, h, w), (n, h, w, 1), (n, 1, h, w)):
        raise archive.error(f"{key} has shape {masks.shape}; expected ({n}, {h}, {w}), one mask an image")
    if masks.dtype.kind not in "biuf":
        raise archive.error(f"{key} is of type {masks.dtype}; expected booleans or numbers, not zero where the object is")
    return torch.from_numpy(masks.reshape(n, 1, h, w) != 0)

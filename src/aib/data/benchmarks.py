"""The benchmarks of the paper with small images, by name; CUB-200-2011 is in `aib.data.cub`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aib.data.arrays import bundle_arrays, open_arrays
from aib.data.augment import channel_statistics
from aib.data.bundle import DataBundle, Split, TensorSplit
from aib.data.checksums import odd_file, unpack
from aib.data.images import resize_pixels, size_pair
from aib.data.texts import typed_path

__all__ = ["BENCHMARKS", "STL10_CLASSES", "Benchmark", "has_benchmark", "open_benchmark"]

STL10_CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")

DIGITS = tuple(str(digit) for digit in range(10))

EXTRA = "extra_32x32.mat"
"""The file of svhn's extra images."""

Arrays = dict[str, np.ndarray]
Pair = tuple[np.ndarray, np.ndarray]
"""Images (N, 3, H, W) uint8 and labels (N,)."""


@dataclass(frozen=True)
class Benchmark:
    """What is known of a data set before it is opened.

    Attributes:
        files: what torchvision keeps of it, below its root: a folder, or the files of training and test.
        download: what fetching it takes, in words.
        page: where its files are to be had.
        archive: the official archive that the folder comes out of.
        classes: their number.
        side: of the square RGB images, in pixels.
        class_names: in label order where the files do not bring them.
        mirror: whether an image and its mirror image show the same class.
    """

    files: tuple[str, ...]
    download: str
    page: str
    archive: str | None = None
    classes: int = 10
    side: int = 32
    class_names: tuple[str, ...] | None = None
    mirror: bool = True


CIFAR_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"

BENCHMARKS = {
    "cifar10": Benchmark(("cifar-10-batches-py",), "170 MB", CIFAR_PAGE, "cifar-10-python.tar.gz"),
    "cifar100": Benchmark(("cifar-100-python",), "170 MB", CIFAR_PAGE, "cifar-100-python.tar.gz", classes=100),
    "svhn": Benchmark(
        ("train_32x32.mat", "test_32x32.mat"), "250 MB", "http://ufldl.stanford.edu/housenumbers/", class_names=DIGITS, mirror=False
    ),
    "stl10": Benchmark(
        ("stl10_binary",),
        "2.6 GB",
        "https://cs.stanford.edu/~acoates/stl10/",
        "stl10_binary.tar.gz",
        side=96,
        class_names=STL10_CLASSES,
    ),
}
"""By name; the classes of CIFAR-100 are the fine ones."""


def open_benchmark(
    name: str,
    root: Path | str = "data",
    *,
    image_size: int | tuple[int, int] | None = None,
    download: bool = False,
    val_fraction: float | None = 0.1,
    seed: int = 0,
    extra: bool = False,
) -> DataBundle:
    """A data set of small RGB images with its official test split; ``val_fraction`` of the training images is held out.

    | name | training | test | images | |
    |---|---|---|---|---|
    | cifar10, cifar100 | 50,000 | 10,000 | 32x32 | |
    | svhn | 73,257 | 26,032 | 32x32 | house numbers; the bundle says not to mirror them, though the paper does |
    | stl10 | 5,000 | 8,000 | 96x96 | the labelled images; the 100,000 without labels are neither read nor needed |

    Read from ``root/<name>.npz`` (see `open_arrays`) if it is there, else from torchvision's files in ``root``, or the official
    archive there, whose MD5s are checked.

    Args:
        name: one of `BENCHMARKS`.
        root: the folder of data sets.
        image_size: side or (height, width) that stl10 is resized to, with antialiasing; the others have their own.
        download: fetch torchvision's files if neither is there.
        val_fraction, seed: of the stratified hold-out; None holds none out and leaves ``val`` empty.
        extra: train on the 531,131 easier images of svhn too (1.3 GB more to fetch, about 6 GB of memory to open); validation and
            test stay as they are without them. The bundle is called svhn+extra.

    Raises:
        ValueError: the name is unknown, the data are not there, damaged or another set's, the download failed, ``image_size`` is
            given for a set that is not resized, or ``extra`` for one that has none.
    """
    if name not in BENCHMARKS:
        near = difflib.get_close_matches(name, BENCHMARKS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown benchmark {name!r}; {hint}There are: {', '.join(BENCHMARKS)}")
    if extra and name != "svhn":
        raise ValueError(f"{name} has no extra training images; only svhn does")
    known, root = BENCHMARKS[name], typed_path(root)
    size = (known.side, known.side) if image_size is None else size_pair(image_size)
    if name != "stl10" and size != (known.side, known.side):
        raise ValueError(f"image_size is {image_size} but {name} has {known.side}x{known.side} images; only stl10 is resized")
    local = root / f"{name}.npz"
    if local.exists():
        if extra:
            raise ValueError(f"extra needs the files of torchvision, but {local} is there and goes first; move it elsewhere")
        bundle = replace(open_arrays(local, val_fraction=val_fraction, seed=seed), name=name)
        if known.class_names is not None and bundle.class_names == DIGITS:
            bundle = replace(bundle, class_names=known.class_names)
    else:
        arrays, more = _from_torchvision(name, root, download, extra)
        if known.class_names is not None:
            arrays["class_names"] = np.array(known.class_names)
        bundle = bundle_arrays(arrays, name=name, source=str(root), val_fraction=val_fraction, seed=seed)
        if more is not None:
            bundle = _with_more(bundle, *more)
    height, width = bundle.image_size
    if bundle.num_classes != known.classes or (height, width) != (known.side, known.side) or bundle.channels != 3:
        raise ValueError(
            f"{local} is not {name}: it has {bundle.num_classes} classes of {height}x{width} images with {bundle.channels} "
            f"channels, not {known.classes} of {known.side}x{known.side} with 3"
        )
    bundle = replace(bundle, mirror=known.mirror)
    return bundle if size == bundle.image_size else _resized(bundle, size)


def has_benchmark(name: str, root: Path, extra: bool = False) -> bool:
    """Whether ``root`` holds one of `BENCHMARKS` in one of the forms that `open_benchmark` reads."""
    known = BENCHMARKS[name]
    packed = known.archive is not None and (root / known.archive).is_file()
    own = (root / f"{name}.npz").is_file() or packed or all((root / file).exists() for file in known.files)
    return own and (not extra or (root / EXTRA).exists())


def _from_torchvision(name: str, root: Path, download: bool, extra: bool) -> tuple[Arrays, Pair | None]:
    """Training and test arrays in the keys of `bundle_arrays`, and the extra images."""
    known = BENCHMARKS[name]
    needed = [root / file for file in (*known.files, *((EXTRA,) if extra else ()))]
    where = needed[0] if len(needed) == 1 else f"{root} ({', '.join(path.name for path in needed)})"
    size = f"{known.download}{', and 1.3 GB of extra images' if extra else ''}"
    packed = root / known.archive if known.archive is not None and not needed[0].exists() else None
    # looked for here too: importing torchvision takes seconds
    if not download and not all(path.exists() for path in needed) and not (packed is not None and packed.is_file()):
        place = f"{where} nor in {root / known.archive}" if known.archive is not None else where
        what = "the archive" if known.archive is not None else "these files"
        raise ValueError(
            f"{name} is neither in {root / name}.npz nor in {place}; fetch it with --download ({size}), "
            f"or put {what} there, from {known.page}"
        )
    source = _source(name)
    if not download and packed is not None:
        try:
            unpack(packed, source.tgz_md5, needed[0].name)
        except ValueError as error:
            raise ValueError(f"{error}; remove it, and fetch it with --download ({known.download})") from error
    try:
        return _read(name, source, root, download, extra)
    except (OSError, RuntimeError, HTTPException) as error:
        # a missing network is an OSError, a missing or damaged file a RuntimeError
        wrong, names = odd_file(_official(source, root, extra)), _names(source, root)
        if names and odd_file(names) and wrong is None:  # which torchvision does not fetch again where the images are whole
            raise ValueError(f"{odd_file(names)}; remove {where}, and fetch it again with --download ({size})") from error
        if download:
            reason = wrong if wrong and isinstance(error, RuntimeError) else " ".join(str(error).split())
            raise ValueError(f"the download of {name} failed: {reason}; bring {where} or {root / name}.npz yourself") from error
        reason = f": {wrong}" if wrong else ""
        raise ValueError(f"{where} is incomplete or damaged{reason}; fetch it again with --download ({size})") from error


def _source(name: str) -> Any:
    """torchvision's class of a data set."""
    from torchvision.datasets import CIFAR10, CIFAR100, STL10, SVHN

    class Labelled(STL10):
        """Without the images that have no labels: their file of 2.7 GB would be checked before each split, and must be there."""

        train_list = STL10.train_list[:2]

    return {"cifar10": CIFAR10, "cifar100": CIFAR100, "svhn": SVHN, "stl10": Labelled}[name]


def _read(name: str, source: Any, root: Path, download: bool, extra: bool) -> tuple[Arrays, Pair | None]:
    if name.startswith("cifar"):
        train, test = (source(str(root), train=part, download=download) for part in (True, False))
        return {
            "x_train": train.data, "y_train": np.array(train.targets), "x_test": test.data, "y_test": np.array(test.targets),
            "class_names": np.array(train.classes),
        }, None  # fmt: skip
    train, test = (source(str(root), split=part, download=download) for part in ("train", "test"))
    more = source(str(root), split="extra", download=download) if extra else None
    arrays = {"x_train": train.data, "y_train": train.labels, "x_test": test.data, "y_test": test.labels}
    return arrays, None if more is None else (more.data, more.labels)


def _official(source: Any, root: Path, extra: bool) -> list[tuple[Path, str]]:
    """The files that are read, with their official MD5s."""
    if hasattr(source, "split_list"):
        parts = ("train", "test", "extra") if extra else ("train", "test")
        return [(root / source.split_list[part][1], source.split_list[part][2]) for part in parts]
    return [(root / source.base_folder / file, md5) for file, md5 in (*source.train_list, *source.test_list)]


def _names(source: Any, root: Path) -> list[tuple[Path, str]]:
    """The file of the class names, which CIFAR has, with its official MD5."""
    return [(root / source.base_folder / source.meta["filename"], source.meta["md5"])] if hasattr(source, "meta") else []


def _with_more(bundle: DataBundle, images: np.ndarray, labels: np.ndarray) -> DataBundle:
    """The bundle, its splits in memory, with more images to train on, and the mean and deviation of all of them."""
    train = bundle.train
    assert isinstance(train, TensorSplit)
    train = TensorSplit(
        torch.cat([train.images, torch.from_numpy(images)]), torch.cat([train.labels, torch.from_numpy(labels).long()])
    )
    mean, std = channel_statistics(train.images.split(1000))
    return replace(bundle, name=f"{bundle.name}+extra", train=train, mean=mean, std=std)


def _resized(bundle: DataBundle, size: tuple[int, int]) -> DataBundle:
    """The bundle, its splits in memory, with its images at another size, and the mean and deviation of those."""

    def at_size(split: Split) -> TensorSplit:
        assert isinstance(split, TensorSplit)
        images = torch.empty((len(split), 3, *size), dtype=torch.uint8)
        for image, resized in zip(split.images.permute(0, 2, 3, 1).numpy(), images):
            resized.copy_(torch.from_numpy(resize_pixels(np.ascontiguousarray(image), size).copy()).permute(2, 0, 1))
        return replace(split, images=images, masks=None)

    train = at_size(bundle.train)
    mean, std = channel_statistics(train.images.split(1000))
    return replace(bundle, train=train, val=at_size(bundle.val), test=at_size(bundle.test), mean=mean, std=std, image_size=size)

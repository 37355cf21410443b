"""Any data set from the one word a user gives for it."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from aib.data.locking import held
from aib.data.texts import typed_path

if TYPE_CHECKING:
    from aib.data.bundle import DataBundle

__all__ = ["DATA_NAMES", "is_there", "open_data"]

DATA_NAMES = ("clutter", "cifar10", "cifar100", "svhn", "svhn+extra", "stl10", "cub200")
"""Data sets with a name; anything else is a path."""

LOCK = ".opening.lock"
"""File in the folder of data sets that a process holds while it opens one."""


def open_data(
    data: str,
    *,
    root: Path | str = "data",
    image_size: int | tuple[int, int] | None = None,
    val_fraction: float | None = 0.1,
    seed: int = 0,
    download: bool = False,
    skip_bad: bool = False,
    workers: int = 2,
    boxes: str | None = None,
) -> DataBundle:
    """Open the data set called ``data``. Of processes that open named sets in one folder, one at a time downloads and unpacks.

    Args:
        data: ``"clutter"`` (embedded), one of the benchmarks in ``root`` (``"cifar10"``, ``"cifar100"``, ``"svhn"``, ``"stl10"``,
            ``"cub200"``), an ``.npz`` file, or a folder of class folders. A name wins over a path; write ``./cifar10`` for a folder
            of that name. ``"svhn+extra"`` is svhn with its 531,131 easier images to train on.
        root: the folder of the named benchmarks.
        image_size: size of the batches of a folder, of stl10 (96 by default) and of cub200 (224); other sets have their own.
        val_fraction, seed: of the stratified hold-out where the data bring no validation split; None holds none out and leaves
            ``val`` empty, for sets that are evaluated only. ``clutter`` has a seed of its own and splits handwriting and
            photographs itself.
        download: fetch a benchmark that is not in ``root``.
        skip_bad: leave out a folder's unreadable files instead of raising.
        workers: processes that decode large images, those of a folder and of cub200.
        boxes: of cub200, ``"crop"`` (the pictures are the birds' boxes; as published, the default) or ``"keep"`` (whole
            photographs, the boxes are their masks).

    Raises:
        ValueError: there is no such name or path, ``image_size`` differs from that of a set that cannot be resized, ``boxes`` is
            given for another set than cub200, or whatever is wrong with the data.
    """
    path, root = typed_path(data), typed_path(root).absolute()  # for messages: a relative one says little
    if data in DATA_NAMES and data != "clutter" and root.is_file():
        raise ValueError(f"root is {root}, a file; it must be the folder that holds the named data sets")
    with _alone(data, root, download):
        if data == "cub200":
            from aib.data.cub import open_cub

            return open_cub(
                root, image_size=image_size, boxes=boxes, download=download, val_fraction=val_fraction, seed=seed, workers=workers
            )
        if boxes is not None:
            raise ValueError(f"boxes is {boxes!r}, but {data} has no boxes; only cub200 does")
        if data == "stl10":
            from aib.data.benchmarks import open_benchmark

            return open_benchmark(data, root, image_size=image_size, download=download, val_fraction=val_fraction, seed=seed)
        if data not in DATA_NAMES and path.is_dir():
            from aib.data.folder import open_folder

            return open_folder(
                path, image_size=image_size, val_fraction=val_fraction, seed=seed, skip_bad=skip_bad, workers=workers
            )
        bundle = _fixed_size(data, path, root, val_fraction, seed, download)
        height, width = bundle.image_size
        if image_size not in (None, bundle.image_size) and not (image_size == height == width):
            raise ValueError(
                f"image_size is {image_size} but {data} has {height}x{width} images; only folders, stl10 and cub200 are resized"
            )
    return bundle


@contextlib.contextmanager
def _alone(data: str, root: Path, download: bool) -> Iterator[None]:
    """Hold the folder of data sets while one of them is opened: the process that comes first downloads or unpacks it for all."""
    with contextlib.ExitStack() as stack:
        if data in DATA_NAMES and data != "clutter" and (download or root.is_dir()):
            with contextlib.suppress(OSError):  # where nothing can be written nothing is unpacked either
                root.mkdir(parents=True, exist_ok=True)
                stack.enter_context(held(root / LOCK))
        yield


def _fixed_size(data: str, path: Path, root: Path | str, val_fraction: float | None, seed: int, download: bool) -> DataBundle:
    """The sets whose images come at their own size."""
    if data == "clutter":
        from aib.data.clutter import open_clutter

        return open_clutter()
    if data in DATA_NAMES:
        from aib.data.benchmarks import open_benchmark

        name, _, extra = data.partition("+")
        return open_benchmark(name, root, download=download, val_fraction=val_fraction, seed=seed, extra=bool(extra))
    if path.suffix.lower() == ".npz":
        from aib.data.arrays import open_arrays

        return open_arrays(path, val_fraction=val_fraction, seed=seed)
    if path.exists():
        raise ValueError(f"{data} is neither a folder of class folders nor an .npz file")
    near = difflib.get_close_matches(data.lower(), DATA_NAMES, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(
        f"there is no data set and no path {data!r}{'' if path.is_absolute() else f' in {Path.cwd()}'}; {hint}"
        f"Give a folder of class folders, an .npz file or one of {', '.join(DATA_NAMES)}"
    )


def is_there(data: str, root: Path | str = "data") -> bool:
    """Whether `open_data` would find ``data``, without reading them: a set of the package in ``root``, or a path."""
    root = typed_path(root)
    if data == "clutter":
        return True
    if data == "cub200":
        from aib.data.cub import has_cub

        return has_cub(root)
    if data in DATA_NAMES:
        from aib.data.benchmarks import has_benchmark

        name, _, extra = data.partition("+")
        return has_benchmark(name, root, extra=bool(extra))
    return typed_path(data).exists()

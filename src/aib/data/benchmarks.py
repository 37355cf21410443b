"""The benchmarks of the paper by name."""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path

import numpy as np

from aib.data.arrays import bundle_arrays, open_arrays
from aib.data.bundle import DataBundle

__all__ = ["BENCHMARKS", "open_benchmark"]

BENCHMARKS = {"cifar10": 10, "cifar100": 100}
"""Number of classes by name; those of CIFAR-100 are the fine ones."""

TORCHVISION_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
"""Where torchvision unpacks each set, below its root."""


def open_benchmark(
    name: str, root: Path | str = "data", *, download: bool = False, val_fraction: float = 0.1, seed: int = 0
) -> DataBundle:
    """CIFAR-10 or CIFAR-100: 50,000 training images, of which ``val_fraction`` is held out, and 10,000 test images, 32x32 RGB.

    Read from ``root/<name>.npz`` (see `open_arrays`) if it is there, else from torchvision's files in ``root``.

    Args:
        name: ``"cifar10"`` or ``"cifar100"``.
        root: the folder of data sets.
        download: fetch torchvision's files (170 MB) if neither is there.
        val_fraction, seed: of the stratified hold-out.

    Raises:
        ValueError: the name is unknown, the data are not there or are another set's, or the download failed.
    """
    if name not in BENCHMARKS:
        near = difflib.get_close_matches(name, BENCHMARKS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown benchmark {name!r}; {hint}There are: {', '.join(BENCHMARKS)}")
    root = Path(root).expanduser()
    local = root / f"{name}.npz"
    if local.exists():
        bundle = replace(open_arrays(local, val_fraction=val_fraction, seed=seed), name=name)
    else:
        bundle = _from_torchvision(name, root, download, val_fraction, seed)
    if bundle.num_classes != BENCHMARKS[name] or bundle.image_size != (32, 32) or bundle.channels != 3:
        height, width = bundle.image_size
        raise ValueError(
            f"{local} is not {name}: it has {bundle.num_classes} classes of {height}x{width} images with {bundle.channels} "
            f"channels, not {BENCHMARKS[name]} of 32x32 with 3"
        )
    return bundle


def _from_torchvision(name: str, root: Path, download: bool, val_fraction: float, seed: int) -> DataBundle:
    folder = root / TORCHVISION_FOLDERS[name]
    # looked for here too: importing torchvision takes seconds
    if not download and not folder.is_dir():
        raise ValueError(f"{name} is neither in {root / name}.npz nor in {folder}; fetch it with --download (170 MB)")
    from torchvision.datasets import CIFAR10, CIFAR100

    source = CIFAR100 if name == "cifar100" else CIFAR10
    try:
        train, test = (source(str(root), train=part, download=download) for part in (True, False))
    except (OSError, RuntimeError) as error:
        # a missing network is an OSError, a missing or damaged file a RuntimeError
        reason = " ".join(str(error).split())
        if download:
            raise ValueError(f"the download of {name} failed: {reason}; bring {folder} or {root / name}.npz yourself") from error
        raise ValueError(f"{folder} is incomplete or damaged; fetch it again with --download (170 MB)") from error
    arrays = {"x_train": train.data, "y_train": np.array(train.targets), "x_test": test.data, "y_test": np.array(test.targets)}
    arrays["class_names"] = np.array(train.classes)
    return bundle_arrays(arrays, name=name, source=str(folder), val_fraction=val_fraction, seed=seed)

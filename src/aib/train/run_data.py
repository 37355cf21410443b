"""The data of a run: as its configuration says, or another set with the run's classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from aib.data import DATA_NAMES, open_data
from aib.data.benchmarks import STL10_CLASSES
from aib.data.bundle import DataBundle
from aib.data.classes import index_classes, match_classes
from aib.train.checks import check_channels
from aib.train.config import DataConfig
from aib.train.origin import check_same_data, locate_data, locate_root, same_data
from aib.train.run_folder import RunFolder
from aib.train.weights import LoadedRun

__all__ = ["Labels", "label_convention", "open_run_data", "open_training_data", "reopen_training_data"]

Labels = Literal["by-name", "by-index"]
"""How the classes of another data set become those of the run."""


def open_training_data(config: DataConfig) -> DataBundle:
    """The data of a configuration, with its normalisation where it gives one.

    Raises:
        ValueError: see `aib.data.open_data` and `aib.train.checks.check_channels`.
    """
    bundle = open_data(
        config.data, root=Path(config.root), image_size=config.image_size, val_fraction=config.val_fraction or None,
        seed=config.split_seed, download=config.download, skip_bad=config.skip_bad, workers=config.workers, boxes=config.boxes,
    )  # fmt: skip
    if not (config.mean or config.std):
        return bundle
    check_channels(config.mean, config.std, bundle)
    return replace(bundle, mean=config.mean, std=config.std)


def reopen_training_data(folder: RunFolder, config: DataConfig) -> DataBundle:
    """The data of a run that goes on, wherever they are now; ``config`` may give another ``root`` than the run's own.

    Raises:
        ValueError: see `open_training_data`; or they are nowhere, or not those that the run began on.
    """
    found = locate_data(folder, config, config.root if config.root != folder.config.data.root else None)
    bundle = open_training_data(found)
    advice = "put the right data back, name their folder with --root, or start a new run"
    check_same_data(folder, bundle, _source(found), advice)
    return bundle


def _source(config: DataConfig) -> str:
    return config.root if config.data in DATA_NAMES else config.data


def open_run_data(
    run: LoadedRun, data: str | None = None, labels: Labels | None = None, *, root: str | None = None, download: bool = False
) -> DataBundle:
    """The data a run was trained on, or another set; of that, nothing is held out of the training images.

    Args:
        run: the run.
        data: the other set; it is resized to the run's images where it can be. If it has the name of the run's own but other test
            images, its name gets ``-other`` behind it.
        labels: ``"by-name"`` keeps the images of the classes that both have by name (`match_classes`), ``"by-index"`` all of them
            with their labels as they are (`index_classes`). None: the classes must be the run's own, in order, but stl10 goes by
            name: its classes are in another order than those of CIFAR-10, whose models the paper evaluates on it.
        root: the folder that holds the data, named sets and the run's own path; by default see `aib.train.origin`.
        download: fetch the data if they are a benchmark that is absent.

    Raises:
        ValueError: the run's data are nowhere or not those it was trained on, and no other set is named; the other set has other
            classes, channels or image size, or ``labels`` is given without another set.
    """
    folder = run.folder
    d = replace(folder.config.data, download=download or folder.config.data.download)
    other = data is not None and data != d.data
    labels = label_convention(run, data, labels)
    d = locate_data(folder, d, root) if data is None else replace(d, root=str(locate_root(folder, data, root)))
    bundle = open_data(
        data or d.data, root=Path(d.root), image_size=run.image_size if other else d.image_size,
        val_fraction=None if other else d.val_fraction or None, seed=d.split_seed, download=d.download, skip_bad=d.skip_bad,
        workers=d.workers, boxes=None if other else d.boxes,
    )  # fmt: skip
    if data is None:
        check_same_data(folder, bundle, _source(d), "name the folder of the right ones with --root, or use these with --data")
    elif bundle.name == run.card["data"] and same_data(folder, bundle) is False:
        bundle = replace(bundle, name=f"{bundle.name}-other")
    if labels == "by-name":
        bundle = match_classes(bundle, run.class_names)
    elif labels == "by-index":
        bundle = index_classes(bundle, run.class_names)
    elif list(bundle.class_names) != run.class_names:
        odd = sorted(set(bundle.class_names) ^ set(run.class_names))[:5]
        raise ValueError(
            f"{bundle.name} has other classes than the run was trained on (they differ in {', '.join(odd) or 'order'}); "
            "--labels by-name evaluates those that both have"
        )
    if (bundle.channels, tuple(bundle.image_size)) != (run.card["channels"], run.image_size):
        raise ValueError(
            f"{bundle.name} has {bundle.channels} channels and size {bundle.image_size}; the run was trained on "
            f"{run.card['channels']} and {run.image_size}"
        )
    return bundle


def label_convention(run: LoadedRun, data: str | None, labels: Labels | None) -> Labels | None:
    """How the classes of ``data`` become the run's: ``labels``, or by name for stl10, or None where they must be the run's own.

    Raises:
        ValueError: ``labels`` is unknown, or given without another set.
    """
    if labels not in (None, "by-name", "by-index"):
        raise ValueError(f"labels is {labels!r}; it must be 'by-name' or 'by-index'")
    if labels is not None and data is None:
        raise ValueError(f"labels is {labels!r}, but the run is evaluated on its own data; name another set with --data")
    if labels is None and data == "stl10" and tuple(run.class_names) != STL10_CLASSES:
        return "by-name"
    return labels

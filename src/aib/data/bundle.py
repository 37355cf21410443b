"""One type for every data set: a training, a validation and a test split with their class names and normalisation.

A split yields batches of uint8 images; augmentation and normalisation happen afterwards, on whole batches and on the device
(`aib.data.augment`). Sets of small images are one tensor (`TensorSplit`); large images stay files (`aib.data.folder.FileSplit`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = [
    "Batch",
    "DataBundle",
    "Split",
    "TensorSplit",
    "batch_indices",
    "check_classes",
    "epoch_order",
    "stratified_split",
]


class Batch(NamedTuple):
    """Images (N, C, H, W) uint8, labels (N,) int64 and their positions in the split (N,) int64."""

    images: Tensor
    labels: Tensor
    positions: Tensor


@runtime_checkable
class Split(Protocol):
    """What the trainer, the evaluation and the explainers need of a split."""

    @property
    def labels(self) -> Tensor:
        """(N,) int64 class indices, on the CPU."""
        ...

    @property
    def names(self) -> Sequence[str] | None:
        """A name for every image (a file's path), or None."""
        ...

    @property
    def masks(self) -> Tensor | None:
        """(N, 1, H, W) bool ground truth of where the object is, or None."""
        ...

    def __len__(self) -> int: ...

    def batches(self, indices: Sequence[Tensor], *, train: bool = False, seed: int = 0) -> Iterator[Batch]:
        """Yield one batch for every tensor of positions in ``indices``, in that order.

        ``train`` allows random crops while decoding; they depend on ``seed`` and the position alone.
        """
        ...

    def select(self, positions: Tensor, labels: Tensor | None = None) -> Split:
        """The images at ``positions`` (n,) int64 as a split of their own, with their labels or with ``labels`` (n,) int64."""
        ...


@dataclass(frozen=True)
class TensorSplit:
    """A split held as one uint8 tensor, on any device.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: (N,) int64, on the CPU.
        masks: (N, 1, H, W) bool or None.
        names: N names or None.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor | None = None
    names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError(f"images are {tuple(self.images.shape)} {self.images.dtype}; expected (N, C, H, W) uint8")
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> TensorSplit:
        """The same split with its images on ``device``."""
        return replace(self, images=self.images.to(device))

    def batches(self, indices: Sequence[Tensor], *, train: bool = False, seed: int = 0) -> Iterator[Batch]:
        device = self.images.device
        for index in indices:
            where = index.to(device, non_blocking=True)
            yield Batch(self.images[where], self.labels[index].to(device, non_blocking=True), index)

    def select(self, positions: Tensor, labels: Tensor | None = None) -> TensorSplit:
        """See `Split.select`; the images are copied."""
        return TensorSplit(
            self.images[positions.to(self.images.device)],
            self.labels[positions] if labels is None else labels,
            None if self.masks is None else self.masks[positions],
            None if self.names is None else tuple(self.names[i] for i in positions.tolist()),
        )


@dataclass(frozen=True)
class DataBundle:
    """A data set ready for training.

    Attributes:
        name: what the user asked for (``"clutter"``, ``"photos"``).
        train, val, test: the splits; ``val`` was held out of training and shares no image with ``test``. It is empty where nothing
            was to be held out, of a set that is evaluated only.
        class_names: one name a class, in label order.
        mean, std: per channel, of images scaled to [0, 1]; from the training split.
        image_size: (height, width) of the batches.
        skipped: files left out, one line each with the reason.
        mirror: whether an image and its mirror image show the same class (handwriting does not).
        left_out: of `aib.data.classes.match_classes`: by split, how many images of which class were dropped.
    """

    name: str
    train: Split
    val: Split
    test: Split
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: tuple[int, int]
    skipped: tuple[str, ...] = field(default=())
    mirror: bool = True
    left_out: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def channels(self) -> int:
        return len(self.mean)

    def split(self, name: str) -> Split:
        """The split called ``name``.

        Raises:
            ValueError: there is no such split.
        """
        if name not in ("train", "val", "test"):
            raise ValueError(f"split is {name!r}; it must be 'train', 'val' or 'test'")
        return getattr(self, name)

    def to(self, device: torch.device | str) -> DataBundle:
        """The bundle with every tensor-resident split on ``device``."""

        def moved(split: Split) -> Split:
            return split.to(device) if isinstance(split, TensorSplit) else split

        return replace(self, train=moved(self.train), val=moved(self.val), test=moved(self.test))


def epoch_order(length: int, seed: int, epoch: int) -> Tensor:
    """(length,) positions in the order of one epoch: a function of ``seed`` and ``epoch`` alone."""
    # torch's generator on the CPU keeps the low 32 bits of a seed: the bits above the lowest 8 are folded into them
    folded = ((seed & 0xFF) << 24) ^ epoch ^ ((seed >> 8) * 0x9E3779B1)
    generator = torch.Generator().manual_seed(folded & 0xFFFFFFFF)
    return torch.randperm(length, generator=generator)


def batch_indices(order: Tensor, batch_size: int, *, drop_last: bool = False) -> list[Tensor]:
    """``order`` cut into batches; ``drop_last`` leaves out a shorter last one unless it is the only one."""
    batches = list(order.split(batch_size))
    if drop_last and len(batches) > 1 and len(batches[-1]) < batch_size:
        batches.pop()
    return batches


def stratified_split(labels: Tensor, fraction: float | None, seed: int) -> tuple[Tensor, Tensor]:
    """Positions kept and positions held out, ``fraction`` of every class (at least one image) in the second, none if it is None.

    Raises:
        ValueError: ``fraction`` is outside (0, 1), or a class has fewer than two images.
    """
    if fraction is None:
        return torch.arange(len(labels)), torch.arange(0)
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"the held-out fraction is {fraction}; it must lie between 0 and 1, or be None for none")
    generator = torch.Generator().manual_seed(seed)
    kept, held = [], []
    for label in labels.unique().tolist():
        where = (labels == label).nonzero().flatten()
        if len(where) < 2:
            raise ValueError(f"class {label} has {len(where)} image; two are needed to hold one out for validation")
        where = where[torch.randperm(len(where), generator=generator)]
        count = min(max(1, round(fraction * len(where))), len(where) - 1)
        held.append(where[:count])
        kept.append(where[count:])
    return torch.cat(kept).sort().values, torch.cat(held).sort().values


def check_classes(labels: Tensor, class_names: Sequence[str], split: str, least: int = 1) -> None:
    """Refuse a split in which a class has fewer than ``least`` images.

    Args:
        labels: (N,) class indices in [0, len(class_names)).
        class_names: one name a class.
        split: what the message calls the split.
        least: images needed of every class: one, and one more for every split that is to be held out of this one.

    Raises:
        ValueError: there are fewer than two classes, or a class has too few images; the message names it.
    """
    if len(class_names) < 2:
        raise ValueError(f"there is one class, {class_names[0]!r}; a classifier needs at least two")
    for name, count in zip(class_names, torch.bincount(labels, minlength=len(class_names)).tolist()):
        if count == 0:
            raise ValueError(f"class {name!r} has no image in the {split} split")
        if count < least:
            raise ValueError(
                f"class {name!r} has {count} image{'s' if count > 1 else ''} in the {split} split; "
                f"{least} are needed, one to keep and one for every split held out of it "
                "(--val-fraction 0 holds out none for validation)"
            )

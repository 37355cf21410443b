"""What an epoch of the real training loop costs beside its network, and whether worker processes keep up with it.

`aib.train.loop.train` trains a network on images that are one tensor, and on a folder of JPEG files that workers decode; both are
made for the occasion. Inside, the time of each part is taken: the network's step (forward pass, objective, backward pass and
optimiser), augmentation and normalisation, waiting for the next batch, and the rest. An epoch is a repeat, the first is warm-up. On
CUDA the device is waited for around each part, so the shares there are upper bounds: what would overlap does not.

Targets: less than 3 % of the training part of an epoch passes outside the network's step, on images in memory; and less than 3 % is
spent waiting for the workers of the folder, once they have delivered the first batch (each epoch starts them anew; that wait stands
beside it).
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from aib.bench.record import Findings, Settings, Target
from aib.bench.timing import Measured, device_wait, median_interval
from aib.data.bundle import Batch, DataBundle, Split, TensorSplit, batch_indices
from aib.data.folder import open_folder
from aib.train import loop
from aib.train.config import TrainConfig, config_from_dict

__all__ = ["measure"]

OUTSIDE_TARGET = 0.03
WAITING_TARGET = 0.03
CLASSES = 4
PARTS = ("network", "augmentation", "first_batch", "waiting", "rest")
"""What the training part of an epoch is made of; ``waiting`` is for the second batch and those after it."""


def measure(settings: Settings, say: Callable[[str], None]) -> Findings:
    """See the top of the file; two cases."""
    found = Findings()
    width, batch_size = settings.width or 0.125, settings.batch_size or (16 if settings.quick else 128)
    count = batch_size * (3 if settings.quick else 16)
    options: dict[str, Any] = {"model": "vgg_aib_qt", "width": width}
    say(f"images in memory: {count}, batch {batch_size}")
    _measure_case("memory", _noise_bundle(count, settings), options, batch_size, settings, found)
    side, batch_size = (72, 8) if settings.quick else (224, settings.batch_size or (16 if settings.device == "cpu" else 64))
    count = batch_size * (4 if settings.quick else 8)
    # importing timm takes longer than the rest of a quick run
    options = {"model": "vgg_xs_aib_qt"} if settings.quick else {"model": "resnet18", "attend": "layer3"}
    options["anchors"] = 8
    with tempfile.TemporaryDirectory(prefix="aib-bench-") as folder:
        say(f"images in files: {count} of {side}x{side}, batch {batch_size}")
        _write_photographs(Path(folder), count + 2 * CLASSES, side, settings.seed)
        bundle = open_folder(folder, image_size=side, val_fraction=0.01, test_fraction=0.01, workers=1 if settings.quick else 2)
        _measure_case("files", bundle, options, batch_size, settings, found)
        _tell_speed(bundle, batch_size, found)
    return found


def _noise_bundle(count: int, settings: Settings) -> DataBundle:
    """Images of noise in memory, 32x32, with few for validation."""
    generator = torch.Generator().manual_seed(settings.seed)

    def split(length: int) -> TensorSplit:
        pixels = torch.randint(0, 256, (length, 3, 32, 32), dtype=torch.uint8, generator=generator)
        return TensorSplit(pixels.to(settings.device), torch.arange(length) % CLASSES)

    names = tuple(f"class {i}" for i in range(CLASSES))
    return DataBundle("noise", split(count), split(16), split(16), names, (0.5,) * 3, (0.25,) * 3, (32, 32))


def _write_photographs(folder: Path, count: int, side: int, seed: int) -> None:
    """JPEG files somewhat larger than ``side``, smooth as photographs are, in a folder a class."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        path = folder / f"class {number % CLASSES}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        coarse.resize((side * 16 // 9, side * 12 // 9), Image.Resampling.BICUBIC).save(path, quality=90)


def _measure_case(
    kind: str, bundle: DataBundle, options: dict[str, Any], batch_size: int, settings: Settings, found: Findings
) -> None:
    watch = _Watch(device_wait(settings.device))
    bundle = replace(bundle, train=_WatchedSplit(bundle.train, watch))
    with tempfile.TemporaryDirectory(prefix="aib-bench-") as folder, watch.watching():
        loop.train(_config(options, batch_size, settings, Path(folder) / "run"), bundle=bundle)
    epochs = [epoch for epoch in watch.epochs if epoch["training"] > 0][1:]
    shares = {part: median_interval([epoch[part] / epoch["training"] for epoch in epochs]) for part in PARTS}
    outside = median_interval([1 - epoch["network"] / epoch["training"] for epoch in epochs])
    if kind == "memory":
        name, limit, measured = "outside the network's step", OUTSIDE_TARGET, outside
    else:
        name, limit, measured = "waiting for the workers", WAITING_TARGET, shares["waiting"]
    found.targets.append(Target(f"images in {kind}: {name}", "<", limit, measured, "of the epoch"))
    after = median_interval([epoch["after"] / epoch["training"] for epoch in epochs])
    found.notes.append(
        f"images in {kind}: "
        + ", ".join(f"{part.replace('_', ' ')} {_percent(share)}" for part, share in shares.items())
        + f" of the training part of an epoch; validation and checkpoint take {_percent(after)} more"
    )
    found.details[kind] = {
        "images": len(bundle.train), "batch": batch_size, **options, "epochs": epochs, "after": after.as_json(),
        "shares": {part: share.as_json() for part, share in {**shares, "outside": outside}.items()},
    }  # fmt: skip


def _config(options: dict[str, Any], batch_size: int, settings: Settings, out: Path) -> TrainConfig:
    return config_from_dict({
        "data": {"data": "noise", "crop_padding": 4, "flip": True},
        "model": options,
        "optim": {"epochs": settings.repeats + 1, "batch_size": batch_size, "lr": 1e-4},
        "run": {"out": str(out), "device": settings.device, "quiet": True, "seed": settings.seed},
    })  # fmt: skip


def _percent(share: Measured) -> str:
    """``1.2%``, and its interval where there is one."""
    return f"{share.median:.1%}" + ("" if math.isnan(share.low) else f" [{100 * share.low:.1f}, {100 * share.high:.1f}]")


def _tell_speed(bundle: DataBundle, batch_size: int, found: Findings) -> None:
    """How fast the workers are with nobody to wait for, beside what the loop takes of them."""
    batches = batch_indices(torch.arange(len(bundle.train)), batch_size)
    began = time.perf_counter()
    for _ in bundle.train.batches(batches, train=True):
        pass
    alone = len(bundle.train) / (time.perf_counter() - began)
    files = found.details["files"]
    taken = len(files["epochs"]) * files["images"] / sum(epoch["training"] for epoch in files["epochs"])
    fed = {
        "yes": "the workers keep the step fed; ", "no": "the workers do NOT keep the step fed: give aib train more --workers; ",
        "unclear": "",
    }[found.targets[-1].reached]  # fmt: skip
    found.notes.append(f"{fed}alone the workers decode {alone / taken:.1f} times as many images a second as the loop takes")
    files["decoded_over_taken"] = round(alone / taken, 4)


class _Watch:
    """Seconds of the parts of each epoch of the training loop.

    Attributes:
        epochs: of each its ``training`` part, from the order of the images to the last step, divided into `PARTS`; ``step``, which
            is network and augmentation; and ``after``, validation and checkpoint.
    """

    def __init__(self, wait: Callable[[], None]) -> None:
        self.wait = wait
        self.epochs: list[dict[str, float]] = []
        self.began = 0.0

    def now(self) -> float:
        self.wait()
        return time.perf_counter()

    def add(self, part: str, seconds: float) -> None:
        if self.epochs:
            self.epochs[-1][part] += seconds

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Take the times of the loop's parts inside the block; the loop is the same afterwards."""
        fit: Any = loop._Fit
        with ExitStack() as patches:

            def replace_by(owner: Any, name: str, make: Callable[[Any], Callable[..., Any]]) -> None:
                patches.enter_context(mock.patch.object(owner, name, make(getattr(owner, name))))

            replace_by(fit, "_epoch", self._epoch)
            replace_by(fit, "_keep", self._after)
            replace_by(fit, "_step", lambda original: self._timed("step", original))
            for name in ("random_crop", "normalize"):
                replace_by(loop, name, lambda original: self._timed("augmentation", original))
            replace_by(loop, "predict", self._validation)
            yield

    def _timed(self, part: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            began = self.now()
            result = original(*arguments, **named)
            self.add(part, self.now() - began)
            return result

        return timed

    def _epoch(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def epoch(fit: Any) -> Any:
            self.epochs.append(dict.fromkeys(("training", "step", "after", *PARTS), 0.0))
            self.began = self.now()
            return original(fit)

        return epoch

    def _validation(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def validation(*arguments: Any, **named: Any) -> Any:
            epoch = self.epochs[-1]
            epoch["training"] = self.now() - self.began
            epoch["network"] = epoch["step"] - epoch["augmentation"]
            epoch["rest"] = epoch["training"] - epoch["step"] - epoch["waiting"] - epoch["first_batch"]
            return original(*arguments, **named)

        return validation

    def _after(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def after(*arguments: Any, **named: Any) -> Any:
            result = original(*arguments, **named)
            epoch = self.epochs[-1]
            epoch["after"] = self.now() - self.began - epoch["training"]
            return result

        return after


class _WatchedSplit:
    """A split that tells how long it was waited for."""

    def __init__(self, split: Split, watch: _Watch) -> None:
        self.split = split
        self.watch = watch

    @property
    def labels(self) -> Tensor:
        return self.split.labels

    @property
    def names(self) -> Sequence[str] | None:
        return self.split.names

    @property
    def masks(self) -> Tensor | None:
        return self.split.masks

    def __len__(self) -> int:
        return len(self.split)

    def batches(self, indices: Sequence[Tensor], *, train: bool = False, seed: int = 0) -> Iterator[Batch]:
        source = self.split.batches(indices, train=train, seed=seed)
        part = "first_batch"
        while True:
            began = self.watch.now()
            batch = next(source, None)
            self.watch.add(part, self.watch.now() - began)
            if batch is None:
                return
            yield batch
            part = "waiting"

    def select(self, positions: Tensor, labels: Tensor | None = None) -> Split:
        return self.split.select(positions, labels)

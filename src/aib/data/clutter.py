"""`clutter`: real handwriting on real photographs, with the exact mask of the digit.

Scikit-learn's scanned digits are composed at random place, size, angle and colour onto patches of the photographs inside
scikit-image's and scikit-learn's wheels, among fragments of other digits. The class is the whole digit's; the mask is its ink.
Handwriting and photographs are both split, so that the three splits share neither. Everything is a function of the seed, made in
seconds, without a download, and kept in the user's cache for the next time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aib.data.bundle import DataBundle, TensorSplit

__all__ = ["make_clutter", "open_clutter"]

SIZE = 32
DIGIT_SIDE = (14.0, 22.0)
"""Side in pixels of the square the 8x8 scan is drawn into."""
INK = 0.5
"""Opacity from which a pixel belongs to the mask."""
FRAGMENTS = 3
CONTRAST = 0.35
"""Least distance in mean brightness between the ink and the patch it is drawn on."""

# Photographs and textures only: pages of text and clocks carry digits of their own.
PHOTOGRAPHS = {
    "train": (
        "astronaut", "brick", "camera", "coffee", "gravel", "hubble_deep_field", "immunohistochemistry", "motorcycle", "retina",
        "cell", "china", "flower",
    ),
    "val": ("chelsea", "moon", "microaneurysms"),
    "test": ("rocket", "grass", "coins"),
}  # fmt: skip
SHARE = {"train": 0.7, "val": 0.1, "test": 0.2}


def make_clutter(*, seed: int = 0, num_train: int = 8000, num_val: int = 1000, num_test: int = 2000) -> DataBundle:
    """The data set, 32x32 RGB, 10 classes in equal numbers, a mask for every image.

    Args:
        seed: of the composition; the division of scans and photographs between the splits is always the same.
        num_train, num_val, num_test: images in each split, at least 10.

    Raises:
        ValueError: a split has fewer than 10 images.
    """
    counts = {"train": num_train, "val": num_val, "test": num_test}
    for name, count in counts.items():
        if count < 10:
            raise ValueError(f"clutter's {name} split has {count} images; it needs at least 10, one a class")
    scans, scan_labels = _scans()
    splits = {}
    for i, (name, count) in enumerate(counts.items()):
        generator = torch.Generator().manual_seed(1_000_003 * seed + i)
        mine = _scan_positions(scan_labels, name)
        splits[name] = _compose(count, scans[mine], scan_labels[mine], PHOTOGRAPHS[name], generator)
    return _bundle(splits)


def open_clutter(folder: Path | None = None) -> DataBundle:
    """`make_clutter` of seed 0, from the file that an earlier call left behind where there is one.

    The file is named after all that the images depend on: this module and the libraries that bring pictures and random numbers.
    One that is damaged is made anew; where none can be kept, every call composes.

    Args:
        folder: where the file is kept; by default the user's cache, ``~/.cache/aib`` on Linux.
    """
    if folder is None:
        from platformdirs import user_cache_path

        folder = user_cache_path("aib", appauthor=False)
    made_of = [Path(__file__).read_bytes(), *(version(name).encode() for name in ("torch", "scikit-image", "scikit-learn"))]
    path = folder / f"clutter-{hashlib.sha256(b' '.join(made_of)).hexdigest()[:16]}.npz"
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return _bundle(_read(path))
    bundle = make_clutter()
    with contextlib.suppress(OSError):  # a full disk or a read-only home is no reason to stop
        _write(path, {name: getattr(bundle, name) for name in SHARE})
    return bundle


def _bundle(splits: dict[str, TensorSplit]) -> DataBundle:
    pixels = splits["train"].images[:2000].float().div(255)
    return DataBundle(
        name="clutter",
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
        class_names=tuple(str(i) for i in range(10)),
        mean=tuple(round(v, 4) for v in pixels.mean((0, 2, 3)).tolist()),
        std=tuple(round(v, 4) for v in pixels.std((0, 2, 3)).tolist()),
        image_size=(SIZE, SIZE),
        mirror=False,
    )


def _read(path: Path) -> dict[str, TensorSplit]:
    """The splits of a kept file; the zip's own checksums tell a damaged one."""
    with np.load(path, allow_pickle=False) as kept:
        arrays = {name: torch.from_numpy(array) for name, array in kept.items()}
    return {name: TensorSplit(arrays[f"{name}_images"], arrays[f"{name}_labels"], arrays[f"{name}_masks"]) for name in SHARE}


def _write(path: Path, splits: dict[str, TensorSplit]) -> None:
    """Keep ``splits`` in ``path``, whole or not at all, in the place of those of other versions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    arrays = {
        f"{name}_{array}": getattr(split, array).numpy()
        for name, split in splits.items()
        for array in ("images", "labels", "masks")
    }
    try:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
        for other in path.parent.glob("clutter-*.npz"):
            other.unlink()
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@lru_cache(maxsize=1)
def _scans() -> tuple[Tensor, Tensor]:
    """Scikit-learn's digits: (1797, 8, 8) in [0, 1] and their labels."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.from_numpy(images).float().view(-1, 8, 8) / 16, torch.from_numpy(labels).long()


def _scan_positions(labels: Tensor, split: str) -> Tensor:
    """Scans of one split: a fixed share of every class."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(labels), generator=generator)
    names = list(SHARE)
    low = sum(SHARE[n] for n in names[: names.index(split)])
    mine = []
    for label in range(10):
        where = order[labels[order] == label]
        mine.append(where[round(low * len(where)) : round((low + SHARE[split]) * len(where))])
    return torch.cat(mine)


@lru_cache(maxsize=32)
def _photograph(name: str) -> Tensor:
    """A picture of the two wheels, (3, H, W) in [0, 1], halved where large so that a patch holds more than a texture."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    if name in ("china", "flower"):
        picture = load_sample_image(f"{name}.jpg")
    else:
        picture = data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)()
    pixels = torch.from_numpy(np.array(picture)).float() / 255
    pixels = pixels.unsqueeze(-1).expand(-1, -1, 3) if pixels.ndim == 2 else pixels[..., :3]
    pixels = pixels.permute(2, 0, 1)
    if min(pixels.shape[1:]) >= 400:
        pixels = F.interpolate(pixels[None], scale_factor=0.5, mode="area")[0]
    return pixels


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _backgrounds(count: int, names: tuple[str, ...], generator: torch.Generator) -> Tensor:
    """(count, 3, 32, 32) patches of the named photographs at random place and zoom, mirrored half of the time."""
    patches = torch.empty(count, 3, SIZE, SIZE)
    which = torch.randint(len(names), (count,), generator=generator)
    for i, name in enumerate(names):
        photograph = _photograph(name)
        height, width = photograph.shape[1:]
        mine = (which == i).nonzero().flatten()
        side = _uniform((len(mine),), SIZE, min(112, height, width), generator)
        # affine sampling of all patches of a photograph at once; coordinates in [-1, 1] over the photograph
        scale_y, scale_x = side / height, side / width
        mirror = torch.randint(0, 2, (len(mine),), generator=generator) * 2 - 1
        theta = torch.zeros(len(mine), 2, 3)
        theta[:, 0, 0], theta[:, 1, 1] = scale_x * mirror, scale_y
        theta[:, 0, 2] = (torch.rand(len(mine), generator=generator) * 2 - 1) * (1 - scale_x)
        theta[:, 1, 2] = (torch.rand(len(mine), generator=generator) * 2 - 1) * (1 - scale_y)
        for rows in torch.arange(len(mine)).split(256) if len(mine) else ():
            grid = F.affine_grid(theta[rows], [len(rows), 3, SIZE, SIZE], align_corners=False)
            patches[mine[rows]] = F.grid_sample(
                photograph.expand(len(rows), -1, -1, -1), grid, padding_mode="reflection", align_corners=False
            )
    # the light of few photographs would tell the splits apart: every patch gets its own order of colours, contrast and brightness
    orders = torch.rand(count, 3, generator=generator).argsort(1)
    patches = patches.gather(1, orders[:, :, None, None].expand_as(patches))
    contrast, brightness = (_uniform((count, 1, 1, 1), low, high, generator) for low, high in ((0.5, 1.2), (-0.2, 0.2)))
    return ((patches - 0.5) * contrast + 0.5 + brightness).clamp(0, 1)


def _draw(scans: Tensor, side: Tensor, centre: Tensor, angle: Tensor) -> Tensor:
    """Opacity (N, 1, 32, 32) of scans (N, 8, 8) drawn ``side`` pixels wide around ``centre`` (N, 2: x, y), turned by ``angle``."""
    zoom = SIZE / side
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    x, y = (2 * centre / SIZE - 1).unbind(1)
    theta = torch.stack([cos, -sin, -cos * x + sin * y, sin, cos, -sin * x - cos * y], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, [len(scans), 1, SIZE, SIZE], align_corners=False)
    soft = F.grid_sample(scans.unsqueeze(1), grid, mode="bicubic", padding_mode="zeros", align_corners=False)
    # the scans are 8x8 and blurred when enlarged: a steep ramp gives the strokes their edge back
    return ((soft - 0.30) / 0.25).clamp(0, 1)


def _paint(canvas: Tensor, opacity: Tensor, generator: torch.Generator) -> Tensor:
    """``opacity`` painted on ``canvas`` in a random colour that differs in brightness from what it covers."""
    covered = ((canvas * opacity).sum((2, 3)) / opacity.sum((2, 3)).clamp_min(1)).mean(1)
    room_above, room_below = 1 - covered, covered
    above = torch.rand(len(canvas), generator=generator) * (room_above + room_below) < room_above
    above = torch.where(room_above < CONTRAST, False, torch.where(room_below < CONTRAST, True, above))
    strength = _uniform((len(canvas),), CONTRAST, 1.0, generator)
    target = torch.where(above, covered + strength.minimum(room_above), covered - strength.minimum(room_below))
    tint = _uniform((len(canvas), 3), -0.25, 0.25, generator)
    colour = (target[:, None] + tint - tint.mean(1, keepdim=True)).clamp(0, 1)[:, :, None, None]
    return canvas * (1 - opacity) + colour * opacity


def _fragments(scans: Tensor, generator: torch.Generator) -> Tensor:
    """The scans (N, 8, 8) cut to a random 4x4 quarter: strokes of handwriting that are no digit."""
    top = torch.randint(0, 5, (len(scans), 1, 1), generator=generator)
    left = torch.randint(0, 5, (len(scans), 1, 1), generator=generator)
    line = torch.arange(8)
    rows, columns = line.view(1, 8, 1), line.view(1, 1, 8)
    inside = (rows >= top) & (rows < top + 4) & (columns >= left) & (columns < left + 4)
    return scans * inside


def _compose(count: int, scans: Tensor, labels: Tensor, photographs: tuple[str, ...], generator: torch.Generator) -> TensorSplit:
    canvas = _backgrounds(count, photographs, generator)
    wanted = torch.arange(count) % 10
    wanted = wanted[torch.randperm(count, generator=generator)]
    chosen = torch.empty(count, dtype=torch.long)
    for label in range(10):
        pool = (labels == label).nonzero().flatten()
        mine = wanted == label
        chosen[mine] = pool[torch.randint(len(pool), (int(mine.sum()),), generator=generator)]

    side = _uniform((count,), *DIGIT_SIDE, generator)
    centre = torch.stack([side / 2 + torch.rand(count, generator=generator) * (SIZE - side) for _ in range(2)], 1)
    digit = _draw(scans[chosen], side, centre, _uniform((count,), -0.25, 0.25, generator))
    for _ in range(FRAGMENTS):
        other = torch.randint(len(scans), (count,), generator=generator)
        place = _uniform((count, 2), 2, SIZE - 2, generator)
        fragment = _draw(
            _fragments(scans[other], generator),
            _uniform((count,), *DIGIT_SIDE, generator),
            place,
            _uniform((count,), -3.1, 3.1, generator),
        )
        # fragments never touch the digit: its neighbourhood is kept free
        canvas = _paint(canvas, fragment * (F.max_pool2d(digit, 3, 1, 1) < 0.05), generator)
    canvas = _paint(canvas, digit, generator)
    canvas = canvas + 0.02 * torch.randn(canvas.shape, generator=generator)
    images = (canvas.clamp(0, 1) * 255).round().to(torch.uint8)
    return TensorSplit(images, wanted, masks=digit > INK)

"""What `aib.train.score` measures, and on how many images: the options of ``aib score``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["NO_OTHER", "ScoreSettings"]

NO_OTHER = "none"
"""Instead of another data set: no windows with its patches."""


@dataclass(frozen=True)
class ScoreSettings:
    """What is scored, on how many images."""

    split: Literal["test", "val", "train"] = "test"
    """Which images."""
    data: str | None = None
    """Another data set with the same classes, or stl10 for a run on cifar10."""
    labels: Literal["by-name", "by-index"] | None = None
    """Classes of the other set: by-name or by-index, as in aib eval."""
    root: str | None = None
    """Folder that holds the data; by default looked for where the run was started, then here."""
    download: bool = False
    """Fetch named data sets that are absent."""
    images: int | None = None
    """Images at most for the score itself, drawn by the seed; by default all."""
    control_images: int | None = None
    """Images at most for networks with random weights, for explainers, and for the sweep of radii; by default 1000, on a CPU fewer
    for large networks, and for explainers fewer beside Grad-CAM, which is computed anew on those networks, and costly ones."""
    faithful_images: int | None = None
    """Images at most for removing parts of images, for noise and for grids of images; by default 300 for up to 7 maps with their
    controls, fewer of more, and likewise."""
    against: tuple[str, ...] = ()
    """Explainers on the same footing: gradcam, integrated_gradients, occlusion, iba; gradcam@LAYER chooses a layer."""
    other: str | None = None
    """Data set whose patches fill windows; by default the first of svhn, clutter, cifar10 and cifar100 that is present and
    not the run's own. none leaves these windows out."""
    windows: tuple[int, ...] = ()
    """Sides of the windows in pixels; by default 4 8 12 16 for images of 32 pixels, and in proportion."""
    low: tuple[float, ...] = ()
    """Radii within which frequencies are kept; by default 12 for 32 pixels, and others on the control images."""
    high: tuple[float, ...] = ()
    """Radii from which on frequencies are kept; by default 4 for 32 pixels, and others on the control images."""
    outside: tuple[str, ...] = ()
    """Data sets that the run has not seen, told from its own by the rate and by the predictions."""
    seed: int = 0
    """Seed of edits, choices of images, ties, noise and intervals."""
    batch_size: int | None = None
    """Images of 32x32 that pass through the network together; by default 64 on a CPU and 1024 elsewhere."""

    def __post_init__(self) -> None:
        for name, value, least in (("images", self.images, 2), ("control_images", self.control_images, 2),
                                   ("faithful_images", self.faithful_images, 2), ("batch_size", self.batch_size, 1)):  # fmt: skip
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}; it must be at least {least}")
        if len(set(self.against)) < len(self.against):
            raise ValueError(f"against is {' '.join(self.against)}; name every explainer once")

"""How much of a map is noise: its change under noise that no one sees, as a share of its change from image to image.

With A the maps, d Gaussian noise of a few grey levels and x' another image,

    share = ||A(x + d) - A(x)|| / ||A(x) - A(x')||

in the Euclidean norm at the map's own resolution. The usual max- and average-sensitivity (Yeh et al. 2019, "On the (in)fidelity and
sensitivity of explanations") divide by ||A(x)|| or by nothing: there a map that is the same for every image is perfect. Here it is
0 / 0, which is NaN, left out and counted; a map of noise alone has a share near 1. The share knows neither the map's scale nor its
zero. Averaging makes a map less sensitive: a coarse map is calmer than a fine one of the same method, so that `sensitivity_numbers`
should compare a map with controls of its own resolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aib.data.augment import normalize
from aib.data.bundle import Split
from aib.interpret.ablation import derangement
from aib.interpret.explainers import Target
from aib.interpret.faithfulness import image_positions, pixel_batches
from aib.interpret.imputation import seeded_generator
from aib.interpret.intervals import bootstrap_mean
from aib.interpret.margins import margins

__all__ = ["Sensitivity", "checked_maps", "map_sensitivity", "sensitivity_numbers"]


@dataclass(frozen=True)
class Sensitivity:
    """Norms of the changes of every image's map; tensors are float64 on the CPU.

    Attributes:
        by_noise: (N, draws) ||A(x + d) - A(x)||.
        by_image: (N,) ||A(x) - A(x')||.
        norm: (N,) ||A(x)||.
        others: (N,) int64, which image x' is.
        sigma: standard deviation of the noise in grey levels of 255.
    """

    by_noise: Tensor
    by_image: Tensor
    norm: Tensor
    others: Tensor
    sigma: float

    @property
    def share(self) -> Tensor:
        """(N,) change by noise, the mean over its draws, over the change from image to image; lower is better.

        NaN where the two images have the same map.
        """
        return _over(self.by_noise.mean(1), self.by_image)

    @property
    def relative(self) -> Tensor:
        """(N,) change by noise over the map's norm, for the record: a constant map has 0 here, and an offset lowers it.

        NaN where the map is zero everywhere.
        """
        return _over(self.by_noise.mean(1), self.norm)

    @property
    def pooled_parts(self) -> Tensor:
        """(N,) numbers whose mean is the mean change by noise over the mean change from image to image, R = n / m.

        What an image adds to that ratio, to first order: R + (n_i - R m_i) / m. Differences of ratios are paired by them. All NaN
        for a map that is the same for every image.
        """
        noise, image = self.by_noise.mean(1), self.by_image
        ratio = noise.mean() / image.mean()
        return ratio + (noise - ratio * image) / image.mean()

    def numbers(self, seed: int = 0) -> dict[str, Any]:
        """Plain numbers, ``[mean, low, high]`` with 95 % bootstrap intervals over images; None where no image is left.

        ``"share"`` and ``"relative"`` are means over the images that have one, ``"undefined"`` and ``"zero"`` how many have none.
        ``"pooled"`` is the mean change by noise over the mean change from image to image, of all images: a few that happen to have
        maps like that of their other image do not weigh on it.

        Args:
            seed: of the bootstrap.
        """
        return {
            "n": len(self.norm), "draws": self.by_noise.shape[1], "sigma": self.sigma,
            "share": _interval(self.share, seed), "undefined": int(self.share.isnan().sum()),
            "pooled": self._pooled(seed),
            "relative": _interval(self.relative, seed), "zero": int(self.relative.isnan().sum()),
        }  # fmt: skip

    def _pooled(self, seed: int, draws: int = 2000) -> list[float] | None:
        noise, image = self.by_noise.mean(1).numpy(), self.by_image.numpy()
        if not image.any():
            return None
        rng = np.random.default_rng(seed)
        ratios = []
        for _ in range(draws):
            chosen = rng.integers(0, len(image), len(image))
            total = image[chosen].sum()
            # a resample of undefined images alone says nothing
            ratios.append(noise[chosen].sum() / total if total > 0 else math.nan)
        low, high = np.nanquantile(ratios, [0.025, 0.975])
        return [float(noise.sum() / image.sum()), float(low), float(high)]


def sensitivity_numbers(found: Mapping[str, Sensitivity], controls: Mapping[str, Sequence[str]], seed: int = 0) -> dict[str, Any]:
    """`Sensitivity.numbers` of every source of maps, and of the judged ones how far they stand above their best control.

    Args:
        found: by source, all on the same images.
        controls: by judged source, the names of its controls; see `aib.interpret.margins.margins`.
        seed: of the bootstrap.

    Returns:
        By source, its numbers. Those of a judged one hold ``"above"``, ``{"control", "difference"}``: how much smaller its
        ``"pooled"`` change is than that of the control which noise moves least, image by image; above 0 the source is the
        steadier one. Maps that are the same for every image have no such change: they are no such control, and are not compared.
    """
    parts = {name: -one.pooled_parts.numpy() for name, one in found.items() if bool(one.by_image.any())}
    above = margins({"noise": parts}, controls, seed=seed)
    return {name: one.numbers(seed) | ({"above": above[name]["noise"]} if name in above else {}) for name, one in found.items()}


def map_sensitivity(
    attribute: Callable[[Tensor, Target], Tensor],
    images: Tensor | Split,
    mean: Sequence[float],
    std: Sequence[float],
    target: Target = None,
    *,
    positions: Tensor | None = None,
    sigma: float = 4.0,
    draws: int = 4,
    seed: int = 0,
    images_at_once: int = 128,
    device: torch.device | str | None = None,
) -> Sensitivity:
    """The change of every image's map by noise, beside its change to the map of another image.

    On the CPU the explainer gets an image and its noisy copies together, whatever ``images_at_once`` is, and the result does not
    depend on that bit for bit; on other devices it gets more, and results agree up to rounding.

    Args:
        attribute: normalised images (n, C, H, W) and a target to maps (n, 1, h, w): `Explainer.attribute` of any explainer, or a
            function. An explainer that draws must draw the same for the same image.
        images: (N, C, H, W) pixels, 0 to 255, uint8 or float, at least two; or a split.
        mean, std: C numbers each, the normalisation of the model, for images scaled to [0, 1].
        target: the class explained, for all images or one each (N,), the same for an image and its copies. With None the explainer
            takes the class predicted for each copy, and a change of that counts as a change of the map.
        positions: (N,) int64, which images of a split, by default all of them. Of images in a tensor it only says where they come
            from, 0 to N - 1 by default: noise depends on the seed and an image's position.
        sigma: standard deviation of the noise in grey levels. Nothing is clipped.
        draws: noisy copies of an image.
        seed: of the noise and of the other images, from 0 on.
        images_at_once: most images held at once; at least ``draws + 1``.
        device: where the explainer wants its images; where they are by default.

    Raises:
        ValueError: fewer than two images, positions or targets that are not as many, ``sigma`` not positive, ``draws`` below 1,
            ``images_at_once`` too low, a negative seed, or maps that are not finite or not (n, 1, h, w).
    """
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma is {sigma}; it must be a positive number of grey levels")
    if draws < 1:
        raise ValueError(f"draws is {draws}; it must be at least 1")
    if images_at_once <= draws:
        raise ValueError(f"images_at_once is {images_at_once}; it must be at least {draws + 1}, an image with its {draws} copies")
    where = image_positions(images, positions)
    if len(where) < 2:
        raise ValueError("there is 1 image; the map of another image needs at least 2")
    classes = None if target is None else torch.as_tensor(target).cpu()
    if classes is not None and classes.shape not in ((), where.shape):
        raise ValueError(f"target has shape {tuple(classes.shape)}; expected one class or ({len(where)},)")
    classes = None if classes is None else classes.expand(len(where))
    others = derangement(len(where), torch.Generator().manual_seed(seed))
    clean: list[Tensor] = []
    changes: list[Tensor] = []
    start = 0
    for pixels, numbers in pixel_batches(images, where, images_at_once // (draws + 1), device):
        shape = (draws, *pixels.shape[1:])
        drawn = [seeded_generator(seed, number, 2).standard_normal(shape, dtype=np.float32) for number in numbers.tolist()]
        noise = torch.from_numpy(np.stack(drawn)).to(pixels.device)
        versions = torch.cat([pixels[:, None], pixels[:, None] + sigma * noise], 1).flatten(0, 1)
        some = None if classes is None else classes[start : start + len(pixels)].repeat_interleave(draws + 1).to(pixels.device)
        at_once = draws + 1 if pixels.device.type == "cpu" else images_at_once
        maps = checked_maps(attribute, normalize(versions, mean, std), some, at_once)
        flat = maps.flatten(1).unflatten(0, (-1, draws + 1))
        clean.append(flat[:, 0])
        changes.append((flat[:, 1:].double() - flat[:, :1].double()).norm(dim=2))
        start += len(pixels)
    every = torch.cat(clean)
    # row by row: the maps of a large set are held once, in float32
    by_image = torch.stack([(one.double() - every[other].double()).norm() for one, other in zip(every, others.tolist())])
    norm = torch.stack([one.double().norm() for one in every])
    return Sensitivity(torch.cat(changes), by_image, norm, others, sigma)


def checked_maps(attribute: Callable[[Tensor, Target], Tensor], images: Tensor, target: Tensor | None, at_once: int) -> Tensor:
    """Maps (n, 1, h, w) float32 on the CPU of normalised images (n, C, H, W), asked for in parts.

    Args:
        attribute: as in `map_sensitivity`.
        target: (n,) int64, or None.
        at_once: images in a part.

    Raises:
        ValueError: maps of another shape, or not finite.
    """
    parts = images.split(at_once)
    targets = [None] * len(parts) if target is None else target.split(at_once)
    maps = torch.cat([attribute(some, chosen).detach().cpu() for some, chosen in zip(parts, targets)])
    if maps.ndim != 4 or maps.shape[:2] != (len(images), 1):
        raise ValueError(f"the explainer gives maps of shape {tuple(maps.shape)}; expected ({len(images)}, 1, h, w)")
    if not bool(maps.isfinite().all()):
        raise ValueError("the explainer gives maps that are not finite")
    return maps.float()


def _over(change: Tensor, by: Tensor) -> Tensor:
    return torch.where(by > 0, change / by, torch.nan)


def _interval(values: Tensor, seed: int) -> list[float] | None:
    return None if bool(values.isnan().all()) else list(bootstrap_mean(values.numpy(), seed))

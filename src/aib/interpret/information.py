"""How many bits a trained network lets through: about an image, at a position of its attention, in its quantised map.

X is an image out of N, equally likely; A its attention, Z its latent. Everything is on the mean path but for the noise of the
channels themselves, whose divergences are in closed form: nothing is drawn.

*The latent.* The rate KL(p(z | x, a) || N(0, I)) of an image; its mean bounds I(Z; X, A) from above, by (3) below.

*The attention.* Each position is a Gaussian channel,

    (1)  A_p = mean_p(x) + std_p(x) eps,        p(a | x) = N(mean_p(x), std_p(x)^2),   eps independent over positions,

whose output, whatever the image, is the mixture p(a) = E_x p(a | x) with the moments

    (2)  m_p = E_x mean_p(x),                   s_p^2 = E_x std_p(x)^2 + Var_x mean_p(x).

For any density q, as the logarithm of p(a | x) / q(a) is the sum of those of p(a | x) / p(a) and p(a) / q(a),

    (3)  E_x KL(p(a | x) || q) = E_x KL(p(a | x) || p(a)) + KL(p(a) || q) = I(X; A) + KL(p(a) || q) >= I(X; A).

With q = N(m_p, s_p^2) the bits of position p for image x, the *rate map*, are

    (4)  KL_p(x) = ln(s_p / std_p(x)) + (std_p(x)^2 + (mean_p(x) - m_p)^2) / (2 s_p^2) - 1/2       nats.

Its mean over the images of (2) is E_x ln(s_p / std_p(x)), the least of all Gaussian q; the bound is tight where p(a) is Gaussian,
and exceeds I(X; A_p) by KL(p(a) || q) elsewhere: it can be above log2 N, which no information about N images is. (3) holds for the
moments of other images too. For the product of the q of all positions the divergences add up, since the noise is independent:

    (5)  I(X; A) <= E_x sum_p KL_p(x),          the whole map's information, however alike its positions are.

*The quantised map.* Anchors only lose information, and without noise a quantised map is a function of the image: what it tells is
its entropy, at most the length of any code that can be decoded. `code_length_bits` is such codes, adaptive and without parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aib.classifier import AttentiveClassifier, Classifier
from aib.interpret.explainers import evaluating
from aib.interpret.intervals import bootstrap_mean

__all__ = [
    "CONTEXTS", "IN_USE_BITS", "Context", "Information", "RateMap", "RateMapFitter", "code_length_bits", "index_entropy_bits",
    "latent_rates_bits", "measure_information", "quantized_bits",
]  # fmt: skip

IN_USE_BITS = 0.01
"""Mean rate above which a latent dimension counts as in use."""

Context = Literal["none", "neighbours", "place"]
"""What a code of `code_length_bits` knows of a position before it is told its index."""

CONTEXTS: tuple[Context, ...] = get_args(Context)

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def latent_rates_bits(mean: Tensor, std: Tensor) -> Tensor:
    """KL(N(mean, std^2) || N(0, 1)) of every latent dimension in bits, (N, K) float64 on the CPU, at least 0.

    Summed over the dimensions it is `Details.rate`, in bits. It is the divergence of what is sampled, whatever the objective that
    the network was trained with.

    Args:
        mean, std: (N, K), std positive.

    Raises:
        ValueError: shapes that differ or are not (N, K), or a value that is not finite or a std that is not positive.
    """
    means, stds = _statistics(mean, std, "(N, K)")
    return _gaussian_bits(means, stds, torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))


@dataclass(frozen=True)
class RateMap:
    """The Gaussian q of (4), with the moments (2) of the attention over a set of images.

    Attributes:
        mean: (1, 1, H, W) float64.
        std: (1, 1, H, W) float64, positive.
        images: number of images the moments are of.
    """

    mean: Tensor
    std: Tensor
    images: int

    def bits(self, mean: Tensor, std: Tensor) -> Tensor:
        """Rate maps (4) in bits, (N, 1, H, W) float64 on the CPU, at least 0, of ``attention_mean`` and ``attention_std``.

        A map that is the same for all images carries 0 bits at every position.

        Raises:
            ValueError: as `RateMapFitter.update`, or the maps have not the size of these moments.
        """
        means, stds = _attention(mean, std, self.mean.shape[1:])
        return _gaussian_bits(means, stds, self.mean, self.std)


class RateMapFitter:
    """Estimates the moments (2) over batches of images, in float64; `rate_map` is the result.

    The variance of the means is accumulated about the running mean (Chan, Golub and LeVeque 1979), not as a difference of two large
    sums, so that a map that hardly changes is told from one that does not, and the batches' sizes do not matter.
    """

    def __init__(self) -> None:
        self.images = 0
        self._mean = self._deviation = self._noise = torch.zeros(())

    def update(self, mean: Tensor, std: Tensor) -> Self:
        """Take in ``attention_mean`` and ``attention_std`` (N, 1, H, W) of a batch.

        Raises:
            ValueError: shapes that differ or are not (N, 1, H, W), another size than before, or a value that is not finite or a
                std that is not positive.
        """
        means, stds = _attention(mean, std, self._mean.shape[1:] if self.images else None)
        count, total = len(means), self.images + len(means)
        centre = means.mean(0, keepdim=True)
        deviation, noise = (means - centre).square().sum(0, keepdim=True), stds.square().sum(0, keepdim=True)
        if self.images:
            moved = centre - self._mean
            centre = self._mean + moved * (count / total)
            deviation = self._deviation + deviation + moved.square() * (self.images * count / total)
            noise = self._noise + noise
        self._mean, self._deviation, self._noise, self.images = centre, deviation, noise, total
        return self

    @property
    def rate_map(self) -> RateMap:
        """The moments over all images so far.

        Raises:
            ValueError: there were none.
        """
        if not self.images:
            raise ValueError("there are no moments yet; a rate map needs at least one batch of attention")
        return RateMap(self._mean, ((self._deviation + self._noise) / self.images).sqrt(), self.images)


def index_entropy_bits(indices: Tensor, num_anchors: int) -> float:
    """Entropy in bits of the anchors' usage over all positions of all maps, between 0 and log2 Q.

    It is what a code needs a position that knows the usage beforehand and treats every position alike.

    Args:
        indices: (N, H, W) integers in [0, Q).
        num_anchors: Q.

    Raises:
        ValueError: ``indices`` is not (N, H, W), is empty, or holds something that is no index of an anchor.
    """
    counts = np.bincount(_indices(indices, num_anchors).ravel())
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum()) + 0.0  # a single anchor has entropy 0, not -0


def code_length_bits(indices: Tensor, num_anchors: int, context: Context = "neighbours") -> Tensor:
    """Length in bits of every index under an adaptive code, (N, H, W) float64 on the CPU; the sum is that of all maps.

    Positions are coded in the order of the images, rows and columns. Each index costs -log2 of its probability under the estimate
    of Krichevsky and Trofimov (1981) from the indices coded before it in the same context c,

        (6)  P(index = k | c) = (n(c, k) + 1/2) / (n(c) + Q/2),

    with n counting them. Counts start at zero and change after every position, so nothing is known beforehand and nothing is sent
    beside the indices: a decoder that has read so far has the same counts, and an arithmetic coder comes within 2 bits of the sum.
    A context pays about (Q - 1)/2 log2 n(c) bits for learning, once: the first images cost more than the last, and few images
    favour ``"none"``.

    The counts of (6) are how often a pair (context, index) came before, which a stable sort gives for all positions at once.

    Args:
        indices: (N, H, W) integers in [0, Q); their order is that of the code.
        num_anchors: Q.
        context: ``"none"`` has one estimate for all positions; ``"neighbours"`` one for each pair of the left and the upper index,
            with a value of its own beyond the border; ``"place"`` one for each position, so that only what changes between images
            costs.

    Raises:
        ValueError: as `index_entropy_bits`, or ``context`` is none of the three.
    """
    if context not in CONTEXTS:
        raise ValueError(f"context is {context!r}; it must be one of {', '.join(map(repr, CONTEXTS))}")
    maps = _indices(indices, num_anchors)
    contexts = np.zeros_like(maps)
    if context == "neighbours":
        bordered = np.pad(maps, ((0, 0), (1, 0), (1, 0)), constant_values=num_anchors)
        contexts = bordered[:, 1:, :-1] * (num_anchors + 1) + bordered[:, :-1, 1:]
    elif context == "place":
        contexts += np.arange(maps[0].size).reshape(maps.shape[1:])
    same_context = _seen_before(contexts.ravel())
    same_index = _seen_before((contexts * num_anchors + maps).ravel())
    bits = np.log2((same_context + num_anchors / 2) / (same_index + 0.5))
    return torch.from_numpy(bits.reshape(maps.shape))


def quantized_bits(indices: Tensor, num_anchors: int, seed: int = 0) -> dict[str, Any]:
    """Entropy and code lengths of quantised maps, as plain numbers.

    Args:
        indices: (N, H, W) integers in [0, Q).
        num_anchors: Q.
        seed: of the bootstrap.

    Returns:
        ``{"anchors", "images", "height", "width", "entropy", "codes"}``; ``"entropy"`` and every code of `CONTEXTS` hold
        ``"position"``, bits a position, and ``"image"``, bits an image: of the entropy a number, of a code [mean, low, high] with a
        95 % bootstrap interval over the images of this one sequence.

    Raises:
        ValueError: as `index_entropy_bits`.
    """
    entropy = index_entropy_bits(indices, num_anchors)
    images, height, width = indices.shape
    codes = {}
    for context in CONTEXTS:
        lengths = code_length_bits(indices, num_anchors, context).sum((1, 2)).numpy()
        codes[context] = {"position": float(lengths.mean()) / (height * width), "image": list(bootstrap_mean(lengths, seed))}
    return {
        "anchors": num_anchors, "images": images, "height": height, "width": width,
        "entropy": {"position": entropy, "image": entropy * height * width}, "codes": codes,
    }  # fmt: skip


@dataclass(frozen=True)
class Information:
    """What `measure_information` found; everything in bits, float64 and on the CPU.

    Attributes:
        image_bits: (N,) rate of every image.
        dimension_bits: (K,) mean rate of every latent dimension; they add up to the mean of ``image_bits``.
        rate_maps: (N, 1, H, W) bits at every position (4); None without attention.
        rate_map: the moments they are relative to.
        indices: (N, H, W) int32 of the quantised maps; None without anchors.
        num_anchors: Q.
    """

    image_bits: Tensor
    dimension_bits: Tensor
    rate_maps: Tensor | None = None
    rate_map: RateMap | None = None
    indices: Tensor | None = None
    num_anchors: int | None = None

    @property
    def dimensions_in_use(self) -> int:
        """Latent dimensions with a mean rate above `IN_USE_BITS`."""
        return int((self.dimension_bits > IN_USE_BITS).sum())

    def summary(self, seed: int = 0) -> dict[str, Any]:
        """Plain numbers: ``"latent"`` and, where they apply, ``"attention"`` and ``"quantized"`` (of `quantized_bits`).

        ``"image"`` is bits an image as [mean, low, high], with a 95 % bootstrap interval over images drawn with ``seed``;
        ``"position"`` bits a position, and ``"highest"`` the most that a position carries on average. That of the attention is the
        bound (5), with the noise of training; it says nothing of the map without noise, which ``"quantized"`` does.
        """
        found: dict[str, Any] = {
            "images": len(self.image_bits),
            "latent": {
                "image": list(bootstrap_mean(self.image_bits.numpy(), seed)),
                "dimensions": len(self.dimension_bits), "in_use": self.dimensions_in_use,
            },
        }  # fmt: skip
        if self.rate_maps is not None:
            mean = self.rate_maps.mean(0)[0]
            found["attention"] = {
                "image": list(bootstrap_mean(self.rate_maps.sum((1, 2, 3)).numpy(), seed)),
                "position": mean.mean().item(), "highest": mean.max().item(), "height": mean.shape[0], "width": mean.shape[1],
            }  # fmt: skip
        if self.indices is not None and self.num_anchors is not None:
            found["quantized"] = quantized_bits(self.indices, self.num_anchors, seed)
        return found


@torch.no_grad()
def measure_information(model: Classifier, batches: Iterable[Tensor], rate_map: RateMap | None = None) -> Information:
    """The bits of a trained classifier's latent, attention and quantised map over a set of images, on the mean path.

    Args:
        model: a classifier with a latent; its training flags are restored.
        batches: normalised images (N, C, H, W) on the model's device. Their order is that of the results and of the adaptive codes.
        rate_map: moments of other images; by default those of the images themselves.

    Raises:
        ValueError: the model has no latent, or there is no image.
    """
    rates: list[Tensor] = []
    dimensions = torch.zeros((), dtype=torch.float64)
    attention: list[tuple[Tensor, Tensor]] = []
    indices: list[Tensor] = []
    fitter = RateMapFitter()
    with evaluating(model):
        for images in batches:
            if not len(images):
                continue
            details = model.forward_details(images)
            if details.latent_mean is None or details.latent_std is None:
                raise ValueError(f"{type(model).__name__} has no latent; there is no rate to measure")
            bits = latent_rates_bits(details.latent_mean, details.latent_std)
            rates.append(bits.sum(1))
            dimensions = dimensions + bits.sum(0)
            if details.attention_mean is not None and details.attention_std is not None:
                fitter.update(details.attention_mean, details.attention_std)
                attention.append((details.attention_mean.cpu(), details.attention_std.cpu()))
            if details.indices is not None:
                indices.append(details.indices.cpu().int())
    if not rates:
        raise ValueError("there are no images; information needs at least one")
    image_bits = torch.cat(rates)
    quantizer = model.quantizer if isinstance(model, AttentiveClassifier) else None
    relative_to = (rate_map or fitter.rate_map) if attention else None
    return Information(
        image_bits=image_bits,
        dimension_bits=dimensions / len(image_bits),
        rate_maps=torch.cat([relative_to.bits(mean, std) for mean, std in attention]) if relative_to is not None else None,
        rate_map=relative_to,
        indices=torch.cat(indices) if indices else None,
        num_anchors=quantizer.num_anchors if quantizer is not None else None,
    )


def _gaussian_bits(mean: Tensor, std: Tensor, about: Tensor, scale: Tensor) -> Tensor:
    """KL(N(mean, std^2) || N(about, scale^2)) of every element, in bits."""
    ratio = std / scale
    nats = 0.5 * (ratio.square() + ((mean - about) / scale).square() - 1.0) - ratio.log()
    return nats.clamp_min(0.0) / math.log(2.0)  # a divergence of 0 can round below it


def _seen_before(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many earlier entries of ``keys`` (M,) equal each entry."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    lengths = np.diff(starts, append=len(keys))
    seen = np.empty_like(keys)
    seen[order] = np.arange(len(keys)) - np.repeat(starts, lengths)
    return seen


def _statistics(mean: Tensor, std: Tensor, expected: str) -> tuple[Tensor, Tensor]:
    """Both in float64 on the CPU (not every device has it), checked."""
    if mean.shape != std.shape or mean.ndim != expected.count(",") + 1 or not mean.numel():
        raise ValueError(f"mean is {tuple(mean.shape)} and std {tuple(std.shape)}; expected {expected} of both, not empty")
    means, stds = mean.detach().cpu().double(), std.detach().cpu().double()
    if not bool((means.isfinite() & stds.isfinite() & (stds > 0)).all()):
        raise ValueError("a mean or std is not finite, or a std is not positive; a Gaussian channel needs both")
    return means, stds


def _attention(mean: Tensor, std: Tensor, size: tuple[int, ...] | None) -> tuple[Tensor, Tensor]:
    means, stds = _statistics(mean, std, "(N, 1, H, W)")
    size = (1, *means.shape[2:]) if size is None else tuple(size)
    if means.shape[1:] != size:
        raise ValueError(f"the attention is {tuple(means.shape)}; expected (N, {', '.join(map(str, size))})")
    return means, stds


def _indices(indices: Tensor, num_anchors: int) -> NDArray[np.int64]:
    if indices.ndim != 3 or not indices.numel() or indices.dtype not in _INTEGERS:
        raise ValueError(f"indices are {tuple(indices.shape)} {indices.dtype}; expected integers (N, H, W), not empty")
    maps: NDArray[np.int64] = indices.detach().cpu().numpy().astype(np.int64)
    low, high = int(maps.min()), int(maps.max())
    if low < 0 or high >= num_anchors:
        raise ValueError(f"indices go from {low} to {high}; with {num_anchors} anchors they must lie in 0 to {num_anchors - 1}")
    return maps

"""The attentive classifier: features -> attention -> encoder -> latent -> decoder, and the details of a forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from aib.anchors import AnchorQuantizer
from aib.attention import SpatialAttention
from aib.bottleneck import LatentBottleneck
from aib.functional import Modulation, gaussian_kl, modulate, reparameterize

__all__ = [
    "Attend", "AttentiveClassifier", "Classifier", "Details", "Noise", "Pass", "PlainClassifier", "SplitBackbone", "Target",
    "draw_noise", "target_classes",
]  # fmt: skip

Attend = Callable[[Tensor], Tensor]
"""From features (N, C, H, W) to attended features (S_a * N, C, H, W), draws outermost."""

Target = int | Tensor | None
"""The class to explain: one for all images, one an image (N,), or None for the predicted class."""


class Noise(NamedTuple):
    """Standard normal noise of a sampled forward pass: (S_a, N, 1, H, W) for the attention, (S_a, S_z, N, K) for the latent."""

    attention: Tensor
    latent: Tensor

    def of(self, images: slice) -> Noise:
        """The noise of some of the N images."""
        return Noise(self.attention[:, images], self.latent[:, :, images])


@dataclass(frozen=True)
class Details:
    """Everything a forward pass computed.

    Shapes are those without ``samples``. With ``samples=(S_a, S_z)``, ``attention``, ``quantized``, ``anchor_values``, ``indices``,
    ``latent_mean`` and ``latent_std`` gain a leading S_a, ``latent`` and ``sample_logits`` leading (S_a, S_z). Fields that a model
    does not have are None: a plain classifier has logits only, a model without anchors has no ``quantized``.

    Attributes:
        logits: (N, classes), averaged over the draws.
        sample_logits: (S_a, S_z, N, classes) of every draw; with S_a = S_z = 1 when ``samples`` was not given.
        features: (N, C, H, W) at the site, before attention.
        attention_mean: (N, 1, H, W) in (0, 1).
        attention_std: (N, 1, H, W) > 0.
        attention: (N, 1, H, W) the draw, or the mean on the mean path; a draw can leave [0, 1].
        quantized: (N, 1, H, W) anchor values, gradient to the attention.
        anchor_values: (N, 1, H, W) the same values, gradient to the anchors.
        indices: (N, H, W) int64.
        latent_mean, latent_std, latent: (N, K).
        rate: (N,) KL(p(z | x, a) || N(0, I)) in nats, averaged over the attention draws.
        level_maps: maps (N, 1, h_i, w_i) of every level, finest first, of a model that attends at several.
        branch_logits: (N, classes) of a second classifier inside the model that is trained beside the first.
    """

    logits: Tensor
    sample_logits: Tensor | None = None
    features: Tensor | None = None
    attention_mean: Tensor | None = None
    attention_std: Tensor | None = None
    attention: Tensor | None = None
    quantized: Tensor | None = None
    anchor_values: Tensor | None = None
    indices: Tensor | None = None
    latent_mean: Tensor | None = None
    latent_std: Tensor | None = None
    latent: Tensor | None = None
    rate: Tensor | None = None
    level_maps: tuple[Tensor, ...] | None = None
    branch_logits: Tensor | None = None

    @property
    def map(self) -> Tensor | None:
        """(N, 1, H, W) the map that modulated the features (quantised where there are anchors), averaged over the draws; of a
        baseline, the map its authors show."""
        used = self.quantized if self.quantized is not None else self.attention
        if used is None:
            return None
        return used if used.ndim == 4 else used.mean(0)


@dataclass(frozen=True)
class Pass:
    """The options of one forward pass, checked; `Classifier.forward_details` explains them."""

    samples: tuple[int, int] | None = None
    generator: torch.Generator | None = None
    noise: Noise | None = None
    average: Literal["logits", "probabilities"] = "logits"
    replace_map: Callable[[Tensor], Tensor] | None = None
    target: Target = None

    def __post_init__(self) -> None:
        samples = self.samples
        if samples is not None and not (isinstance(samples, tuple | list) and len(samples) == 2 and min(samples) >= 1):
            raise ValueError(f"samples is {samples}; it must be two numbers of draws, each at least 1, such as (4, 4)")
        if self.average not in ("logits", "probabilities"):
            raise ValueError(f"average is {self.average!r}; it must be 'logits' or 'probabilities'")

    @property
    def draws(self) -> tuple[int, int]:
        """(S_a, S_z), of ones where nothing was asked."""
        if self.noise is not None:
            return self.noise.latent.shape[0], self.noise.latent.shape[1]
        return self.samples or (1, 1)

    @property
    def sampled(self) -> bool:
        """Whether draws were asked for; a model in training mode draws all the same."""
        return self.samples is not None or self.noise is not None

    def map_used(self, attention: Tensor) -> Tensor:
        """The map that modulates the features: ``attention`` or what replaces it."""
        return attention if self.replace_map is None else self.replace_map(attention)

    def averaged(self, sample_logits: Tensor) -> Tensor:
        """Logits (N, classes) of draws (S_a, S_z, N, classes)."""
        draws = sample_logits.flatten(0, 1)
        if self.average == "logits" or len(draws) == 1:
            return draws.mean(0)
        return draws.float().log_softmax(-1).logsumexp(0) - math.log(len(draws))


class Classifier(nn.Module):
    """What every model of the package answers to: logits from ``forward``, the rest from ``forward_details``.

    Attributes:
        num_classes: number of classes.
        has_map: whether `Details.map` is there.
        gated: whether that map takes part in the prediction, so that ``replace_map`` changes it.
        relative_map: whether that map is divided by its own greatest value, each for itself, instead of holding scores in [0, 1]:
            then a value of one image says nothing beside that of another.
        map_of_class: whether that map is of a class, which ``target`` chooses.
    """

    num_classes: int
    has_map: bool = False
    gated: bool = False
    relative_map: bool = False
    map_of_class: bool = False

    def forward_details(
        self,
        images: Tensor,
        *,
        samples: tuple[int, int] | None = None,
        generator: torch.Generator | None = None,
        noise: Noise | None = None,
        average: Literal["logits", "probabilities"] = "logits",
        replace_map: Callable[[Tensor], Tensor] | None = None,
        target: Target = None,
    ) -> Details:
        """Forward pass with everything it computed.

        The features are computed once, whatever the number of draws.

        Args:
            images: (N, channels, height, width), normalised.
            samples: (S_a, S_z) draws of the attention and, for each, of the latent. None takes the mean path in eval mode and one
                draw of each in training mode. Models that draw nothing ignore it.
            generator: source of the noise; the global one of the device by default.
            noise: the noise itself, instead of drawing it; its shape then gives the number of draws.
            average: whether ``logits`` averages the draws' logits (as published) or is the logarithm of their mean probability.
            replace_map: changes the map (S_a * N, 1, H, W) just before it modulates the features, for ablations. Models that are
                not ``gated`` ignore it.
            target: the class whose map is wanted, of a model with a map for every class (`aib.models.vgg_gap`); by default the
                predicted one. Models with one map for all classes ignore it.

        Raises:
            ValueError: ``samples`` is not a pair of positive numbers, ``noise`` has not the shapes of `Noise`, ``average`` is
                unknown, or ``target`` is no class.
        """
        return self.run_pass(images, Pass(samples, generator, noise, average, replace_map, target))

    def run_pass(self, images: Tensor, how: Pass) -> Details:
        """What `forward_details` does; a model defines it and callers leave it alone."""
        raise NotImplementedError

    def calibrate(self, images: Tensor) -> None:
        """Data-dependent start, once before training: hand normalised training images (N, C, H, W) to the layers that want them.

        See `calibrated`; most models have no such layer, and nothing happens.
        """
        for layer in self.calibrated():
            layer.calibrate(images)

    def calibrated(self) -> list[Any]:
        """The layers that start from data: those with a method ``calibrate`` of their own."""
        return [module for module in self.modules() if module is not self and callable(getattr(module, "calibrate", None))]

    def attention_parts(self) -> list[nn.Module]:
        """The modules that make the map and nothing else: what the control with random attention replaces, with all inside them.

        By default every `SpatialAttention` and `AnchorQuantizer`; a model with attention of its own names its modules here. None
        where the map has no module of its own, as in class activation mapping, or where there is no map.
        """
        return [module for module in self.modules() if isinstance(module, SpatialAttention | AnchorQuantizer)]

    def forward(self, images: Tensor) -> Tensor:
        """Class scores (N, classes) of normalised images (N, channels, height, width)."""
        return self.forward_details(images).logits


class PlainClassifier(Classifier):
    """A network without attention, with the interface of one: the paired baseline.

    Args:
        features: images to features (N, C, H, W), up to the place where the attentive twin attends.
        encoder: features to (N, D).
        head: (N, D) to (N, classes).
    """

    def __init__(self, features: nn.Module, encoder: nn.Module, head: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.features = features
        self.encoder = encoder
        self.head = head
        self.num_classes = num_classes

    def run_pass(self, images: Tensor, how: Pass) -> Details:
        features = self.features(images)
        return Details(logits=self.head(self.encoder(features).flatten(1)), features=features)


class SplitBackbone(nn.Module):
    """A network written in two parts, with the attention site between them."""

    def __init__(self, features: nn.Module, encoder: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.encoder = encoder

    def forward(self, images: Tensor, attend: Attend) -> Tensor:
        """Encoded attended features (S_a * N, D) of images (N, ...)."""
        return self.encoder(attend(self.features(images))).flatten(1)


class AttentiveClassifier(Classifier):
    """A classifier with variational spatial attention, optional anchors and a latent bottleneck.

    In eval mode the mean path is taken: the attention map and the latent are their means, nothing is drawn and the result is
    deterministic. In training mode one attention map and one latent are drawn. ``samples`` asks for a number of draws in either
    mode.

    Args:
        backbone: called as ``backbone(images, attend)``; must call ``attend`` once on its features and return (N, D).
        attention: features to attention statistics.
        bottleneck: (N, D) to latent statistics.
        decoder: latent (N, K) to (N, classes).
        quantizer: snaps scores to anchors; None leaves them continuous.
        modulation: ``"residual"`` F * (1 + A) as published, or ``"plain"`` F * A.
        num_classes: number of classes.
    """

    has_map = True
    gated = True

    def __init__(
        self,
        backbone: nn.Module,
        attention: SpatialAttention,
        bottleneck: LatentBottleneck,
        decoder: nn.Module,
        *,
        num_classes: int,
        quantizer: AnchorQuantizer | None = None,
        modulation: Modulation = "residual",
    ) -> None:
        super().__init__()
        if modulation not in ("residual", "plain"):
            raise ValueError(f"modulation is {modulation!r}; it must be 'residual' or 'plain'")
        self.backbone = backbone
        self.attention = attention
        self.quantizer = quantizer
        self.bottleneck = bottleneck
        self.decoder = decoder
        self.modulation: Modulation = modulation
        self.num_classes = num_classes

    def run_pass(self, images: Tensor, how: Pass) -> Details:
        draws_a, draws_z = how.draws
        sampled = self.training or how.sampled
        given = how.noise or (None, None)
        seen: dict[str, Any] = {}

        def attend(features: Tensor) -> Tensor:
            if seen:
                raise RuntimeError("the backbone called attend twice; it must call it once")
            mean, std = self.attention(features)
            scores = mean.unsqueeze(0)
            if sampled:
                shape = (draws_a, *mean.shape)
                scores = reparameterize(mean, std, draw_noise(shape, mean, how.generator, given[0]))
            seen.update(features=features, attention_mean=mean, attention_std=std, attention=scores)
            used = scores
            if self.quantizer is not None:
                used, seen["anchor_values"], indices = self.quantizer(scores)
                seen.update(quantized=used, indices=indices.squeeze(2))
            used = how.map_used(used.flatten(0, 1))
            if scores.shape[0] > 1:
                features = features.repeat(scores.shape[0], 1, 1, 1)
            return modulate(features, used, self.modulation)

        encoded = self.backbone(images, attend)
        if not seen:
            raise RuntimeError("the backbone did not call attend; it must call it once, on its features")
        latent_mean, latent_std = (t.unflatten(0, (draws_a, -1)) for t in self.bottleneck(encoded))
        latent = latent_mean.unsqueeze(1)
        if sampled:
            shape = (draws_a, draws_z, *latent_mean.shape[1:])
            drawn = draw_noise(shape, latent_mean, how.generator, given[1])
            latent = reparameterize(latent, latent_std.unsqueeze(1), drawn)
        sample_logits = self.decoder(latent.flatten(0, 2).to(encoded.dtype)).unflatten(0, latent.shape[:3])
        rate = gaussian_kl(latent_mean, latent_std).mean(0)
        seen.update(latent_mean=latent_mean, latent_std=latent_std)
        if not how.sampled:
            once = ("attention", "quantized", "anchor_values", "indices", "latent_mean", "latent_std")
            seen |= {name: seen[name].squeeze(0) for name in once if name in seen}
            latent = latent.flatten(0, 2)
        return Details(logits=how.averaged(sample_logits), sample_logits=sample_logits, latent=latent, rate=rate, **seen)


def draw_noise(
    shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None = None, given: Tensor | None = None
) -> Tensor:
    """Standard normal noise of ``shape`` with the type and on the device of ``like``, or the noise that is ``given``."""
    if given is not None:
        # a shape that merely broadcasts would pair draws with the wrong images
        if given.shape != shape:
            raise ValueError(f"noise has shape {tuple(given.shape)}; expected {shape}")
        return given
    # drawn where the generator lives: one on the CPU serves every device, with the same numbers
    where = like.device if generator is None else generator.device
    return torch.randn(shape, device=where, dtype=like.dtype, generator=generator).to(like.device)


def target_classes(target: Target, logits: Tensor) -> Tensor:
    """The class explained for each image, (N,) int64, from what a caller gave and the logits (N, classes).

    Raises:
        ValueError: ``target`` is neither one class nor (N,), or holds what is no class.
    """
    count, classes = logits.shape
    if target is None:
        return logits.detach().argmax(1)
    chosen = torch.as_tensor(target, device=logits.device).long()
    if chosen.ndim == 0:
        chosen = chosen.expand(count)
    if chosen.shape != (count,):
        raise ValueError(f"target has shape {tuple(chosen.shape)}; expected one class or ({count},)")
    if bool(((chosen < 0) | (chosen >= classes)).any()):
        raise ValueError(f"target holds {int(chosen.min())} to {int(chosen.max())}; classes go from 0 to {classes - 1}")
    return chosen

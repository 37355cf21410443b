"""The per-sample information bottleneck for attribution: how many bits of each place a class needs.

Written from Schulz, Sixt, Tombari and Landgraf 2020, "Restricting the flow: information bottlenecks for attribution". Noise
replaces the output R of one layer where the class does not need it; the information left there is the map. This restricts a
finished network for one image at a time, and has nothing to do with the bottlenecks that the attentive networks are trained with.
Nats inside, bits outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aib.interpret.explainers import Target, evaluating, find_layer, target_classes

__all__ = ["BottleneckAttribution", "restriction_kl"]

STD_FLOOR_SHARE = 0.01
"""Least standard deviation of a feature, as a share of the layer's root mean square: a feature that never changed in the images of
`BottleneckAttribution.estimate` would cost infinitely many bits in an image where it does."""


def restriction_kl(noise_share: Tensor, scores: Tensor) -> Tensor:
    """KL(P(Z | R) || Q(Z)) of every feature in nats, in closed form.

    A feature R keeps the share lambda of its value, the rest is noise that looks like the feature in other images:

        (1)  Z = lambda R + (1 - lambda) eps,    eps ~ N(mu, sigma^2)
        (2)  P(Z | R) = N(lambda R + (1 - lambda) mu, (1 - lambda)^2 sigma^2),    Q(Z) = N(mu, sigma^2)

    The KL of two Gaussians N(m, s^2) and N(mu, sigma^2) is

        (3)  log(sigma / s) + (s^2 + (m - mu)^2) / (2 sigma^2) - 1/2

    Of (2), s / sigma = 1 - lambda and m - mu = lambda (R - mu). With the noise's share n = 1 - lambda and the score
    r = (R - mu) / sigma, (3) becomes

        (4)  KL = -log n + (n^2 + (1 - n)^2 r^2 - 1) / 2

    0 where all is noise (n = 1), infinite where none is (n = 0). Its mean over images bounds the mutual information I(R; Z) from
    above, since Q(Z) is not the true distribution of Z.

    Args:
        noise_share: n in [0, 1], of any shape. It is taken instead of lambda for the precision it has near 0.
        scores: r, of a shape that broadcasts.

    Returns:
        (...) float at least 0.
    """
    # the smallest number keeps the logarithm finite where a sigmoid underflowed
    log_share = noise_share.clamp_min(torch.finfo(noise_share.dtype).tiny).log()
    kl = -log_share + 0.5 * (noise_share.square() + (1 - noise_share).square() * scores.square() - 1)
    return kl.clamp_min(0)  # rounding


class BottleneckAttribution:
    """How many bits of each position of a layer the class needs, found for each image by gradient descent.

        minimise  cross_entropy(target, logits(Z)) + beta * mean over the layer's features of (4)
        over alpha (C, h, w) with lambda = blur(sigmoid(alpha)),    Z as in (1), averaged over draws of eps; see `restriction_kl`

    Call `estimate` once, which measures mu and sigma, then `attribute`. Only what passes through the layer is restricted: inside a
    residual block, the class can be told from what goes around it, and the map is empty. `aib.interpret.choice.bottleneck_layer`
    finds a layer that nothing goes around.

    The noise is drawn from ``seed`` on the CPU, the same for every image: an image's map depends neither on the images beside it
    nor on its place among them, up to the rounding of convolutions over batches of other sizes.

    Args:
        model: images to logits (N, classes).
        layer: a submodule of ``model`` with output (N, C, h, w) that is called once a pass, or its name.
        beta: weight of the information, in nats a feature. The paper's beta = 10 / k weights the *sum* over the k = C h w features;
            this is its 10, for their mean. Larger means fewer bits.
        iterations: steps of Adam.
        samples: draws of the noise a step and image; ``samples`` copies of an image go through the network.
        learning_rate: of Adam.
        start: first value of alpha; sigmoid(5) = 0.993 lets nearly everything through.
        blur: standard deviation in positions of the Gaussian that smooths lambda within each channel; 0 for none. The border is
            replicated.
        seed: of the noise.
        batch_size: images optimised at once; it changes memory only.

    Raises:
        ValueError: the model has no such layer (near names are given), or a number is out of its range; `attribute` raises it
            before `estimate`, for images of a size with another output, a layer that does not run once a pass, that the logits do
            not depend on or that has no output (N, C, h, w), and for a target that is no class.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: nn.Module | str,
        *,
        beta: float = 10.0,
        iterations: int = 10,
        samples: int = 10,
        learning_rate: float = 1.0,
        start: float = 5.0,
        blur: float = 1.0,
        seed: int = 0,
        batch_size: int = 16,
    ) -> None:
        for name, number, least in (("iterations", iterations, 1), ("samples", samples, 1), ("batch_size", batch_size, 1)):
            if number < least:
                raise ValueError(f"{name} is {number}; it must be at least {least}")
        if not (learning_rate > 0 and math.isfinite(learning_rate)):
            raise ValueError(f"learning_rate is {learning_rate}; it must be a positive number")
        for name, value in (("beta", beta), ("blur", blur)):
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name} is {value}; it must be a number from 0 on")
        self.model = model
        self.name, self.layer = find_layer(model, layer)
        self.beta, self.learning_rate, self.start, self.blur = beta, learning_rate, start, blur
        self.iterations, self.samples, self.batch_size = iterations, samples, batch_size
        self.seed = seed
        self.mean: Tensor | None = None
        self.std: Tensor | None = None

    def estimate(self, images: Tensor | Iterable[Tensor]) -> BottleneckAttribution:
        """Measure mu and sigma of every feature (C, h, w) over images; replaces what was measured before.

        Args:
            images: normalised, one tensor (N, C, H, W) or batches of them, at least 2 images in all. The more the better: a few
                hundred of the training set.

        Returns:
            The explainer itself.

        Raises:
            ValueError: fewer than 2 images, batches of different sizes of image, or a layer whose output never changes.
        """
        # a caller's inference_mode would leave statistics that no gradient may meet
        with torch.inference_mode(False), torch.no_grad(), evaluating(self.model):
            count, mean, squares = self._moments([images] if isinstance(images, Tensor) else images)
            if count < 2:
                raise ValueError(f"{count} images; the statistics of layer {self.name!r} need at least 2")
            variance = squares / (count - 1)
            typical = float(variance.mean().sqrt())
            if not typical > 0:
                raise ValueError(f"layer {self.name!r} gives the same output for all {count} images; there is nothing to restrict")
            self.mean = mean.float()
            self.std = variance.sqrt().clamp_min(STD_FLOOR_SHARE * typical).float()
        return self

    def attribute(self, images: Tensor, target: Target = None) -> Tensor:
        """Maps (N, 1, h, w) float32 >= 0 at the layer's resolution, in bits a position: (4) summed over the channels.

        Of ``target`` or the class predicted without noise.
        """
        if self.mean is None or self.std is None:
            raise ValueError(f"layer {self.name!r} has no statistics yet; call estimate with images first")
        _checked(images)
        # a caller's inference_mode must not reach the gradient of alpha
        with torch.inference_mode(False), torch.no_grad(), evaluating(self.model):
            blocks = images.detach().clone().split(self.batch_size)
            classes = target_classes(target, torch.cat([self._features(block)[1] for block in blocks]))
            chosen = classes.split(self.batch_size)
            parts = [self._restricted(block, own, self.mean, self.std) for block, own in zip(blocks, chosen, strict=True)]
        return torch.cat(parts)

    def _moments(self, batches: Iterable[Tensor]) -> tuple[int, Tensor, Tensor]:
        """Number of images, and mean and summed squared deviation (C, h, w) float64 of every feature."""
        count = 0
        mean = squares = torch.zeros((), dtype=torch.float64)
        for batch in batches:
            for block in _checked(batch).split(self.batch_size * self.samples):
                features, _ = self._features(block)
                if count and features.shape[1:] != mean.shape:
                    raise ValueError(f"{self._outputs(features)}, and {tuple(mean.shape)} for others; give images of one size")
                # Chan's update: no cancellation, and nearly independent of the batches; not every device has float64
                values = features.cpu().double()
                own, total = values.mean(0), count + len(values)
                shift = own - mean
                squares = squares + (values - own).square().sum(0) + shift.square() * (count * len(values) / total)
                mean = mean + shift * (len(values) / total)
                count = total
        return count, mean, squares

    def _restricted(self, images: Tensor, classes: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """Bits (N, 1, h, w) that images of these classes keep after the descent."""
        features, _ = self._features(images)
        if features.shape[1:] != mean.shape:
            raise ValueError(f"{self._outputs(features)}, and {tuple(mean.shape)} for those of estimate; give images of that size")
        mean, std = mean.to(features), std.to(features)
        scores = (features - mean) / std
        generator = torch.Generator().manual_seed(self.seed)
        copies = images.repeat_interleave(self.samples, 0)
        wanted = classes.repeat_interleave(self.samples)
        alpha = torch.full_like(features, self.start).requires_grad_()
        adam = torch.optim.Adam([alpha], lr=self.learning_rate)
        for _ in range(self.iterations):
            noise = torch.randn(self.samples, *mean.shape, generator=generator).to(features.device)
            with torch.enable_grad():
                share = _blurred(torch.sigmoid(-alpha), self.blur)
                # (1) in units of sigma, for every image (N, 1, ...) and draw (samples, ...)
                drawn = (1 - share)[:, None] * scores[:, None] + share[:, None] * noise
                logits, reached = self._run(copies, mean + std * drawn.flatten(0, 1))
                # the images do not depend on each other, so the sum gives each the gradient of its own loss
                loss = F.cross_entropy(logits.float(), wanted, reduction="sum") / self.samples
                loss = loss + self.beta * restriction_kl(share, scores).mean((1, 2, 3)).sum()
                # not backward(), which would add to the gradients of the weights
                (alpha.grad,) = torch.autograd.grad(loss, alpha)
            if not reached:
                raise ValueError(f"the logits do not depend on layer {self.name!r}; conv_layers lists layers to explain")
            adam.step()
        nats = restriction_kl(_blurred(torch.sigmoid(-alpha), self.blur), scores)
        return nats.detach().sum(1, keepdim=True) / math.log(2.0)

    def _run(self, images: Tensor, restricted: Tensor) -> tuple[Tensor, list[bool]]:
        """Logits with ``restricted`` in place of the layer's output, and a list that is not empty once a gradient came back."""
        reached: list[bool] = []
        restricted.register_hook(lambda gradient: reached.append(True))

        def replace(output: Tensor) -> Tensor:
            # what precedes the layer needs no gradient; leaving the block below turns the caller's mode on again
            torch.set_grad_enabled(True)
            return restricted.to(output.dtype)

        with torch.no_grad():
            logits = self._pass(images, replace)
        return logits, reached

    def _features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, h, w) float32 output of the layer, and logits (N, classes)."""
        kept: list[Tensor] = []
        # a copy: a layer that follows may work in place
        logits = self._pass(images, lambda output: kept.append(output.detach().float().clone()))
        return kept[0], logits

    def _pass(self, images: Tensor, change: Callable[[Tensor], Tensor | None]) -> Tensor:
        """Logits, with ``change`` of the layer's output in its place where it gives any."""
        calls = 0

        def hook(module: nn.Module, inputs: object, output: object) -> Tensor | None:
            nonlocal calls
            calls += 1
            if not isinstance(output, Tensor) or output.ndim != 4:
                shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                raise ValueError(f"layer {self.name!r} gives an output of shape {shape}; the bottleneck needs (N, C, h, w)")
            if calls > 1:
                raise ValueError(f"layer {self.name!r} runs more than once a pass; the bottleneck needs one that runs once")
            return change(output)

        with self.layer.register_forward_hook(hook):
            logits = self.model(images)
        if not calls:
            raise ValueError(f"the logits do not depend on layer {self.name!r}; conv_layers lists layers to explain")
        return logits

    def _outputs(self, features: Tensor) -> str:
        return f"layer {self.name!r} gives {tuple(features.shape[1:])} for these images"


def _blurred(values: Tensor, sigma: float) -> Tensor:
    """(N, C, h, w) smoothed by a Gaussian cut at 3 ``sigma``, within each channel; the border is replicated."""
    if not sigma:
        return values
    radius = math.ceil(3 * sigma)
    places = torch.arange(-radius, radius + 1, device=values.device, dtype=values.dtype)
    kernel = torch.exp(-places.square() / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    planes = F.pad(values.flatten(0, 1)[:, None], (radius, radius, radius, radius), mode="replicate")
    planes = F.conv2d(F.conv2d(planes, kernel[None, None, :, None]), kernel[None, None, None, :])
    return planes.reshape(values.shape)


def _checked(images: Tensor) -> Tensor:
    if images.ndim != 4 or not images.numel():
        raise ValueError(f"images have shape {tuple(images.shape)}; expected (N, C, H, W) with N >= 1")
    return images

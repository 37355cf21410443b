"""A batch cut into shares of the processes and parts of the steps, so that how it is cut does not change what is learnt.

Augmentation and noise are drawn for the whole batch, and each share takes its own; losses are weighted by images. What remains are
BatchNorm, which normalises each part by its own statistics, and dropout, which each process draws by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from aib.anchors import AnchorUsage, anchor_usage
from aib.classifier import AttentiveClassifier, Classifier, Noise
from aib.data.bundle import Split
from aib.train.predict import Predictions

__all__ = ["Sharing"]


class Sharing:
    """Which images of every batch this process takes, and in which parts.

    Args:
        size, rank: of the processes, and of this one among them.
        accumulate: parts that each takes its share in.
        batch: images of a batch.
        model: on its device.
        image_shape: (C, H, W) of the images it sees.

    Attributes:
        among: the batch's size and this process's images in it, for the augmentation.
        cut: whether the batch is taken in one piece no more.

    Raises:
        ValueError: a part would be without an image.
    """

    def __init__(
        self, size: int, rank: int, accumulate: int, batch: int, model: Classifier, image_shape: tuple[int, int, int]
    ) -> None:
        if batch < size * accumulate:
            raise ValueError(
                f"a batch has {batch} images for {size} x {accumulate} parts (processes x accumulate); each needs an image: "
                "choose fewer, or a larger batch_size"
            )
        self.size, self.rank, self.accumulate, self.batch = size, rank, accumulate, batch
        self.share = slice(rank, None, size)
        self.among = batch, self.share
        self.cut = size > 1 or accumulate > 1
        self.device = next(model.parameters()).device
        self.shapes = _noise_shapes(model, image_shape, self.device) if self.cut else None

    def noise(self) -> Noise | None:
        """The noise of this process's images in a step: what the model itself would draw for them in the whole batch.

        None where the batch is whole and the model draws it, or where the model draws nothing.
        """
        if self.shapes is None:
            return None
        attention, latent = self.shapes
        maps = torch.empty(1, 0)
        if attention is not None:
            maps = torch.randn((1, self.batch, *attention), device=self.device)[:, self.share]
        return Noise(maps, torch.randn((1, 1, self.batch, *latent), device=self.device)[:, :, self.share])

    def passes(self) -> dict[int, Noise | None]:
        """The kinds of pass that a step makes in this process: numbers of images, each with noise such as is given then."""
        noise, count = self.noise(), len(range(self.batch)[self.share])
        return {cut.stop - cut.start: None if noise is None else noise.of(cut) for cut, _ in self.parts(count)}

    def parts(self, count: int) -> list[tuple[slice, float]]:
        """The parts of a share of ``count`` images, which differ by one image at most, each with its weight in the loss.

        The loss is the mean over the images of the whole batch: gradients of parts add up, those of processes are averaged.
        """
        ends = [count * part // self.accumulate for part in range(self.accumulate + 1)]
        return [(slice(low, high), (high - low) * self.size / self.batch) for low, high in itertools.pairwise(ends)]

    def of_validation(self, split: Split) -> Split:
        """This process's share of the validation images, or all of them where they are too few to share."""
        return split.select(torch.arange(len(split))[self.share]) if 1 < self.size <= len(split) else split

    def gathered(self, found: Predictions, labels: Tensor, model: Classifier, add: Callable[[Tensor], Tensor]) -> Predictions:
        """The predictions for all validation images, from those of this process; all processes get the same.

        Args:
            found: for the images of `of_validation`, without their maps.
            labels: (N,) of all images.
            model: what made the predictions.
            add: gives the sum of a tensor over the processes, on the device of the model.
        """
        if len(found.labels) == len(labels):
            return found

        def whole(values: Tensor) -> Tensor:
            filled = torch.zeros(len(labels), *values.shape[1:], dtype=values.dtype, device=self.device)
            filled[self.share] = values.to(self.device)  # the others add zeros, so that no bit changes
            return add(filled).cpu()

        mean = deviation = None
        if found.map_mean is not None and found.map_std is not None:
            kind = torch.float32 if self.device.type == "mps" else torch.float64  # MPS has no float64
            moments = torch.tensor([found.map_mean, found.map_std**2 + found.map_mean**2], dtype=kind, device=self.device)
            mean, square = add(moments * (len(found.labels) / len(labels))).tolist()
            deviation = max(0.0, square - mean**2) ** 0.5
        usage: AnchorUsage | None = None
        if found.usage is not None and isinstance(model, AttentiveClassifier) and model.quantizer is not None:
            usage = anchor_usage(add(found.usage.counts.to(self.device)), model.quantizer.anchors.cpu())
        return Predictions(
            logits=whole(found.logits),
            labels=labels.clone(),
            rate=None if found.rate is None else whole(found.rate),
            map_mean=mean,
            map_std=deviation,
            usage=usage,
        )


def _noise_shapes(
    model: Classifier, image_shape: tuple[int, int, int], device: torch.device
) -> tuple[tuple[int, ...] | None, tuple[int, ...]] | None:
    """Shapes of one image's noise in training, found by a pass in eval mode: (1, H, W) of the map or None, and (K,) of the latent.

    None for a model that draws nothing.
    """
    training = model.training
    model.eval()
    with torch.no_grad():
        details = model.forward_details(torch.zeros(1, *image_shape, device=device))
    model.train(training)
    if details.latent_mean is None:
        return None
    drawn = details.attention_mean if details.attention_std is not None else None
    return None if drawn is None else tuple(drawn.shape[1:]), tuple(details.latent_mean.shape[1:])

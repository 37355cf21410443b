"""Forward passes over a whole split, without gradients and without touching the training's random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from aib.anchors import AnchorUsage, anchor_usage
from aib.classifier import AttentiveClassifier, Classifier
from aib.data.augment import normalize
from aib.data.bundle import Split, batch_indices
from aib.functional import nats_to_bits

__all__ = ["Predictions", "predict", "summarize"]


@dataclass(frozen=True)
class Predictions:
    """What a model says of every image of a split, in the split's order, on the CPU.

    Attributes:
        logits: (N, classes) float32.
        labels: (N,) int64.
        rate: (N,) nats; None for a model without a latent.
        maps: (N, 1, h, w) float32, the map that modulated the features; None for a plain model or where not asked for.
        map_mean, map_std: over all positions of all maps; None for a plain model.
        usage: of the anchors; None without anchors.
    """

    logits: Tensor
    labels: Tensor
    rate: Tensor | None = None
    maps: Tensor | None = None
    map_mean: float | None = None
    map_std: float | None = None
    usage: AnchorUsage | None = None

    @property
    def errors(self) -> Tensor:
        """(N,) bool, True where the prediction is wrong."""
        return self.logits.argmax(1) != self.labels


def predict(
    model: Classifier,
    split: Split,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 250,
    samples: tuple[int, int] | None = None,
    generator: torch.Generator | None = None,
    mirror: bool = False,
    keep_maps: bool = False,
) -> Predictions:
    """Run ``model`` in eval mode over ``split``; its training flag comes back as it was.

    Args:
        model: on ``device``.
        split: uint8 images.
        mean, std: normalisation the model was trained with.
        samples: draws of attention and latent; None is the deterministic mean path.
        generator: source of the draws' noise.
        mirror: logits are the mean of those of the image and of its mirror image; all else is of the image.
        keep_maps: return every map (memory: N times the map's size).
    """
    was_training = model.training
    model.eval()
    logits, rates, maps = [], [], []
    counts: Tensor | None = None
    total, total_square, positions = 0.0, 0.0, 0
    try:
        with torch.no_grad():
            for batch in split.batches(batch_indices(torch.arange(len(split)), batch_size)):
                images = normalize(batch.images.to(device, non_blocking=True), mean, std)
                details = model.forward_details(images, samples=samples, generator=generator)
                outputs = details.logits.float()
                if mirror:
                    mirrored = model.forward_details(images.flip(3), samples=samples, generator=generator)
                    outputs = (outputs + mirrored.logits.float()) / 2
                logits.append(outputs.cpu())
                if details.rate is not None:
                    rates.append(details.rate.float().cpu())
                if (used := details.map) is not None:
                    used = used.float().cpu()  # sums in float64, which MPS does not have
                    total += used.sum().item()
                    total_square += used.double().square().sum().item()
                    positions += used.numel()
                    if keep_maps:
                        maps.append(used)
                if details.indices is not None and isinstance(model, AttentiveClassifier) and model.quantizer is not None:
                    found = details.indices.flatten().bincount(minlength=model.quantizer.num_anchors).cpu()
                    counts = found if counts is None else counts + found
    finally:
        model.train(was_training)
    usage = None
    if counts is not None and isinstance(model, AttentiveClassifier) and model.quantizer is not None:
        usage = anchor_usage(counts, model.quantizer.anchors.cpu())
    map_mean = total / positions if positions else None
    return Predictions(
        logits=torch.cat(logits),
        labels=split.labels.clone(),
        rate=torch.cat(rates) if rates else None,
        maps=torch.cat(maps) if maps else None,
        map_mean=map_mean,
        map_std=max(0.0, total_square / positions - map_mean**2) ** 0.5 if map_mean is not None else None,
        usage=usage,
    )


def summarize(predictions: Predictions) -> dict[str, float]:
    """The numbers of one epoch's validation: ``error`` (a fraction), ``cross_entropy`` (nats) and, where they apply, ``rate_bits``,
    ``map_mean``, ``map_std``, ``anchors_used`` and ``anchor_perplexity``."""
    found: dict[str, float] = {
        "error": predictions.errors.double().mean().item(),
        "cross_entropy": F.cross_entropy(predictions.logits, predictions.labels).item(),
    }
    if predictions.rate is not None:
        found["rate_bits"] = nats_to_bits(predictions.rate.double().mean().item())
    if predictions.map_mean is not None and predictions.map_std is not None:
        found |= {"map_mean": predictions.map_mean, "map_std": predictions.map_std}
    if predictions.usage is not None:
        found |= {"anchors_used": predictions.usage.used, "anchor_perplexity": predictions.usage.perplexity}
    return found

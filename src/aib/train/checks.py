"""What must hold of data, model and weights together; each check refuses in one line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from aib.backbones import one_line
from aib.classifier import AttentiveClassifier, Classifier
from aib.data.augment import normalize
from aib.data.bundle import DataBundle
from aib.data.texts import typed_path
from aib.train.config import DataConfig, TrainConfig

__all__ = [
    "check_apart", "check_augmentation", "check_channels", "check_first_pass", "check_validation", "collapse_warnings",
    "finite_weights",
]  # fmt: skip


def check_first_pass(model: Classifier, bundle: DataBundle) -> None:
    """Run the network on a few training images, in eval mode, before anything is written.

    More anchors than distinct scores cannot all be used: that is refused here rather than warned of for hours.

    Raises:
        ValueError: the images are too small for the network, or it has more anchors than they give scores.
    """
    first = next(iter(bundle.train.batches([torch.arange(min(16, len(bundle.train)))])))
    images = normalize(first.images.cpu(), bundle.mean, bundle.std)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            details = model.forward_details(images)
    except RuntimeError as error:
        size = "x".join(map(str, images.shape[1:]))
        raise ValueError(
            f"the network cannot take images of {size} ({one_line(error)}); try a larger --image-size or another network"
        ) from error
    finally:
        model.train(training)
    scores = details.attention_mean
    if scores is None or not isinstance(model, AttentiveClassifier) or model.quantizer is None:
        return
    if (distinct := scores.unique().numel()) < model.quantizer.num_anchors:
        raise ValueError(
            f"anchors is {model.quantizer.num_anchors}, but {len(images)} images give only {distinct} distinct attention scores "
            f"(maps of {scores.shape[2]}x{scores.shape[3]}); choose at most {distinct}, or a site of higher resolution"
        )


def check_channels(mean: Sequence[float], std: Sequence[float], bundle: DataBundle) -> None:
    """Refuse a normalisation for images of another number of channels.

    Raises:
        ValueError: ``mean`` or ``std`` has not one value a channel.
    """
    if not len(mean) == len(std) == bundle.channels:
        raise ValueError(
            f"mean has {len(mean)} values and std {len(std)}; {bundle.name} has images of {bundle.channels} channels: "
            "give as many of each"
        )


def check_augmentation(config: DataConfig, bundle: DataBundle) -> None:
    """Refuse a padding that images of this size cannot reflect, and turns of mirror images that are not to be.

    Raises:
        ValueError: ``crop_padding`` is not smaller than the images' shorter side, or ``alternate_flip`` is on without mirroring.
    """
    height, width = bundle.image_size
    if config.crop_padding >= (side := min(height, width)):
        raise ValueError(f"crop_padding is {config.crop_padding}; it must be between 0 and {side - 1} for {height}x{width} images")
    if config.alternate_flip and not (bundle.mirror if config.flip is None else config.flip):
        raise ValueError(
            f"alternate_flip is on, but mirror images of {bundle.name} do not show the same class; leave it out or add --flip True"
        )


def check_validation(config: TrainConfig, bundle: DataBundle) -> None:
    """Refuse what needs validation images where there are none.

    Raises:
        ValueError: ``revive_anchors`` is on without a validation split.
    """
    if config.optim.revive_anchors and not len(bundle.val):
        raise ValueError(
            "revive_anchors is on, but there are no validation images to see which anchors are used; leave it out or hold some "
            "out with --val-fraction 0.1"
        )


def check_apart(folder: Path, data: str) -> None:
    """Refuse a run folder among the images: the next training would take it for a class.

    Raises:
        ValueError: ``folder`` lies inside the folder ``data``.
    """
    images = typed_path(data)
    if images.is_dir() and images.resolve() in [folder.resolve(), *folder.resolve().parents]:
        raise ValueError(f"the run's folder {folder} lies inside the data folder {data}; choose one outside it with --out")


def finite_weights(model: nn.Module) -> bool:
    """Whether every weight and running statistic is a finite number; one transfer from the device."""
    flags = [value.isfinite().all() for value in model.state_dict().values() if value.is_floating_point()]
    return bool(torch.stack(flags).all()) if flags else True


def collapse_warnings(numbers: Mapping[str, float], model: Classifier, *, warm: bool) -> list[str]:
    """Plain words about a collapse, for the log and the report.

    Args:
        numbers: of `aib.train.predict.summarize`; or, where there are no validation images, the means of the epoch, of which the
            rate alone is looked at.
        model: the model it is about.
        warm: whether beta has reached its value: before that a latent says nothing yet.
    """
    found = []
    if warm and numbers.get("rate_bits", math.inf) < 1.0:
        found.append(f"the latent has collapsed: {numbers['rate_bits']:.2f} bits; lower --beta or raise --beta-warmup-epochs")
    if numbers.get("map_std", 1.0) < 1e-3:
        found.append("the attention map is constant over positions and images")
    if isinstance(model, AttentiveClassifier) and model.quantizer is not None:
        total = model.quantizer.num_anchors
        if (used := numbers.get("anchors_used", total)) < total / 2:
            found.append(f"only {used:.0f} of {total} anchors are in use")
    return found

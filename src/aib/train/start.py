"""What a run starts from: its network, and the description that stays beside its weights."""

from __future__ import annotations

from typing import Any

import torch

from aib.classifier import Classifier
from aib.data.augment import normalize
from aib.data.bundle import DataBundle
from aib.models.build import build_model
from aib.train.config import TrainConfig
from aib.train.macs import count_macs

__all__ = ["describe", "start_network"]

CALIBRATION_IMAGES = 2000
"""Training images shown to layers with a data-dependent start."""


def start_network(config: TrainConfig, bundle: DataBundle, *, resumed: bool = False) -> Classifier:
    """The network as it is before its first step, on the CPU; its start is drawn from the run's seed.

    Args:
        config: the whole run.
        bundle: its data.
        resumed: a checkpoint will replace every weight, so nothing is fetched or calibrated.

    Raises:
        ValueError: see `aib.models.build.build_model`.
    """
    torch.manual_seed(config.run.seed)
    # a checkpoint replaces every weight: resuming needs neither the network nor the weight file
    model = build_model(**_options(config, bundle), pretrained=None if resumed else config.model.pretrained)
    if not resumed and model.calibrated():
        first = next(iter(bundle.train.batches([torch.arange(min(CALIBRATION_IMAGES, len(bundle.train)))])))
        model.calibrate(normalize(first.images.cpu(), bundle.mean, bundle.std))
    return model


def describe(config: TrainConfig, bundle: DataBundle, model: Classifier) -> dict[str, Any]:
    """The content of ``model.json``: how to build the network, and all it takes to use it."""
    return {
        "name": config.model.model,
        "data": bundle.name,
        "num_classes": bundle.num_classes,
        "class_names": list(bundle.class_names),
        "mean": list(bundle.mean),
        "std": list(bundle.std),
        "image_size": list(bundle.image_size),
        "channels": bundle.channels,
        "site": config.model.attend,
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "macs": count_macs(model, (bundle.channels, *bundle.image_size)),
        "options": {**{k: v for k, v in _options(config, bundle).items() if v is not None}, "pretrained": None},
    }


def _options(config: TrainConfig, bundle: DataBundle) -> dict[str, Any]:
    chosen = config.model
    return {
        "name": chosen.model,
        "num_classes": bundle.num_classes,
        "in_channels": bundle.channels,
        "image_size": bundle.image_size,
        "attend": chosen.attend,
        "anchors": chosen.anchors,
        "latent_dim": chosen.latent_dim,
        "modulation": chosen.modulation,
        "min_std": chosen.min_std,
        "width": chosen.width,
    }

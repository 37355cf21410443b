"""Options that a network has no use for. They are named, not refused: a sweep gives the same ones to networks of all kinds."""

from __future__ import annotations

import functools
from collections.abc import Collection

import torch

from aib.classifier import AttentiveClassifier
from aib.models import create_model, model_names
from aib.models.registry import takes
from aib.train.config import TrainConfig

__all__ = ["unused_options"]

NEEDS = {
    "latent": ("beta", "kl"),
    "anchors": ("lambda_anchor", "lambda_commitment", "anchor_lr_scale", "revive_anchors"),
    "attention scores": ("lambda_sparsity",),
}
"""Options of the training by what the network must have for them."""


def unused_options(config: TrainConfig, given: Collection[str]) -> list[str]:
    """Lines that name the options among ``given`` (fields of `aib.train.config.OptimConfig`) that change nothing."""
    model, has = config.model, _parts(config)
    found = []
    for part, names in NEEDS.items():
        if part not in has and (unused := [f"--{name.replace('_', '-')}" for name in names if name in given]):
            verb = "changes" if len(unused) == 1 else "change"
            found.append(f"{' and '.join(unused)} {verb} nothing: {model.model} as given has no {part}")
    return found


def _parts(config: TrainConfig) -> set[str]:
    """Those of `NEEDS` that the network has."""
    model = config.model
    if model.model not in model_names():
        plain = model.attend is None
        return set() if plain else {"latent", "attention scores", *(["anchors"] if model.anchors is not None else [])}
    parts = {"latent"} if takes(model.model, "latent_dim") else set()
    if takes(model.model, "anchors"):
        parts.add("attention scores")
        if model.anchors is not None or _anchored(model.model):
            parts.add("anchors")
    return parts


@functools.cache
def _anchored(name: str) -> bool:
    """Whether a model has anchors unless told otherwise, which its default of None does not say: it may choose their number."""
    with torch.device("meta"):
        network = create_model(name, 10)
    return isinstance(network, AttentiveClassifier) and network.quantizer is not None

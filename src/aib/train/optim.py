"""Parameter groups, and the courses of the learning rate and of beta as functions of the step alone: nothing to save or resume."""

from __future__ import annotations

import math

import torch
from torch import nn

from aib.anchors import AnchorQuantizer
from aib.train.config import OptimConfig

__all__ = ["build_optimizer", "lr_factor", "parameter_groups", "warmed_share"]

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
"""Normalisation layers, whose biases may learn faster (Jordan 2024)."""


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, object]]:
    """All parameters with weight decay, as published, but for the anchors, which have none.

    Each trainable parameter is in exactly one group; anchors, and where asked for the biases of normalisation layers, have their
    own learning rate. Those biases decay as the others do in spite of it: their weight decay is smaller by the same factor (Adam,
    whose steps do not grow with the gradient, decays nothing in proportion).

    Raises:
        ValueError: the model has no trainable parameter.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # by module, not by name: a wrapper changes names, and somebody's own parameter may be called anchors
    known = {id(module.anchors) for module in model.modules() if isinstance(module, AnchorQuantizer)}
    scale = config.norm_bias_lr_scale
    shifts = {id(module.bias) for module in model.modules() if isinstance(module, NORMS)} if scale != 1 else set()
    anchors = [parameter for parameter in trained if id(parameter) in known]
    biases = [parameter for parameter in trained if id(parameter) in shifts]
    others = [parameter for parameter in trained if id(parameter) not in known | shifts]
    if not others:
        raise ValueError("the model has no trainable parameter")
    groups: list[dict[str, object]] = [{"params": others, "weight_decay": config.weight_decay, "base_lr": config.lr}]
    if biases:
        groups.append({"params": biases, "weight_decay": config.weight_decay / scale, "base_lr": config.lr * scale})
    if anchors:
        groups.append({"params": anchors, "weight_decay": 0.0, "base_lr": config.lr * config.anchor_lr_scale})
    return groups


def build_optimizer(model: nn.Module, config: OptimConfig, device: torch.device) -> torch.optim.Optimizer:
    """The optimiser of ``config``, in its fused form where the device has one."""
    groups = parameter_groups(model, config)
    fused = device.type in ("cpu", "cuda")
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov and config.momentum > 0, fused=fused
        )
    adam = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return adam(groups, lr=config.lr, betas=(config.momentum, 0.999), fused=fused)


def lr_factor(step: int, steps_per_epoch: int, config: OptimConfig) -> float:
    """Learning rate of a step as a share of ``config.lr``.

    Args:
        step: optimiser steps taken so far, from 0.
        steps_per_epoch: steps of an epoch.
    """
    if step < len(config.warmup_shares) * steps_per_epoch:
        return config.warmup_shares[step // steps_per_epoch]
    total = config.epochs * steps_per_epoch
    warmup = config.warmup_epochs * steps_per_epoch
    if config.schedule == "one_cycle":
        peak = warmup or total / 4
        return (step + 1) / (peak + 1) if step < peak else max(0.0, (total - step) / max(1.0, total - peak))
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "step":
        return config.step_factor ** sum(step >= epoch * steps_per_epoch for epoch in config.step_epochs)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1.0, total - warmup)))


def warmed_share(step: int, steps_per_epoch: int, config: OptimConfig) -> float:
    """Share of beta and of lambda_sparsity that counts at a step: rises linearly from 0 to 1 over the warm-up, then stays.

    Both press on the network to use less; from the first step on they would close it before it has learned anything.
    """
    warmup = config.beta_warmup_epochs * steps_per_epoch
    return min(1.0, step / warmup) if warmup else 1.0

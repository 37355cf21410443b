"""The training objective, every part named (eq. 8, 10 and 20)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from aib.classifier import Details
from aib.functional import KLKind, gaussian_kl

__all__ = ["BETA", "LAMBDA_COMMITMENT", "LAMBDA_ANCHOR", "LOSS_PARTS", "objective"]

BETA = 0.01
LAMBDA_ANCHOR = 0.4
LAMBDA_COMMITMENT = 0.1

LOSS_PARTS = ("cross_entropy", "branch_loss", "rate_loss", "anchor_loss", "commitment_loss", "sparsity_loss")
"""The terms that add up to ``loss``; a model has those that apply to it."""


def objective(
    details: Details,
    labels: Tensor,
    beta: float = BETA,
    *,
    lambda_anchor: float = LAMBDA_ANCHOR,
    lambda_commitment: float = LAMBDA_COMMITMENT,
    lambda_sparsity: float = 0.0,
    kl: KLKind = "paper",
    label_smoothing: float = 0.0,
) -> dict[str, Tensor]:
    """The loss of a batch and its parts, scalars in nats (the squared terms have no unit).

        loss = cross_entropy                                   E[-log q(y | z)], mean over draws and images
             + branch_loss        cross-entropy of a second classifier inside the model (attention branch networks only)
             + rate_loss          = beta * KL(p(z|x,a) || r(z))         summed over latent dimensions, mean over images
             + anchor_loss        = lambda_anchor * mean (sg[A] - A_q)^2     moves the anchors only
             + commitment_loss    = lambda_commitment * mean (A - sg[A_q])^2  moves the attention only
             + sparsity_loss      = lambda_sparsity * mean mu_A             ours, absent by default: see below

    The published terms leave open which side of a contrast is bright, the object or its surroundings. ``lambda_sparsity`` is the
    negative log-density of an exponential prior on the attention: opening the map costs, so it opens where that pays. It means
    something only where a map cannot shrink unharmed: with ``plain`` modulation and ``SpatialAttention(min_std=...)``.

    Models without a latent or without anchors lack those entries.

    Args:
        details: of a forward pass with ``labels``' images.
        labels: (N,) class indices.
        beta: weight of the rate.
        lambda_sparsity: weight of the mean attention; 0, as published, leaves the term out.
        lambda_anchor, lambda_commitment: lambda_g and lambda_c of eq. 10; the means run over positions, images and draws.
        kl: see `aib.functional.gaussian_kl`.
        label_smoothing: of the cross-entropy, in [0, 1).

    Returns:
        ``"loss"``, its parts (`LOSS_PARTS`) and ``"rate"``, KL(p(z | x, a) || r(z)) of the latent that is sampled, whatever ``kl``.
    """
    draws = details.sample_logits if details.sample_logits is not None else details.logits[None, None]
    count = draws.shape[0] * draws.shape[1]
    targets = labels.repeat(count)
    parts = {"cross_entropy": F.cross_entropy(draws.flatten(0, 2).float(), targets, label_smoothing=label_smoothing)}
    if details.branch_logits is not None:
        parts["branch_loss"] = F.cross_entropy(details.branch_logits.float(), labels, label_smoothing=label_smoothing)
    extra: dict[str, Tensor] = {}
    if details.latent_mean is not None and details.latent_std is not None:
        rate = gaussian_kl(details.latent_mean, details.latent_std, kl).mean()
        parts["rate_loss"] = beta * rate
        # under either divergence the rate that is reported is that of the latent which is sampled
        extra["rate"] = rate if kl == "paper" else gaussian_kl(details.latent_mean, details.latent_std).mean()
    if details.anchor_values is not None and details.attention is not None:
        parts["anchor_loss"] = lambda_anchor * F.mse_loss(details.anchor_values, details.attention.detach())
        parts["commitment_loss"] = lambda_commitment * F.mse_loss(details.attention, details.anchor_values.detach())
    if lambda_sparsity and details.attention_mean is not None:
        parts["sparsity_loss"] = lambda_sparsity * details.attention_mean.mean()
    return {"loss": torch.stack(list(parts.values())).sum(), **parts, **extra}

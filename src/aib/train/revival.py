"""Anchors that no score takes get no gradient and stay unused for ever; this moves them to where the scores are."""

from __future__ import annotations

import torch
from torch import Tensor

from aib.anchors import AnchorQuantizer

__all__ = ["revive_anchors"]


def revive_anchors(quantizer: AnchorQuantizer, counts: Tensor, optimizer: torch.optim.Optimizer) -> list[int]:
    """Move every anchor without a score beside the busiest one, and let the optimiser forget its past.

    A moved anchor lies halfway between the busiest anchor and the nearest other one in use, and takes half of its scores in the
    count, so that several spread over several. Nothing is drawn: the same counts give the same anchors.

    Args:
        quantizer: its anchors are changed in place.
        counts: (Q,) scores that took each anchor.
        optimizer: holds the anchors; entries of its per-anchor state (momentum, moments) go to 0.

    Returns:
        Indices of the moved anchors.
    """
    anchors = quantizer.anchors
    values, weight = anchors.detach().float().cpu().clone(), counts.double().cpu().clone()
    dead = (weight == 0).nonzero().flatten().tolist()
    if not dead or len(dead) == len(values):
        return []
    for index in dead:
        busiest = int(weight.argmax())
        others = (weight > 0).clone()
        others[busiest] = False
        gaps = (values - values[busiest]).abs().where(others, torch.inf)
        nearest = int(gaps.argmin())
        # a single live anchor has no neighbour: half of the even spacing on [0, 1] to its side
        step = (values[nearest] - values[busiest]) / 2 if torch.isfinite(gaps[nearest]) else torch.tensor(0.5 / (len(values) - 1))
        values[index] = values[busiest] + step
        weight[index] = weight[busiest] = weight[busiest] / 2
    with torch.no_grad():
        anchors.copy_(values)
    for state in optimizer.state.get(anchors, {}).values():
        if isinstance(state, Tensor) and state.shape == anchors.shape:
            state[dead] = 0
    return dead

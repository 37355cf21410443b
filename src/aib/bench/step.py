"""Training steps of the paper's networks against the least that their shapes cost.

The floor is the same network's convolutions and linear layers called alone, forward and backward, with the very inputs, gradients
and memory orders of the step. The step is forward pass, objective, backward pass and optimiser, on normalised images.

Targets: the step takes at most 1.10 times its floor on a CPU. Attention, quantiser, modulation (F * (1 + A)) and bottleneck
together take less than 3 % of the step: once as the goal was worded, with the convolutions and linear layers inside them, and once
on their own, without those layers, which are in the floor; what else an attention branch is made of (normalisation, activations)
counts in both.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from aib import classifier
from aib.bench.layers import BareLayers
from aib.bench.memory import peak_bytes
from aib.bench.networks import Training, make_training
from aib.bench.record import Findings, Settings, Target
from aib.bench.timing import device_wait, median_interval, take_turns
from aib.bench.watching import module_seconds, operation_shares
from aib.classifier import AttentiveClassifier
from aib.functional import Modulation, modulate
from aib.interpret.explainers import evaluating

__all__ = ["measure"]

MODELS = ("vgg_aib_qt", "wrn_aib_qt")
FLOOR_TARGET = 1.10
OWN_TARGET = 0.03


def measure(settings: Settings, say: Callable[[str], None]) -> Findings:
    """See the top of the file; a case is a network in a memory order."""
    width = settings.width or (0.1 if settings.quick else 1.0)
    on_cpu = settings.device == "cpu"
    # a full network on a CPU takes seconds for one image in a batch of any size
    batch_size = settings.batch_size or (4 if settings.quick else 128 if width < 0.5 or not on_cpu else 16)
    orders = (False,) if settings.quick else (False, True)
    found = Findings()
    for name, channels_last in itertools.product(MODELS, orders):
        case = {"model": name, "width": width, "batch": batch_size, "order": "channels last" if channels_last else "contiguous"}
        say(", ".join(str(value) for value in case.values()))
        training = make_training(
            name, batch_size, device=settings.device, channels_last=channels_last, seed=settings.seed, width=width
        )
        _measure_case(training, case, settings, found)
    return found


def _measure_case(training: Training, case: dict[str, Any], settings: Settings, found: Findings) -> None:
    wait = device_wait(settings.device)
    floor = BareLayers(training.model, training.backward)
    variants = {"floor": floor.run, "step": training.step}
    timings = take_turns(variants, "floor", **settings.turns())
    peaks = {name: peak_bytes(run, settings.device) for name, run in variants.items()}
    found.rows.append(timings.as_row(case, items=len(training.images), peaks=peaks))
    name = f"{case['model']}, {case['order']}"
    if settings.device == "cpu":
        found.targets.append(Target(f"{name}: step / floor", "<=", FLOOR_TARGET, timings.ratio("step")))
    rounds = _shares(training, settings.repeats, wait)
    shares = {part: median_interval(values) for part, values in rounds.items()}
    for said, part in (("with their convolutions and linear layers", "all"), ("on their own", "own")):
        what = f"{name}: attention, quantiser, modulation and bottleneck, {said}"
        found.targets.append(Target(what, "<", OWN_TARGET, shares[part], "of the step"))
    operations = operation_shares(training.step, wait)
    counted = _attention_operations(training)
    found.notes.append(f"{name}: {counted:.2%} of the operations of a forward pass, by torch's counter, are the attention's")
    found.notes.append(f"{name}: most time in " + ", ".join(f"{op} {share:.0%}" for op, share in list(operations.items())[:6]))
    found.details[name] = {
        "shares": {part: share.as_json() for part, share in shares.items()},
        "share_rounds": {part: [float(f"{value:.6g}") for value in values] for part, values in rounds.items()},
        "attention_share_of_operations": round(counted, 6),
        "operation_shares": {op: round(share, 5) for op, share in operations.items()},
    }


class _Modulation(nn.Module):
    """`aib.functional.modulate` in a module, to be watched like one."""

    def forward(self, features: Tensor, attention: Tensor, kind: Modulation) -> Tensor:
        return modulate(features, attention, kind)


def _shares(training: Training, repeats: int, wait: Callable[[], None]) -> dict[str, list[float]]:
    """Shares of the step, round by round, that the package's modules take: each on its own, and ``own`` and ``all`` of them.

    What else the attention's head is made of stands apart, too: it is in the attention's.
    """
    model = training.model
    assert isinstance(model, AttentiveClassifier)
    assert model.quantizer is not None
    modulation = _Modulation()
    # a head that is itself a convolution has nothing of its own
    parts: dict[str, list[nn.Module]] = {
        "attention": [model.attention], "attention_head": [model.attention.head], "quantizer": [model.quantizer],
        "modulation": [modulation], "bottleneck": [model.bottleneck],
    }  # fmt: skip
    shares: dict[str, list[float]] = {part: [] for part in [*parts, "own", "all"]}
    for turn in range(repeats + 1):
        with mock.patch.object(classifier, "modulate", modulation):
            spent = module_seconds(parts, training.step, wait)
        total = spent.pop("").own
        if turn == 0:  # warm-up
            continue
        together = [seconds for part, seconds in spent.items() if part != "attention_head"]
        shares["own"].append(sum(seconds.own for seconds in together) / total)
        shares["all"].append(sum(seconds.own + seconds.layers for seconds in together) / total)
        for part, seconds in spent.items():
            shares[part].append(seconds.own / total)
    return shares


def _attention_operations(training: Training) -> float:
    """Share of the attention in the operations of a forward pass, as torch counts them."""
    model = training.model
    with torch.no_grad(), evaluating(model), FlopCounterMode(display=False) as counter:
        model(training.images[:1])
    return sum(counter.get_flop_counts()[f"{type(model).__name__}.attention"].values()) / counter.get_total_flops()

"""Training steps of the paper's networks against the least that their shapes cost.

The floor is the same network's convolutions and linear layers called alone, forward and backward, with the very inputs, gradients
and memory orders of the step. The step is forward pass, objective, backward pass and optimiser, on normalised images.

Targets: the step takes at most 1.10 times its floor on a CPU. Attention, quantiser and bottleneck take less than 3 % of the step on
their own, that is without convolutions and linear layers, which are in the floor; what else an attention branch is made of
(normalisation, activations) counts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch

from aib.bench.layers import BareLayers
from aib.bench.memory import peak_bytes
from aib.bench.networks import Training, make_training
from aib.bench.record import Findings, Settings, Target
from aib.bench.timing import Measured, device_wait, median_interval, take_turns
from aib.bench.watching import operation_shares, own_seconds
from aib.classifier import AttentiveClassifier

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
    shares = _own_shares(training, settings.repeats, wait)
    found.targets.append(Target(f"{name}: attention, quantiser and bottleneck", "<", OWN_TARGET, shares["all"], "of the step"))
    operations = operation_shares(training.step, wait)
    found.notes.append(f"{name}: most time in " + ", ".join(f"{op} {share:.0%}" for op, share in list(operations.items())[:6]))
    found.details[name] = {
        "own_shares": {part: share.as_json() for part, share in shares.items()},
        "operation_shares": {op: round(share, 5) for op, share in operations.items()},
    }


def _own_shares(training: Training, repeats: int, wait: Callable[[], None]) -> dict[str, Measured]:
    """Shares of the step that the package's modules take on their own, with what else the attention's head is made of apart."""
    model = training.model
    assert isinstance(model, AttentiveClassifier)
    assert model.quantizer is not None
    attention = model.attention
    # a head that is itself a convolution has nothing of its own
    parts: dict[str, list[torch.nn.Module]] = {
        "attention": [attention], "attention_head": [attention.head],
        "quantizer": [model.quantizer], "bottleneck": [model.bottleneck],
    }  # fmt: skip
    shares: dict[str, list[float]] = {part: [] for part in [*parts, "all"]}
    for turn in range(repeats + 1):
        seconds = own_seconds(parts, training.step, wait)
        total = seconds.pop("")
        if turn == 0:  # warm-up
            continue
        shares["all"].append((seconds["attention"] + seconds["quantizer"] + seconds["bottleneck"]) / total)
        for part, own in seconds.items():
            shares[part].append(own / total)
    return {part: median_interval(values) for part, values in shares.items()}

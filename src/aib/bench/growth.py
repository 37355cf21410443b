"""How the time and memory of a training step, and of a sampled evaluation, grow with their sizes.

One size varies at a time, the others stay; all its values take turns. The exponent p of ``cost = c * size ** p`` is fitted by least
squares of the logarithms of the medians, with the t interval of the slope. Networks are narrow unless --width says otherwise; the
image side is varied on the WRN, which takes any.

No target is set. By the operations alone the exponents would be 1 for the batch, 2 for the side, 2 for the channels (memory 1), 0
for the anchors, and less than 1 for draws.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from aib.bench.fits import exponent
from aib.bench.memory import peak_bytes
from aib.bench.networks import make_training
from aib.bench.record import Findings, Settings
from aib.bench.timing import Measured, take_turns

__all__ = ["measure"]

EXPECTED = {"batch": 1, "side": 2, "width": 2, "anchors": 0, "draws": None}
"""Exponent of the time by the operations alone."""
VALUES: dict[str, tuple[float, ...]] = {
    "batch": (16, 32, 64, 128), "side": (16, 32, 64), "width": (0.125, 0.25, 0.5), "anchors": (4, 20, 100, 500), "draws": (1, 4, 16)
}  # fmt: skip
QUICK: dict[str, tuple[float, ...]] = {
    "batch": (2, 4, 8), "side": (8, 16, 24), "width": (0.1, 0.15, 0.2), "anchors": (4, 40, 400), "draws": (1, 4, 16)
}  # fmt: skip


def measure(settings: Settings, say: Callable[[str], None]) -> Findings:
    """See the top of the file; a case is what varies."""
    found = Findings()
    for what, values in (QUICK if settings.quick else VALUES).items():
        say(f"{what}: {', '.join(f'{value:g}' for value in values)}")
        variants = {f"{what} {value:g}": _cost_of(what, value, settings) for value in values}
        names = list(variants)
        timings = take_turns(variants, names[0], **settings.turns())
        peaks = {name: peak_bytes(run, settings.device) for name, run in variants.items()}
        model = "wrn_aib_qt" if what == "side" else "vgg_aib_qt"
        found.rows.append(timings.as_row({"model": model, "varied": what}, peaks=peaks))
        time = exponent(values, [timings.ratio(name).median for name in names])
        memory = exponent(values, [peaks[name] for name in names])
        found.notes.append(f"{what}: time grows with exponent {_text(time)}, memory with {_text(memory)}")
        found.details[what] = {
            "model": model, "values": list(values), "time_exponent": time.as_json(), "memory_exponent": memory.as_json(),
            "time_by_operations": EXPECTED[what],
        }  # fmt: skip
    return found


def _cost_of(what: str, value: float, settings: Settings) -> Callable[[], object]:
    """A training step without its optimiser, or a sampled evaluation, with one size at ``value``."""
    batch_size, width = (2, 0.1) if settings.quick else (32, 0.125)
    sizes: dict[str, Any] = {
        "batch": settings.batch_size or batch_size, "width": settings.width or width,
        "side": 32, "anchors": 20,
    }  # fmt: skip
    draws = round(value**0.5)
    if what != "draws":
        sizes[what] = value if what == "width" else int(value)
    training = make_training(
        "wrn_aib_qt" if what == "side" else "vgg_aib_qt", sizes["batch"], side=sizes["side"], device=settings.device,
        seed=settings.seed, width=sizes["width"], anchors=sizes["anchors"],
    )  # fmt: skip
    if what != "draws":
        return training.backward
    model = training.model.eval()

    def evaluate() -> object:
        with torch.no_grad():
            return model.forward_details(training.images, samples=(draws, draws)).logits

    return evaluate


def _text(power: Measured) -> str:
    median, low, high = power
    return f"{median:.2f}" + (f" [{low:.2f}, {high:.2f}]" if low == low else "")

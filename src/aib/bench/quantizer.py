"""The anchor quantiser against one that compares every score with every anchor.

Ours sorts the anchors and locates the scores among their midpoints: O(log Q) a score and no table. The reference makes the table of
squared distances (scores x anchors), as quantisers of vectors do, takes the least and looks the value up; its gradients are ours.
vector-quantize-pytorch, where it is installed, is its VectorQuantize of one dimension with a codebook that learns by gradient. All
go forward and backward on maps of scores drawn evenly from [0, 1], which are harder to guess for a processor than real maps.

A single map stands first, where what the calls themselves take is all there is; it has no target.

Targets: at least 2 times as fast as each of the others at Q = 20 and 10 times at Q = 256; memory linear in the positions
(exponent 1) and independent of Q (exponent 0).
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from aib.anchors import AnchorQuantizer
from aib.bench.fits import exponent
from aib.bench.memory import peak_bytes
from aib.bench.record import Findings, Settings, Target
from aib.bench.timing import Timings, exact, take_turns

__all__ = ["TableQuantizer", "measure"]

ANCHORS = (20, 50, 256, 1024)
MAPS = ((128, 16), (32, 56))
"""Maps in a batch and their side: those of images of 32x32, and of 224x224."""
SINGLE = (1, 16)
SPEED_TARGETS = {20: 2.0, 256: 10.0}
MEMORY_TOLERANCE = 0.05
"""How far an exponent may be from a whole number: the anchors themselves take some bytes."""
TABLE, OURS, LIBRARY = "table of distances", "aib.AnchorQuantizer", "vector-quantize-pytorch"


class TableQuantizer(nn.Module):
    """The nearest anchor from a table of the distances of every score to every anchor: the plain way.

    Args:
        num_anchors: Q; they start evenly spaced on [0, 1].
    """

    def __init__(self, num_anchors: int) -> None:
        super().__init__()
        self.anchors = nn.Parameter(torch.linspace(0, 1, num_anchors))

    def forward(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantised scores, anchor values and indices, each of the shape of ``scores``, as `aib.anchors.QuantizedMap`."""
        distances = (scores.detach().reshape(-1, 1) - self.anchors.detach()).square()
        indices = distances.argmin(1).reshape(scores.shape)
        values = self.anchors[indices]
        return scores + (values - scores).detach(), values, indices


def measure(settings: Settings, say: Callable[[str], None]) -> Findings:
    """See the top of the file; a case is a size of maps with a number of anchors."""
    judged = ((8, 8), (8, 16)) if settings.quick else MAPS
    sizes = judged if settings.batch_size else (SINGLE, *judged)
    counts = (20, 256) if settings.quick else ANCHORS
    found = Findings()
    if importlib.util.find_spec("vector_quantize_pytorch") is None:
        found.notes.append("vector-quantize-pytorch is not installed and not compared: pip install -e '.[bench]'")
    peaks: dict[tuple[int, int, int], int] = {}
    for (batch_size, side), anchors in itertools.product(sizes, counts):
        batch = settings.batch_size or batch_size
        judge = (batch_size, side) in judged
        case = {"maps": f"{batch} of {side}x{side}", "anchors": anchors}
        say(", ".join(f"{name} {value}" for name, value in case.items()))
        variants = _variants(batch, side, anchors, settings)
        timings = take_turns(variants, TABLE, **settings.turns())
        held = {name: peak_bytes(run, settings.device) for name, run in variants.items()}
        found.rows.append(timings.as_row(case, items=batch, peaks=held))
        if judge:
            peaks[batch, side, anchors] = held[OURS]
        if judge and anchors in SPEED_TARGETS:
            found.targets += [_speed(timings, name, case, SPEED_TARGETS[anchors]) for name in variants if name != OURS]
    _judge_memory(peaks, found)
    return found


def _variants(batch: int, side: int, anchors: int, settings: Settings) -> dict[str, Callable[[], object]]:
    scores = torch.rand(batch, 1, side, side, generator=torch.Generator().manual_seed(settings.seed)).to(settings.device)
    scores.requires_grad_()
    upstream = torch.ones_like(scores) / scores.numel()

    def ours_or_table(quantizer: AnchorQuantizer | TableQuantizer) -> Callable[[], object]:
        def run() -> object:
            quantized, values, _ = quantizer(scores)
            return torch.autograd.grad([quantized, values], [scores, quantizer.anchors], [upstream, upstream])

        return run

    ours, table = AnchorQuantizer(anchors).to(settings.device), TableQuantizer(anchors).to(settings.device)
    variants = {TABLE: ours_or_table(table), OURS: ours_or_table(ours)}
    if importlib.util.find_spec("vector_quantize_pytorch") is not None:
        variants[LIBRARY] = _library(scores, anchors, upstream)
    return variants


def _library(scores: Tensor, anchors: int, upstream: Tensor) -> Callable[[], object]:
    """One pass of vector-quantize-pytorch, whose gradient to the anchors is that of its commitment loss."""
    made: Any = importlib.import_module("vector_quantize_pytorch").VectorQuantize(
        dim=1, codebook_size=anchors, learnable_codebook=True, ema_update=False
    )
    quantizer = made.to(scores.device).train()
    codes = [parameter for parameter in quantizer.parameters() if parameter.requires_grad]
    one = torch.ones((), device=scores.device)
    flat = upstream.reshape(len(scores), -1, 1)

    def run() -> object:
        quantized, _, loss = quantizer(scores.reshape(len(scores), -1, 1))
        return torch.autograd.grad([quantized, loss.sum()], [scores, *codes], [flat, one])

    return run


def _speed(timings: Timings, other: str, case: dict[str, Any], limit: float) -> Target:
    return Target(f"{case['maps']}, {case['anchors']} anchors: {other} / ours", ">=", limit, timings.ratio(other, OURS))


def _judge_memory(peaks: dict[tuple[int, int, int], int], found: Findings) -> None:
    """Exponents of our memory in the positions, at the most anchors, and in the anchors, on the largest maps."""
    positions = {(batch, side): batch * side * side for batch, side, _ in peaks}
    most, largest = max(anchors for *_, anchors in peaks), max(positions, key=positions.__getitem__)
    by_anchors = {anchors: held for (*size, anchors), held in peaks.items() if tuple(size) == largest}
    by_positions = {positions[batch, side]: held for (batch, side, anchors), held in peaks.items() if anchors == most}
    found.details["peak_bytes_by_anchors"] = {str(key): value for key, value in by_anchors.items()}
    found.details["peak_bytes_by_positions"] = {str(key): value for key, value in by_positions.items()}
    for name, held, wanted in (("positions", by_positions, 1.0), ("anchors", by_anchors, 0.0)):
        power = exponent(list(held), list(held.values())).median
        # the bytes are the same every time: there is no interval to speak of
        away = exact(round(abs(power - wanted), 6))
        found.targets.append(Target(f"memory: its exponent in the {name}, away from {wanted:g}", "<=", MEMORY_TOLERANCE, away))

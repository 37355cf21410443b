"""What the consistency score costs beyond the forward passes it needs.

Bare is ``forward_details`` on ready-made normalised images, in chunks of the same sizes; scored is everything from uint8 images to
the summaries of four sizes of coloured windows, four of patches of another set, low and high frequencies, with the model's own map
as the only source. Images are noise.

Target: at most 1.15 times the bare passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from aib.bench.networks import CLASSES
from aib.bench.record import Findings, Settings, Target
from aib.bench.timing import take_turns
from aib.classifier import Classifier
from aib.data.bundle import TensorSplit
from aib.interpret.consistency import BLOCK, CPU_BATCH, OWN_MAP, measure_consistency
from aib.interpret.explainers import evaluating
from aib.interpret.named_edits import frequency_edits, window_edits
from aib.models import create_model

__all__ = ["measure"]

MODELS: dict[str, dict[str, Any]] = {"vgg_aib_qt": {"width": 0.125}, "fast_aib_qt": {}}
SCORE_TARGET = 1.15
STATISTICS = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
BARE, SCORED = "bare forward passes", "scored"


def measure(settings: Settings, say: Callable[[str], None]) -> Findings:
    """See the top of the file; a case is a network."""
    count = 16 if settings.quick else 160
    batch_size = settings.batch_size or (CPU_BATCH if settings.device == "cpu" else 1024)
    found = Findings()
    for name, options in list(MODELS.items())[: 1 if settings.quick else None]:
        if settings.width is not None and "width" in options:
            options = {"width": settings.width}
        case = {"model": name, **options, "images": count, "batch": batch_size}
        say(", ".join(map(str, case.values())))
        model = create_model(name, CLASSES, **options).to(settings.device)
        variants, passes = _variants(model, count, batch_size, settings)
        timings = take_turns(variants, BARE, **settings.turns())
        found.rows.append(timings.as_row(case, items=passes))
        found.targets.append(Target(f"{name}: scored / bare", "<=", SCORE_TARGET, timings.ratio(SCORED)))
    return found


def _variants(model: Classifier, count: int, batch_size: int, settings: Settings) -> tuple[dict[str, Callable[[], object]], int]:
    """Both variants and the forward passes in each, for ``count`` images of 32x32."""
    generator = torch.Generator().manual_seed(settings.seed)
    pixels, others = (torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator) for n in (count, 1000))
    split = TensorSplit(pixels, torch.zeros(count, dtype=torch.int64))
    edits = window_edits(others={"other": others}) + frequency_edits()
    block = BLOCK * (1 + len(edits))
    group, total = max(1, batch_size // block) * block, count * (1 + len(edits))
    inputs = torch.randn(group, 3, 32, 32, generator=generator).to(settings.device)

    def bare() -> None:
        with torch.no_grad(), evaluating(model):
            for start in range(0, total, group):
                for some in inputs[: min(group, total - start)].split(batch_size):
                    model.forward_details(some)

    def scored() -> None:
        result = measure_consistency(model, split, *STATISTICS, edits, batch_size=batch_size)
        for edit in edits:
            result.summary(OWN_MAP, edit)

    return {BARE: bare, SCORED: scored}, total

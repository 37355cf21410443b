"""What the consistency score costs beyond the forward passes it needs.

Bare is ``forward_details`` on ready-made normalised images, in chunks of the same sizes; scored is what `aib score` computes of all
images: everything from uint8 images to summaries and comparisons under four sizes of coloured windows, four of patches of another
set, low and high frequencies, of the model's own map beside the four controls that know nothing of it. Networks are untrained and
images noise; with a run it is the run's network on all of its test images.

Target: at most 1.15 times the bare passes, on a CPU in the processor's time: the bare passes are a part of what is scored, so a
ratio below 1 on the clock is other work that fell on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aib.bench.networks import CLASSES
from aib.bench.record import Findings, Settings, Target
from aib.bench.timing import take_turns
from aib.classifier import Classifier
from aib.data.bundle import TensorSplit, batch_indices
from aib.interpret.consistency import BLOCK, CPU_BATCH, OWN_MAP, measure_consistency
from aib.interpret.explainers import AttentionMap, evaluating
from aib.interpret.map_sources import control_sources
from aib.interpret.named_edits import frequency_edits, window_edits
from aib.models import create_model
from aib.train.run_data import open_run_data
from aib.train.weights import load_run

__all__ = ["measure"]

MODELS: dict[str, dict[str, Any]] = {"vgg_aib_qt": {"width": 0.125}, "fast_aib_qt": {}}
SCORE_TARGET = 1.15
IMAGES, QUICK_IMAGES = 160, 16
Statistics = tuple[Sequence[float], Sequence[float]]
Case = tuple[dict[str, Any], Classifier, Tensor, Statistics]
"""What is measured in words, the network, uint8 images and their normalisation."""
STATISTICS = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
BARE, SCORED = "bare forward passes", "scored beside controls"


def measure(settings: Settings, say: Callable[[str], None]) -> Findings:
    """See the top of the file; a case is a network: the run's, or some of the package's."""
    batch_size = settings.batch_size or (CPU_BATCH if settings.device == "cpu" else 1024)
    found = Findings()
    for case, model, pixels, statistics in _untrained(settings) if settings.run is None else [_of_run(settings.run, settings)]:
        case |= {"images": len(pixels), "batch": batch_size}
        say(", ".join(map(str, case.values())))
        variants, passes = _variants(model, pixels, statistics, batch_size, settings)
        timings = take_turns(variants, BARE, **settings.turns())
        found.rows.append(timings.as_row(case, items=passes))
        # the processor waits for another device, and its time says nothing of that
        processor = settings.device == "cpu"
        name = f"{case['model']}: scored beside controls / bare" + ", of the processor" * processor
        found.targets.append(Target(name, "<=", SCORE_TARGET, timings.ratio(SCORED, processor=processor)))
    return found


def _of_run(path: Path, settings: Settings) -> Case:
    """A run's network with its test images."""
    run = load_run(path, device=settings.device)
    if not run.model.has_map:
        raise ValueError(f"{path} is a {run.card['name']}, which has no map to score; give a run with attention")
    test = open_run_data(run).test
    first = torch.arange(len(test))[: QUICK_IMAGES if settings.quick else None]
    pixels = torch.cat([batch.images for batch in test.batches(batch_indices(first, 1000))])
    return {"model": f"{run.card['name']} ({path})"}, run.model, pixels, (run.mean, run.std)


def _untrained(settings: Settings) -> Iterator[Case]:
    """Networks of the package, with noise for images."""
    generator = torch.Generator().manual_seed(settings.seed)
    for name, options in list(MODELS.items())[: 1 if settings.quick else None]:
        if settings.width is not None and "width" in options:
            options = {"width": settings.width}
        count = QUICK_IMAGES if settings.quick else IMAGES
        pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
        yield {"model": name, **options}, create_model(name, CLASSES, **options).to(settings.device), pixels, STATISTICS


def _variants(
    model: Classifier, pixels: Tensor, statistics: Statistics, batch_size: int, settings: Settings
) -> tuple[dict[str, Callable[[], object]], int]:
    """Both variants and the forward passes in each, for images (N, C, H, W) in uint8."""
    generator = torch.Generator().manual_seed(settings.seed)
    others = torch.randint(0, 256, (1000, *pixels.shape[1:]), dtype=torch.uint8, generator=generator)
    split = TensorSplit(pixels, torch.zeros(len(pixels), dtype=torch.int64))
    share = min(pixels.shape[-2:]) / 32
    sizes = [max(1, round(size * share)) for size in (4, 8, 12, 16)]
    edits = window_edits(sizes, {"other": others}) + frequency_edits((12 * share,), (4 * share,))
    block = BLOCK * (1 + len(edits))
    group, total = max(1, batch_size // block) * block, len(pixels) * (1 + len(edits))
    inputs = torch.randn(group, *pixels.shape[1:], generator=generator).to(settings.device)
    size = AttentionMap(model).attribute(inputs[:2]).shape[2:]

    def bare() -> None:
        with torch.no_grad(), evaluating(model):
            for start in range(0, total, group):
                for some in inputs[: min(group, total - start)].split(batch_size):
                    model.forward_details(some)

    def scored() -> None:
        controls = control_sources((size[0], size[1]), settings.seed)
        result = measure_consistency(model, split, *statistics, edits, controls, batch_size=batch_size)
        for source in result.own:
            for edit in edits:
                result.summary(source, edit)
        for edit in edits:
            result.comparison(edit, OWN_MAP)

    return {BARE: bare, SCORED: scored}, total

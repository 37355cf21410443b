"""An evaluation with 4 draws of the attention and 4 of the latent for each, against 16 passes with one draw.

``forward_details(samples=(4, 4))`` computes the features once, the encoder for each draw of the attention, and only the decoder for
each draw of the latent. Beside it stand one draw and the mean path. With a run, the error that each gives on its test images stands
in the notes.

No target is set; the ratio that the multiply-accumulates alone would give stands beside the measured one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from aib.bench.memory import peak_bytes
from aib.bench.networks import CLASSES, noise_images
from aib.bench.record import Findings, Settings
from aib.bench.timing import take_turns
from aib.classifier import AttentiveClassifier
from aib.interpret.explainers import evaluating
from aib.interpret.intervals import wilson_interval
from aib.models import create_model
from aib.train.macs import count_macs
from aib.train.predict import predict
from aib.train.run_data import open_run_data
from aib.train.weights import LoadedRun, load_run

__all__ = ["measure"]

DRAWS = (4, 4)
NAIVE, OURS, ONE, MEAN = "16 passes of one draw", "samples=(4, 4)", "one draw", "mean path"
ERROR_IMAGES = 2000
"""Test images at most on which a run's errors are counted."""


def measure(settings: Settings, say: Callable[[str], None]) -> Findings:
    """See the top of the file; a case is a network: the run's, or the paper's two at a width."""
    batch_size = settings.batch_size or (4 if settings.quick else 128)
    found = Findings()
    if settings.run is not None:
        run = load_run(settings.run, device=settings.device)
        if not isinstance(run.model, AttentiveClassifier):
            raise ValueError(f"{settings.run} is a {run.card['name']}, which draws nothing; give a run with attention")
        case: dict[str, Any] = {"model": f"{run.card['name']} ({settings.run})", "batch": batch_size}
        _measure_case(run.model, case, (run.card["channels"], *run.image_size), settings, found)
        say("errors on the test images")
        _errors(run, settings, found)
        return found
    width = settings.width or 0.125
    for name in ("vgg_aib_qt",) if settings.quick else ("vgg_aib_qt", "wrn_aib_qt"):
        case = {"model": name, "width": width, "batch": batch_size}
        say(", ".join(map(str, case.values())))
        model = create_model(name, CLASSES, width=width).to(settings.device)
        assert isinstance(model, AttentiveClassifier)
        _measure_case(model, case, (3, 32, 32), settings, found)
    return found


def _measure_case(
    model: AttentiveClassifier, case: dict[str, Any], shape: tuple[int, int, int], settings: Settings, found: Findings
) -> None:
    images = noise_images(case["batch"], shape, settings.seed).to(settings.device)

    def naive() -> Tensor:
        return torch.stack([model.forward_details(images, samples=(1, 1)).logits for _ in range(DRAWS[0] * DRAWS[1])]).mean(0)

    variants = {
        NAIVE: naive,
        OURS: lambda: model.forward_details(images, samples=DRAWS).logits,
        ONE: lambda: model.forward_details(images, samples=(1, 1)).logits,
        MEAN: lambda: model(images),
    }
    with torch.no_grad(), evaluating(model):
        timings = take_turns(variants, NAIVE, **settings.turns())
        peaks = {name: peak_bytes(run, settings.device) for name, run in variants.items()}
    found.rows.append(timings.as_row(case, items=len(images), peaks=peaks))
    share = _share_of_macs(model, shape)
    found.notes.append(f"{case['model']}: by multiply-accumulates alone, {OURS} would take {share:.3f} of {NAIVE}")
    found.details[case["model"]] = {"ratio_by_macs": round(share, 6)}


class _Sampled(nn.Module):
    """A classifier whose forward pass draws, so that its work can be counted."""

    def __init__(self, model: AttentiveClassifier, draws: tuple[int, int]) -> None:
        super().__init__()
        self.model = model
        self.draws = draws

    def forward(self, images: Tensor) -> Tensor:
        return self.model.forward_details(images, samples=self.draws).logits


def _share_of_macs(model: AttentiveClassifier, shape: tuple[int, int, int]) -> float:
    """Multiply-accumulates of the many draws as a share of those of naive repetition."""
    return count_macs(_Sampled(model, DRAWS), shape) / (DRAWS[0] * DRAWS[1] * count_macs(_Sampled(model, (1, 1)), shape))


def _errors(run: LoadedRun, settings: Settings, found: Findings) -> None:
    """The error of a run on its test images, for each way to evaluate it."""
    split = open_run_data(run).test
    count = min(len(split), 100 if settings.quick else ERROR_IMAGES)
    chosen = split.select(torch.randperm(len(split), generator=torch.Generator().manual_seed(settings.seed))[:count].sort().values)
    for name, draws in ((MEAN, None), (ONE, (1, 1)), (OURS, DRAWS)):
        generator = torch.Generator(device=settings.device).manual_seed(settings.seed)
        given = predict(run.model, chosen, run.mean, run.std, device=settings.device, samples=draws, generator=generator)
        wrong = int(given.errors.sum())
        low, high = wilson_interval(wrong, count)
        found.details.setdefault("errors", {})[name] = {"images": count, "error": wrong / count, "interval": [low, high]}
        error = f"{100 * wrong / count:.2f} % error ({100 * low:.2f} to {100 * high:.2f})"
        found.notes.append(f"{name}: {error} of {count} test images")

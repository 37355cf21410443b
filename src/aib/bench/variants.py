"""Other ways to compute the same: what each saves, beside the difference that it makes in the result.

A training step with weights in channels-last order against contiguous ones; a pass in eval mode with batch normalisation folded
into the layers before it against one without; crop and mirror in one pass over the images against one after the other; and training
steps in a process whose malloc keeps freed memory, as the command line sets it, against one with malloc as the C library has it
(fresh processes, which a quick measurement leaves out).

No target is set: what helps is used where it helps, see below the table.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from aib.bench.networks import Training, make_training, noise_images
from aib.bench.record import Findings, Settings
from aib.bench.timing import take_turns
from aib.data.augment import random_crop, random_flip
from aib.folding import fold_batch_norm

__all__ = ["measure", "serve_steps"]

MODELS = ("vgg_aib_qt", "wrn_aib_qt")
PADDING = 4
CONTIGUOUS, LAST = "contiguous", "channels last"
WHOLE, FOLDED = "with batch normalisation", "folded"
APART, FUSED = "crop, then mirror", "both in one pass"
KEEPING = {"MALLOC_TRIM_THRESHOLD_": 2**31 - 1, "MALLOC_MMAP_THRESHOLD_": 2**30, "MALLOC_TOP_PAD_": 2**26}
"""What the command line sets (`aib.commands.allocator`, a floor above), as glibc's variables of the environment."""
RETURNED, KEPT = "freed memory returned", "freed memory kept"


def measure(settings: Settings, say: Callable[[str], None]) -> Findings:
    """See the top of the file; a case is a network, and once the augmentation."""
    found = Findings()
    batch_size, width = settings.batch_size or (4 if settings.quick else 64), settings.width or (0.1 if settings.quick else 0.125)
    for name in MODELS[:1] if settings.quick else MODELS:
        case = {"model": name, "width": width, "batch": batch_size}
        say(", ".join(map(str, case.values())))
        _orders(case, settings, found)
        _folding(case, settings, found)
        if not settings.quick and settings.device == "cpu":
            _allocator(case, settings, found)
    _augmentation(batch_size, settings, found)
    return found


def _training(case: dict[str, Any], settings: Settings, **options: Any) -> Training:
    return make_training(case["model"], case["batch"], device=settings.device, seed=settings.seed, width=case["width"], **options)


def _orders(case: dict[str, Any], settings: Settings, found: Findings) -> None:
    trainings = {
        order: make_training(
            case["model"],
            case["batch"],
            device=settings.device,
            channels_last=order == LAST,
            seed=settings.seed,
            width=case["width"],
        )
        for order in (CONTIGUOUS, LAST)
    }
    logits = []
    with torch.no_grad():
        for training in trainings.values():  # without draws: a dropout takes its numbers in the order of the memory
            logits.append(training.model.eval()(training.images))
            training.model.train()
    timings = take_turns({order: training.step for order, training in trainings.items()}, CONTIGUOUS, **settings.turns())
    found.rows.append(timings.as_row({**case, "what": "training step"}, items=case["batch"]))
    _note_difference(f"{case['model']}, {LAST}", found, *logits)


def _folding(case: dict[str, Any], settings: Settings, found: Findings) -> None:
    training = _training(case, settings)
    model, images = training.model, training.images
    with torch.no_grad():
        model.forward_details(images)  # running statistics that are not those of the start
        model.eval()
        folded = fold_batch_norm(model, images)
        timings = take_turns({WHOLE: partial(model, images), FOLDED: partial(folded, images)}, WHOLE, **settings.turns())
        found.rows.append(timings.as_row({**case, "what": "pass in eval mode"}, items=case["batch"]))
        _note_difference(f"{case['model']}, {FOLDED}", found, model(images), folded(images))


def _augmentation(batch_size: int, settings: Settings, found: Findings) -> None:
    images = (noise_images(batch_size, (3, 32, 32), settings.seed).clamp(-2, 2) * 60 + 128).to(torch.uint8).to(settings.device)
    variants: dict[str, Callable[[], Tensor]] = {
        APART: lambda: random_flip(random_crop(images, PADDING)),
        FUSED: lambda: random_crop(images, PADDING, flip=True),
    }
    timings = take_turns(variants, APART, **settings.turns())
    found.rows.append(timings.as_row({"what": "augmentation", "batch": batch_size}, items=batch_size))
    results = []
    for run in variants.values():
        torch.manual_seed(settings.seed)
        results.append(run().float())
    _note_difference(f"augmentation, {FUSED}", found, *results)


def _note_difference(name: str, found: Findings, expected: Tensor, ours: Tensor) -> None:
    difference = ((ours - expected).abs().max() / expected.abs().max()).item()
    found.details[name] = {"largest_difference": float(f"{difference:.6g}")}
    found.notes.append(f"{name}: the result differs by {difference:.1g} of its largest value")


def _allocator(case: dict[str, Any], settings: Settings, found: Findings) -> None:
    """Two processes alike in all but their malloc; their processor's time is what they report."""
    threads = settings.threads or torch.get_num_threads()
    words = [case["model"], str(case["batch"]), str(case["width"]), str(settings.seed), str(threads)]
    used = [0.0]
    with ExitStack() as processes:

        def step_of(extra: dict[str, str]) -> Callable[[], object]:
            step = processes.enter_context(_process(words, extra))

            def run() -> None:
                used[0] += step()

            return run

        kept = {name: str(value) for name, value in KEEPING.items()}
        timings = take_turns(
            {RETURNED: step_of({}), KEPT: step_of(kept)}, RETURNED,
            **settings.turns(), clock=lambda: (time.perf_counter(), used[0]),
        )  # fmt: skip
    found.rows.append(timings.as_row({**case, "what": "training step in a process of its own"}, items=case["batch"]))


@contextmanager
def _process(words: list[str], extra: dict[str, str]) -> Iterator[Callable[[], float]]:
    """A process that takes a training step when called, and says how many seconds of the processor that took."""
    environment = {name: value for name, value in os.environ.items() if name not in KEEPING} | extra
    program = f"from aib.bench.variants import serve_steps; serve_steps(*{words!r})"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        questions, answers = process.stdin, process.stdout

        def step() -> float:
            questions.write("\n")
            questions.flush()
            return float(answers.readline())

        yield step
        questions.close()


def serve_steps(name: str, batch_size: str, width: str, seed: str, threads: str) -> None:
    """The process of `_process`: a training step for every line on its standard input."""
    torch.set_num_threads(int(threads))
    training = make_training(name, int(batch_size), seed=int(seed), width=float(width))
    for _ in sys.stdin:
        began = time.process_time()
        training.step()
        print(time.process_time() - began, flush=True)

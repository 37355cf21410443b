"""What the consistency score costs beyond the forward passes it needs.

    OMP_NUM_THREADS=1 python benchmarks/consistency_cost.py [--out consistency_cost.json]

The bare passes and the score take turns in one process, so that whatever else the machine does falls on both; the ratio is the
median over the repeats, of the time on the clock and of the processor's. Bare is ``forward_details`` on ready-made normalised
images, in chunks of the same sizes; scored is everything from uint8 images to the summaries of four sizes of coloured windows, four
of patches of another set, low and high frequencies, with the model's own map as the only source. Images are noise.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from aib.classifier import Classifier
from aib.data.bundle import TensorSplit
from aib.interpret.consistency import BLOCK, CPU_BATCH, OWN_MAP, measure_consistency
from aib.interpret.explainers import evaluating
from aib.interpret.named_edits import frequency_edits, window_edits
from aib.models import create_model

MODELS: dict[str, dict[str, Any]] = {"vgg_aib_qt": {"width": 0.125}, "fast_aib_qt": {}}
TARGET = 1.15
STATISTICS = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def seconds(function: Callable[[], object]) -> tuple[float, float]:
    """On the clock, and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - clock, time.process_time() - processor


def measure(model: Classifier, count: int, repeats: int, batch_size: int) -> dict[str, Any]:
    """Seconds of both and their ratio, for ``count`` images of 32x32."""
    generator = torch.Generator().manual_seed(0)
    pixels, others = (torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator) for n in (count, 1000))
    split = TensorSplit(pixels, torch.zeros(count, dtype=torch.int64))
    edits = window_edits(others={"other": others}) + frequency_edits()
    block = BLOCK * (1 + len(edits))
    group, total = max(1, batch_size // block) * block, count * (1 + len(edits))
    inputs = torch.randn(group, 3, 32, 32, generator=generator)

    def run_bare() -> None:
        with torch.no_grad(), evaluating(model):
            for start in range(0, total, group):
                for some in inputs[: min(group, total - start)].split(batch_size):
                    model.forward_details(some)

    def run_scored() -> None:
        result = measure_consistency(model, split, *STATISTICS, edits, batch_size=batch_size)
        for edit in edits:
            result.summary(OWN_MAP, edit)

    run_bare()  # the first pass also allocates
    pairs = [(seconds(run_bare), seconds(run_scored)) for _ in range(repeats)]
    ratios = [scored[0] / bare[0] for bare, scored in pairs]
    return {
        "images": count, "edits": len(edits), "forward_passes": total, "batch_size": batch_size, "repeats": repeats,
        "target": TARGET,
        "seconds_bare": statistics.median(bare[0] for bare, _ in pairs),
        "seconds_scored": statistics.median(scored[0] for _, scored in pairs),
        "ratio": statistics.median(ratios), "ratio_least": min(ratios), "ratio_greatest": max(ratios),
        "processor_ratio": statistics.median(scored[1] / bare[1] for bare, scored in pairs),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of the consistency score over its forward passes.")
    parser.add_argument("--images", type=int, default=160, help="images of the split, a multiple of 16")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of runs, at least 5 to be quoted")
    parser.add_argument("--batch-size", type=int, default=CPU_BATCH, help="images that pass together, a multiple of 16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("consistency_cost.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = {}
    for name, options in MODELS.items():
        torch.manual_seed(0)
        model = create_model(name, 10, **options)
        r = results[name] = {"options": options, **measure(model, arguments.images, arguments.repeats, arguments.batch_size)}
        spread = f"{r['ratio_least']:.3f} to {r['ratio_greatest']:.3f} in {r['repeats']} repeats"
        print(
            f"{name}: {r['ratio']:.3f} x the bare forward passes ({spread}; of the processor's time {r['processor_ratio']:.3f}; "
            f"target {TARGET}), {1e3 * r['seconds_bare'] / r['forward_passes']:.2f} ms a pass"
        )
    machine = {"processor": processor(), "system": platform.platform(), "threads": torch.get_num_threads()}
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    content = {"machine": machine, "versions": versions, "models": results}
    arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def processor() -> str:
    """Its name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()

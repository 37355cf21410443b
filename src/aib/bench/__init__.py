"""Benchmarks that anybody can run again: ``aib bench``. One file a subject, each with the target that it is compared with.

All of them time their variants in turns and quote ratios (`aib.bench.timing`): what else the machine does falls on every variant.
"""

from __future__ import annotations

__all__ = ["SOURCES", "SUBJECTS"]

SUBJECTS = {
    "step": "a training step against its bare convolutions and linear layers",
    "quantizer": "the anchor quantiser against one with a table of distances",
    "samples": "a (4, 4)-sample evaluation against 16 passes",
    "epoch": "what an epoch of the training loop costs beside its steps, and whether workers keep up",
    "start": "the time to start: aib --help, import aib",
    "growth": "how time and memory grow with batch, image side, channels, anchors and samples",
    "explain": "attention maps against Grad-CAM and occlusion",
    "variants": "other ways to compute the same: memory order, folding, augmentation in one pass, freed memory kept",
    "score": "the consistency score against its bare forward passes",
}
"""What each subject measures; the function is ``measure`` of the module of that name here."""

MODELS = tuple(f"models/{name}.py" for name in ("build", "dropout", "gated", "vgg", "vgg_small", "wrn"))
NETWORK = ("anchors.py", "attention.py", "bottleneck.py", "classifier.py", "functional.py", *MODELS)
STEP = (*NETWORK, "loss.py", "train/optim.py")

SOURCES: dict[str, tuple[str, ...]] = {
    "step": (*STEP, "bench/layers.py", "bench/networks.py", "bench/watching.py"),
    "quantizer": ("anchors.py", "functional.py"),
    "samples": NETWORK,
    "epoch": (*STEP, "data/augment.py", "data/bundle.py", "data/folder.py", "train/loop.py"),
    "start": ("__init__.py", "__main__.py", "cli.py", "commands/__init__.py"),
    "growth": STEP,
    "explain": (*NETWORK, "interpret/choice.py", "interpret/explainers.py"),
    "score": (
        *NETWORK, "models/fast.py", "interpret/consistency.py", "interpret/controls.py", "interpret/edits.py",
        "interpret/intervals.py", "interpret/map_sources.py", "interpret/map_tracks.py", "interpret/named_edits.py",
    ),
    "variants": (*STEP, "folding.py", "data/augment.py", "commands/allocator.py"),
}  # fmt: skip
"""By subject the files and folders of the package that it times: numbers from before their last change are of other code."""

"""Benchmarks that anybody can run again: ``aib bench``. One file a subject, each with the target that it is compared with.

All of them time their variants in turns and quote ratios (`aib.bench.timing`): what else the machine does falls on every variant.
"""

from __future__ import annotations

__all__ = ["SUBJECTS"]

SUBJECTS = {
    "step": "a training step against its bare convolutions and linear layers",
    "quantizer": "the anchor quantiser against one with a table of distances",
    "samples": "a (4, 4)-sample evaluation against 16 passes",
    "epoch": "what an epoch of the training loop costs beside its steps, and whether workers keep up",
    "start": "the time to start: aib --help, import aib",
    "growth": "how time and memory grow with batch, image side, channels, anchors and samples",
    "explain": "attention maps against Grad-CAM and occlusion",
    "score": "the consistency score against its bare forward passes",
}
"""What each subject measures; the function is ``measure`` of the module of that name here."""

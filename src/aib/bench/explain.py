"""Maps a second: the model's own attention on the mean path against Grad-CAM and occlusion of the same network, through captum.

All are made by `aib.interpret.choice.make_explainer` with its defaults and explain the predicted class. The own map costs one
forward pass, Grad-CAM that and a backward pass as far as its layer, occlusion a pass for each place of its window.

No target is set.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from aib.bench.memory import peak_bytes
from aib.bench.networks import CLASSES, noise_images
from aib.bench.record import Findings, Settings
from aib.bench.timing import take_turns
from aib.interpret.choice import make_explainer
from aib.models import create_model

__all__ = ["measure"]

IMAGE = (3, 32, 32)
NAMES = {"own": "own attention map", "gradcam": "Grad-CAM", "occlusion": "occlusion"}


def measure(settings: Settings, say: Callable[[str], None]) -> Findings:
    """See the top of the file; a case is a network."""
    width, batch_size = settings.width or 0.125, settings.batch_size or (2 if settings.quick else 32)
    found = Findings()
    for name in ("vgg_aib_qt",) if settings.quick else ("vgg_aib_qt", "wrn_aib_qt"):
        case = {"model": name, "width": width, "batch": batch_size}
        say(", ".join(map(str, case.values())))
        model = create_model(name, CLASSES, width=width).to(settings.device).eval()
        images = noise_images(batch_size, IMAGE, settings.seed).to(settings.device)
        explainers = {label: make_explainer(kind, model, IMAGE) for kind, label in NAMES.items()}
        variants: dict[str, Callable[[], object]] = {
            label: partial(explainer.attribute, images) for label, explainer in explainers.items()
        }
        timings = take_turns(variants, NAMES["own"], **settings.turns())
        peaks = {label: peak_bytes(run, settings.device) for label, run in variants.items()}
        found.rows.append(timings.as_row(case, items=batch_size, peaks=peaks))
    return found

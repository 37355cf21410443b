"""AIB: image classifiers that show where they look.

    model = aib.create_model("vgg_aib_qt", num_classes=10)                      # a network of the paper
    model = aib.attach("resnet18", at="layer3", num_classes=5, anchors=20)      # any timm model, or a module of yours
    logits = model(images)                                                      # (N, classes)
    out = model.forward_details(images, samples=(4, 4))                         # maps, indices, latent, rate, logits
    parts = aib.objective(out, labels, beta=1e-2)                               # the loss and its named parts
    run = aib.load_run("runs/demo/aib")                                         # a trained model with its class names

Names are resolved on first use: ``import aib`` alone imports neither torch nor anything else that takes time.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aib.anchors import AnchorQuantizer as AnchorQuantizer
    from aib.attaching import attach as attach
    from aib.attention import SpatialAttention as SpatialAttention
    from aib.bottleneck import LatentBottleneck as LatentBottleneck
    from aib.classifier import AttentiveClassifier as AttentiveClassifier
    from aib.classifier import Details as Details
    from aib.folding import fold_batch_norm as fold_batch_norm
    from aib.loss import objective as objective
    from aib.models import create_model as create_model
    from aib.models import model_names as model_names
    from aib.models.reference import convert_reference as convert_reference
    from aib.sites import list_sites as list_sites
    from aib.train.weights import load_run as load_run

__version__ = "0.1.0"

# No name here may be that of a module of the package: importing the module would put it in the name's place.
_HOMES = {
    "AnchorQuantizer": "anchors",
    "AttentiveClassifier": "classifier",
    "Details": "classifier",
    "LatentBottleneck": "bottleneck",
    "SpatialAttention": "attention",
    "attach": "attaching",
    "convert_reference": "models.reference",
    "create_model": "models",
    "fold_batch_norm": "folding",
    "list_sites": "sites",
    "load_run": "train.weights",
    "model_names": "models",
    "objective": "loss",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        # with name and obj, the interpreter suggests the near one
        raise AttributeError(f"module 'aib' has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    value = getattr(importlib.import_module(f"aib.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

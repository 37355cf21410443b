"""The settings behind the paper's tables, as the paper writes them and as its published code runs them, in this package's units.

The recipes of table 1 are made of these (docs/make_recipes.py), and so is the configuration of a converted checkpoint. The code is
https://github.com/ashleylqx/AIB:

- Its cross-entropy and KL are in bits. In nats the same steps of SGD are made with a learning rate 1 / ln 2 times as large, and
  weight decay and squared terms ln 2 times as large. Adam does not see the scale of its gradient, so there the learning rate stays
  and squared terms are ln 2 times as large.
- Its VGG (VGG-backbone-32/cifar_va.py) halves the KL.
- Its VGG warms up by whole epochs: one at a tenth of the learning rate (vgg_aib, ``--lr 0.01``), or one at a hundredth and one at
  a tenth (vgg_aib_qt, ``--lr 0.001``). Its scheduler steps before an epoch, not after: the rate halves one epoch early, from the
  25th epoch on, and a last time for the last epoch.
- It normalises with fixed numbers: VGG with those of CIFAR-100, WRN with those that circulate for CIFAR-10, both with 0.5 on SVHN.
- It means the anchors to learn 1e-4 times as fast. On GPUs its VGG loses that; on CUB (CUB-experiments/main_qt.py) the anchors stay
  where they start, as ``--qt_trainable`` is off unless it is given.
- On CUB (CUB-experiments/solver.py, solver_qt.py) its Adam has no weight decay.

What no setting says is named in the headers of the recipes.
"""

from __future__ import annotations

import math
from typing import Any

from aib.data.cub import SIDE

__all__ = ["Colour", "published_normalization", "published_settings"]

Colour = tuple[float, float, float]

IMAGE_SIZE = 32
"""Side of the images of every data set but CUB."""

WITH_LATENT = ("vgg_dvib", "vgg_aib", "vgg_aib_qt", "wrn_aib", "wrn_aib_qt")
"""Models that the paper and its code train differently."""
LN2 = math.log(2.0)

STATISTICS: dict[str, tuple[Colour, Colour]] = {
    "vgg": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),  # those of CIFAR-100, for CIFAR-10 too
    "wrn": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),  # those that circulate for CIFAR-10, for CIFAR-100 too
    "svhn": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "cub200": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # ImageNet's, which the weights of the start expect
}
"""Mean and standard deviation (of pixels in [0, 1]) with which the published code normalises, by network or data set."""


def published_normalization(model_name: str, dataset: str) -> tuple[Colour, Colour]:
    """Mean and standard deviation with which the published code normalises pixels in [0, 1].

    They go by the network, not by the data: the VGG takes CIFAR-100's for CIFAR-10 too, the WRN CIFAR-10's for CIFAR-100 too; both
    take 0.5 for SVHN and ImageNet's for CUB.

    Args:
        model_name: one of `aib.models.reference.REFERENCE_MODELS`.
        dataset: name of the data set; only ``"svhn"`` and ``"cub200"`` matter.
    """
    return STATISTICS.get(dataset.lower(), STATISTICS[model_name.partition("_")[0]])


def published_settings(model: str, data: str, convention: str) -> dict[str, dict[str, Any]]:
    """Tables of a recipe with what the paper or its code say.

    Args:
        model: a model of table 1, under its name there.
        data: name of the data set, or where it lies; ``"cub200"`` has networks and settings of its own.
        convention: ``"paper"`` or ``"reference"``, as the published code runs it.
    """
    vgg, cub, latent = model.startswith("vgg"), data == "cub200", model in WITH_LATENT
    tables: dict[str, dict[str, Any]] = {
        "data": {"data": data},
        "model": {"model": f"{model}_cub" if cub else model},
        "optim": {"epochs": 200, "batch_size": 16 if cub else 128, "weight_decay": 5e-4, "schedule": "step"},
    }
    optim = tables["optim"]
    tables["data"]["flip"] = True
    if cub or convention == "reference":
        mean, std = published_normalization(model, data)
        tables["data"] |= {"mean": list(mean), "std": list(std)}
    if cub:
        tables["data"] |= {"image_size": SIDE, "boxes": "crop"}
        tables["model"]["pretrained"] = "yes"
        optim |= {"optimizer": "adam", "lr": 1e-4, "momentum": 0.5, "step_epochs": list(range(2, 200, 2)), "step_factor": 0.97}
    else:
        tables["data"] |= {"image_size": IMAGE_SIZE, "crop_padding": 4}
        optim |= {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": False}
        if vgg:
            optim |= {"warmup_epochs": 1.0, "step_epochs": list(range(25, 200, 25)), "step_factor": 0.5}
        else:
            optim |= {"step_epochs": [60, 120, 160], "step_factor": 0.2}
    if latent:
        optim["beta"] = 0.01
    if model.endswith("_qt"):
        optim |= {"lambda_anchor": 0.4, "lambda_commitment": 0.1, "anchor_lr_scale": 1e-4}
    if convention == "reference":
        optim |= {"kl": "reference", "weight_decay": 0.0 if cub else round(5e-4 * LN2, 9)}
        if not cub:
            optim["lr"] = round(0.1 / LN2, 6)
        if vgg and not cub:
            optim |= {"beta": 0.005, "warmup_epochs": 0.0, "step_epochs": list(range(24, 200, 25))}
            optim["warmup_shares"] = [0.01, 0.1] if model.endswith("_qt") else [0.1]
        if model.endswith("_qt"):
            optim |= {"lambda_anchor": round(0.4 * LN2, 6), "lambda_commitment": round(0.1 * LN2, 6)}
            optim["anchor_lr_scale"] = 0.0 if cub else 1.0 if vgg else 1e-4
    return tables

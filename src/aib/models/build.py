"""A network from what a user typed: a model of the package, a timm model plain, or a timm model with attention attached."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import Tensor, nn

from aib.classifier import Classifier, Details, Pass
from aib.models.registry import create_model, model_names, takes

__all__ = ["ExternalClassifier", "build_model", "check_model"]


class ExternalClassifier(Classifier):
    """Any network that returns logits, with the package's interface: the paired baseline of an attached one.

    Args:
        network: images to logits (N, classes).
        num_classes: number of classes.
    """

    def __init__(self, network: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.network = network
        self.num_classes = num_classes

    def run_pass(self, images: Tensor, how: Pass) -> Details:
        """Logits only; there is nothing to draw and no map to replace."""
        return Details(logits=self.network(images))


def build_model(
    name: str,
    num_classes: int,
    *,
    attend: str | None = None,
    image_size: tuple[int, int] | None = None,
    in_channels: int = 3,
    pretrained: str | None = None,
    **options: Any,
) -> Classifier:
    """Build the network of a run; the arguments are what ``model.json`` keeps.

    Args:
        name: a model of the package or of timm.
        num_classes: number of classes.
        attend: site of a timm model where attention is attached; None trains it plain.
        image_size: (height, width), for timm models whose weights depend on it.
        in_channels: channels of the images.
        pretrained: ``"yes"``, or the path of a local weight file; for timm models and the package's models for CUB.
        options: further options of the model (``anchors``, ``latent_dim``, ``modulation``, ``min_std``, ``width``); None values
            are ignored.

    Raises:
        ValueError: the name is unknown, or an option does not apply to it.
    """
    given = {key: value for key, value in options.items() if value is not None}
    if name in model_names():
        if attend is not None:
            raise ValueError(f"{name} has its attention built in; --attend is for timm models such as resnet18")
        if pretrained is not None:
            if not takes(name, "pretrained"):
                raise ValueError(f"there are no published weights for {name}; --pretrained is for timm models and those for CUB")
            given["pretrained"] = pretrained
        return create_model(name, num_classes, in_channels=in_channels, **given)

    _check_timm(name)

    from aib.attaching import attach
    from aib.backbones import create_backbone

    weights = True if pretrained == "yes" else pretrained or False
    if attend is not None:
        return attach(name, attend, num_classes, input_size=image_size, in_channels=in_channels, pretrained=weights, **given)
    if given:
        raise ValueError(f"{name} without --attend is a plain classifier: {', '.join(given)} do not apply (--attend names a site)")
    network: Any = create_backbone(name, input_size=image_size, in_channels=in_channels, pretrained=weights)
    network.reset_classifier(num_classes)
    return ExternalClassifier(network, num_classes)


def check_model(name: str, *, attend: str | None = None, **options: Any) -> None:
    """Whether there is such a network, told before its data are there and without its weights: a timm model by its name alone.

    Args:
        name, attend, options: of `build_model`.

    Raises:
        ValueError: as `build_model` does.
    """
    if name in model_names():
        with torch.device("meta"):
            build_model(name, 10, attend=attend, **options)
    else:
        _check_timm(name)


def _check_timm(name: str) -> None:
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, [*model_names(), *timm.list_models()], n=4, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else f"the package has {', '.join(model_names())}, and timm's"
        raise ValueError(f"unknown model {name!r}; {hint}")

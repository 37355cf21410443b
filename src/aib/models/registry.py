"""Models by name: a plain dict of builders."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from aib.classifier import Classifier

__all__ = ["create_model", "model_names", "option_defaults", "register", "takes"]

Builder = TypeVar("Builder", bound=Callable[..., Classifier])
_BUILDERS: dict[str, Callable[..., Classifier]] = {}


def register(builder: Builder) -> Builder:
    """Enter ``builder`` under its function name.

    Raises:
        ValueError: another model has that name.
    """
    if builder.__name__ in _BUILDERS:
        raise ValueError(f"there is a model {builder.__name__!r} already; register under another name")
    _BUILDERS[builder.__name__] = builder
    return builder


def model_names() -> list[str]:
    """Names that `create_model` takes, sorted."""
    return sorted(_BUILDERS)


def option_defaults(name: str) -> dict[str, Any]:
    """The options of the model called ``name`` beside ``num_classes``, with their defaults.

    A default of None is the model's own choice, which may depend on the number of classes: the built network shows it.
    """
    parameters = inspect.signature(_BUILDERS[name]).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.name != "num_classes"}


def takes(name: str, option: str) -> bool:
    """Whether the model called ``name`` has that option."""
    return option in option_defaults(name)


def create_model(name: str, num_classes: int, **options: Any) -> Classifier:
    """Build a model of the package, freshly initialised from torch's global generator.

    Args:
        name: one of `model_names`.
        num_classes: number of classes, at least 2.
        options: ``in_channels``, and for attentive models ``anchors``, ``latent_dim``, ``modulation`` and others; see it.

    Raises:
        ValueError: the name is unknown (near names are given), an option is not one of the model's, or there are fewer than two
            classes.
    """
    if name not in _BUILDERS:
        near = difflib.get_close_matches(name, _BUILDERS, n=3, cutoff=0.5)
        raise ValueError(
            f"unknown model {name!r}; "
            + (f"did you mean {', '.join(near)}? " if near else "")
            + f"The package has: {', '.join(model_names())}"
        )
    if num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}; a classifier needs at least 2")
    builder = _BUILDERS[name]
    allowed = list(inspect.signature(builder).parameters)
    for option in options:
        if option not in allowed:
            raise ValueError(f"{name} has no option {option!r}; it takes {', '.join(allowed[1:]) or 'none'}")
    return builder(num_classes, **options)

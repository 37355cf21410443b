"""A data set evaluated with a model of other classes: by the classes' names, or by their indices as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from aib.data.bundle import DataBundle, Split

__all__ = ["ALIASES", "index_classes", "match_classes", "same_name"]

ALIASES = {"car": "automobile"}
"""Names of STL-10 that CIFAR-10 has another word for."""


def same_name(one: str, other: str) -> bool:
    """Whether two class names mean the same class: equal but for case and `ALIASES`."""
    return _canonical(one) == _canonical(other)


def match_classes(bundle: DataBundle, class_names: Sequence[str]) -> DataBundle:
    """The images whose class has a name in ``class_names``, labelled by its position there.

    A model for ``class_names`` can then be evaluated on them. It still chooses between all of its classes, those that ``bundle``
    lacks included. Images of other classes are dropped and counted.

    Args:
        bundle: any data set.
        class_names: the classes of the model, in label order.

    Returns:
        The bundle with ``class_names`` for its own and ``left_out`` by split and class.

    Raises:
        ValueError: no class has a name in common.
    """
    wanted = {_canonical(name): i for i, name in enumerate(class_names)}
    # a name that both have as it stands goes before one that only an alias makes equal
    wanted |= {name.casefold(): i for i, name in enumerate(class_names)}
    found = [wanted.get(name.casefold(), wanted.get(_canonical(name), -1)) for name in bundle.class_names]
    if max(found) < 0:
        raise ValueError(
            f"{bundle.name} has no class name in common with the model: its classes are {_some(bundle.class_names)}, the model's "
            f"{_some(class_names)}"
        )
    index = torch.tensor(found)

    def matched(split: Split) -> Split:
        labels = index[split.labels]
        kept = (labels >= 0).nonzero().flatten()
        return split.select(kept, labels[kept])

    left_out = {}
    for name in ("train", "val", "test"):
        counts = torch.bincount(bundle.split(name).labels, minlength=len(found)).tolist()
        left_out[name] = {bundle.class_names[i]: counts[i] for i, to in enumerate(found) if to < 0 and counts[i]}
    return replace(
        bundle, train=matched(bundle.train), val=matched(bundle.val), test=matched(bundle.test), class_names=tuple(class_names),
        left_out=left_out,
    )  # fmt: skip


def index_classes(bundle: DataBundle, class_names: Sequence[str]) -> DataBundle:
    """The bundle with its labels as they are, whatever the classes are called; names that differ show both, and its own says so.

    This is how the paper's numbers on STL-10 look to have been made. Where index i means another class to the model, a right answer
    counts as wrong.

    Args:
        bundle: a data set with at most as many classes as the model.
        class_names: the classes of the model, in label order.

    Raises:
        ValueError: there are more classes than the model has.
    """
    if bundle.num_classes > len(class_names):
        raise ValueError(
            f"{bundle.name} has {bundle.num_classes} classes and the model {len(class_names)}; by index the model needs as many"
        )
    own = [*bundle.class_names, *class_names[bundle.num_classes :]]
    names = (model if same_name(model, data) else f"{model} (here {data})" for model, data in zip(class_names, own))
    return replace(bundle, name=f"{bundle.name}-by-index", class_names=tuple(names))


def _canonical(name: str) -> str:
    return ALIASES.get(name.casefold(), name.casefold())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")

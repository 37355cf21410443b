"""Weights of the published code, renamed into those of our networks.

The module trees are told by their state-dict keys and shapes alone. Every key is accounted for: it becomes one of ours, or it is a
second name of a tensor that does (the wide network registers most of its modules twice); anything else is refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aib.models.registry import create_model

__all__ = ["REFERENCE_MODELS", "ReferenceNetwork", "convert_reference", "identify_reference"]

REFERENCE_MODELS = ("vgg_aib", "vgg_aib_qt", "wrn_aib", "wrn_aib_qt")
"""The networks for 32x32 images whose published weights can be converted."""

SHOWN = 3
"""Keys that a message names before it counts the rest."""

ANCHORS, OUR_ANCHORS = "emb.weight", "quantizer.anchors"
"""The published anchors are (1, Q), ours (Q,)."""

LATENT_HEAD = {"vgg": "encode.8", "wrn": "encode.5"}
"""The linear layer that makes the latent's statistics."""

LAST_LAYER = {"vgg": "decode.2", "wrn": "decode.1"}
"""The layer whose weight is (classes, K)."""

WRN_ALIASES = {
    "att_module_mu.0": "att_block3", "att_module_mu.1": "bn_att", "att_module_mu.2": "att_conv", "att_module_mu.3": "bn_att2",
    "att_module_mu.5": "att_conv3", "att_module_mu.6": "bn_att3", "encode.0": "block3", "encode.1": "bn1",
}  # fmt: skip
"""Second names of modules of the wide network, and the first."""


@dataclass(frozen=True)
class ReferenceNetwork:
    """Which network a published state dict belongs to, and its sizes.

    Attributes:
        name: one of `REFERENCE_MODELS`.
        num_classes: number of classes.
        latent_dim: K.
        anchors: Q, or None where the map is continuous.
    """

    name: str
    num_classes: int
    latent_dim: int
    anchors: int | None

    @property
    def options(self) -> dict[str, int]:
        """Options of `create_model` beside the name and ``num_classes``."""
        return {"latent_dim": self.latent_dim} | ({} if self.anchors is None else {"anchors": self.anchors})


def convert_reference(state_dict: Mapping[str, Tensor], model_name: str) -> dict[str, Tensor]:
    """A state dict of our network from one of the published code, which gives the same outputs on the mean path.

    It fits ``create_model(model_name, num_classes)``, with ``latent_dim`` and ``anchors`` where the network was trained with other
    than the published numbers; `identify_reference` tells all of them.

    Args:
        state_dict: tensors by key, as the published code saves them; the ``module.`` of `torch.nn.DataParallel` may stand in front.
        model_name: one of `REFERENCE_MODELS`.

    Returns:
        Tensors by our keys, in the order and of the types of our state dict; they may share memory with those given.

    Raises:
        ValueError: there is no such published network, the state dict is another one's, keys are unknown or missing, shapes or
            types are wrong, a second name holds another tensor than the first, or a number is not finite.
    """
    if model_name not in REFERENCE_MODELS:
        near = difflib.get_close_matches(str(model_name), REFERENCE_MODELS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"there are no published weights for {model_name!r}; {hint}Those of {', '.join(REFERENCE_MODELS)} can be converted"
        )
    found = identify_reference(state_dict)
    if found.name != model_name:
        raise ValueError(f"the state dict is that of {found.name}, not of {model_name}; convert it as {found.name!r}")
    tensors = _without_prefix(state_dict)
    ours = _template(found).state_dict()
    keys = _our_keys(_family(found.name), ours)
    _check_shapes(tensors, {key: _published_shape(key, ours[our_key]) for key, our_key in keys.items()})
    _check_numbers(tensors, {key: ours[our_key] for key, our_key in keys.items()})
    _check_aliases(tensors, keys)
    first = {our_key: tensors[key].detach() for key, our_key in reversed(keys.items())}  # of several names the first
    return {our_key: first[our_key].reshape(wanted.shape).to(wanted.dtype) for our_key, wanted in ours.items()}


def identify_reference(state_dict: Mapping[str, Tensor]) -> ReferenceNetwork:
    """Which published network a state dict belongs to, from its keys and from the shapes that give its sizes.

    Args:
        state_dict: see `convert_reference`.

    Raises:
        ValueError: it is no state dict or no published network's, keys are unknown or missing, or the sizes cannot be read.
    """
    tensors = _without_prefix(state_dict)
    modules = {key.rpartition(".")[0] for key in tensors}
    # the family that shares most modules: one missing or odd key must not hide which network it is
    shared = {family: len(modules & set(_modules(family))) for family in LATENT_HEAD}
    family = max(shared, key=lambda name: shared[name])
    if 2 * shared[family] < len(modules):
        raise ValueError(
            f"the state dict is of no published network: it has {_some(tensors)}; "
            f"the keys of {', '.join(REFERENCE_MODELS)} begin with features.0.op or block1.layer.0"
        )
    quantized = ANCHORS in tensors
    name = f"{family}_aib" + ("_qt" if quantized else "")
    any_sizes = ReferenceNetwork(name, num_classes=2, latent_dim=2, anchors=2 if quantized else None)  # the names are the same
    _check_names(tensors, _our_keys(family, _template(any_sizes).state_dict()), name)
    num_classes, latent_dim = _two_sizes(tensors, f"{LAST_LAYER[family]}.weight", "classes, K")
    anchors = None
    if quantized:
        rows, anchors = _two_sizes(tensors, ANCHORS, "1, anchors")
        if rows != 1 or anchors < 2:
            raise ValueError(f"{ANCHORS} has shape {rows}x{anchors}; it must be 1xQ, with at least two anchors")
    return ReferenceNetwork(name, num_classes, latent_dim, anchors)


def _family(name: str) -> str:
    return name.partition("_")[0]


def _template(network: ReferenceNetwork) -> torch.nn.Module:
    """Our network without memory: names, shapes and types."""
    with torch.device("meta"):
        return create_model(network.name, network.num_classes, **network.options)


def _modules(family: str) -> dict[str, str]:
    """Published module to ours, for every module that holds tensors; second names lead to the same as the first."""
    found = {LATENT_HEAD[family]: "bottleneck.linear", "att_module_std.0": "attention.std_head", "emb": "quantizer"}
    if family == "vgg":
        # a convolution and its normalisation are followed by a ReLU, in block 6 by a pooling too; ours are one flat sequence
        for block, start, convolutions, step in (
            ("features.0", 0, 2, 3), ("features.1", 6, 2, 3), ("features.2", 12, 3, 3),
            ("encode.0", 0, 3, 3), ("encode.2", 10, 3, 3), ("encode.4", 20, 2, 4),
        ):  # fmt: skip
            part = "features" if block.startswith("features") else "encoder"
            for i in range(convolutions):
                for layer in (0, 1):
                    found[f"{block}.op.{step * i + layer}"] = f"backbone.{part}.{start + step * i + layer}"
        found |= {"encode.5": "backbone.encoder.28", "att_module_mu.0": "attention.head"}
        return found | {"decode.0": "decoder.0", "decode.2": "decoder.2"}
    found |= {
        "conv1": "backbone.features.0", "bn1": "backbone.encoder.1", "bn_att": "attention.head.1", "att_conv": "attention.head.2",
        "bn_att2": "attention.head.3", "att_conv3": "attention.head.5", "bn_att3": "attention.head.6", "decode.1": "decoder.1",
    }  # fmt: skip
    groups = {
        "block1": "backbone.features.1", "block2": "backbone.features.2", "block3": "backbone.encoder.0",
        "att_block3": "attention.head.0",
    }  # fmt: skip
    for group, ours in groups.items():
        for i in range(4):
            found |= {f"{group}.layer.{i}.{part}": f"{ours}.{i}.{part}" for part in ("bn1", "conv1", "bn2", "conv2")}
        found[f"{group}.layer.0.convShortcut"] = f"{ours}.0.shortcut"
    for second, first in WRN_ALIASES.items():
        found |= {second + key.removeprefix(first): ours for key, ours in found.items() if f"{key}.".startswith(f"{first}.")}
    return found


def _our_keys(family: str, ours: Mapping[str, Tensor]) -> dict[str, str]:
    """Every key that a published state dict must have, with the one of ours that it becomes; first names come first."""
    leaves: dict[str, list[str]] = {}
    for key in ours:
        module, _, leaf = key.rpartition(".")
        leaves.setdefault(module, []).append(leaf)
    keys = {
        f"{theirs}.{leaf}": f"{module}.{leaf}" for theirs, module in _modules(family).items() for leaf in leaves.get(module, ())
    }
    if OUR_ANCHORS in ours:
        keys = {ANCHORS if our_key == OUR_ANCHORS else key: our_key for key, our_key in keys.items()}
    return keys


def _published_shape(key: str, ours: Tensor) -> tuple[int, ...]:
    return (1, *ours.shape) if key == ANCHORS else tuple(ours.shape)


def _without_prefix(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the ``module.`` that a wrapper put in front of every key.

    Raises:
        ValueError: it is no mapping of names to tensors, or is empty.
    """
    given: Any = state_dict
    if not isinstance(given, Mapping) or not given:
        what = "is empty" if isinstance(given, Mapping) else f"is a {type(given).__name__}"
        raise ValueError(f"the state dict {what}; expected tensors by key")
    for key, value in given.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            name = repr(key) if isinstance(key, str) else f"a key of type {type(key).__name__}"
            raise ValueError(f"the state dict has a value of type {type(value).__name__} under {name}; expected tensors by key")
        if value.layout is not torch.strided or value.is_quantized or value.is_meta:
            raise ValueError(f"{key!r} is a sparse or quantised tensor or has no data; expected plain numbers")
    tensors = dict(given)
    while all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def _check_names(tensors: Mapping[str, Tensor], expected: Collection[str], name: str) -> None:
    unknown = [key for key in tensors if key not in expected]
    missing = [key for key in expected if key not in tensors]
    said = []
    if unknown:
        # the key meant is most likely one that is missing
        near = difflib.get_close_matches(unknown[0], missing or expected, n=1)
        said.append(f"it has {_some(unknown)}, which {name} has not" + (f" (did you mean {near[0]}?)" if near else ""))
    if missing:
        said.append(f"it lacks {_some(missing)}")
    if said:
        raise ValueError(f"the state dict does not fit the published {name}: {'; '.join(said)}")


def _check_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    wrong = [key for key, shape in expected.items() if tuple(tensors[key].shape) != shape]
    if wrong:
        said = [f"{key} is {_shape(tensors[key].shape)} instead of {_shape(expected[key])}" for key in wrong[:SHOWN]]
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise ValueError(f"the state dict has tensors of the wrong shape: {', '.join(said)}{more}")


def _check_numbers(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for key, wanted in expected.items():
        tensor = tensors[key]
        if tensor.is_floating_point() != wanted.is_floating_point():
            raise ValueError(f"{key} is of type {_type(tensor)}; it must be {_type(wanted)}")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"{key} holds numbers that are not finite; the weights are damaged, or those of a run that diverged")


def _check_aliases(tensors: Mapping[str, Tensor], keys: Mapping[str, str]) -> None:
    """Two names of one tensor must hold the same numbers: nobody can tell which of two the network used."""
    first: dict[str, str] = {}
    for key, our_key in keys.items():
        original = first.setdefault(our_key, key)
        one, other = tensors[key].cpu(), tensors[original].cpu()
        if one.dtype != other.dtype or not torch.equal(one, other):
            raise ValueError(f"{key} differs from {original}; in the published network they are two names of one tensor")


def _two_sizes(tensors: Mapping[str, Tensor], key: str, meaning: str) -> tuple[int, int]:
    shape = tensors[key].shape
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"{key} has shape {_shape(shape)}; expected ({meaning})")
    return shape[0], shape[1]


def _some(keys: Iterable[str]) -> str:
    """The first keys by name, the rest as a number."""
    every = [key if key.isprintable() else repr(key) for key in keys]
    return ", ".join(every[:SHOWN]) + (f" and {len(every) - SHOWN} more" if len(every) > SHOWN else "")


def _shape(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "a single number"


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")

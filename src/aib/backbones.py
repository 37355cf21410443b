"""Networks of timm by name: created without a head, with readable errors and weights from a local file."""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aib.saved import check_saved

__all__ = [
    "check_real",
    "create_backbone",
    "declared_input_size",
    "image_size",
    "module_device_and_dtype",
    "one_line",
]

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def one_line(error: BaseException, limit: int = 200) -> str:
    """Type and message of ``error`` on one line of at most ``limit`` characters or so."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= limit else text[:limit] + "…"


def check_real(weights: Mapping[str, Any]) -> None:
    """Refuse complex numbers, of which torch would take the real parts.

    Raises:
        ValueError: a tensor is complex.
    """
    for name, value in weights.items():
        if isinstance(value, Tensor) and value.is_complex():
            raise ValueError(f"the numbers of {name!r} are complex")


def image_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) from one side of a square or from both.

    Raises:
        ValueError: not one or two positive integers.
    """
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"input_size is {size!r}; it must be a side or (height, width) in pixels, such as 224 or (224, 320)")
    return sides


def declared_input_size(network: nn.Module) -> tuple[int, int] | None:
    """(height, width) the network says it takes: its patch grid's, else timm's record of it, else its ``input_size``."""
    size: Any = getattr(getattr(network, "patch_embed", None), "img_size", None)
    if size is None:
        config = getattr(network, "pretrained_cfg", None) or getattr(network, "default_cfg", None)
        size = config.get("input_size") if isinstance(config, dict) else None
    if size is None:
        size = getattr(network, "input_size", None)
    sides = (size, size) if isinstance(size, int) else tuple(size)[-2:] if isinstance(size, tuple | list) else ()
    return (sides[0], sides[1]) if len(sides) == 2 and all(isinstance(side, int) for side in sides) else None


def create_backbone(
    name: str,
    *,
    in_channels: int = 3,
    input_size: int | tuple[int, int] | None = None,
    pretrained: bool | str | Path = False,
) -> nn.Module:
    """A timm network without its classification head, in training mode.

    Args:
        name: of a timm model, with or without a weight tag (``"resnet18"``, ``"resnet18.a1_in1k"``).
        in_channels: channels of the images; weights of the first convolution are adapted where they have another number.
        input_size: side or (height, width) in pixels; only networks with a fixed patch grid are built differently for it.
        pretrained: False for a fresh network, True to download timm's weights, or the path of a file with weights
            (.safetensors, .pth, .pt or .bin, read with ``weights_only=True``).

    Raises:
        ValueError: the name or the tag is unknown (near names are given); the network cannot be built for these images; the weights
            cannot be downloaded, read, or do not fit.
    """
    import timm

    if in_channels < 1:
        raise ValueError(f"in_channels is {in_channels}; images have at least 1 channel")
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=4, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists them all"
        raise ValueError(f"unknown timm model {name!r}; {hint}")
    if tag and name not in (tagged := timm.list_models(f"{architecture}.*", pretrained=True)):
        raise ValueError(f"timm has no weights {name!r}; it has {', '.join(tagged) or 'none of ' + architecture}")
    options: dict[str, Any] = {"num_classes": 0, "in_chans": in_channels}
    try:
        network = timm.create_model(name, **options)
        if input_size is not None and getattr(getattr(network, "patch_embed", None), "img_size", None) is not None:
            options["img_size"] = image_size(input_size)
            if declared_input_size(network) != options["img_size"]:
                network = timm.create_model(name, **options)
    except Exception as error:
        raise ValueError(
            f"timm cannot build {name!r} with in_channels={in_channels}, input_size={input_size}: {one_line(error)}"
        ) from error
    if pretrained is True:
        try:
            return timm.create_model(name, pretrained=True, **options)
        except Exception as error:
            raise ValueError(
                f"cannot get the pretrained weights of {name!r} ({one_line(error, 120)}); check the network connection, leave "
                "pretrained out to start from fresh weights, or give a local file instead: path/to/weights.safetensors"
            ) from error
    if pretrained is not False:
        _load_weights(network, Path(pretrained))
    return network


def _load_weights(network: nn.Module, path: Path) -> None:
    """Fill a fresh timm network without head from a file; everything but the head must be there and fit."""
    from timm.models import load_state_dict

    if path.suffix not in WEIGHT_SUFFIXES:
        raise ValueError(f"pretrained is {str(path)!r}; it must be True, False or a file that ends in {', '.join(WEIGHT_SUFFIXES)}")
    if not path.is_file():
        raise ValueError(f"pretrained weights {str(path)!r} are not a file; leave pretrained out to start from fresh weights")
    try:
        if path.suffix != ".safetensors":
            check_saved(path)
        with warnings.catch_warnings(action="ignore"):  # of what it may not be able to read: then it says so
            state = load_state_dict(str(path), device="cpu", weights_only=True)
        # families rename or resize weights (position embeddings) in a function beside the network, as timm does after a download
        convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
        state = convert(state, network) if convert is not None else state
        fitted = _without_head(_fit_first_convolution(state, network), network)
        check_real(fitted)
        result = network.load_state_dict(fitted, strict=False)
    except Exception as error:
        raise ValueError(f"cannot load pretrained weights from {str(path)!r} ({one_line(error)})") from error
    missing = [key for key in result.missing_keys if not key.endswith("num_batches_tracked")]
    for problem, keys in (("lacks", missing), ("has the unknown", result.unexpected_keys)):
        if keys:
            raise ValueError(
                f"pretrained weights {str(path)!r} are of another network than {type(network).__name__}: the file {problem} "
                f"{', '.join(key if key.isprintable() else repr(key) for key in keys[:3])}"
                + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
            )


def _config_names(network: nn.Module, entry: str) -> Iterable[str]:
    names = getattr(network, "pretrained_cfg", {}).get(entry) or ()
    return (names,) if isinstance(names, str) else names


def _fit_first_convolution(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """``state`` with the weights of the first convolution for the number of channels of ``network``."""
    from timm.models import adapt_input_conv

    own = network.state_dict()
    for key in (f"{name}.weight" for name in _config_names(network, "first_conv")):
        if key in state and key in own and state[key].shape[1] != own[key].shape[1]:
            state = {**state, key: adapt_input_conv(own[key].shape[1], state[key])}
    return state


def _without_head(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    heads = tuple(f"{name}." for name in _config_names(network, "classifier"))
    return {key: value for key, value in state.items() if not (heads and key.startswith(heads))}


def module_device_and_dtype(network: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and floating type of the first floating-point parameter or buffer; CPU and float32 where there is none."""
    for tensor in [*network.parameters(), *network.buffers()]:
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.float32

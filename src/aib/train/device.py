"""Which device to compute on."""

from __future__ import annotations

import torch

__all__ = ["choose_device", "wants_channels_last"]


def choose_device(name: str = "auto") -> str:
    """``name``, or for ``"auto"`` the best device at hand: cuda, then mps, then cpu.

    Raises:
        ValueError: the name is unknown or the machine lacks the device.
    """
    present = [
        kind
        for kind, here in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available()), ("cpu", True))
        if here
    ]
    if name == "auto":
        return present[0]
    if name not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device is {name!r}; it must be auto, cpu, cuda or mps")
    if name not in present:
        raise ValueError(f"device is {name!r}, which this machine lacks; it has {', '.join(present)}")
    return name


def wants_channels_last(setting: bool | None, device: str) -> bool:
    """Whether the model's weights go into channels-last order, which makes its convolutions work in that order.

    Without a ``setting``, on CUDA only: on CPUs it speeds narrow networks up severalfold and does nothing for wide ones.
    """
    return device.startswith("cuda") if setting is None else setting

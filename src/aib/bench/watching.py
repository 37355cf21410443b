"""What a training step spends its time on: some modules' own share, and the operations behind it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from aib.bench.layers import LAYERS

__all__ = ["Spent", "module_seconds", "operation_shares"]

PAID_FOR = ("ConvolutionBackward", "MkldnnConvolution", "CudnnConvolution", "AddmmBackward", "LinearBackward", "MmBackward")
"""Beginnings of the names of what convolutions and linear layers leave in the graph of the backward pass."""


class Spent(NamedTuple):
    """Seconds of some modules: those of the convolutions and linear layers inside them, and those of all else."""

    own: float
    layers: float


def module_seconds(
    parts: Mapping[str, Sequence[nn.Module]], step: Callable[[], object], wait: Callable[[], None] = lambda: None
) -> dict[str, Spent]:
    """Seconds that modules take inside a training step, the convolutions and linear layers inside them apart.

    The forward pass of a module is timed from call to return. In the backward pass every node of the graph is timed that lies
    between the module's outputs and its inputs. ``wait`` is called around each, so that on a GPU the sum is an upper bound: what
    would overlap does not.

    Args:
        parts: by name, modules; one inside another counts in both.
        step: makes a forward and a backward pass of the network they belong to.
        wait: of `aib.bench.timing.device_wait`.

    Returns:
        By name the seconds of those modules, and under ``""`` those of the whole step, as its own.
    """
    own, layers = dict.fromkeys(parts, 0.0), dict.fromkeys(parts, 0.0)

    def now() -> float:
        wait()
        return time.perf_counter()

    handles: list[Any] = []
    try:
        for name, modules in parts.items():
            for module in modules:
                handles += _watch(module, name, own, layers, now)
        start = now()
        step()
        total = now() - start
    finally:
        for handle in handles:
            handle.remove()
    return {name: Spent(own[name], layers[name]) for name in parts} | {"": Spent(total, 0.0)}


def _watch(module: nn.Module, name: str, own: dict[str, float], layers: dict[str, float], now: Callable[[], float]) -> list[Any]:
    """Hooks that add the time of a module to ``own[name]`` or, for that of the layers inside it, to ``layers[name]``."""

    def pair(taken: dict[str, float], besides: dict[str, float] | None = None) -> tuple[Callable[..., None], Callable[..., None]]:
        began: list[float] = []

        def start(*_: Any) -> None:
            began.append(now())

        def stop(*_: Any) -> None:
            seconds = now() - began.pop()
            taken[name] += seconds
            if besides is not None:
                besides[name] -= seconds

        return start, stop

    def watch_backward(_: nn.Module, inputs: Any, outputs: Any) -> None:
        behind = {tensor.grad_fn for tensor in inputs if isinstance(tensor, Tensor)}
        for node in _between([tensor.grad_fn for tensor in _tensors(outputs)], behind):
            start, stop = pair(layers if node.name().startswith(PAID_FOR) else own)
            node.register_prehook(start)
            node.register_hook(stop)

    handles = []
    inside = [layer for layer in module.modules() if isinstance(layer, LAYERS)]
    for watched, (start, stop) in [(module, pair(own)), *((layer, pair(layers, own)) for layer in inside)]:
        handles += [watched.register_forward_pre_hook(start), watched.register_forward_hook(stop)]
    return [*handles, module.register_forward_hook(watch_backward)]


def _tensors(outputs: Any) -> list[Tensor]:
    return [t for t in (outputs if isinstance(outputs, tuple) else (outputs,)) if isinstance(t, Tensor)]


def _between(nodes: Sequence[Any], behind: set[Any]) -> set[Any]:
    """Nodes of the graph of the backward pass from ``nodes`` on, up to those ``behind``; without the leaves, which only collect."""
    found: set[Any] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node is not None and node not in behind and node not in found and node.next_functions:
            found.add(node)
            waiting += [following for following, _ in node.next_functions]
    return found


def operation_shares(step: Callable[[], object], wait: Callable[[], None] = lambda: None, most: int = 12) -> dict[str, float]:
    """Shares of torch's operations in the time that all of them take in a step, the largest ``most`` and the rest.

    What Python and torch do between the operations is not counted.
    """
    with _Operations(wait) as operations:
        step()
    total = sum(operations.seconds.values())
    largest = sorted(operations.seconds.items(), key=lambda item: item[1], reverse=True)[:most]
    shares = {name: seconds / total for name, seconds in largest}
    return shares | {"others": max(0.0, 1 - sum(shares.values()))}


class _Operations(TorchDispatchMode):
    """Seconds of every operation by name, forward and backward."""

    def __init__(self, wait: Callable[[], None]) -> None:
        super().__init__()
        self.wait = wait
        self.seconds: dict[str, float] = defaultdict(float)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not: telling torch's compiler to look away would import it, for seconds, and nothing is compiled here."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.wait()
        began = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        self.wait()
        self.seconds[str(func.overloadpacket).removeprefix("aten.")] += time.perf_counter() - began
        return result

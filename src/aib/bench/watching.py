"""What a training step spends its time on: some modules' own share, and the operations behind it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from aib.bench.layers import LAYERS

__all__ = ["operation_shares", "own_seconds"]

PAID_FOR = ("ConvolutionBackward", "MkldnnConvolution", "CudnnConvolution", "AddmmBackward", "LinearBackward", "MmBackward")
"""Beginnings of the names of what convolutions and linear layers leave in the graph of the backward pass."""


def own_seconds(
    parts: Mapping[str, Sequence[nn.Module]], step: Callable[[], object], wait: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Seconds that modules take inside a training step, without the convolutions and linear layers inside them.

    The forward pass of a module is timed from call to return. In the backward pass every node of the graph is timed that lies
    between the module's outputs and its inputs. ``wait`` is called around each, so that on a GPU the sum is an upper bound: what
    would overlap does not.

    Args:
        parts: by name, modules; one inside another counts in both.
        step: makes a forward and a backward pass of the network they belong to.
        wait: of `aib.bench.timing.device_wait`.

    Returns:
        By name the seconds of those modules, and under ``""`` those of the whole step.
    """
    taken = dict.fromkeys(parts, 0.0)

    def now() -> float:
        wait()
        return time.perf_counter()

    handles: list[Any] = []
    try:
        for name, modules in parts.items():
            for module in modules:
                handles += _watch(module, name, taken, now)
        start = now()
        step()
        total = now() - start
    finally:
        for handle in handles:
            handle.remove()
    return taken | {"": total}


def _watch(module: nn.Module, name: str, taken: dict[str, float], now: Callable[[], float]) -> list[Any]:
    """Hooks that add the time of a module to ``taken[name]`` and take away that of the layers inside it."""

    def pair(sign: int) -> tuple[Callable[..., None], Callable[..., None]]:
        began: list[float] = []

        def start(*_: Any) -> None:
            began.append(now())

        def stop(*_: Any) -> None:
            taken[name] += sign * (now() - began.pop())

        return start, stop

    def watch_backward(_: nn.Module, inputs: Any, outputs: Any) -> None:
        behind = {tensor.grad_fn for tensor in inputs if isinstance(tensor, Tensor)}
        for node in _between([tensor.grad_fn for tensor in _tensors(outputs)], behind):
            if not node.name().startswith(PAID_FOR):
                start, stop = pair(1)
                node.register_prehook(start)
                node.register_hook(stop)

    handles = []
    for watched, sign in [(module, 1), *((layer, -1) for layer in module.modules() if isinstance(layer, LAYERS))]:
        start, stop = pair(sign)
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

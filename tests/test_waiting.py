"""No step of a training on a GPU waits for it: every operation of the loop's own code, on a pretended device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from aib.data.bundle import DataBundle, TensorSplit
from aib.models import create_model
from aib.train.fabric import ForwardDetails
from aib.train.loop import _Fit
from aib.train.optim import build_optimizer
from aib.train.running import RunningMeans
from aib.train.shares import Sharing
from tiny import tiny_config

GPU = "cuda:0"
ANSWERS = ("_local_scalar_dense", "nonzero", "is_nonzero", "_unique2", "masked_select")
"""Operations whose result the host reads, or whose shape it must know."""


class Waits(TorchDispatchMode):
    """Operations for which the host waits for the device, by name.

    Copies to the device that are asked for as ``non_blocking`` do not wait, even from ordinary memory: the driver takes a copy.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = str(func.overloadpacket).removeprefix("aten.")
        sources = {value.device.type for value in tree_iter((args, kwargs)) if isinstance(value, Tensor)}
        self.operations += "cuda" in sources
        if name in ANSWERS and "cuda" in sources:
            self.found.append(name)
        elif name.startswith("index") and any(getattr(value, "dtype", None) is torch.bool for value in tree_iter(args[1])):
            self.found.append("index by a mask")
        elif name in ("_to_copy", "copy_"):
            target = torch.device(kwargs["device"]) if kwargs.get("device") is not None else args[0].device
            blocking = not (kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
            if len(sources | {target.type}) > 1 and (target.type == "cpu" or blocking):
                self.found.append(f"{name} from {', '.join(sorted(sources))} to {target.type}")
        if name.startswith("_fused_"):  # an optimiser's step, in place: pretended tensors have none
            return None
        return func(*args, **kwargs)


@pytest.fixture
def waits() -> Iterator[Waits]:
    """What the host waits for, with a GPU that is only pretended: its tensors have shapes and no content."""
    with FakeTensorMode(allow_non_fake_inputs=True), Waits() as mode:
        yield mode


def fit(model_name: str, **options: Any) -> Any:
    """The training loop's own object, on the pretended GPU, with what a step of it uses."""
    config = tiny_config("noise", Path("nowhere"), **options)
    made = object.__new__(_Fit)
    made.config, made.device, made.flip, made.world = config, torch.device(GPU), True, 1
    with torch.device(GPU):  # pretended tensors cannot move there
        model = create_model(model_name, 3, **({"width": 0.125} if model_name.startswith(("vgg_aib", "wrn")) else {})).train()
    made.model, made.wrapped = model, ForwardDetails(model)
    made.optimizer = build_optimizer(model, config.optim, made.device)
    made.running = RunningMeans(made.device)

    def backward(loss: Tensor) -> None:
        """Gradients without the backward pass, which is torch's own from end to end and needs the device."""
        assert loss.requires_grad
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)

    made.sharing = Sharing(1, 0, 1, 16, model, (3, 32, 32))
    # of Fabric the three methods that a step calls; its accelerators need the device too
    made.fabric = SimpleNamespace(
        backward=backward,
        no_backward_sync=lambda module, enabled: nullcontext(),
        clip_gradients=lambda module, optimizer, **how: Fabric.clip_gradients(Fabric(accelerator="cpu"), module, optimizer, **how),
    )
    images = torch.zeros(40, 3, 32, 32, dtype=torch.uint8, device=GPU)
    split = TensorSplit(images, torch.zeros(40, dtype=torch.int64))
    made.bundle = DataBundle("noise", split, split, split, ("a", "b", "c"), (0.5,) * 3, (0.25,) * 3, (32, 32))
    return made


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("vgg_aib_qt", {"clip_norm": 1.0, "lambda_sparsity": 0.1}),
        ("wrn_aib_qt", {"optimizer": "adamw", "label_smoothing": 0.1, "kl": "reference"}),
    ],
)
def test_no_step_waits_for_the_device(waits: Waits, model: str, options: dict[str, Any]) -> None:
    loop = fit(model, **options)
    waits.found.clear()
    waits.operations = 0
    batches = loop.bundle.train.batches([torch.arange(16), torch.arange(16, 32)], train=True)
    for batch, flip in zip(batches, (True, torch.ones(16) > 0)):
        parts, errors = loop._step(batch.images, batch.labels, 0.5, flip)
        loop.running.add(parts, errors, len(batch.labels), 7)
    assert waits.found == []
    assert waits.operations > 100


@pytest.mark.parametrize(
    ("wait", "name"),
    [
        (lambda x: x.sum().item(), "_local_scalar_dense"),
        (lambda x: 1 if x.sum() > 0 else 2, "_local_scalar_dense"),
        (lambda x: x.tolist(), "_local_scalar_dense"),
        (lambda x: x.cpu(), "_to_copy from cuda to cpu"),
        (lambda x: x.to("cpu", non_blocking=True), "_to_copy from cuda to cpu"),
        (lambda x: torch.arange(3).to(GPU), "_to_copy from cpu to cuda"),
        (lambda x: torch.tensor([1.0], device=GPU), "_to_copy from cpu to cuda"),
        (lambda x: x.copy_(torch.zeros(4)), "copy_ from cpu, cuda to cuda"),
        (lambda x: x[x > 0], "index by a mask"),
        (lambda x: (x > 0).nonzero(), "nonzero"),
    ],
)
def test_what_waits_is_seen(waits: Waits, wait: Any, name: str) -> None:
    x = torch.zeros(4, device=GPU)
    waits.found.clear()
    with suppress(DataDependentOutputException, DynamicOutputShapeException):  # the pretended device has no content to answer with
        wait(x)
    assert name in waits.found
    waits.found.clear()
    x.to(GPU, dtype=torch.float64).add(1)
    torch.arange(3).to(GPU, non_blocking=True)
    assert waits.found == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_step_waits_for_a_real_device() -> None:
    loop = fit("vgg_aib_qt", clip_norm=1.0)
    loop.fabric.backward = lambda loss: loss.backward()
    for number, batch in enumerate(loop.bundle.train.batches([torch.arange(16)] * 4, train=True)):
        torch.cuda.set_sync_debug_mode("error" if number > 1 else "default")  # the first steps set things up
        try:
            loop.running.add(*loop._step(batch.images, batch.labels, 0.5, True), len(batch.labels), number)
        finally:
            torch.cuda.set_sync_debug_mode("default")

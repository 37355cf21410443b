"""What a training goes on from: each part of its last checkpoint, compared with the run before it is used.

A checkpoint may be damaged or anybody's. Optimisers trust theirs: fused steps read and write as many numbers of a state as the
parameter has, wherever they are. Of the settings of the parameter groups only the last learning rate is taken, which no step goes
by: the others are the configuration's.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aib.loss import LOSS_PARTS
from aib.train.checkpoint import is_plain, link, load_checkpoint
from aib.train.run_folder import RunFolder

__all__ = ["Position", "load_optimizer", "load_precision", "load_weights", "read_position", "read_saved", "read_sums"]

CONTENT = ("model", "optimizer", "state", "running")
"""What a checkpoint of a training holds, at least."""

KEPT = {"SGD": ("momentum_buffer",), "Adam": ("step", "exp_avg", "exp_avg_sq"), "AdamW": ("step", "exp_avg", "exp_avg_sq")}
"""What an optimiser keeps of a parameter: tensors of its shape, but for the number of steps."""

SUMS = ("bad_step", "images", "errors", "loss")
"""Sums of every epoch that has begun; beside them are those of the parts of the loss and of the rate."""

TOLERANCE = 1e-3
"""By how much the sums of the parts may miss that of the loss, as a share of them: more than rounding in float32."""


@dataclass
class Position:
    """Where a training is: what a checkpoint holds besides weights, optimiser and sums. No number is negative."""

    epoch: int = 0  # finished epochs
    batch: int = 0  # batches done in the current epoch
    step: int = 0
    seconds: float = 0.0  # of the current epoch, before an interruption
    best_error: float = float("inf")
    best_cross_entropy: float = float("inf")
    best_epoch: int = 0


def read_saved(folder: RunFolder, *, mend: bool) -> dict[str, Any] | None:
    """The last checkpoint of a run that goes on, None for one that was stopped before its first.

    In the place of one that a disk has damaged steps the one before it, which leads to the same end some steps later.

    Args:
        folder: of the run.
        mend: put that one in its place in the folder too, and say so; of several processes only the first one does.

    Raises:
        ValueError: see `RunFolder.check_checkpoint` and `load_checkpoint`; or a part is missing.
    """
    folder.check_checkpoint()
    state = None
    if folder.last.exists():
        try:
            state = load_checkpoint(folder.last)
        except ValueError as error:
            previous = folder.last.with_name("previous.ckpt")
            try:
                state = load_checkpoint(previous)
            except ValueError as other:
                raise (ValueError(f"{error}; {other}") if previous.exists() else error) from None
            if mend:  # before anything is saved: saving makes the last one the previous one
                link(previous, folder.last)
                print(f"aib train: {error}; going on from the one before it, {previous.name}", file=sys.stderr)
    if state is not None and (missing := [key for key in CONTENT if key not in state]):
        raise ValueError(f"{folder.last} is damaged: it lacks {', '.join(missing)}")
    return state


def read_position(saved: Mapping[str, Any], where: object) -> Position:
    """The position that a checkpoint holds.

    Raises:
        ValueError: it is that of another version, or has a number of another type, below 0 or not finite (infinite are the errors
            before the first epoch); ``where`` says whose it was.
    """
    start = vars(Position())
    if saved.keys() != start.keys():
        raise ValueError(f"{where} was written by another version of aib; resume it with that one")
    for name, value in saved.items():
        if type(value) is not type(start[name]) or not (0 <= value < math.inf or value == start[name]):
            raise _damaged(where, name)
    if saved["best_epoch"] > saved["epoch"]:
        raise _damaged(where, "best_epoch")
    return Position(**saved)


def read_sums(saved: Mapping[str, Tensor], images: int, where: object) -> dict[str, Tensor]:
    """The sums of an interrupted epoch, as `aib.train.running.RunningMeans` keeps them.

    Args:
        saved: of the checkpoint.
        images: of the epoch, seen so far; where there are none, there are no sums.
        where: what messages call the checkpoint.

    Raises:
        ValueError: a sum is missing, unknown, not one finite number, or cannot be: another number of images, more errors than
            those, or other parts than the loss has.
    """
    known = {*SUMS, "rate", *LOSS_PARTS} if images else set()
    if not saved.keys() <= known or not all(name in saved for name in SUMS if images):
        raise _damaged(where, "running")
    for name, value in saved.items():
        kinds = (torch.int64,) if name == "bad_step" else (torch.float64, torch.float32)
        if value.ndim or value.dtype not in kinds or not math.isfinite(value.item()):
            raise _damaged(where, f"running {name}")
    values = {name: value.item() for name, value in saved.items()}
    parts = [values[name] for name in LOSS_PARTS if name in values]
    agree = not values or abs(values["loss"] - sum(parts)) <= TOLERANCE * sum(map(abs, parts))
    # a loss that was not finite has ended the run before anything was saved
    right = not values or (values["bad_step"] == -1 and values["images"] == images and 0 <= values["errors"] <= images)
    if not (agree and right and ("rate" in values) == ("rate_loss" in values)):
        raise _damaged(where, "running")
    return dict(saved)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], where: object) -> None:
    """Fill ``model`` from a state dict.

    Raises:
        ValueError: names, shapes or types are those of another model; ``where`` says whose weights they were.
    """
    wanted = {name: (value.shape, value.dtype) for name, value in model.state_dict().items()}
    if {name: (value.shape, value.dtype) for name, value in weights.items()} != wanted:
        raise ValueError(f"the weights in {where} do not fit the model: have the data or their classes changed?")
    model.load_state_dict(weights)


def load_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any], where: object) -> None:
    """Fill ``optimizer``, one of `KEPT`, with what a checkpoint holds of its parameters' past; its settings stay.

    Raises:
        ValueError: parameters, names, shapes or types are those of another optimiser; ``where`` says whose state it was. Its first
            step raises one where a parameter with a gradient has no past.
    """
    own = optimizer.state_dict()["param_groups"]
    groups, past = saved.get("param_groups"), saved.get("state")
    if not isinstance(groups, list) or [_length(group) for group in groups] != [_length(group) for group in own]:
        raise _damaged(where, "optimizer param_groups")
    for group, then in zip(own, groups):
        group["lr"] = then.get("lr")
        if type(group["lr"]) not in (float, int) or not 0 <= group["lr"] < math.inf:
            raise _damaged(where, "optimizer lr")
    parameters = dict(enumerate(parameter for group in optimizer.param_groups for parameter in group["params"]))
    kept = KEPT[type(optimizer).__name__] if optimizer.defaults.get("momentum") != 0 else ()
    if not isinstance(past, dict) or bool(past) != bool(kept):
        raise _damaged(where, "optimizer state")
    state: dict[int, dict[str, Tensor]] = {}
    for index, values in past.items():
        if type(index) is not int or index not in parameters or not isinstance(values, dict) or values.keys() != set(kept):
            raise _damaged(where, "optimizer state")
        for name, value in values.items():
            like = torch.zeros(()) if name == "step" else parameters[index]
            if not (isinstance(value, Tensor) and is_plain(value) and (value.shape, value.dtype) == (like.shape, like.dtype)):
                raise _damaged(where, f"optimizer {name} of parameter {index}")
            if name == "step" and not value >= 1:
                raise _damaged(where, f"optimizer step of parameter {index}")
            # in the memory order of the parameter: fused steps go through both as they lie
            state.setdefault(index, {})[name] = torch.empty_like(like).copy_(value.detach())
    optimizer.load_state_dict({"state": state, "param_groups": own})
    if not kept:
        return

    def check(*_: object) -> None:  # which parameters a network has no use for is not known before
        first_step.remove()
        for index, parameter in parameters.items():
            if index not in state and parameter.grad is not None:
                raise _damaged(where, f"optimizer without parameter {index}")

    first_step = optimizer.register_step_pre_hook(check)


def load_precision(precision: Any, saved: Mapping[str, Any], where: object) -> None:
    """Fill a precision of Fabric's, whose scale of gradients (of float16 only) is a matter of the past.

    Raises:
        ValueError: ``saved`` has other names, types or numbers below 0 than it writes; ``where`` says whose state it was.
    """
    if not (own := precision.state_dict()):
        return
    if saved.keys() != own.keys() or not all(type(saved[k]) is type(v) and 0 <= saved[k] < math.inf for k, v in own.items()):
        raise _damaged(where, "precision")
    precision.load_state_dict(dict(saved))


def _length(group: Any) -> int:
    """Parameters of a group, -1 of what is none."""
    return len(group["params"]) if isinstance(group, dict) and isinstance(group.get("params"), list) else -1


def _damaged(where: object, what: str) -> ValueError:
    return ValueError(f"{where} is damaged: its {what} is not what aib writes")

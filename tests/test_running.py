"""Running means weigh by images, keep the first bad step and add up over processes; multiplications equal a count by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from aib.train.macs import count_macs
from aib.train.running import RunningMeans


def test_running_means_weigh_by_images_and_keep_the_first_bad_step() -> None:
    means = RunningMeans(torch.device("cpu"))
    means.add({"loss": torch.tensor(1.0), "rate": torch.tensor(math.log(2))}, torch.tensor(1), 3, 0)
    means = RunningMeans(torch.device("cpu"), means.sums)
    means.add({"loss": torch.tensor(5.0), "rate": torch.tensor(math.log(2))}, torch.tensor(1), 1, 1)
    assert means.means() == pytest.approx({"loss": 2.0, "rate_bits": 1.0, "error": 0.5})
    assert means.bad_step() is None
    for step, loss in enumerate((math.inf, 1.0, math.nan), start=2):
        means.add({"loss": torch.tensor(loss), "rate": torch.tensor(0.0)}, torch.tensor(0), 1, step)
    assert means.bad_step() == 2


def test_a_part_that_joins_late_counts_as_zero_before() -> None:
    means = RunningMeans(torch.device("cpu"))
    means.add({"loss": torch.tensor(1.0)}, torch.tensor(0), 2, 0)
    means.add({"loss": torch.tensor(1.0), "sparsity_loss": torch.tensor(0.5)}, torch.tensor(0), 2, 1)
    assert means.means()["sparsity_loss"] == pytest.approx(0.25)


def test_sums_of_processes_that_know_other_names_add_up() -> None:
    first, second, idle = (RunningMeans(torch.device("cpu")) for _ in range(3))
    first.add({"loss": torch.tensor(1.0), "rate": torch.tensor(2.0)}, torch.tensor(1), 3, 0)
    second.add({"sparsity_loss": torch.tensor(4.0), "rate": torch.tensor(6.0), "loss": torch.tensor(5.0)}, torch.tensor(2), 1, 0)
    sent: list[list[torch.Tensor]] = []
    for means in (first, second, idle):
        sent.append([])
        means.total(lambda value, mine=sent[-1]: mine.append(value) or value)  # type: ignore[func-returns-value, misc]
    answers = iter([sum(each) for each in zip(*sent)])
    total = RunningMeans(torch.device("cpu"), idle.total(lambda _: next(answers)))  # type: ignore[arg-type, return-value]
    assert total.means() == pytest.approx({"loss": 2.0, "sparsity_loss": 1.0, "rate_bits": 3 / math.log(2), "error": 0.75})


def test_macs_of_a_network_counted_by_hand() -> None:
    shared = nn.Conv2d(4, 4, 3, padding=1)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), shared, shared, nn.Flatten(), nn.Linear(4 * 16, 5))
    # 4x4 positions: 27 * 4, twice 36 * 4, and 64 * 5
    assert count_macs(model, (3, 8, 8)) == 16 * 27 * 4 + 2 * 16 * 36 * 4 + 64 * 5
    assert not any(module._forward_hooks for module in model.modules())

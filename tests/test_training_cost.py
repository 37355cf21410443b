"""The operations of a training, counted by us and by torch."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from aib.loss import objective
from aib.models import create_model
from aib.train.macs import count_macs

BATCH = 4


@pytest.mark.parametrize("name", ["fast", "fast_aib_qt", "vgg_aib_qt", "vgg_att3", "wrn_abn", "vgg_dvib"])
def test_the_count_of_a_step_is_torchs_and_not_below_it(name: str) -> None:
    model = create_model(name, 10, **({"width": 0.125} if not name.startswith("fast") else {})).train()
    macs = count_macs(model, (3, 32, 32))
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(0, 10, (BATCH,))
    with FlopCounterMode(display=False) as forward:
        details = model.forward_details(images)
    assert forward.get_total_flops() == pytest.approx(2 * BATCH * macs, rel=0.01)
    with FlopCounterMode(display=False) as backward:
        objective(details, labels)["loss"].backward()
    # records take a step for three forward passes; the gradient to the images and to frozen filters is never computed
    step = forward.get_total_flops() + backward.get_total_flops()
    assert 0.9 * 6 * BATCH * macs < step < 1.01 * 6 * BATCH * macs

"""Unused anchors move to where the scores are, their past is forgotten, and a resumed run is the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import short_runs
from aib.anchors import AnchorQuantizer
from aib.train.checkpoint import load_checkpoint
from aib.train.loop import Interrupted, train
from aib.train.revival import revive_anchors
from short_runs import AfterStep, interrupt
from tiny import outcome, same, tiny_config, write_npz

after_step = short_runs.after_step


def trained(values: list[float], optimizer: str) -> tuple[AnchorQuantizer, torch.optim.Optimizer]:
    """A quantiser with these anchors after a step, so that the optimiser has a past."""
    quantizer = AnchorQuantizer(len(values))
    made = {"sgd": lambda p: torch.optim.SGD(p, lr=0.0, momentum=0.9), "adamw": lambda p: torch.optim.AdamW(p, lr=0.0)}
    chosen = made[optimizer](quantizer.parameters())
    (quantizer.anchors * torch.arange(1.0, len(values) + 1)).sum().backward()
    chosen.step()
    with torch.no_grad():
        quantizer.anchors.copy_(torch.tensor(values))
    return quantizer, chosen


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_dead_move_beside_the_busiest_and_forget(optimizer: str) -> None:
    quantizer, chosen = trained([0.0, 0.2, 0.4, 0.9], optimizer)
    before = {key: value.clone() for key, value in chosen.state[quantizer.anchors].items() if value.shape == (4,)}
    assert before
    moved = revive_anchors(quantizer, torch.tensor([5, 0, 90, 0]), chosen)
    assert moved == [1, 3]
    # halfway between 0.4 and its live neighbour 0.0; then halfway between 0.2, the first of those with 45, and 0.0
    torch.testing.assert_close(quantizer.anchors.detach(), torch.tensor([0.0, 0.2, 0.4, 0.1]))
    for key, value in before.items():
        now = chosen.state[quantizer.anchors][key]
        assert not now[moved].any()
        assert torch.equal(now[[0, 2]], value[[0, 2]])
        assert value[moved].any()


@given(st.lists(st.integers(0, 50), min_size=2, max_size=12), st.randoms(use_true_random=False))
def test_the_living_stay_and_the_moved_lie_among_them(counts: list[int], random: object) -> None:
    values = sorted(random.uniform(0, 1) for _ in counts)  # type: ignore[attr-defined]
    quantizer, chosen = trained(values, "sgd")
    before = quantizer.anchors.detach().clone()
    live = torch.tensor(counts) > 0
    moved = revive_anchors(quantizer, torch.tensor(counts), chosen)
    after = quantizer.anchors.detach()
    assert torch.equal(after[live], before[live])
    if not live.any():
        assert moved == []
    else:
        assert moved == (~live).nonzero().flatten().tolist()
        spare = 0.5 / (len(counts) - 1) if live.sum() == 1 else 1e-6
        assert (after >= before[live].min() - 1e-6).all()
        assert (after <= before[live].max() + spare + 1e-6).all()
        again, other = trained(values, "sgd")
        revive_anchors(again, torch.tensor(counts), other)
        assert torch.equal(again.anchors, quantizer.anchors)


def test_a_run_uses_more_anchors_and_resumes_alike(tmp_path: Path, after_step: AfterStep) -> None:
    data = write_npz(tmp_path / "squares.npz")
    options = {"anchors": 60, "revive_anchors": True, "epochs": 3}
    whole = train(tiny_config(data, tmp_path / "whole", **options))
    left = train(tiny_config(data, tmp_path / "left", **options | {"revive_anchors": False}))
    key = next(k for k in load_checkpoint(whole.last)["model"] if k.endswith("anchors"))
    assert not torch.equal(load_checkpoint(whole.last)["model"][key], load_checkpoint(left.last)["model"][key])
    path = tmp_path / "cut"
    after_step(9, interrupt)
    with pytest.raises(Interrupted):
        train(tiny_config(data, path, **options))
    assert same(outcome(train(tiny_config(data, path, **options), resume=path)), outcome(whole))


def test_a_network_without_anchors_has_none_to_revive(tmp_path: Path) -> None:
    data = write_npz(tmp_path / "squares.npz")
    folder = train(tiny_config(data, tmp_path / "run", model="vgg_xs_aib", anchors=None, epochs=1, revive_anchors=True))
    assert folder.finished_epochs == 1

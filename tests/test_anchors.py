"""The quantiser: which anchor, whose gradient, and how the anchors are used."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aib.anchors import AnchorQuantizer, anchor_usage


def test_anchors_start_evenly_spaced_with_both_ends() -> None:
    torch.testing.assert_close(AnchorQuantizer(5).anchors.detach(), torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))
    torch.testing.assert_close(AnchorQuantizer(3, -1.0, 1.0).anchors.detach(), torch.tensor([-1.0, 0.0, 1.0]))
    assert AnchorQuantizer(20).num_anchors == 20


@pytest.mark.parametrize("count", [1, 0, -3])
def test_fewer_than_two_anchors_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=rf"anchors is {count}; a quantised map needs at least 2"):
        AnchorQuantizer(count)


def test_values_are_anchors_and_indices_name_them() -> None:
    quantizer, scores = AnchorQuantizer(7, 0.1, 0.9), torch.randn(2, 3, 1, 4, 5) * 100
    quantized, anchor_values, indices = quantizer(scores)
    assert quantized.shape == anchor_values.shape == indices.shape == scores.shape
    assert torch.equal(quantized, quantizer.anchors[indices])
    assert torch.equal(quantized, anchor_values)
    assert torch.equal(quantizer(quantized).indices, indices)  # an anchor is its own nearest


@given(st.permutations(range(6)))
def test_anchors_need_not_be_sorted(order: list[int]) -> None:
    quantizer, shuffled = AnchorQuantizer(6), AnchorQuantizer(6)
    shuffled.anchors.data = quantizer.anchors.data[torch.tensor(order)]
    scores = torch.linspace(-0.3, 1.3, 40)
    assert torch.equal(quantizer(scores).quantized, shuffled(scores).quantized)
    assert torch.equal(torch.tensor(order)[shuffled(scores).indices], quantizer(scores).indices)


def test_each_of_the_two_maps_sends_its_gradient_to_one_side() -> None:
    quantizer, scores = AnchorQuantizer(6), torch.rand(50, requires_grad=True)
    scores.data[:] = scores.data * 0.5  # the upper anchors stay unused
    quantized, anchor_values, indices = quantizer(scores)
    upstream, inputs = torch.randn(50), (scores, quantizer.anchors)
    to_scores, to_anchors = torch.autograd.grad(quantized, inputs, upstream, allow_unused=True, retain_graph=True)
    assert torch.equal(to_scores, upstream)
    assert to_anchors is None
    to_scores, to_anchors = torch.autograd.grad(anchor_values, inputs, upstream, allow_unused=True)
    assert to_scores is None
    torch.testing.assert_close(to_anchors, torch.zeros(6).index_add(0, indices, upstream))
    used = torch.bincount(indices, minlength=6) > 0
    assert not used.all()
    assert torch.equal(to_anchors != 0, used)


def test_the_gradient_of_the_anchors_is_the_same_every_time_on_two_threads() -> None:
    quantizer, scores = AnchorQuantizer(20), torch.rand(128, 1, 16, 16)  # as many as torch shares among threads
    upstream = torch.randn(scores.shape)

    def anchor_gradient(values: torch.Tensor) -> tuple[float, ...]:
        return tuple(torch.autograd.grad(values, quantizer.anchors, upstream)[0].tolist())

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        found = {anchor_gradient(quantizer(scores).anchor_values) for _ in range(30)}
        torch.set_num_threads(1)
        alone = anchor_gradient(quantizer.anchors[quantizer(scores).indices])
    finally:
        torch.set_num_threads(threads)
    assert found == {alone}


def test_memory_does_not_grow_with_the_number_of_anchors(largest_tensor) -> None:
    quantizer, scores = AnchorQuantizer(1024), torch.rand(200, 1, 20, 50, requires_grad=True)
    with largest_tensor() as watched:
        out = quantizer(scores)
        (out.quantized.sum() + out.anchor_values.square().sum()).backward()
    assert watched.largest == scores.numel()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_scores_take_the_same_anchors(dtype: torch.dtype) -> None:
    quantizer, scores = AnchorQuantizer(50), torch.rand(1000).to(dtype)
    expected = quantizer(scores.float())
    with torch.autocast("cpu", torch.bfloat16):
        out = quantizer(scores)
    assert torch.equal(out.indices, expected.indices)
    assert out.quantized.dtype == torch.float32
    assert torch.equal(out.quantized, expected.quantized)


def test_usage_of_all_anchors_alike() -> None:
    usage = anchor_usage(torch.full((20,), 7), torch.linspace(0, 1, 20))
    assert usage.used == 20
    assert usage.perplexity == pytest.approx(20)
    assert usage.smallest_gap == pytest.approx(1 / 19)


def test_usage_of_one_anchor_of_merged_ones_and_of_none() -> None:
    usage = anchor_usage(torch.tensor([0, 9, 0]), torch.tensor([0.9, 0.1, 0.9]))
    assert (usage.used, usage.perplexity, usage.smallest_gap) == (1, 1.0, 0.0)
    empty = anchor_usage(torch.zeros(3, dtype=torch.int64), torch.tensor([0.0, 0.5, 1.0]))
    assert (empty.used, empty.perplexity) == (0, 1.0)


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=10).filter(any))
def test_perplexity_is_that_of_the_entropy(counts: list[int]) -> None:
    share = [count / sum(counts) for count in counts]
    expected = math.exp(-sum(p * math.log(p) for p in share if p))
    usage = anchor_usage(torch.tensor(counts), torch.linspace(0, 1, len(counts)))
    assert usage.perplexity == pytest.approx(expected, rel=1e-6)
    assert 1 - 1e-9 <= usage.perplexity <= len(counts) + 1e-6
    assert usage.used == sum(count > 0 for count in counts)

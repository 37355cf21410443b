"""Dropout draws as torch's does, four elements from each random number."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from aib.models import create_model
from aib.models.dropout import Dropout

COUNT = 1 << 18


def kept(probability: float, shape: tuple[int, ...] = (COUNT,), seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return Dropout(probability)(torch.ones(shape)) != 0


def near(share: float, probability: float, count: int) -> bool:
    """Within five standard deviations, which a fair draw leaves once in two million times."""
    return abs(share - probability) < 5 * math.sqrt(probability * (1 - probability) / count)


@pytest.mark.parametrize("probability", [0.02, 0.3, 0.5, 0.9])
def test_every_part_of_a_random_number_drops_the_same_share(probability: float) -> None:
    drops = ~kept(probability)
    for part in range(4):
        assert near(drops[part::4].float().mean().item(), probability, COUNT // 4)


def test_elements_are_dropped_independently_of_their_neighbours() -> None:
    drops = ~kept(0.3)
    for distance in (1, 2, 3, 4, 8):
        both = (drops[:-distance] & drops[distance:]).float().mean().item()
        # five standard deviations of a product of two shares, neighbouring pairs counted as a fair draw correlates them
        assert abs(both - 0.09) < 5 * math.sqrt(0.09 * 0.91 * 2 / COUNT)


def test_what_stays_is_scaled_so_that_the_mean_does_and_gradients_follow() -> None:
    images = torch.rand(4, 8, 33, 5, requires_grad=True)
    torch.manual_seed(1)
    out = Dropout(0.3)(images)
    stays = out != 0
    scale = 65536 / (65536 - round(0.3 * 65536))
    torch.testing.assert_close(out[stays], images[stays] * scale)
    assert scale == pytest.approx(1 / 0.7, rel=1e-4)
    (gradient,) = torch.autograd.grad(out.sum(), images)
    torch.testing.assert_close(gradient, stays * scale)


def test_the_seed_decides_and_other_seeds_differ() -> None:
    assert torch.equal(kept(0.5, seed=3), kept(0.5, seed=3))
    assert not torch.equal(kept(0.5, seed=3), kept(0.5, seed=4))


@pytest.mark.parametrize("probability", [0.0, 1.0, 1e-6, 1 - 1e-6])
def test_probabilities_at_the_ends_are_torchs(probability: float) -> None:
    images = torch.rand(1000)
    outs = []
    for layer in (Dropout(probability), nn.Dropout(probability)):
        torch.manual_seed(0)
        outs.append(layer(images))
    assert torch.equal(*outs)


def test_eval_mode_hands_its_input_on() -> None:
    images = torch.rand(7)
    assert Dropout(0.5).eval()(images) is images


def test_memory_order_and_kind_of_number_stay() -> None:
    dense = torch.rand(2, 8, 6, 6)
    for images in (dense.to(memory_format=torch.channels_last), dense.transpose(1, 3), dense.bfloat16(), dense.double()):
        out = Dropout(0.3)(images)
        assert (out.stride(), out.dtype) == (images.stride(), images.dtype)
    for images in (dense[:, ::2], dense[:1].expand(5, -1, -1, -1), dense[:0], torch.rand(())):  # gaps, repeats, nothing, a number
        out = Dropout(0.3)(images)
        assert out.shape == images.shape
        assert bool(((out == 0) | (out - images * 65536 / 45875).abs().le(1e-5)).all())
    repeated = Dropout(0.5)(torch.ones(1, 64).expand(8, 64))
    assert not torch.equal(repeated[0], repeated[1])


def test_the_wide_residual_network_uses_it() -> None:
    layers = [m for m in create_model("wrn", num_classes=10, width=0.1).modules() if isinstance(m, nn.Dropout)]
    assert {type(layer) for layer in layers} == {Dropout}
    assert len(layers) == 12

"""Statistics of the attention and of the latent: shapes, start values, extremes and precision."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aib.attention import SpatialAttention
from aib.bottleneck import LatentBottleneck, deep_decoder, shallow_decoder, xavier_linear
from aib.functional import STD_FLOOR


class Constant(nn.Module):
    """Head that scores every position alike, whatever the features."""

    def __init__(self, score: float) -> None:
        super().__init__()
        self.score = nn.Parameter(torch.tensor(score))

    def forward(self, features: Tensor) -> Tensor:
        return self.score.expand(features.shape[0], 1, *features.shape[2:])


def test_attention_is_a_sigmoid_and_a_softplus_of_the_mean_map() -> None:
    attention, features = SpatialAttention(5), torch.randn(3, 5, 6, 7)
    mean, std = attention(features)
    assert mean.shape == std.shape == (3, 1, 6, 7)
    expected = torch.sigmoid(F.conv2d(features, attention.head.weight, attention.head.bias, padding=1))
    torch.testing.assert_close(mean, expected)
    raw = F.conv2d(mean, attention.std_head.weight, attention.std_head.bias, padding=1)
    torch.testing.assert_close(std, torch.log1p(torch.exp(raw - 5)), rtol=1e-4, atol=1e-7)


def test_the_std_sees_the_mean_map_only() -> None:
    attention = SpatialAttention(5, head=Constant(0.3))
    assert torch.equal(attention(torch.randn(1, 5, 6, 6)).std, attention(torch.randn(1, 5, 6, 6) * 100).std)


@pytest.mark.parametrize(("offset", "start"), [(-5.0, 0.0067153), (0.0, 0.6931472)])
def test_initial_std_is_set_by_the_offset(offset: float, start: float) -> None:
    attention, bottleneck = SpatialAttention(4, std_offset=offset), LatentBottleneck(3, 2, std_offset=offset)
    for parameter in (*attention.std_head.parameters(), *bottleneck.linear.parameters()):
        nn.init.zeros_(parameter)
    torch.testing.assert_close(attention(torch.randn(2, 4, 3, 3)).std, torch.full((2, 1, 3, 3), start))
    torch.testing.assert_close(bottleneck(torch.randn(2, 3)).std, torch.full((2, 2), start))


def test_min_std_is_added_and_cannot_be_negative() -> None:
    features = torch.randn(2, 4, 3, 3)
    free = SpatialAttention(4)
    noisy = SpatialAttention(4, min_std=0.25)
    noisy.load_state_dict(free.state_dict())
    torch.testing.assert_close(noisy(features).std, free(features).std + 0.25)
    assert torch.equal(noisy(features).mean, free(features).mean)
    for wrong in (-0.1, math.nan):
        with pytest.raises(ValueError, match="min_std is"):
            SpatialAttention(4, min_std=wrong)


@pytest.mark.parametrize("score", [-1e4, 1e4])
def test_attention_is_finite_at_extreme_scores(score: float) -> None:
    attention = SpatialAttention(2, head=Constant(score))
    nn.init.constant_(attention.std_head.weight, score)
    mean, std = attention(torch.randn(1, 2, 4, 4))
    assert mean.isfinite().all()
    assert ((mean >= 0) & (mean <= 1)).all()
    assert std.isfinite().all()
    assert (std >= STD_FLOOR).all()
    for gradient in torch.autograd.grad(mean.sum() + std.log().sum(), attention.parameters()):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("scale", [-1e4, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_latent_is_finite_at_extreme_features(scale: float, dtype: torch.dtype) -> None:
    bottleneck = LatentBottleneck(4, 3).to(dtype)
    mean, std = bottleneck(torch.full((2, 4), scale, dtype=dtype))
    assert mean.isfinite().all()
    assert std.isfinite().all()
    assert (std >= STD_FLOOR).all()


def test_attention_runs_in_float32_under_autocast() -> None:
    attention, features = SpatialAttention(5), torch.randn(3, 5, 6, 7)
    with torch.autocast("cpu", torch.bfloat16):
        assert attention.head(features).dtype == torch.bfloat16  # autocast is on
        mean, std = attention(features)
        rounded = attention.std_head(mean)
        assert torch.is_autocast_enabled("cpu")  # and on again afterwards
    assert mean.dtype == std.dtype == torch.float32
    raw = attention.std_head(mean)
    torch.testing.assert_close(std, F.softplus(raw - 5), rtol=1e-6, atol=0)
    assert not torch.equal(rounded.float(), raw)  # bfloat16 would have shown


def test_latent_statistics_are_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        mean, std = LatentBottleneck(4, 3)(torch.randn(2, 4))
    assert mean.dtype == std.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_modules_of_another_precision_give_float32_statistics(dtype: torch.dtype) -> None:
    for statistics in (
        SpatialAttention(5).to(dtype)(torch.randn(1, 5, 4, 4, dtype=dtype)),
        LatentBottleneck(5, 2).to(dtype)(torch.randn(1, 5, dtype=dtype)),
    ):
        assert {value.dtype for value in statistics} == {torch.float32}


def test_channels_last_features_change_nothing() -> None:
    attention, features = SpatialAttention(5), torch.randn(3, 5, 6, 7)
    for ours, expected in zip(attention(features.to(memory_format=torch.channels_last)), attention(features), strict=True):
        torch.testing.assert_close(ours, expected)


def test_latent_halves_are_mean_and_raw_std() -> None:
    bottleneck, encoded = LatentBottleneck(4, 3), torch.randn(2, 4, 1, 1)
    mean, std = bottleneck(encoded)
    raw = encoded.flatten(1) @ bottleneck.linear.weight.T + bottleneck.linear.bias
    torch.testing.assert_close(mean, raw[:, :3])
    torch.testing.assert_close(std, F.softplus(raw[:, 3:] - 5), rtol=1e-4, atol=1e-7)


def test_an_empty_latent_is_refused() -> None:
    with pytest.raises(ValueError, match="latent_dim is 0; it must be at least 1"):
        LatentBottleneck(4, 0)


def test_decoders_are_those_of_the_paper() -> None:
    latent = torch.randn(2, 6)
    deep, shallow = deep_decoder(6, 3), shallow_decoder(6, 3)
    assert sum(p.numel() for p in deep.parameters()) == 6 * 6 + 6 + 6 * 3 + 3
    assert sum(p.numel() for p in shallow.parameters()) == 6 * 3 + 3
    assert deep(latent).shape == shallow(latent).shape == (2, 3)
    assert torch.equal(shallow(latent.clamp_min(0)), shallow(latent))  # the ReLU comes first
    assert not torch.equal(deep(latent.clamp_min(0)), deep(latent))


def test_linear_layers_that_start_at_xaviers_size_neither_shrink_nor_grow_what_passes() -> None:
    torch.manual_seed(0)
    stack = nn.Sequential(LatentBottleneck(256, 128).linear, *(nn.Linear(256, 256) for _ in range(4)), nn.Conv2d(1, 1, 1))
    before = stack[-1].weight.clone()
    passed = torch.randn(512, 256)
    shrunk = stack[:-1](passed).std().item()
    xavier_linear(stack)
    assert shrunk < 0.15  # torch's own start: 0.6 to the fifth
    assert stack[:-1](passed).std().item() == pytest.approx(1.0, abs=0.15)
    assert all(not layer.bias.any() for layer in stack[:-1])
    assert torch.equal(stack[-1].weight, before)

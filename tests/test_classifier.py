"""The attentive classifier: draws and their order, determinism, precision, and nothing left behind."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from aib.classifier import AttentiveClassifier, Details, Noise, PlainClassifier
from aib.functional import gaussian_kl, nearest_anchor
from aib.loss import objective

Make = Callable[..., AttentiveClassifier]
Batch = tuple[Tensor, Tensor]
LOUD = {"attention_offset": -1.0, "latent_offset": 0.0}
"""Noise that shows: some anchors change from draw to draw, and every class score."""


def noise_for(draws: tuple[int, int], count: int, latent_dim: int = 6) -> Noise:
    return Noise(torch.randn(draws[0], count, 1, 8, 8), torch.randn(*draws, count, latent_dim))


def fields(details: Details) -> dict[str, Tensor]:
    return {name: value for name, value in vars(details).items() if value is not None}


def assert_same(ours: Details, other: Details, **tolerance: float) -> None:
    assert fields(ours).keys() == fields(other).keys()
    for name, value in fields(ours).items():
        torch.testing.assert_close(value, fields(other)[name], **tolerance, msg=lambda text, name=name: f"{name}: {text}")


# --- what comes back ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_shapes_without_samples(small_model: Make, small_batch: Batch, training: bool) -> None:
    out = small_model().train(training).forward_details(small_batch[0])
    shapes = {name: tuple(value.shape) for name, value in fields(out).items()}
    assert shapes == {
        "logits": (5, 4),
        "sample_logits": (1, 1, 5, 4),
        "features": (5, 6, 8, 8),
        "attention_mean": (5, 1, 8, 8),
        "attention_std": (5, 1, 8, 8),
        "attention": (5, 1, 8, 8),
        "quantized": (5, 1, 8, 8),
        "anchor_values": (5, 1, 8, 8),
        "indices": (5, 8, 8),
        "latent_mean": (5, 6),
        "latent_std": (5, 6),
        "latent": (5, 6),
        "rate": (5,),
    }
    assert out.map is out.quantized


@pytest.mark.parametrize("samples", [(1, 1), (2, 3)])
def test_shapes_with_samples(small_model: Make, small_batch: Batch, samples: tuple[int, int]) -> None:
    out = small_model().eval().forward_details(small_batch[0], samples=samples)
    draws, _ = samples
    shapes = {name: tuple(value.shape) for name, value in fields(out).items()}
    assert shapes == {
        "logits": (5, 4),
        "sample_logits": (*samples, 5, 4),
        "features": (5, 6, 8, 8),
        "attention_mean": (5, 1, 8, 8),
        "attention_std": (5, 1, 8, 8),
        "attention": (draws, 5, 1, 8, 8),
        "quantized": (draws, 5, 1, 8, 8),
        "anchor_values": (draws, 5, 1, 8, 8),
        "indices": (draws, 5, 8, 8),
        "latent_mean": (draws, 5, 6),
        "latent_std": (draws, 5, 6),
        "latent": (*samples, 5, 6),
        "rate": (5,),
    }
    torch.testing.assert_close(out.map, out.quantized.mean(0))


def test_without_anchors_the_map_is_the_attention(small_model: Make, small_batch: Batch) -> None:
    out = small_model(None).eval().forward_details(small_batch[0])
    assert out.quantized is None
    assert out.anchor_values is None
    assert out.indices is None
    assert out.map is out.attention
    assert torch.equal(out.attention, out.attention_mean)


def test_forward_is_the_logits_of_the_details(small_model: Make, small_batch: Batch) -> None:
    model = small_model().eval()
    logits = model(small_batch[0])
    assert isinstance(logits, Tensor)
    assert torch.equal(logits, model.forward_details(small_batch[0]).logits)


def test_details_are_those_of_the_modules_called_by_hand(small_model: Make, small_batch: Batch) -> None:
    model = small_model(**LOUD).eval()
    noise = noise_for((1, 1), 5)
    out = model.forward_details(small_batch[0], noise=noise)
    features = model.backbone.features(small_batch[0])
    mean, std = model.attention(features)
    attention = mean + std * noise.attention[0]
    quantized = model.quantizer.anchors[nearest_anchor(attention, model.quantizer.anchors)]
    latent_mean, latent_std = model.bottleneck(model.backbone.encoder(features * (1 + quantized)))
    latent = latent_mean + latent_std * noise.latent[0, 0]
    torch.testing.assert_close(out.attention[0], attention)
    torch.testing.assert_close(out.quantized[0], quantized)
    torch.testing.assert_close(out.latent[0, 0], latent)
    torch.testing.assert_close(out.logits, model.decoder(latent))
    torch.testing.assert_close(out.rate, gaussian_kl(latent_mean, latent_std))


@pytest.mark.parametrize("modulation", ["residual", "plain"])
def test_the_map_of_zeros_shows_which_modulation_is_used(small_model: Make, small_batch: Batch, modulation: str) -> None:
    model = small_model(modulation=modulation).eval()
    out = model.forward_details(small_batch[0], replace_map=torch.zeros_like)
    features = model.backbone.features(small_batch[0]) * (1 if modulation == "residual" else 0)
    expected = model.decoder(model.bottleneck(model.backbone.encoder(features)).mean)
    torch.testing.assert_close(out.logits, expected)


def test_replacing_the_map_by_itself_changes_nothing(small_model: Make, small_batch: Batch) -> None:
    model, noise = small_model(**LOUD).eval(), noise_for((2, 1), 5)
    shapes = []

    def same(maps: Tensor) -> Tensor:
        shapes.append(tuple(maps.shape))
        return maps

    replaced = model.forward_details(small_batch[0], noise=noise, replace_map=same)
    assert_same(replaced, model.forward_details(small_batch[0], noise=noise))
    assert shapes == [(10, 1, 8, 8)]
    shuffled = model.forward_details(small_batch[0], noise=noise, replace_map=lambda maps: maps.flip(0))
    assert not torch.allclose(shuffled.logits, replaced.logits)


# --- draws --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anchors", [None, 8])
@pytest.mark.parametrize("count", [1, 3, 5])
def test_every_draw_of_every_image_equals_a_run_of_its_own(small_model: Make, anchors: int | None, count: int) -> None:
    model, images, noise = small_model(anchors, **LOUD).eval(), torch.randn(count, 3, 16, 16), noise_for((2, 3), count)
    out = model.forward_details(images, noise=noise)
    for a in range(2):
        for i in range(count):
            one = slice(a, a + 1), slice(i, i + 1)
            for z in range(3):
                alone = Noise(noise.attention[a : a + 1, i : i + 1], noise.latent[a : a + 1, z : z + 1, i : i + 1])
                single = model.forward_details(images[i : i + 1], noise=alone)
                torch.testing.assert_close(out.sample_logits[a, z, i], single.logits[0])
                torch.testing.assert_close(out.latent[a, z, i], single.latent[0, 0, 0])
            torch.testing.assert_close(out.attention[one], single.attention)
            torch.testing.assert_close(out.latent_mean[one], single.latent_mean)
            if anchors:
                assert torch.equal(out.indices[one], single.indices)
    flat = out.sample_logits.flatten(0, 2)
    assert torch.cdist(flat, flat).fill_diagonal_(1).min() > 1e-3  # no two alike: a swapped axis would show


def test_a_shorter_last_batch_gives_what_the_whole_gives(small_model: Make) -> None:
    model, images, noise = small_model(**LOUD).eval(), torch.randn(7, 3, 16, 16), noise_for((2, 2), 7)
    whole = model.forward_details(images, noise=noise)
    for part in (slice(0, 4), slice(4, 7)):
        out = model.forward_details(images[part], noise=Noise(noise.attention[:, part], noise.latent[:, :, part]))
        torch.testing.assert_close(out.sample_logits, whole.sample_logits[:, :, part])
        torch.testing.assert_close(out.rate, whole.rate[part])


def test_noise_of_zeros_is_the_mean_path(small_model: Make, small_batch: Batch) -> None:
    model = small_model(**LOUD).eval()
    silent = Noise(torch.zeros(1, 5, 1, 8, 8), torch.zeros(1, 1, 5, 6))
    torch.testing.assert_close(model.forward_details(small_batch[0], noise=silent).logits, model(small_batch[0]))


def test_the_rate_is_averaged_over_the_attention_draws(small_model: Make, small_batch: Batch) -> None:
    out = small_model(**LOUD).eval().forward_details(small_batch[0], samples=(3, 2))
    by_draw = torch.stack([gaussian_kl(out.latent_mean[a], out.latent_std[a]) for a in range(3)])
    assert by_draw.std(0).min() > 0
    torch.testing.assert_close(out.rate, by_draw.mean(0))


def test_logits_or_probabilities_are_averaged(small_model: Make, small_batch: Batch) -> None:
    model, noise = small_model(**LOUD).eval(), noise_for((2, 3), 5)
    out = model.forward_details(small_batch[0], noise=noise)
    torch.testing.assert_close(out.logits, sum(out.sample_logits[a, z] for a in range(2) for z in range(3)) / 6)
    other = model.forward_details(small_batch[0], noise=noise, average="probabilities")
    torch.testing.assert_close(other.logits.exp(), out.sample_logits.softmax(-1).mean((0, 1)))
    assert not torch.allclose(other.logits.softmax(-1), out.logits.softmax(-1), atol=1e-4)


def test_the_features_are_computed_once_for_all_draws(small_model: Make, small_batch: Batch) -> None:
    model, calls = small_model().eval(), []
    handles = [
        module.register_forward_hook(lambda _module, _inputs, out, name=name: calls.append((name, len(out))))
        for name, module in (("features", model.backbone.features), ("encoder", model.backbone.encoder), ("decoder", model.decoder))
    ]
    model.forward_details(small_batch[0], samples=(4, 4))
    for handle in handles:
        handle.remove()
    assert calls == [("features", 5), ("encoder", 20), ("decoder", 80)]


def test_a_generator_makes_draws_reproducible(small_model: Make, small_batch: Batch) -> None:
    model = small_model(**LOUD).eval()

    def run(seed: int) -> Details:
        return model.forward_details(small_batch[0], samples=(2, 2), generator=torch.Generator().manual_seed(seed))

    before = torch.get_rng_state()
    assert_same(run(7), run(7), rtol=0, atol=0)
    assert not torch.allclose(run(7).logits, run(8).logits)
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_is_deterministic_and_leaves_the_random_numbers_alone(small_model: Make, small_batch: Batch) -> None:
    model = small_model(**LOUD).eval()
    before = torch.get_rng_state()
    assert_same(model.forward_details(small_batch[0]), model.forward_details(small_batch[0]), rtol=0, atol=0)
    model(small_batch[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_training_draws_once_from_the_global_generator(small_model: Make, small_batch: Batch) -> None:
    model = small_model(**LOUD)
    one, two = model.forward_details(small_batch[0]), model.forward_details(small_batch[0])
    assert torch.equal(one.attention_mean, two.attention_mean)
    assert not torch.allclose(one.attention, two.attention)
    assert not torch.allclose(one.logits, two.logits)
    noise = (one.attention - one.attention_mean) / one.attention_std
    assert 0.8 < noise.std() < 1.2
    noise = (one.latent - one.latent_mean) / one.latent_std
    assert 0.5 < noise.std() < 1.5
    torch.manual_seed(3)
    first = model.forward_details(small_batch[0])
    torch.manual_seed(3)
    assert_same(first, model.forward_details(small_batch[0]), rtol=0, atol=0)


def test_with_tiny_noise_training_and_evaluation_agree(small_model: Make, small_batch: Batch) -> None:
    model = small_model(None, attention_offset=-30.0, latent_offset=-30.0, batch_norm=False)
    drawn = model.train()(small_batch[0])
    torch.testing.assert_close(drawn, model.eval()(small_batch[0]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("samples", [(0, 1), (4, 0), (4,), (1, 2, 3), 4])
def test_samples_that_are_no_pair_are_refused(small_model: Make, small_batch: Batch, samples: object) -> None:
    with pytest.raises(ValueError, match=r"samples is .*; it must be two numbers of draws, each at least 1"):
        small_model().forward_details(small_batch[0], samples=samples)


def test_an_unknown_average_is_refused(small_model: Make, small_batch: Batch) -> None:
    with pytest.raises(ValueError, match="average is 'votes'; it must be 'logits' or 'probabilities'"):
        small_model().forward_details(small_batch[0], average="votes")


def test_an_unknown_modulation_is_refused_when_the_model_is_built(small_model: Make) -> None:
    with pytest.raises(ValueError, match="modulation is 'sum'; it must be 'residual' or 'plain'"):
        small_model(modulation="sum")


@pytest.mark.parametrize(
    "noise",
    [
        Noise(torch.zeros(1, 4, 1, 8, 8), torch.zeros(4, 1, 4, 6)),  # attention draws differ
        Noise(torch.zeros(2, 1, 1, 8, 8), torch.zeros(2, 1, 4, 6)),  # would broadcast over images
        Noise(torch.zeros(2, 4, 1, 8, 8), torch.zeros(2, 1, 4, 1)),  # would broadcast over latent dimensions
    ],
)
def test_noise_that_only_broadcasts_is_refused(small_model: Make, noise: Noise) -> None:
    with pytest.raises(ValueError, match=r"noise has shape .*; expected "):
        small_model().forward_details(torch.randn(4, 3, 16, 16), noise=noise)


# --- precision, memory format, state ------------------------------------------------------------------------------------------

STATISTICS = (
    "attention_mean",
    "attention_std",
    "attention",
    "quantized",
    "anchor_values",
    "latent_mean",
    "latent_std",
    "latent",
    "rate",
)


def test_statistics_are_float32_under_autocast(small_model: Make, small_batch: Batch) -> None:
    model = small_model(50, **LOUD)
    with torch.autocast("cpu", torch.bfloat16):
        out = model.forward_details(small_batch[0])
        parts = objective(out, small_batch[1])
    assert out.features.dtype == out.logits.dtype == torch.bfloat16  # the rest does run in bfloat16
    assert {name: fields(out)[name].dtype for name in STATISTICS} == dict.fromkeys(STATISTICS, torch.float32)
    assert {part.dtype for part in parts.values()} == {torch.float32}
    assert torch.equal(out.indices, nearest_anchor(out.attention, model.quantizer.anchors).squeeze(1))
    torch.testing.assert_close(out.rate, gaussian_kl(out.latent_mean, out.latent_std), rtol=0, atol=0)
    parts["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_of_another_precision_runs(small_model: Make, small_batch: Batch, dtype: torch.dtype) -> None:
    model = small_model().eval()
    expected = model(small_batch[0])
    out = model.to(dtype).forward_details(small_batch[0].to(dtype))
    assert out.logits.dtype == dtype
    assert out.rate.dtype == torch.float32
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(out.logits.float(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("samples", [None, (2, 2)])
def test_channels_last_images_and_model_change_nothing(
    small_model: Make, small_batch: Batch, samples: tuple[int, int] | None
) -> None:
    model = small_model().eval()

    def run(images: Tensor) -> Details:
        return model.forward_details(images, samples=samples, generator=torch.Generator().manual_seed(0))

    expected = run(small_batch[0])
    assert_same(run(small_batch[0].to(memory_format=torch.channels_last)), expected)
    model.to(memory_format=torch.channels_last)
    out = run(small_batch[0].to(memory_format=torch.channels_last))
    assert_same(out, expected)
    model.train()
    objective(model.forward_details(small_batch[0], samples=samples), small_batch[1])["loss"].backward()


@pytest.mark.parametrize("modulation", ["residual", "plain"])
@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e4, -1e4])
def test_values_and_gradients_are_finite_at_extreme_images(
    small_model: Make, small_batch: Batch, modulation: str, scale: float
) -> None:
    images, labels = small_batch
    for model in (small_model(modulation=modulation), small_model(modulation=modulation, batch_norm=False)):
        out = model.forward_details(images * scale, samples=(2, 2))
        assert all(value.isfinite().all() for value in fields(out).values())
        parts = objective(out, labels)
        assert all(part.isfinite() for part in parts.values())
        parts["loss"].backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())
        probabilities = model.forward_details(images * scale, samples=(2, 2), average="probabilities").logits
        assert probabilities.isfinite().all()


def state_of(model: nn.Module) -> dict[str, object]:
    """Identity of everything every module holds, inside its dictionaries too."""
    state: dict[str, object] = {}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            state[f"{name}.{key}"] = id(value)
            if isinstance(value, dict):
                state |= {f"{name}.{key}.{inner}": id(held) for inner, held in value.items()}
    return state


@pytest.mark.parametrize("training", [True, False])
def test_a_forward_pass_leaves_nothing_on_the_modules(small_model: Make, small_batch: Batch, training: bool) -> None:
    model = small_model().train(training)
    state, values = state_of(model), {name: value.clone() for name, value in model.state_dict().items()}
    model(small_batch[0])
    model.forward_details(small_batch[0], samples=(2, 2), replace_map=torch.zeros_like)
    assert state_of(model) == state
    running = ("running_mean", "running_var", "num_batches_tracked")
    for name, value in model.state_dict().items():
        assert torch.equal(value, values[name]) != (training and name.endswith(running)), name


def test_the_state_dict_is_the_whole_model(small_model: Make, small_batch: Batch) -> None:
    model, twin = small_model().eval(), small_model().eval()
    assert not torch.equal(model(small_batch[0]), twin(small_batch[0]))
    twin.load_state_dict(model.state_dict())
    assert torch.equal(model(small_batch[0]), twin(small_batch[0]))


def test_a_whole_forward_pass_compiles_without_a_graph_break(small_model: Make, small_batch: Batch) -> None:
    model = small_model().eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(small_batch[0]), model(small_batch[0]))
    torch.compiler.reset()


# --- the paired baseline ------------------------------------------------------------------------------------------------------


def test_a_plain_classifier_has_the_same_interface(small_batch: Batch) -> None:
    model = PlainClassifier(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Linear(4, 3), num_classes=3).eval()
    out = model.forward_details(small_batch[0], samples=(4, 4), generator=torch.Generator())
    assert fields(out).keys() == {"logits", "features"}
    assert out.map is None
    assert torch.equal(out.logits, model(small_batch[0]))
    assert out.features.shape == (5, 4, 14, 14)
    assert objective(out, small_batch[1].clamp_max(2)).keys() == {"loss", "cross_entropy"}

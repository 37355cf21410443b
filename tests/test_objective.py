"""The objective: its value, and which parameters each of its terms moves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from aib.classifier import AttentiveClassifier, Details, Noise
from aib.loss import BETA, LAMBDA_ANCHOR, LAMBDA_COMMITMENT, LOSS_PARTS, objective

Make = Callable[..., AttentiveClassifier]
Batch = tuple[Tensor, Tensor]
LOUD = {"attention_offset": -1.0, "latent_offset": 0.0}

GROUPS = {
    "features": "backbone.features.",
    "attention_mean": "attention.head.",
    "attention_std": "attention.std_head.",
    "anchors": "quantizer.",
    "encoder": "backbone.encoder.",
    "bottleneck": "bottleneck.",
    "decoder": "decoder.",
}
EVERYTHING = set(GROUPS)


def moved(model: nn.Module, term: Tensor) -> set[str]:
    """Groups of parameters that the term reaches; a group must be reached in every parameter or in none."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    assert all(sum(name.startswith(prefix) for prefix in GROUPS.values()) == 1 for name in names)
    gradients = torch.autograd.grad(term, parameters, allow_unused=True, retain_graph=True)
    reached = {name: gradient is not None for name, gradient in zip(names, gradients, strict=True)}
    for name, gradient in zip(names, gradients, strict=True):
        assert gradient is None or gradient.abs().max() > 0, f"{name} is reached by a gradient of zeros"
    groups = {group: {hit for name, hit in reached.items() if name.startswith(prefix)} for group, prefix in GROUPS.items()}
    assert all(len(hits) < 2 for hits in groups.values()), groups
    return {group for group, hits in groups.items() if hits == {True}}


# --- gradient routing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [None, (2, 3)])
@pytest.mark.parametrize("modulation", ["residual", "plain"])
@pytest.mark.parametrize("kl", ["paper", "reference"])
def test_each_term_moves_what_it_claims_and_nothing_else(
    small_model: Make, small_batch: Batch, samples: tuple[int, int] | None, modulation: str, kl: str
) -> None:
    model = small_model(modulation=modulation, **LOUD)
    parts = objective(model.forward_details(small_batch[0], samples=samples), small_batch[1], kl=kl, lambda_sparsity=0.1)
    reached = {name: moved(model, parts[name]) for name in LOSS_PARTS if name in parts}
    assert reached == {
        "cross_entropy": EVERYTHING - {"anchors"},
        "rate_loss": EVERYTHING - {"anchors", "decoder"},
        "anchor_loss": {"anchors"},
        "commitment_loss": {"features", "attention_mean", "attention_std"},
        "sparsity_loss": {"features", "attention_mean"},
    }
    assert moved(model, parts["loss"]) == EVERYTHING


def test_without_anchors_two_terms_remain(small_model: Make, small_batch: Batch) -> None:
    model = small_model(None, **LOUD)
    parts = objective(model.forward_details(small_batch[0]), small_batch[1])
    assert parts.keys() == {"loss", "cross_entropy", "rate_loss", "rate"}
    assert moved(model, parts["cross_entropy"]) == EVERYTHING - {"anchors"}
    assert moved(model, parts["rate_loss"]) == EVERYTHING - {"anchors", "decoder"}


def test_on_the_mean_path_the_std_of_the_attention_does_not_move(small_model: Make, small_batch: Batch) -> None:
    model = small_model(**LOUD).eval()
    parts = objective(model.forward_details(small_batch[0]), small_batch[1])
    assert moved(model, parts["loss"]) == EVERYTHING - {"attention_std"}


def test_only_anchors_in_use_are_moved_each_by_its_own_scores(small_model: Make, small_batch: Batch) -> None:
    model = small_model(20)
    out = model.forward_details(small_batch[0], samples=(2, 1))
    (gradient,) = torch.autograd.grad(objective(out, small_batch[1])["anchor_loss"], model.quantizer.anchors)
    scores, indices = out.attention.flatten(), out.indices.flatten()
    expected = torch.zeros(20)
    for anchor in range(20):
        pulls = model.quantizer.anchors[anchor].detach() - scores[indices == anchor].detach()
        expected[anchor] = LAMBDA_ANCHOR * 2 * pulls.sum() / scores.numel()
    torch.testing.assert_close(gradient, expected)
    used = torch.bincount(indices, minlength=20) > 0
    assert used.any()
    assert not used.all()
    assert torch.equal(gradient != 0, used)


def test_a_step_on_the_anchor_loss_draws_anchors_to_their_scores(small_model: Make, small_batch: Batch) -> None:
    model = small_model(4)
    optimizer = torch.optim.SGD([model.quantizer.anchors], lr=0.5)
    losses = []
    for _ in range(200):
        loss = objective(model.eval().forward_details(small_batch[0]), small_batch[1])["anchor_loss"]
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    out = model.forward_details(small_batch[0])
    assert losses[-1] < 0.5 * losses[0]
    for anchor in out.indices.unique():  # at rest each anchor in use is the mean of its scores, as in one dimension of k-means
        mean = out.attention.squeeze(1)[out.indices == anchor].mean()
        assert model.quantizer.anchors[anchor].item() == pytest.approx(mean.item(), abs=0.01)


# --- straight-through in the whole model --------------------------------------------------------------------------------------


@pytest.mark.parametrize("modulation", ["residual", "plain"])
def test_the_attention_receives_exactly_the_gradient_of_the_quantised_map(
    small_model: Make, small_batch: Batch, modulation: str
) -> None:
    model, (images, labels) = small_model(modulation=modulation, **LOUD), small_batch
    noise = Noise(torch.randn(1, 5, 1, 8, 8), torch.randn(1, 1, 5, 6))
    parameters = list(model.attention.parameters())
    parts = objective(model.forward_details(images, noise=noise), labels)
    ours = torch.autograd.grad(parts["cross_entropy"] + parts["rate_loss"], parameters)

    # the same graph by hand, with the quantised map as a free variable
    features = model.backbone.features(images).detach()
    mean, std = model.attention(features)
    attention = mean + std * noise.attention[0]
    anchors = model.quantizer.anchors.detach()
    table = (attention.detach()[..., None] - anchors).abs()
    quantized = anchors[table.argmin(-1)].requires_grad_()
    gates = 1 + quantized if modulation == "residual" else quantized
    latent_mean, latent_std = model.bottleneck(model.backbone.encoder(features * gates))
    logits = model.decoder(latent_mean + latent_std * noise.latent[0, 0])
    rate = kl_divergence(Normal(latent_mean, latent_std), Normal(0.0, 1.0)).sum(-1).mean()
    (at_the_map,) = torch.autograd.grad(F.cross_entropy(logits, labels) + BETA * rate, quantized)
    for gradient, expected in zip(ours, torch.autograd.grad(attention, parameters, at_the_map), strict=True):
        torch.testing.assert_close(gradient, expected)

    # the continuous map has another gradient, so that the comparison means something
    model.quantizer = None
    continuous = torch.autograd.grad(objective(model.forward_details(images, noise=noise), labels)["loss"], parameters)
    assert any(not torch.allclose(gradient, other, rtol=1e-3) for gradient, other in zip(ours, continuous, strict=True))


# --- values -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anchors", [None, 8])
@pytest.mark.parametrize("samples", [None, (2, 3)])
def test_the_parts_add_up_to_the_loss(
    small_model: Make, small_batch: Batch, anchors: int | None, samples: tuple[int, int] | None
) -> None:
    out = small_model(anchors, **LOUD).forward_details(small_batch[0], samples=samples)
    parts = objective(out, small_batch[1], 0.3, lambda_anchor=0.7, lambda_commitment=0.2, label_smoothing=0.1)
    assert all(part.shape == () for part in parts.values())
    assert set(parts) - {"loss", "rate"} <= set(LOSS_PARTS)
    torch.testing.assert_close(parts["loss"], sum(parts[name] for name in LOSS_PARTS if name in parts))


def test_values_are_those_of_the_equations(small_model: Make, small_batch: Batch) -> None:
    out, labels = small_model(**LOUD).forward_details(small_batch[0], samples=(2, 3)), small_batch[1]
    parts = objective(out, labels, 0.3, lambda_anchor=0.7, lambda_commitment=0.2, lambda_sparsity=0.6)
    by_draw = [F.cross_entropy(out.sample_logits[a, z], labels) for a in range(2) for z in range(3)]
    torch.testing.assert_close(parts["cross_entropy"], torch.stack(by_draw).mean())
    divergence = kl_divergence(Normal(out.latent_mean, out.latent_std), Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(parts["rate"], divergence.mean())
    torch.testing.assert_close(parts["rate"], out.rate.mean())
    torch.testing.assert_close(parts["rate_loss"], 0.3 * divergence.mean())
    error = (out.attention - out.quantized).square().mean()
    assert error > 0
    torch.testing.assert_close(parts["anchor_loss"], 0.7 * error)
    torch.testing.assert_close(parts["commitment_loss"], 0.2 * error)
    torch.testing.assert_close(parts["sparsity_loss"], 0.6 * out.attention_mean.mean())
    torch.testing.assert_close(parts["loss"], torch.stack([parts[name] for name in LOSS_PARTS if name in parts]).sum())


def test_the_cross_entropy_is_of_the_draws_not_of_their_average(small_model: Make, small_batch: Batch) -> None:
    out = small_model(**LOUD).forward_details(small_batch[0], samples=(4, 4))
    assert objective(out, small_batch[1])["cross_entropy"] > F.cross_entropy(out.logits, small_batch[1])  # Jensen


def test_the_published_weights_are_the_defaults(small_model: Make, small_batch: Batch) -> None:
    assert (BETA, LAMBDA_ANCHOR, LAMBDA_COMMITMENT) == (0.01, 0.4, 0.1)
    out = small_model(**LOUD).forward_details(small_batch[0])
    assert "sparsity_loss" not in objective(out, small_batch[1])  # ours, not the paper's
    explicit = objective(out, small_batch[1], 0.01, lambda_anchor=0.4, lambda_commitment=0.1, kl="paper", label_smoothing=0.0)
    assert objective(out, small_batch[1]) == explicit


def test_the_reference_divergence_is_an_option(small_model: Make, small_batch: Batch) -> None:
    out = small_model(**LOUD).forward_details(small_batch[0])
    divergence = kl_divergence(Normal(out.latent_mean, out.latent_std.exp()), Normal(0.0, 1.0)).sum(-1).mean()
    parts = objective(out, small_batch[1], kl="reference")
    torch.testing.assert_close(parts["rate_loss"], BETA * divergence)
    torch.testing.assert_close(parts["rate_loss"], BETA * divergence)
    paper = objective(out, small_batch[1])
    assert not torch.allclose(parts["rate_loss"], paper["rate_loss"], rtol=0.1)
    assert parts["rate"] == paper["rate"]  # one name, one quantity: that of the latent which is sampled


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_label_smoothing_is_that_of_the_cross_entropy(smoothing: float) -> None:
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 3, 0])
    target = F.one_hot(labels, 4) * (1 - smoothing) + smoothing / 4
    expected = -(target * logits.log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(objective(Details(logits), labels, label_smoothing=smoothing)["cross_entropy"], expected)
    torch.testing.assert_close(F.cross_entropy(logits, labels, label_smoothing=smoothing), expected)


def test_a_beta_of_zero_takes_the_rate_out_of_the_loss(small_model: Make, small_batch: Batch) -> None:
    parts = objective(small_model().forward_details(small_batch[0]), small_batch[1], 0.0)
    assert parts["rate_loss"] == 0
    assert parts["rate"] > 0


# --- a model learns -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anchors", [None, 8])
def test_a_tiny_model_overfits_eight_images(small_model: Make, anchors: int | None) -> None:
    torch.manual_seed(0)
    model, images, labels = small_model(anchors), torch.randn(8, 3, 16, 16), torch.arange(8) % 4
    start = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(120):
        parts = objective(model.forward_details(images), labels, beta=1e-4)
        optimizer.zero_grad()
        parts["loss"].backward()
        optimizer.step()
        losses.append(parts["loss"].item())
    assert losses[-1] < 0.3 * losses[0]
    assert model.eval()(images).argmax(-1).tolist() == labels.tolist()
    assert all(not torch.equal(value, start[name]) for name, value in model.named_parameters())
    assert (model.forward_details(images).rate > 0.69).all()  # a bit: the latent did not collapse

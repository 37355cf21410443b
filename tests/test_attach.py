"""Attached attention multiplies the features of its site and no more, samples, trains, and is a module like any other."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from aib.attaching import attach
from aib.loss import objective
from attached import PlainNet, SkipNet, assert_draws_equal_single_runs, noise_for, small


@pytest.mark.parametrize(("make", "at", "shares"), [(PlainNet, "stem", True), (SkipNet, "mix", False), (SkipNet, "stem", True)])
def test_hand_written_networks(make: Callable[[], nn.Module], at: str, shares: bool) -> None:
    model = small(make(), at)
    assert model.shares_features is shares
    # the head, a Linear to 7 outputs, is bypassed: the encoding is its input
    assert model.bottleneck.linear.in_features == 10
    assert_draws_equal_single_runs(model.eval(), torch.randn(3, 3, 16, 16))


@pytest.mark.parametrize("shares", [True, False])
def test_one_forward_pass_attends_once_and_runs_the_network_as_often_as_it_says(shares: bool) -> None:
    net = PlainNet() if shares else SkipNet()
    runs: list[int] = []
    net.register_forward_hook(lambda _, args, __: runs.append(len(args[0])))
    model = small(net, "stem" if shares else "mix").eval()
    attended: list[int] = []
    model.attention.register_forward_hook(lambda *_: attended.append(1))
    runs.clear()
    model.forward_details(torch.randn(2, 3, 16, 16), samples=(3, 2))
    assert attended == [1]
    assert runs == ([2] if shares else [2, 2, 2])


@pytest.mark.parametrize(("make", "at"), [(PlainNet, "stem"), (SkipNet, "mix"), (PlainNet, "body.1")])
def test_the_attended_pass_is_the_network_with_its_features_multiplied(make: type[PlainNet], at: str) -> None:
    net = make().eval()
    model = small(copy.deepcopy(net), at).eval()
    images = torch.randn(3, 3, 16, 16)
    details = model.forward_details(images)
    assert details.map is not None
    factor = 1 + details.map
    # independently: the original network, the site's output multiplied, the input of its head recorded
    seen: list[Tensor] = []
    net.get_submodule(at).register_forward_hook(lambda _, __, output: output * factor)
    net.classifier[3].register_forward_hook(lambda _, args, __: seen.append(args[0]))
    net(images)
    assert details.latent_mean is not None
    assert torch.allclose(details.latent_mean, model.bottleneck(seen[0]).mean, atol=1e-6)


@pytest.mark.parametrize(("name", "at"), [("convnext_atto", "stages.1"), ("swin_tiny_patch4_window7_224", "layers.1")])
def test_a_plain_map_of_zeros_hides_the_image(name: str, at: str) -> None:
    model = attach(name, at, 5, input_size=32, modulation="plain").eval()
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        hidden = model.forward_details(images, replace_map=torch.zeros_like).logits
        shown = model.forward_details(images, replace_map=torch.ones_like).logits
    assert torch.allclose(hidden, hidden[:1].expand_as(hidden), atol=1e-6)
    assert float((shown - shown[:1]).abs().max()) > 1e-3


def test_a_plain_map_of_zeros_does_not_hide_what_goes_around_the_site() -> None:
    images = torch.randn(3, 3, 16, 16)
    for net, at, hides in ((PlainNet(), "stem", True), (SkipNet(), "mix", False)):
        logits = small(net, at, modulation="plain").eval().forward_details(images, replace_map=torch.zeros_like).logits
        assert torch.allclose(logits, logits[:1].expand_as(logits), atol=1e-6) is hides


def test_one_open_token_lets_through_its_patch_and_no_other() -> None:
    """A map that is hot in row 1, column 2 of the grid: only that patch of the image matters."""
    model = attach("vit_tiny_patch16_224", "patch_embed", 3, input_size=64, modulation="plain").eval()
    hot = torch.zeros(1, 1, 4, 4)
    hot[..., 1, 2] = 1

    def latent(images: Tensor) -> Tensor:
        details = model.forward_details(images, replace_map=lambda maps: hot.expand_as(maps))
        assert details.latent_mean is not None
        return details.latent_mean

    images = torch.randn(1, 3, 64, 64)
    inside, outside = images.clone(), torch.randn(1, 3, 64, 64)
    inside[..., 16:32, 32:48] += 1
    outside[..., 16:32, 32:48] = images[..., 16:32, 32:48]
    with torch.no_grad():
        assert torch.allclose(latent(outside), latent(images), atol=1e-6)
        assert not torch.allclose(latent(inside), latent(images), atol=1e-4)


# --- a module like any other --------------------------------------------------------------------------------------------------


def test_training_reaches_attention_anchors_network_and_both_ends() -> None:
    model = small(SkipNet(), "mix", anchors=4)
    labels = torch.tensor([0, 1, 2])
    objective(model.forward_details(torch.randn(3, 3, 16, 16), samples=(2, 2)), labels)["loss"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert float(model.attention.head.weight.grad.abs().max()) > 0  # type: ignore[union-attr,operator]
    assert float(model.backbone.network.stem[0].weight.grad.abs().max()) > 0  # type: ignore[union-attr,index]


@pytest.mark.parametrize(("make", "at"), [(PlainNet, "stem"), (SkipNet, "mix")])
def test_copies_state_dicts_and_modes(make: type[PlainNet], at: str) -> None:
    images = torch.randn(2, 3, 16, 16)
    model = small(make(), at, anchors=4).eval()
    twin = copy.deepcopy(model)
    assert torch.equal(twin(images), model(images))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.5)
    assert not torch.equal(twin(images), model(images))
    # the copy is whole: its own hook, its own head
    net = twin.remove()
    assert net is not model.backbone.network
    assert net.classifier[3].out_features == 7  # type: ignore[union-attr,index]
    assert all(not module._forward_hooks for module in net.modules())
    other = small(make(), at, anchors=4).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(images), model(images))
    model.train()
    assert all(module.training for module in model.modules())
    assert not torch.equal(model(images), model(images))


@pytest.mark.slow
def test_a_compiled_classifier_agrees_with_itself() -> None:
    model = small(PlainNet()).eval()
    compiled = torch.compile(model.forward_details, backend="eager", fullgraph=True)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        for draws in ((1, 1), (3, 2), (3, 2)):
            noise = noise_for(model, draws, 2)
            assert torch.allclose(
                compiled(images, noise=noise).logits, model.forward_details(images, noise=noise).logits, atol=1e-5
            )


def test_what_the_network_returns_is_made_an_encoding() -> None:
    spatial = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 9, 3))
    model = attach(spatial, "0", 4, input_size=16)
    assert model.bottleneck.linear.in_features == 9
    named = small(PlainNet(), head="classifier")
    assert named.bottleneck.linear.in_features == 8  # (N, 8, 2, 2) averaged

    class Pair(PlainNet):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images), images  # type: ignore[return-value]

    with pytest.raises(ValueError, match="returns a tuple"):
        small(Pair())


def test_an_own_attention_head_is_used() -> None:
    head = nn.Sequential(nn.Conv2d(6, 4, 1), nn.ReLU(), nn.Conv2d(4, 1, 1))
    model = small(PlainNet(), attention_head=head)
    assert model.attention.head is head

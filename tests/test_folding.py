"""Folded batch normalisation: the same results wherever it is done, and not done where something else would notice."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import aib
from aib.classifier import Classifier, PlainClassifier
from aib.folding import fold_batch_norm
from aib.models import create_model


def norms(model: nn.Module) -> list[str]:
    """Names of the batch normalisations in a model."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def lived_in(model: Classifier) -> Classifier:
    """The model in eval mode, with statistics, scales and shifts as training might leave them."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
                if module.affine:
                    module.weight.uniform_(-1.5, 1.5)
                    module.bias.normal_(0, 0.2)
    return model.eval()


def assert_same_results(model: Classifier, folded: Classifier, images: Tensor) -> None:
    with torch.no_grad():
        before, after = model.forward_details(images), folded.forward_details(images)
    for name in ("logits", "attention_mean", "attention_std", "rate", "map"):
        if (value := getattr(before, name)) is not None:
            torch.testing.assert_close(getattr(after, name), value, rtol=1e-5, atol=1e-5 * value.abs().max().item(), msg=name)
    assert torch.equal(before.logits.argmax(1), after.logits.argmax(1))
    if before.indices is not None:
        assert torch.equal(before.indices, after.indices)


@pytest.mark.parametrize(
    ("name", "options", "left"),
    [
        ("vgg_aib_qt", {"width": 0.125}, 0),
        ("vgg_s_aib_qt", {}, 0),
        ("fast_aib_qt", {}, 3),  # a pooling stands before these
        ("wrn_aib_qt", {"width": 0.1}, 18),  # the first of every block follows a sum
        ("vgg_cbam", {"width": 0.125}, 0),
    ],
)
def test_the_networks_of_the_package_fold_and_compute_the_same(name: str, options: dict[str, float], left: int) -> None:
    model = lived_in(create_model(name, 10, **options))
    before = copy.deepcopy(model.state_dict())
    images = torch.randn(3, 3, 32, 32)
    folded = fold_batch_norm(model, images[:1])
    assert len(norms(folded)) == left < len(norms(model))
    assert_same_results(model, folded, images)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in (*model.modules(), *folded.modules()))


def test_channels_last_stays() -> None:
    model = lived_in(create_model("vgg_aib_qt", 10, width=0.125)).to(memory_format=torch.channels_last)
    folded = fold_batch_norm(model, torch.randn(1, 3, 32, 32))
    layers = [module for module in folded.modules() if isinstance(module, nn.Conv2d) and min(module.weight.shape) > 1]
    assert layers
    assert all(layer.weight.is_contiguous(memory_format=torch.channels_last) for layer in layers)


@pytest.mark.parametrize(
    ("name", "at", "kept"),
    [
        ("resnet18", "layer3", []),
        ("resnet18", "layer1.0.conv1", ["bn1"]),  # attention stands between this convolution and its normalisation
        ("resnet18", "layer1.0.bn1", ["bn1"]),
        ("test_efficientnet", "blocks.1", []),  # normalisations with an activation inside
    ],
)
def test_attached_networks_fold_around_their_site(name: str, at: str, kept: list[str]) -> None:
    model = lived_in(aib.attach(name, at=at, num_classes=5, anchors=8, input_size=32))
    images = torch.randn(3, 3, 32, 32)
    folded = fold_batch_norm(model, images[:1])
    assert [norm.rpartition(".")[2] for norm in norms(folded)] == kept
    assert_same_results(model, folded, images)
    noise = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    with torch.no_grad():
        drawn = [net.forward_details(images, samples=(2, 2), generator=g).logits for net, g in zip((model, folded), noise)]
    torch.testing.assert_close(drawn[1], drawn[0], rtol=1e-3, atol=1e-4)
    model.remove()


class Block(nn.Module):
    """A convolution, its normalisation, and what a test does with them."""

    def __init__(self, forward: Callable[[Block, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)
        self.chosen = forward

    def forward(self, images: Tensor) -> Tensor:
        return self.chosen(self, images)


def plain(features: nn.Module, encoder: nn.Module | None = None) -> Classifier:
    encoder = encoder or nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(2))
    return PlainClassifier(features, encoder, nn.Linear(12, 4), 4)


def once(block: Block, images: Tensor) -> Tensor:
    return block.norm(block.conv(images))


def with_skip(block: Block, images: Tensor) -> Tensor:
    raw = block.conv(images)
    return block.norm(raw) + raw


def seen_before(block: Block, images: Tensor) -> Tensor:
    raw = block.conv(images)
    gate = raw.view(len(raw), -1).mean(1)  # through a view
    return block.norm(raw) * gate.view(-1, 1, 1, 1)


def changed_between(block: Block, images: Tensor) -> Tensor:
    return block.norm(block.conv(images).mul_(2))


def convolved_twice(block: Block, images: Tensor) -> Tensor:
    return block.norm(block.conv(images)) + block.other(block.conv(images.flip(3)))


def normalised_twice(block: Block, images: Tensor) -> Tensor:
    return block.norm(block.conv(images)) + block.norm(images)


def weight_elsewhere(block: Block, images: Tensor) -> Tensor:
    return block.norm(block.conv(images)) * block.conv.weight.mean()


def statistics_elsewhere(block: Block, images: Tensor) -> Tensor:
    return block.norm(block.conv(images)) * block.norm.running_var.mean()


@pytest.mark.parametrize(
    "forward",
    [with_skip, seen_before, changed_between, convolved_twice, normalised_twice, weight_elsewhere, statistics_elsewhere],
)
def test_what_something_else_uses_is_not_folded(forward: Callable[[Block, Tensor], Tensor]) -> None:
    images = torch.randn(2, 3, 8, 8)
    assert norms(fold_batch_norm(lived_in(plain(Block(once))), images)) == []  # but for the use, it would be
    with pytest.raises(ValueError, match="nothing to fold"):
        fold_batch_norm(lived_in(plain(Block(forward))), images)


class Halved(nn.BatchNorm2d):
    """A normalisation that does more than its kind."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) / 2


def tied() -> Classifier:
    block = Block(lambda block, images: block.norm(block.conv(images)) + block.other(images))
    block.other = nn.Conv2d(3, 3, 3, padding=1)
    block.other.weight = block.conv.weight
    return plain(block)


def hooked() -> Classifier:
    block = Block(once)
    block.conv.register_forward_hook(lambda module, inputs, output: output * 2)
    return plain(block)


def watched_norm() -> Classifier:
    block = Block(once)
    block.norm.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
    return plain(block)


def special() -> Classifier:
    block = Block(once)
    block.norm = Halved(3)
    return plain(block)


def over_positions() -> Classifier:
    """A linear layer whose outputs' second dimension is not its features."""
    return plain(nn.Sequential(nn.Flatten(2), nn.Linear(64, 3), nn.BatchNorm1d(3), nn.Unflatten(2, (3, 1))))


def batch_statistics() -> Classifier:
    block = Block(once)
    block.norm = nn.BatchNorm2d(3, track_running_stats=False)
    return plain(block)


def returned() -> Classifier:
    """The convolution's output is what `Details.features` shows."""
    return plain(nn.Conv2d(3, 3, 3, padding=1), nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.AdaptiveAvgPool2d(2)))


@pytest.mark.parametrize("make", [tied, hooked, watched_norm, special, over_positions, batch_statistics, returned])
def test_what_is_not_sure_is_not_folded(make: Callable[[], Classifier]) -> None:
    with pytest.raises(ValueError, match="nothing to fold"):
        fold_batch_norm(lived_in(make()), torch.randn(2, 3, 8, 8))


def test_a_normalisation_that_still_learns_is_not_folded() -> None:
    model = lived_in(plain(Block(once)))
    model.get_submodule("features.norm").train()
    with pytest.raises(ValueError, match="nothing to fold"):
        fold_batch_norm(model, torch.randn(2, 3, 8, 8))


def test_linear_layers_and_layers_without_bias_or_scale_fold() -> None:
    encoder = nn.Sequential(
        nn.Conv2d(3, 6, 3, groups=3, bias=False), nn.BatchNorm2d(6, affine=False), nn.ReLU(), nn.Flatten(),
        nn.Linear(6 * 36, 12), nn.BatchNorm1d(12, affine=False), nn.ReLU(),
    )  # fmt: skip
    model, images = lived_in(plain(nn.Identity(), encoder)), torch.randn(4, 3, 8, 8)
    folded = fold_batch_norm(model, images)
    assert norms(folded) == []
    assert_same_results(model, folded, images)


def test_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"training mode.*call eval"):
        fold_batch_norm(plain(Block(once)), torch.randn(2, 3, 8, 8))


def test_a_network_that_reads_its_normalisations_numbers_late_is_refused() -> None:
    class Reader(Block):
        def forward(self, images: Tensor) -> Tensor:
            return once(self, images) * (1 + self.norm.eps)

    with pytest.raises(ValueError, match="cannot do without its batch normalisations"):
        fold_batch_norm(lived_in(plain(Reader(once))), torch.randn(2, 3, 8, 8))


def test_a_network_that_decides_by_its_normalisations_type_is_refused() -> None:
    class Reader(Block):
        def forward(self, images: Tensor) -> Tensor:
            return once(self, images) * (2 if isinstance(self.norm, nn.BatchNorm2d) else 1)

    with pytest.raises(ValueError, match="logits change by"):
        fold_batch_norm(lived_in(plain(Reader(once))), torch.randn(2, 3, 8, 8))

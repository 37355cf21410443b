"""Map ablations on networks whose use of the map is known by construction."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from aib.anchors import AnchorQuantizer
from aib.attention import SpatialAttention
from aib.bottleneck import LatentBottleneck
from aib.classifier import AttentiveClassifier, PlainClassifier, SplitBackbone
from aib.interpret import hardly_used, map_ablation
from aib.interpret.ablation import derangement

POSITIONS = 4


class Channel(nn.Module):
    """One channel of the attended features, as a vector over positions."""

    def __init__(self, channel: int) -> None:
        super().__init__()
        self.channel = channel

    def forward(self, features: Tensor) -> Tensor:
        return features[:, self.channel].flatten(1)


def planted(channel: int, quantizer: AnchorQuantizer | None = None) -> AttentiveClassifier:
    """A network that names the brightest of four positions.

    Images are (N, 2, 2, 2): channel 0 carries the class, channel 1 is all ones. The attention sees channel 0, the encoder reads one
    channel of the attended features: from channel 1 it learns the class through the map alone; channel 0 is so strong that no map
    in (0, 1) changes its order.
    """
    attention = SpatialAttention(2, head=nn.Conv2d(2, 1, 1))
    bottleneck = LatentBottleneck(POSITIONS, POSITIONS)
    with torch.no_grad():
        attention.head.weight.copy_(torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1))
        attention.head.bias.fill_(-50.0)
        bottleneck.linear.weight.zero_()
        bottleneck.linear.weight[:POSITIONS].copy_(torch.eye(POSITIONS))
        bottleneck.linear.bias.zero_()
    backbone = SplitBackbone(nn.Identity(), Channel(channel))
    return AttentiveClassifier(backbone, attention, bottleneck, nn.Identity(), num_classes=POSITIONS, quantizer=quantizer)


def batch(labels: Tensor) -> tuple[Tensor, Tensor]:
    images = torch.ones(len(labels), 2, POSITIONS)
    images[:, 0] = 100.0 * nn.functional.one_hot(labels, POSITIONS)
    return images.reshape(-1, 2, 2, 2), labels


def every_class_once(count: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [batch(torch.randperm(POSITIONS, generator=generator)) for _ in range(count)]


@pytest.mark.parametrize("anchors", [None, 2])
def test_replacing_the_map_destroys_a_network_that_reads_nothing_else(anchors: int | None) -> None:
    model = planted(1, AnchorQuantizer(anchors) if anchors else None)
    errors = map_ablation(model, every_class_once(200))
    assert errors["original"] == 0.0
    # a batch holds every class once, so the map of another image is always that of another class
    assert errors["shuffled_images"] == 1.0
    # a random order leaves the hot position in place once in four times
    assert errors["shuffled_positions"] == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / 800) ** 0.5)
    # a flat map leaves no preference: at best the first class is right
    assert errors["mean"] == 0.75
    assert errors["constant"] == 0.75
    assert not hardly_used(errors)


def test_replacing_the_map_changes_nothing_for_a_network_that_ignores_it() -> None:
    errors = map_ablation(planted(0), every_class_once(20))
    assert errors == dict.fromkeys(("original", "shuffled_images", "shuffled_positions", "mean", "constant"), 0.0)
    assert hardly_used(errors)


def test_mean_keeps_each_maps_level_and_constant_keeps_the_batchs() -> None:
    """The maps the network really gets, seen where they multiply a channel of ones: 1 + map."""
    model, given = planted(1), []
    model.backbone.encoder.register_forward_hook(lambda module, inputs, output: given.append(output - 1))
    images = torch.full((3, 2, 2, 2), 1.0)
    images[:, 0] = torch.tensor([[[60.0, 0], [0, 0]], [[60.0, 60], [0, 0]], [[60.0, 60], [60, 60]]])
    map_ablation(model, [(images, torch.zeros(3).long())])
    original, shuffled, positions, mean, constant = given
    torch.testing.assert_close(original.mean(1), torch.tensor([0.25, 0.5, 1.0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(mean, original.mean(1, keepdim=True).expand_as(original))
    torch.testing.assert_close(constant, original.mean().expand_as(original))
    torch.testing.assert_close(positions.sort(1).values, original.sort(1).values)
    assert not any(torch.equal(shuffled[i], original[i]) for i in range(3))
    torch.testing.assert_close(shuffled.sum(1).sort().values, original.sum(1).sort().values)


def test_positions_are_permuted_by_an_order_of_their_own_each() -> None:
    model, given = planted(1), []
    model.backbone.encoder.register_forward_hook(lambda module, inputs, output: given.append(output))
    map_ablation(model, [batch(torch.zeros(64).long())])
    assert given[2].argmax(1).unique().numel() == POSITIONS


def test_the_same_seed_gives_the_same_errors_and_leaves_the_model_and_generator_alone() -> None:
    model = planted(1)
    model.train()
    model.decoder.eval()
    flags, state = [module.training for module in model.modules()], torch.get_rng_state()
    data = [batch(torch.randint(POSITIONS, (33,), generator=torch.Generator().manual_seed(i))) for i in range(3)]
    first = map_ablation(model, iter(data), seed=5)
    assert map_ablation(model, data, seed=5) == first
    assert map_ablation(model, data, seed=6) != first
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_image_alone_in_its_batch_counts_everywhere_but_in_the_shuffle() -> None:
    errors = map_ablation(planted(1), [*every_class_once(2), batch(torch.tensor([3]))])
    assert errors["shuffled_images"] == 1.0
    assert errors["mean"] == pytest.approx(7 / 9)


def test_bad_input_is_refused() -> None:
    model = planted(1)
    plain = PlainClassifier(nn.Identity(), nn.Flatten(), nn.Linear(8, 2), 2)
    with pytest.raises(ValueError, match="PlainClassifier has no map"):
        map_ablation(plain, every_class_once(1))
    with pytest.raises(ValueError, match="4 images but labels of shape"):
        map_ablation(model, [(every_class_once(1)[0][0], torch.zeros(3).long())])
    for batches in ([], [batch(torch.tensor([1]))] * 3):
        with pytest.raises(ValueError, match="batches of at least 2"):
            map_ablation(model, batches)
    with pytest.raises(ValueError, match="it needs 'original' and 'shuffled_images'"):
        hardly_used({"original": 0.1})


def test_hardly_used_is_a_cost_below_the_points() -> None:
    assert hardly_used({"original": 0.05, "shuffled_images": 0.0999})
    assert not hardly_used({"original": 0.05, "shuffled_images": 0.10})
    assert not hardly_used({"original": 0.26, "shuffled_images": 0.31})
    assert hardly_used({"original": 0.05, "shuffled_images": 0.10}, points=6)


@pytest.mark.parametrize("length", [*range(2, 40), 128, 1001])
def test_a_derangement_moves_every_position(length: int) -> None:
    for seed in range(5):
        moved = derangement(length, torch.Generator().manual_seed(seed))
        assert torch.equal(moved.sort().values, torch.arange(length))
        assert not bool((moved == torch.arange(length)).any())


def test_derangements_send_a_position_everywhere_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = torch.stack([derangement(5, generator) for _ in range(4000)])[:, 2].bincount(minlength=5)
    assert counts[2] == 0
    assert bool((counts[[0, 1, 3, 4]] - 1000).abs().max() < 5 * (1000 * 0.75) ** 0.5)


def test_one_image_cannot_be_deranged() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        derangement(1)

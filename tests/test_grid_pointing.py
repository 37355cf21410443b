"""The grid pointing game with explainers that know where a class is, and with those that know nothing of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from aib.classifier import AttentiveClassifier
from aib.data.bundle import TensorSplit
from aib.interpret.explainers import AttentionMap, GradCAM, Target
from aib.interpret.grid_pointing import CONTROLS, GridPointing, grid_pointing_game

MEAN, STD = (0.0,), (1.0,)


def shades(count: int = 60, classes: int = 6, side: int = 8) -> tuple[Tensor, Tensor]:
    """Images of class c that are flat, of brightness 20 + 40 c."""
    labels = torch.arange(count) % classes
    return (20 + 40 * labels)[:, None, None, None].expand(count, 1, side, side).to(torch.uint8), labels


def finder(shown: Tensor, target: Target) -> Tensor:
    """Knows the shade of each class: 1 on its pixels, 0 elsewhere. What a network that reads the shade looks at."""
    assert isinstance(target, Tensor)
    wanted = (20 + 40 * target)[:, None, None, None]
    return ((255 * shown - wanted).abs() < 1).float()


def opposite(shown: Tensor, target: Target) -> Tensor:
    return 1 - finder(shown, target)


def agnostic(shown: Tensor, target: Target) -> Tensor:
    """Blocks of arbitrary strength, the same whatever the class."""
    return F.avg_pool2d(shown, 2) ** 3


def play(explainers: Any = None, count: int = 60, classes: int = 6, **changes: Any) -> GridPointing:
    images, labels = shades(count, classes)
    given = {"images": images, "labels": labels, "predictions": labels, "mean": MEAN, "std": STD, "grids": 50, **changes}
    return grid_pointing_game({"finder": finder} if explainers is None else explainers, **given)


@pytest.mark.parametrize(("classes", "chance"), [(2, 1 / 2), (3, 1 / 3), (4, 1 / 4), (6, 1 / 4)])
def test_the_finder_is_best_its_opposite_worst_and_class_agnostic_maps_get_chance(classes: int, chance: float) -> None:
    explainers = {"finder": finder, "opposite": opposite, "agnostic": agnostic, "zero": lambda shown, t: 0 * shown,
                  "negative": lambda shown, t: -1 - shown}  # fmt: skip
    found = play(explainers, classes=classes)
    assert found.chance == chance
    assert found.scores["finder"].tolist() == [1.0] * 50
    assert found.scores["opposite"].tolist() == [0.0] * 50
    for name in ("agnostic", "zero", "negative", "uniform", "edges"):
        torch.testing.assert_close(found.scores[name], torch.full((50,), chance).double())
    random = found.scores["random"]
    assert float(random.std()) > 0.01
    assert float(random.mean()) == pytest.approx(chance, abs=4 * float(random.std()) / math.sqrt(50))


def test_the_map_of_other_images_is_a_control_that_the_finder_beats() -> None:
    found = play({"finder": finder, "agnostic": agnostic}, others=["finder"])
    other = found.scores["other image@finder"]
    assert float(other.mean()) == pytest.approx(0.25, abs=0.08)
    numbers = found.numbers(controls={"finder": ["uniform", "other image@finder"], "agnostic": ["uniform", "random"]})
    best = numbers["above"]["finder"]
    assert best["control"] in ("uniform", "other image@finder")
    assert best["difference"][1] > 0.5
    assert numbers["above"]["agnostic"]["difference"][1] <= 0
    assert "above" not in found.numbers()
    with pytest.raises(ValueError, match="no explainer 'other' whose other maps to play; there are finder"):
        play(others=["other"])


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_layouts_hold_as_many_classes_as_there_are_in_random_places(classes: int) -> None:
    found = play(classes=classes, grids=400)
    _, labels = shades(60, classes)
    assert torch.equal(labels[found.positions], found.classes)
    for row, places in zip(found.classes, found.positions):
        counts = row.bincount()
        assert sorted(counts[counts > 0].tolist()) == {2: [2, 2], 3: [1, 1, 2], 6: [1, 1, 1, 1]}[classes]
        assert len(places.unique()) == 4
    # every class in every tile alike
    for tile in found.classes.T:
        expected = 400 / classes
        assert float((tile.bincount(minlength=classes) - expected).abs().max()) < 5 * math.sqrt(expected)
    assert torch.equal(play(classes=classes, grids=400, seed=0).positions, found.positions)
    assert not torch.equal(play(classes=classes, grids=400, seed=1).positions, found.positions)
    # more grids leave the first as they were
    assert torch.equal(play(classes=classes, grids=7).positions, found.positions[:7])


def test_grids_are_made_of_correct_images_at_half_their_size() -> None:
    images = torch.randint(0, 256, (12, 3, 8, 8), dtype=torch.uint8)
    labels = torch.arange(12) % 4
    predictions = labels.clone()
    predictions[torch.tensor([0, 1, 2, 7, 11])] = 9
    seen = []

    def attribute(shown: Tensor, target: Target) -> Tensor:
        seen.append((shown, target))
        return shown.mean(1, keepdim=True)

    found = grid_pointing_game({"a": attribute}, images, labels, predictions, (0.5,) * 3, (0.25,) * 3, grids=5)
    assert not set(found.positions.flatten().tolist()) & {0, 1, 2, 7, 11}
    assert set(found.classes.flatten().tolist()) == {0, 1, 2, 3}
    for (shown, target), places, classes in zip(seen, found.positions, found.classes):
        assert torch.equal(target, classes.sort().values)
        for tile, place in enumerate(places.tolist()):
            row, column = divmod(tile, 2)
            small = images[place].float().reshape(3, 4, 2, 4, 2).mean((2, 4))
            expected = ((small / 255 - 0.5) / 0.25).expand(4, 3, 4, 4)
            torch.testing.assert_close(shown[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4], expected)
    assert len(seen) == 5


@pytest.mark.parametrize("size", [2, 4, 7, 9, 16, 30])
def test_parity_with_a_slow_loop_at_any_resolution(size: int) -> None:
    """Mass of a map by sampling it finely, its middle row and column split where the number is odd."""
    generator = torch.Generator().manual_seed(size)
    drawn: list[Tensor] = []

    def attribute(shown: Tensor, target: Target) -> Tensor:
        drawn.append(torch.randn(len(shown), 1, size, size, generator=generator))
        return drawn[-1]

    found = play({"a": attribute}, grids=6, classes=3)
    for grid in range(6):
        shares = []
        for asked, one in zip(found.classes[grid].unique().tolist(), drawn[grid]):
            mass = one[0].clamp_min(0).repeat_interleave(2, 0).repeat_interleave(2, 1).double()
            tiles = [mass[:size, :size], mass[:size, size:], mass[size:, :size], mass[size:, size:]]
            if not mass.any():  # counts as uniform
                tiles, mass = [tile + 1 for tile in tiles], mass + 1
            inside = sum(float(tile.sum()) for tile, c in zip(tiles, found.classes[grid].tolist()) if c == asked)
            shares.append(inside / float(mass.sum()))
        assert float(found.scores["a"][grid]) == pytest.approx(sum(shares) / 3, abs=1e-6)


def test_a_map_of_two_levels_scores_its_share() -> None:
    def levels(shown: Tensor, target: Target) -> Tensor:
        return 0.2 + 0.6 * finder(shown, target)

    assert play({"levels": levels}).scores["levels"].tolist() == pytest.approx([0.8 / 1.4] * 50)


def test_results_do_not_depend_on_the_cap_and_attention_gets_chance(small_model: Callable[..., AttentiveClassifier]) -> None:
    model = small_model()
    images = torch.randint(0, 256, (20, 3, 16, 16), dtype=torch.uint8)
    labels, state = torch.arange(20) % 4, torch.get_rng_state()
    explainers = {"AIB": AttentionMap(model).attribute, "Grad-CAM": GradCAM(model, "backbone.features").attribute}

    def run(**how: Any) -> GridPointing:
        return grid_pointing_game(explainers, images, labels, labels, (0.5,) * 3, (0.25,) * 3, grids=9, **how)

    whole = run()
    torch.testing.assert_close(whole.scores["AIB"], torch.full((9,), 0.25).double())
    for cap in (4, 10, 1000):
        again = run(images_at_once=cap)
        assert all(torch.equal(again.scores[name], whole.scores[name]) for name in (*explainers, *CONTROLS))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_split_is_played_like_its_images() -> None:
    images, labels = shades()
    split = play(images=TensorSplit(images, labels))
    tensor = play()
    assert torch.equal(split.positions, tensor.positions)
    assert all(torch.equal(split.scores[name], tensor.scores[name]) for name in tensor.scores)


def test_one_image_a_class_is_enough() -> None:
    found = play(count=2, classes=2, grids=3)
    assert found.scores["finder"].tolist() == [1.0] * 3
    assert found.numbers()["images"] == 2


def test_numbers_are_plain() -> None:
    found = play({"finder": finder, "agnostic": agnostic})
    numbers = found.numbers(1)
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
    assert (numbers["n"], numbers["chance"]) == (50, 0.25)
    assert set(numbers["maps"]) == {"finder", "agnostic", *CONTROLS}
    assert numbers["maps"]["finder"] == [1.0, 1.0, 1.0]
    mean, low, high = numbers["maps"]["random"]
    assert low < mean < high
    assert mean == pytest.approx(float(found.scores["random"].mean()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"explainers": {}}, "no explainer"),
        ({"explainers": {"edges": finder}}, "name of a control"),
        ({"grids": 0}, "grids is 0"),
        ({"images_at_once": 3}, "at least 1 and 4"),
        ({"labels": torch.zeros(59).long()}, "60 images but"),
        ({"predictions": torch.zeros(60, 1).long()}, "60 images but"),
        ({"predictions": torch.full((60,), 7)}, "0 classes have a correctly classified image"),
        ({"predictions": torch.zeros(60).long()}, "1 classes have a correctly classified image"),
        ({"images": torch.zeros(60, 1, 7, 8)}, "7x8"),
        ({"images": torch.zeros(60, 1, 8, 9)}, "8x9"),
        ({"seed": -1}, "seeds"),
        ({"mean": (0.5, 0.5)}, "1 channels"),
        ({"explainers": {"a": lambda shown, target: shown.mean((1, 2, 3))}}, "expected"),
        ({"explainers": {"a": lambda shown, target: shown * math.nan}}, "not finite"),
    ],
)
def test_bad_input_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        play(**changes)

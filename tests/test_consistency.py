"""The consistency score on networks and maps of known consistency, against a slow loop, and at every memory cap."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from torch import Tensor

from aib.classifier import AttentiveClassifier, Classifier, Details, Pass
from aib.data.bundle import TensorSplit
from aib.interpret.consistency import BLOCK, OWN_MAP, Consistency, measure_consistency
from aib.interpret.explainers import AttentionMap, GradCAM
from aib.interpret.intervals import wilson_interval
from aib.interpret.map_sources import RandomMaps, control_sources, from_explainer
from aib.interpret.named_edits import Edit, frequency_edits, window_edits
from aib.models import create_model

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SIDE = 16


class Planted(Classifier):
    """A network with a map and class scores of our choice; it counts the images of every forward pass."""

    num_classes = 2

    def __init__(self, maps: Callable[[Tensor], Tensor] | None, logits: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.has_map = maps is not None
        self.maps, self.logits = maps, logits
        self.passes: list[int] = []

    def run_pass(self, images: Tensor, how: Pass) -> Details:
        self.passes.append(len(images))
        logits = torch.tensor([1.0, 0.0]).expand(len(images), 2) if self.logits is None else self.logits(images)
        return Details(logits=logits, attention=None if self.maps is None else self.maps(images))


def brightness(images: Tensor) -> Tensor:
    """The image as the map of itself: what changes there changes here, and only there."""
    return (images * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)).mean(1, keepdim=True)


def constant(images: Tensor) -> Tensor:
    return torch.full_like(images[:, :1], 0.7)


def noise(images: Tensor) -> Tensor:
    """A map without any order, all of which changes with any change of the image."""
    phase = images.double().sum((1, 2, 3), keepdim=True) * 1e3 + torch.arange(SIDE * SIDE).view(1, 1, SIDE, SIDE)
    return ((phase.sin() * 43758.5453) % 1).float() - 0.5


def dark_or_bright(images: Tensor) -> Tensor:
    level = images.mean((1, 2, 3))
    return torch.stack([level, -level], 1)


def blobs(count: int = 40, seed: int = 0, side: int = SIDE) -> TensorSplit:
    """Dark images with one bright quarter at a place of its own, and a little noise: their maps hardly overlap."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 20, (count, 3, side, side)).astype(np.uint8)
    for image in images:
        top, left = rng.integers(0, side // 2 + 1, 2)
        image[:, top : top + side // 2, left : left + side // 2] = rng.integers(150, 256)
    return TensorSplit(torch.from_numpy(images), torch.zeros(count, dtype=torch.int64))


def measure(model: Classifier, split: TensorSplit, edits: Sequence[Edit], sources: Any = None, **options: Any) -> Consistency:
    return measure_consistency(model, split, MEAN, STD, edits, sources, **options)


def same(first: Consistency, second: Consistency) -> bool:
    """Whether every array agrees bit for bit."""
    pairs = [(first.original, second.original), (first.edited, second.edited), (first.others, second.others)]
    found = [(each.own, each.other, each.own_correlation, each.other_correlation) for each in (first, second)]
    pairs += [(a[name], b[name]) for a, b in zip(*found) for name in a]
    return first.own.keys() == second.own.keys() and all(torch.equal(a.nan_to_num(9), b.nan_to_num(9)) for a, b in pairs)


# --- planted truths ------------------------------------------------------------------------------------------------------------


def test_a_map_that_moves_with_the_image_has_a_high_score_and_a_low_one_with_another_image() -> None:
    (edit,) = window_edits([2])
    summary = measure(Planted(brightness), blobs(80), [edit]).summary(OWN_MAP, edit)
    at = summary["thresholds"]["0.85"]
    assert at["score"][0] > 0.9
    assert at["other"][0] < 0.3
    assert at["excess"][0] == pytest.approx(at["score"][0] - at["other"][0])
    assert at["excess"][1] > 0.5
    assert summary["cosine_own"][1] > summary["cosine_other"][2] + 0.2


def test_a_constant_added_to_a_map_takes_its_excess_and_not_its_correlation() -> None:
    """What a map near its maximum everywhere scores: 1, whatever it shows."""
    (edit,) = window_edits([2])
    plain, raised = (measure(Planted(lambda images, add=add: add + brightness(images)), blobs(80), [edit]) for add in (0.0, 10.0))
    summary = raised.summary(OWN_MAP, edit)
    assert (summary["thresholds"]["0.95"]["score"][0], summary["thresholds"]["0.95"]["excess"][0]) == (1.0, 0.0)
    torch.testing.assert_close(raised.own_correlation[OWN_MAP], plain.own_correlation[OWN_MAP], atol=1e-4, rtol=0)
    torch.testing.assert_close(raised.other_correlation[OWN_MAP], plain.other_correlation[OWN_MAP], atol=1e-4, rtol=0)
    assert summary["correlation"]["own"][0] > 0.9
    assert summary["correlation"]["excess"][1] > 0.5


def test_correlations_are_those_of_scipy() -> None:
    edit = frequency_edits([3])[0]
    split = blobs(12)
    found = measure(Planted(brightness), split, [edit])
    pixels = split.images.float()
    maps, edited = (some.mean(1).flatten(1).numpy() for some in (pixels, edit.apply(pixels, torch.Generator())))
    for i, other in enumerate(found.others.tolist()):
        for partner, measured in ((i, found.own_correlation), (other, found.other_correlation)):
            assert measured[OWN_MAP][0, i].item() == pytest.approx(pearsonr(edited[i], maps[partner])[0], abs=1e-5)


def test_a_constant_map_scores_one_and_has_no_excess() -> None:
    edits = window_edits([4, 12]) + frequency_edits([3], [2])
    result = measure(Planted(constant), blobs(), edits, control_sources())
    for edit in edits:
        for name in (OWN_MAP, "uniform", "centre"):
            for at in result.summary(name, edit)["thresholds"].values():
                assert {kind: values[0] for kind, values in at.items()} == {"score": 1.0, "other": 1.0, "excess": 0.0}
                assert at["excess"][1] < 0 < at["excess"][2]
            assert result.summary(name, edit)["correlation"]["excess"] == [0.0, 0.0, 0.0] or name == "centre"
        # the centred Gaussian varies, and is the same for all images
        assert result.summary("centre", edit)["correlation"] == {"own": [1.0] * 3, "other": [1.0] * 3, "excess": [0.0] * 3}


def test_a_map_of_noise_has_a_low_score() -> None:
    (edit,) = window_edits([4])
    result = measure(Planted(noise), blobs(), [edit], {"random": RandomMaps()})
    assert result.summary(OWN_MAP, edit)["thresholds"]["0.85"]["score"][0] == 0.0
    # blurred noise is positive: its cosines are high, but as high with the map of any other image
    random = result.summary("random", edit)
    assert random["thresholds"]["0.95"]["score"][0] < 0.2
    assert random["cosine_own"] == pytest.approx(random["cosine_other"], abs=0.05)
    assert 0 < random["cosine_own"][2] - random["cosine_own"][1] < 0.05


@pytest.mark.parametrize("edit", [*frequency_edits([11.3], [0]), Edit("nothing", 0, lambda images, _: images)])
def test_an_edit_that_leaves_the_image_as_it_was_scores_one(edit: Edit) -> None:
    result = measure(Planted(brightness, dark_or_bright), blobs(), [edit])
    summary = result.summary(OWN_MAP, edit)
    assert summary["unchanged"] == summary["n"] == 40
    assert summary["thresholds"]["0.95"]["score"][0] == 1.0
    assert summary["thresholds"]["0.95"]["excess"][0] > 0.5
    if edit.name == "nothing":
        assert (result.own[OWN_MAP] == 1).all()


def test_where_every_prediction_changes_there_is_no_score() -> None:
    invert = Edit("inverted", 0, lambda images, _: 255 - images)
    images = torch.full((5, 3, 8, 8), 10, dtype=torch.uint8)
    result = measure(Planted(brightness, dark_or_bright), TensorSplit(images, torch.zeros(5).long()), [invert], control_sources())
    summary, comparison = result.summary(OWN_MAP, invert), result.comparison(invert)
    assert summary["unchanged"] == 0
    assert summary["unchanged_share"] == [0.0, *wilson_interval(0, 5)]
    assert summary["thresholds"]["0.9"] == {"score": None, "other": None, "excess": None}
    assert summary["cosine_own"] is None
    assert summary["correlation"] == {"own": None, "other": None, "excess": None}
    assert comparison["correlation"] == {"control": None, "difference": None}
    assert comparison["unchanged"] == 0
    assert comparison["thresholds"]["0.9"]["excess"] == {"control": None, "difference": None}
    json.dumps([summary, comparison], allow_nan=False)


def test_a_map_of_zeros_before_and_after_does_not_win() -> None:
    (edit,) = window_edits([4])
    result = measure(Planted(lambda images: torch.zeros_like(images[:, :1])), blobs(), [edit], control_sources())
    summary = result.summary(OWN_MAP, edit)
    assert result.own[OWN_MAP].isnan().all()
    assert summary["no_direction"] == {"own": 40, "other": 40}
    assert summary["cosine_own"] is None
    for at in summary["thresholds"].values():
        assert at["score"][0] == at["other"][0] == at["excess"][0] == 0.0
    json.dumps(summary, allow_nan=False)


def test_only_images_with_an_unchanged_prediction_count() -> None:
    # the edit turns half of the images over, and those lose their map too
    flip = Edit("half", 0, lambda images, _: torch.where(images.mean((1, 2, 3), keepdim=True) > 128, 255 - images, images))
    values = torch.tensor([200, 60, 220, 40, 30, 210], dtype=torch.uint8)
    split = TensorSplit(values.view(6, 1, 1, 1).expand(6, 3, 8, 8).contiguous(), torch.zeros(6).long())
    kept = Planted(lambda images: torch.where(images.mean((1, 2, 3), keepdim=True) > 0, noise_like(images), 1.0), dark_or_bright)
    result = measure(kept, split, [flip])
    summary = result.summary(OWN_MAP, flip)
    assert result.unchanged.tolist() == [[False, True, False, True, True, False]]
    assert summary["unchanged"] == 3
    assert summary["thresholds"]["0.9"]["score"][0] == 1.0


def noise_like(images: Tensor) -> Tensor:
    return torch.rand(images[:, :1].shape, generator=torch.Generator().manual_seed(0))


# --- parity with a slow loop ---------------------------------------------------------------------------------------------------


def slow_cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_parity_with_a_loop_over_images() -> None:
    """One image at a time, in the split's order, with edits that need no random numbers."""
    edits = [Edit("dim", 1, lambda images, _: images * 0.9), Edit("shift", 3, lambda images, _: images.roll(3, 3))]
    split, model = blobs(37), Planted(lambda images: brightness(images)[:, :, ::2, 1::2], dark_or_bright)
    result = measure(model, split, edits, {"mine": lambda pixels, images, target: pixels[:, 1:2] + target.view(-1, 1, 1, 1)})

    def normalised(image: np.ndarray) -> np.ndarray:
        return (image / 255 - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]

    def own_map(image: np.ndarray) -> np.ndarray:
        return (image / 255).mean(0)[::2, 1::2]

    images = split.images.numpy().astype(np.float64)
    classes = [int(normalised(image).mean() < 0) for image in images]
    assert result.original.tolist() == classes
    stays, passes = np.zeros((2, 37)), np.zeros((2, 37))
    for e, change in enumerate((lambda image: image * 0.9, lambda image: np.roll(image, 3, 2))):
        for i, image in enumerate(images):
            edited, other = change(image), int(result.others[i])
            assert result.edited[e, i] == int(normalised(edited).mean() < 0)
            for name, look in ((OWN_MAP, own_map), ("mine", lambda picture, i=i: picture[1] + classes[i])):
                before, after = look(image), look(edited)
                assert result.own[name][e, i].item() == pytest.approx(slow_cosine(after, before), abs=1e-5)
                if name == OWN_MAP:
                    assert result.other[name][e, i].item() == pytest.approx(slow_cosine(after, look(images[other])), abs=1e-5)
                    stays[e, i], passes[e, i] = (slow_cosine(after, m) >= 0.9 for m in (before, look(images[other])))
        kept = result.unchanged[e].numpy()
        at = result.summary(OWN_MAP, edits[e])["thresholds"]["0.9"]
        assert at["score"][0] == pytest.approx(stays[e][kept].mean())
        assert at["excess"][0] == pytest.approx((stays[e] - passes[e])[kept].mean())


@pytest.mark.parametrize("count", [2, 3, 16, 17, 50])
def test_the_other_images_form_one_cycle_through_all(count: int) -> None:
    result = measure(Planted(brightness), blobs(count), window_edits([4]), batch_size=16)
    seen, at = [], 0
    for _ in range(count):
        seen.append(at)
        at = int(result.others[at])
    assert at == 0
    assert sorted(seen) == list(range(count))


# --- batches, seeds and what they must not change ------------------------------------------------------------------------------


def test_every_memory_cap_gives_the_same_bits(small_model: Callable[..., AttentiveClassifier]) -> None:
    model = small_model()
    others = torch.randint(0, 256, (9, 3, 20, 20), dtype=torch.uint8)
    edits = window_edits([4, 9], {"SVHN": others}) + frequency_edits([5], [2])
    sources = control_sources((4, 4)) | {"Grad-CAM": from_explainer(GradCAM(model, "backbone.features.0"), at_once=16)}
    reference = measure(model, blobs(37), edits, sources)
    for batch_size in (1, 7, 32, 100, 5000):
        assert same(reference, measure(model, blobs(37), edits, sources, batch_size=batch_size))
    assert not same(reference, measure(model, blobs(37), edits, sources, seed=1))


@pytest.mark.parametrize(("name", "options"), [("vgg_xs_aib_qt", {}), ("vgg_att3", {"width": 0.0625}), ("fast_aib_qt", {})])
def test_networks_of_the_package_give_the_same_bits_at_every_cap(name: str, options: dict[str, Any]) -> None:
    model, split = create_model(name, 3, **options), blobs(18, side=32)
    edits = window_edits([8]) + frequency_edits()
    first, second = (measure(model, split, edits, batch_size=size) for size in (1, 1024))
    assert same(first, second)


def test_the_cap_counts_pixels_and_all_versions_pass_together() -> None:
    edits = window_edits([2, 4, 8])
    for side, batch_size, expected in ((32, 1024, 128), (32, 64, 64), (32, 1, 16), (64, 512, 128), (64, 64, 16), (16, 16, 64)):
        model = Planted(brightness)
        measure(model, blobs(20, side=side), edits, batch_size=batch_size)
        assert max(model.passes) == expected
        assert sum(model.passes) == 4 * 32  # twenty images fill two blocks


def test_an_edit_does_not_depend_on_the_other_edits_or_on_the_model() -> None:
    edits = window_edits([4, 8])
    both = measure(Planted(brightness), blobs(), edits)
    alone = measure(Planted(noise), blobs(), edits[1:], {"pixels": lambda pixels, images, target: pixels.mean(1, keepdim=True)})
    torch.testing.assert_close(both.own[OWN_MAP][1:], alone.own["pixels"], atol=1e-5, rtol=0)
    assert not torch.equal(both.own[OWN_MAP][0], both.own[OWN_MAP][1])


def shown(split: TensorSplit, edits: Sequence[Edit], seed: int) -> list[Tensor]:
    """Pixels handed to a source: of each block of images in turn, the originals and then each edit."""
    seen: list[Tensor] = []

    def spy(pixels: Tensor, images: Tensor, target: Tensor) -> Tensor:
        seen.append(pixels.clone())
        return pixels[:, :1]

    measure(Planted(None), split, edits, {"spy": spy}, seed=seed, batch_size=1)
    return seen


def test_windows_differ_between_images_blocks_and_seeds() -> None:
    grey = TensorSplit(torch.full((3 * BLOCK, 3, SIDE, SIDE), 128, dtype=torch.uint8), torch.zeros(3 * BLOCK).long())
    places = {}
    for seed in (0, 1):
        edited = torch.cat(shown(grey, window_edits([5]), seed)[1::2])
        assert ((edited != 128).any(1).flatten(1).sum(1) == 25).all()
        places[seed] = {tuple((image != 128).any(0).nonzero()[0].tolist()) for image in edited}
        assert len(places[seed]) > 20
    assert places[0] != places[1]


def test_targets_are_the_classes_of_the_original_images() -> None:
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def spy(pixels: Tensor, images: Tensor, target: Tensor) -> Tensor:
        seen.append((pixels, images, target))
        return pixels[:, :1]

    invert = Edit("inverted", 0, lambda images, _: 255 - images)
    result = measure(Planted(None, dark_or_bright), blobs(BLOCK), [invert], {"spy": spy})
    ((pixels, images, target),) = seen
    assert set(result.own) == {"spy"}
    assert torch.equal(target[:BLOCK], target[BLOCK:])
    assert torch.equal(target[:BLOCK], dark_or_bright(images[:BLOCK]).argmax(1))
    assert not torch.equal(result.original, result.edited[0])
    torch.testing.assert_close(pixels[BLOCK:], 255 - pixels[:BLOCK])
    expected = (pixels / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(images, expected, atol=1e-5, rtol=1e-5)


def test_another_network_and_an_explainer_are_sources_too(small_model: Callable[..., AttentiveClassifier]) -> None:
    model, untrained, split = small_model(), small_model(), blobs(20)
    plain = create_model("vgg_xs", 4)
    edits = window_edits([4])
    direct = measure(untrained, split, edits)
    sources = {"untrained": from_explainer(AttentionMap(untrained)), "Grad-CAM": from_explainer(GradCAM(plain, "features"))}
    result = measure(model, split, edits, sources)
    assert torch.equal(result.own["untrained"], direct.own[OWN_MAP])
    assert torch.equal(result.other["untrained"], direct.other[OWN_MAP])
    assert set(measure(plain, split, edits, {"Grad-CAM": sources["Grad-CAM"]}).own) == {"Grad-CAM"}


def test_the_model_and_the_global_generator_are_left_as_they_were(small_model: Callable[..., AttentiveClassifier]) -> None:
    model, split = small_model(), blobs(20)
    model.train()
    model.decoder.eval()
    flags = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pixels, state = split.images.clone(), torch.get_rng_state()
    sources = control_sources() | {"Grad-CAM": from_explainer(GradCAM(model, "backbone.features.0"))}
    measure(model, split, window_edits([4]), sources)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(split.images, pixels)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


# --- bad input -----------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_scored_is_refused_before_anything_runs() -> None:
    model, split, edits = Planted(brightness), blobs(4), window_edits([4])
    maps = {"mine": lambda pixels, images, target: pixels[:, :1]}
    bad: list[tuple[str, Callable[[], object]]] = [
        ("Planted has no map of its own and no other source", lambda: measure(Planted(None), split, edits)),
        ("there is no edit", lambda: measure(model, split, [])),
        ("the edit 'colour window 4' is given twice", lambda: measure(model, split, edits * 2)),
        ("the window's side is 20; it must be between 1 and 16", lambda: measure(model, split, edits + window_edits([20]))),
        ("radius is 12; it must be between 0 and 11.3", lambda: measure(model, split, frequency_edits())),
        ("at most 8, the other images' side", lambda: measure(model, split, window_edits([9], {"x": torch.zeros(2, 3, 8, 8)}))),
        ("the number of images is 1; .* at least 2", lambda: measure(model, blobs(1), edits)),
        ("a source is called 'own map'", lambda: measure(model, split, edits, {OWN_MAP: maps["mine"]})),
        ("images have 3 channels, but there are 1 means and 1", lambda: measure_consistency(model, split, (0.5,), (0.5,), edits)),
        ("batch_size is 0", lambda: measure(model, split, edits, batch_size=0)),
        ("'crop 2' makes .* keep the shape", lambda: measure(model, split, [Edit("crop", 2, lambda i, _: i[:, :, 2:, 2:])])),
        ("the images of SVHN have shape", lambda: window_edits(others={"SVHN": torch.zeros(0, 3, 8, 8)})),
        ("at_once is 0", lambda: from_explainer(AttentionMap(model), 0)),
    ]  # fmt: skip
    for message, call in bad:
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
    assert model.passes == []


def test_what_a_source_must_not_return_is_refused() -> None:
    split, edits = blobs(4), window_edits([4])
    broken = Planted(None)
    broken.has_map = True
    with pytest.raises(ValueError, match="Planted says it has a map but gives none"):
        measure(broken, split, edits)
    with pytest.raises(ValueError, match=r"the source 'mine' gives maps of shape \(32, 3, 16, 16\); expected \(32, 1, h, w\)"):
        measure(Planted(None), split, edits, {"mine": lambda pixels, images, target: pixels})
    with pytest.raises(ValueError, match="32 of 32 maps of 'mine' are not finite"):
        measure(Planted(None), split, edits, {"mine": lambda pixels, images, target: pixels[:, :1] / 0})

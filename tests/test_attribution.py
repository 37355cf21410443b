"""Integrated gradients and occlusion: naive sums and loops, completeness, planted truths, and models left exactly as they were."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from aib.data.augment import normalize
from aib.interpret.attribution import IntegratedGradients, Occlusion, black_image
from aib.interpret.controls import centred_gaussian, chance, edge_map, uniform
from aib.interpret.explainers import Explainer
from aib.interpret.localization import energy, iou, pointing_game

PLACE = (slice(2, 6), slice(6, 11))
DECOY = (slice(7, 11), slice(1, 6))


class Looks(nn.Module):
    """Class 1 is brightness at one place of a 12x12 image, class 0 darkness there; nothing else is looked at."""

    def __init__(self, place: tuple[slice, slice] = PLACE, gain: float = 0.1, in_place: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        self.after = nn.LeakyReLU(1.0, inplace=in_place)
        self.spare = nn.Conv2d(3, 3, 1)
        self.head = nn.Linear(3 * 144, 2, bias=False)
        weights = torch.zeros(3, 12, 12)
        weights[(slice(None), *place)] = gain
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(3)[:, :, None, None])
            self.head.weight.copy_(torch.stack([-weights.flatten(), weights.flatten()]))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.after(self.conv(images)).flatten(1))


def planted(count: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Images as bright at the place as at a decoy of the same size, and the masks of both."""
    masks = torch.zeros(2, count, 1, 12, 12, dtype=torch.bool)
    masks[(0, ..., *PLACE)] = True
    masks[(1, ..., *DECOY)] = True
    images = 0.3 * torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(1)) + masks.sum(0)
    return images, masks[0], masks[1]


class Smooth(nn.Module):
    """A network without kinks, so that sums converge fast; batch norm and dropout, so that its mode matters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.Tanh(), nn.Dropout(0.5), nn.AvgPool2d(2))
        self.head = nn.Linear(5 * 4 * 5, 4)
        self.head.weight.data.mul_(5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).flatten(1))


METHODS: list[Callable[[nn.Module], Explainer]] = [
    lambda model: IntegratedGradients(model, steps=20),
    lambda model: Occlusion(model, 4, 2),
]
both = pytest.mark.parametrize("method", METHODS, ids=["integrated_gradients", "occlusion"])


def naive_integral(model: nn.Module, image: Tensor, baseline: Tensor, target: int, steps: int = 400) -> Tensor:
    """A midpoint Riemann sum, one point at a time."""
    total = torch.zeros_like(image)
    for k in range(steps):
        point = (baseline + (k + 0.5) / steps * (image - baseline)).requires_grad_()
        (gradient,) = torch.autograd.grad(model(point[None])[0, target], point)
        total += gradient / steps
    return total * (image - baseline)


@pytest.mark.parametrize("baseline", [0.0, torch.tensor([-1.0, 0.5, 2.0])[:, None, None], torch.full((3, 8, 10), -0.7)])
def test_integrated_gradients_are_the_naive_sum_and_complete(baseline: float | Tensor) -> None:
    model, images, target = Smooth().eval(), torch.randn(3, 3, 8, 10), torch.tensor([2, 0, 3])
    start = torch.as_tensor(baseline).expand(3, 8, 10)
    explainer = IntegratedGradients(model, baseline)
    signed = explainer.signed(images, target)
    expected = torch.stack([naive_integral(model, image, start, int(t)) for image, t in zip(images, target)])
    torch.testing.assert_close(signed, expected, atol=2e-4, rtol=1e-3)
    with torch.no_grad():
        difference = (model(images) - model(start[None])).gather(1, target[:, None]).squeeze(1)
    torch.testing.assert_close(signed.sum((1, 2, 3)), difference, atol=1e-3, rtol=1e-4)
    # the control: the difference of another class is another number
    assert not torch.allclose(signed.sum((1, 2, 3)), explainer.signed(images, (target + 1) % 4).sum((1, 2, 3)), atol=0.1)
    torch.testing.assert_close(explainer.attribute(images, target), signed.abs().sum(1, keepdim=True))


def test_one_step_is_too_few_where_the_network_bends() -> None:
    model, images = Smooth().eval(), 3 * torch.randn(3, 3, 8, 10)
    with torch.no_grad():
        difference = (model(images) - model(torch.zeros(1, 3, 8, 10)))[:, 1]
    error = {
        steps: (IntegratedGradients(model, steps=steps).signed(images, 1).sum((1, 2, 3)) - difference).abs().max()
        for steps in (1, 50)
    }
    assert error[50] < 1e-2 < 0.1 < error[1]


def naive_occlusion(model: nn.Module, image: Tensor, target: int, window: int, stride: int, fill: Tensor) -> Tensor:
    """(H, W), by a loop over windows that writes down every pixel's drops."""
    height, width = image.shape[1:]
    total, covered = torch.zeros(height, width), torch.zeros(height, width)
    with torch.no_grad():
        whole = model(image[None])[0, target]
        for i in range(1 + -(-(height - window) // stride)):
            for j in range(1 + -(-(width - window) // stride)):
                hidden = image.clone()
                rows, columns = slice(i * stride, i * stride + window), slice(j * stride, j * stride + window)
                hidden[:, rows, columns] = fill.expand_as(image)[:, rows, columns]
                total[rows, columns] += whole - model(hidden[None])[0, target]
                covered[rows, columns] += 1
    assert bool((covered > 0).all())
    return total / covered


@pytest.mark.parametrize(("window", "stride"), [(4, 2), (3, 3), (5, 2), (8, 8), (1, 1), (3, 1)])
def test_occlusion_is_the_naive_double_loop(window: int, stride: int) -> None:
    model, images, target = Smooth().eval(), torch.randn(2, 3, 8, 10), torch.tensor([1, 3])
    for fill in (torch.tensor(0.0), torch.tensor([0.5, -1.0, 2.0])[:, None, None]):
        maps = Occlusion(model, window, stride, fill).attribute(images, target)
        expected = torch.stack([naive_occlusion(model, x, int(t), window, stride, fill) for x, t in zip(images, target)])
        torch.testing.assert_close(maps, expected[:, None], atol=1e-5, rtol=1e-4)


def test_occlusion_takes_a_quarter_of_the_shorter_side_and_half_of_that() -> None:
    model, images = Smooth().eval(), torch.randn(2, 3, 8, 10)
    assert torch.equal(Occlusion(model).attribute(images, 1), Occlusion(model, 2, 1).attribute(images, 1))
    assert torch.equal(Occlusion(model, 6).attribute(images, 1), Occlusion(model, 6, 3).attribute(images, 1))


@settings(max_examples=15)
@given(window=st.sampled_from([1, 2, 4]), seed=st.integers(0, 1000), fill=st.floats(-2, 2))
def test_tiles_over_a_linear_network_share_its_whole_answer(window: int, seed: int, fill: float) -> None:
    """Windows side by side remove every pixel once, so the drops of a linear network add up to that of the filled image."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2 * 4 * 8, 3))
    images = torch.randn(2, 2, 4, 8)
    maps = Occlusion(model, window, window, fill).attribute(images, 2)
    with torch.no_grad():
        expected = (model(images) - model(torch.full_like(images, fill)))[:, 2]
    torch.testing.assert_close(maps.sum((1, 2, 3)) / window**2, expected, atol=1e-4, rtol=1e-4)


def test_both_find_the_place_a_planted_network_looks_at() -> None:
    model, (images, place, decoy) = Looks(), planted()
    gradients = IntegratedGradients(model).attribute(images)
    occluded = Occlusion(model, 3, 1).attribute(images)
    assert energy(gradients, place).tolist() == [1.0] * 5
    assert iou(gradients, place).tolist() == [1.0] * 5
    assert energy(occluded, place).min() > 3 * chance(place)
    for maps in (gradients, occluded):
        assert pointing_game(maps, place).tolist() == [1.0] * 5
        assert energy(maps, decoy).max() < 0.01
        for control in (uniform(images), centred_gaussian(images), edge_map(images)):
            assert energy(maps, place).min() > 2 * energy(control, place).max()
    # of a network that looks at the decoy, the same maps are of the decoy
    assert energy(IntegratedGradients(Looks(DECOY)).attribute(images), place).max() == 0


def test_occlusion_keeps_signs_and_integrated_gradients_do_not() -> None:
    """What speaks for brightness speaks against darkness."""
    model, (images, _, _) = Looks(), planted()
    torch.testing.assert_close(Occlusion(model).attribute(images, 0), -Occlusion(model).attribute(images, 1))
    torch.testing.assert_close(IntegratedGradients(model).attribute(images, 0), IntegratedGradients(model).attribute(images, 1))


def test_what_equals_the_baseline_gets_nothing() -> None:
    images = torch.randn(2, 3, 12, 12)
    images[:, :, 3] = 0.25
    assert float(IntegratedGradients(Looks(), 0.25).attribute(images)[:, :, 3].max()) == 0
    assert float(IntegratedGradients(Looks(), 0.0).attribute(images)[:, :, 3].max()) > 0


def test_the_black_image_is_that_of_normalize() -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    black = normalize(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), mean, std)[0]
    torch.testing.assert_close(black_image(mean, std).expand(3, 2, 2), black)
    with pytest.raises(ValueError, match="positive stds"):
        black_image(mean, (0.2, 0.0, 0.3))
    with pytest.raises(ValueError, match="as many"):
        black_image(mean, (0.2,))


@both
def test_no_target_is_the_predicted_class(method: Callable[[nn.Module], Explainer]) -> None:
    model, images = Smooth().eval(), torch.randn(6, 3, 8, 10)
    predicted = model(images).argmax(1)
    assert predicted.unique().numel() > 1
    explainer = method(model)
    assert isinstance(explainer, Explainer)
    maps = explainer.attribute(images)
    assert maps.shape == (6, 1, 8, 10)
    assert maps.dtype == torch.float32
    assert torch.equal(maps, explainer.attribute(images, predicted))
    assert torch.equal(maps[:1], explainer.attribute(images[:1], int(predicted[0])))
    assert not torch.allclose(maps, explainer.attribute(images, (predicted + 1) % 4), atol=1e-3)


@both
def test_a_map_does_not_depend_on_the_images_beside_it(method: Callable[[nn.Module], Explainer]) -> None:
    explainer, images = method(Smooth()), torch.randn(5, 3, 8, 10)
    together = explainer.attribute(images, 1)
    assert torch.equal(together, torch.cat([explainer.attribute(one[None], 1) for one in images]))
    assert torch.equal(together.flip(0), explainer.attribute(images.flip(0), 1))


@both
def test_memory_does_not_grow_with_the_batch(
    method: Callable[[nn.Module], Explainer], largest_tensor: Callable[[], object]
) -> None:
    explainer, largest = method(Smooth()), []
    for count in (1, 4):
        with largest_tensor() as seen:  # type: ignore[attr-defined]
            explainer.attribute(torch.randn(count, 3, 8, 10), 0)
        largest.append(seen.largest)
    assert largest[0] == largest[1]


@both
def test_the_model_is_left_as_it_was(method: Callable[[nn.Module], Explainer]) -> None:
    model, images = Smooth(), torch.randn(3, 3, 8, 10)
    model.train()
    model.body[1].eval()
    model.head.weight.grad = torch.ones_like(model.head.weight)
    model.body[0].requires_grad_(False)
    before, flags = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    random, given = torch.get_rng_state(), images.clone()
    first, second = (method(model).attribute(images) for _ in range(2))
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(images, given)
    assert not images.requires_grad
    assert images.grad is None
    assert [module.training for module in model.modules()] == flags
    assert not any(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks for module in model.modules())
    assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))
    assert all(parameter.grad is None for name, parameter in model.named_parameters() if name != "head.weight")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(RuntimeError):
        method(model).attribute(torch.randn(1, 2, 8, 10))
    assert [module.training for module in model.modules()] == flags


@both
def test_they_work_inside_no_grad_and_inference_mode_and_of_a_frozen_model(method: Callable[[nn.Module], Explainer]) -> None:
    model, images = Smooth().requires_grad_(False), torch.randn(2, 3, 8, 10)
    expected = method(model).attribute(images)
    assert float(expected.abs().max()) > 0
    with torch.no_grad():
        assert torch.equal(method(model).attribute(images), expected)
    with torch.inference_mode():
        assert torch.equal(method(model).attribute(images * 1), expected)


class Blind(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.ones(len(images), 4)


@pytest.mark.parametrize(
    ("make", "shape", "target", "message"),
    [
        (lambda m: IntegratedGradients(m, steps=0), (1, 3, 8, 10), 0, "steps is 0"),
        (lambda m: IntegratedGradients(m, torch.zeros(3, 4, 4)), (1, 3, 8, 10), 0, r"baseline has shape \(3, 4, 4\)"),
        (lambda m: IntegratedGradients(m, torch.zeros(2, 3, 8, 10)), (2, 3, 8, 10), 0, "must broadcast to an image"),
        (lambda m: IntegratedGradients(Blind()), (1, 3, 8, 10), 0, "no gradient with respect to the images"),
        (lambda m: IntegratedGradients(m), (3, 8, 10), 0, r"expected \(N, C, H, W\)"),
        (lambda m: IntegratedGradients(m), (0, 3, 8, 10), 0, "N >= 1"),
        (lambda m: IntegratedGradients(m), (2, 3, 8, 10), 4, "classes go from 0 to 3"),
        (lambda m: IntegratedGradients(m), (2, 3, 8, 10), torch.tensor([0, 1, 2]), r"expected one class or \(2,\)"),
        (lambda m: Occlusion(m, 0), (1, 3, 8, 10), 0, "window is 0"),
        (lambda m: Occlusion(m, 3, 0), (1, 3, 8, 10), 0, "stride is 0"),
        (lambda m: Occlusion(m, 3, 4), (1, 3, 8, 10), 0, "stride is 4; it must be at most the window, 3"),
        (lambda m: Occlusion(m, stride=3), (1, 3, 8, 10), 0, "stride is 3; it must be at most the window, 2"),
        (lambda m: Occlusion(m, 9), (1, 3, 8, 10), 0, "window is 9; it must be at most 8 for 8x10 images"),
        (lambda m: Occlusion(m, fill=torch.zeros(4, 1, 1)), (1, 3, 8, 10), 0, "fill has shape"),
        (lambda m: Occlusion(m), (0, 3, 8, 10), 0, "N >= 1"),
        (lambda m: Occlusion(m), (2, 3, 8, 10), -1, "classes go from 0 to 3"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    make: Callable[[nn.Module], Explainer], shape: tuple[int, ...], target: int | Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make(Smooth()).attribute(torch.zeros(shape), target)
    assert "\n" not in str(caught.value)

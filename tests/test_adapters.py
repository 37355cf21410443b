"""Our maps in captum, pytorch-grad-cam and Quantus: real uses of each, in which a planted map must beat its inverse.

pytorch-grad-cam and Quantus are not installed with the package; without them their tests are skipped.
"""

from __future__ import annotations

import copy
import importlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aib.attention import SpatialAttention
from aib.bottleneck import LatentBottleneck
from aib.classifier import AttentiveClassifier, PlainClassifier, SplitBackbone
from aib.functional import resize_maps
from aib.interpret.adapters import CamAdapter, as_cam, captum_attribution, quantus_explain_func
from aib.interpret.attribution import IntegratedGradients, Occlusion
from aib.interpret.choice import make_explainer
from aib.interpret.explainers import AttentionMap, GradCAM, Target
from aib.interpret.iba import BottleneckAttribution
from test_attribution import Looks, planted


def looker() -> AttentiveClassifier:
    """Class 1 is brightness where a map of sigmoid(100 * brightness - 50) lets it through, class 0 the lack of it."""
    attention = SpatialAttention(3, head=nn.Conv2d(3, 1, 1))
    latent = LatentBottleneck(3, 1)
    decoder = nn.Linear(1, 2)
    with torch.no_grad():
        for layer, weight, bias in (
            (attention.head, 100 / 3, [-50.0]),
            (latent.linear, torch.tensor([[10.0] * 3, [0.0] * 3]), [0.0, 0.0]),
            (decoder, torch.tensor([[-1.0], [1.0]]), [2.0, -2.0]),
        ):
            layer.weight.copy_(torch.as_tensor(weight).expand_as(layer.weight))
            layer.bias.copy_(torch.tensor(bias))
    backbone = SplitBackbone(nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1))
    return AttentiveClassifier(backbone, attention, latent, decoder, num_classes=2, modulation="plain").eval()


def bright(count: int = 4) -> tuple[Tensor, Tensor]:
    """Dim noisy 16x16 images with a bright 6x6 patch each, and its masks; `looker` sees class 1."""
    masks = torch.zeros(count, 1, 16, 16, dtype=torch.bool)
    for i in range(count):
        masks[i, 0, 2 * i : 2 * i + 6, 8 - 2 * i : 14 - 2 * i] = True
    images = 0.2 * torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return torch.where(masks, 1.0, images), masks


class Inverse:
    """What an explainer shows least, shown most: the control of every metric."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def attribute(self, images: Tensor, target: Target = None) -> Tensor:
        return 1 - AttentionMap(self.model).attribute(images, target)


class Fixed:
    """Given maps; remembers the target it was asked for."""

    def __init__(self, maps: Tensor) -> None:
        self.maps = maps
        self.target: Any = "nothing yet"

    def attribute(self, images: Tensor, target: Target = None) -> Tensor:
        self.target = target
        return self.maps


def category(number: int) -> Any:
    """Like pytorch-grad-cam's ClassifierOutputTarget."""
    return type("ClassifierOutputTarget", (), {"category": number})()


def test_nothing_of_other_people_is_imported_before_it_is_used() -> None:
    others = {"captum", "pytorch_grad_cam", "quantus", "cv2", "matplotlib"}
    code = f"import aib.interpret.adapters, sys; print({others} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "set()", done.stderr


def test_a_cam_is_scaled_to_each_images_range_at_its_size() -> None:
    maps = torch.tensor(
        [[[0.0, 1.0], [2.0, 4.0]], [[-3.0, -1.0], [0.0, 0.5]], [[0.7, 0.7], [0.7, 0.7]], [[-1.0, -2.0], [0.0, -3.0]]]
    )
    grey = as_cam(Fixed(maps[:, None]))(input_tensor=torch.zeros(4, 3, 2, 2), targets=None)
    assert isinstance(grey, np.ndarray)
    assert grey.dtype == np.float32
    expected = [[[0.0, 0.25], [0.5, 1.0]], [[0.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]
    np.testing.assert_array_equal(grey, np.array(expected, dtype=np.float32))
    large = as_cam(Fixed(maps[:, None]))(torch.zeros(4, 3, 6, 9))
    assert large.shape == (4, 6, 9)
    assert large.max((1, 2)).tolist() == [1.0, 1.0, 0.0, 0.0]
    assert large.min() == 0


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (None, None),
        (3, 3),
        ([category(1), category(4)], [1, 4]),
        ([np.int64(1), 4], [1, 4]),
        ((torch.tensor(1), 4), [1, 4]),
        (np.array([1, 4]), [1, 4]),
        (torch.tensor([1, 4]), [1, 4]),
    ],
)
def test_targets_of_every_form_reach_the_explainer(targets: Any, expected: Any) -> None:
    fixed = Fixed(torch.rand(2, 1, 4, 4))
    as_cam(fixed)(torch.zeros(2, 3, 4, 4), targets)
    assert fixed.target == expected if expected is None or isinstance(expected, int) else fixed.target.tolist() == expected


def test_a_cam_is_a_context_that_swallows_nothing() -> None:
    with as_cam(looker()) as cam:
        assert isinstance(cam, CamAdapter)
        assert isinstance(cam.explainer, AttentionMap)
    with pytest.raises(IndexError), as_cam(looker()):
        raise IndexError


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: as_cam(nn.Linear(2, 2)), "got Linear; expected an explainer or a classifier"),
        (lambda: as_cam(PlainClassifier(nn.Identity(), nn.Flatten(), nn.Linear(12, 2), 2)), "has no attention map"),
        (lambda: as_cam(looker())(torch.zeros(3, 16, 16)), r"expected \(N, C, H, W\)"),
        (lambda: as_cam(looker())(bright()[0], aug_smooth=True), "aug_smooth and eigen_smooth are not supported"),
        (lambda: as_cam(looker())(bright()[0], targets=[lambda output: output]), "a target is function; expected a class"),
        (lambda: as_cam(looker())(bright()[0], targets="1"), "targets are str"),
        (lambda: as_cam(GradCAM(Looks(), "conv"))(planted()[0], targets=[category(1)]), r"expected one class or \(5,\)"),
        (lambda: as_cam(Fixed(torch.zeros(2, 3, 4, 4)))(torch.zeros(2, 3, 8, 8)), r"Fixed gives maps \(2, 3, 4, 4\)"),
        (lambda: captum_attribution(nn.Linear(2, 2)), "got Linear"),
        (lambda: captum_attribution(looker()).attribute(bright()[0], additional_forward_args=1), "additional_forward_args"),
        (lambda: captum_attribution(looker()).attribute((bright()[0],) * 2), "tuple of 2"),
        (lambda: quantus_explain_func(looker(), np.zeros((3, 4, 4)), np.zeros(3)), r"expected \(N, C, H, W\)"),
        (
            lambda: quantus_explain_func(looker(), bright()[0].numpy(), np.ones(4), device="meta"),
            "the model is on cpu and device is 'meta'",
        ),
        (lambda: quantus_explain_func(looker(), bright()[0].numpy(), np.ones(4), explainer="grad"), "no explainer 'grad'"),
        (
            lambda: quantus_explain_func(looker(), bright()[0].numpy(), np.ones(4), explainer=AttentionMap(looker())),
            "of another model",
        ),
    ],
)
def test_bad_input_is_refused_in_one_line(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def cams() -> Any:
    # not only where it is missing: OpenCV fails to import on machines without the libraries of a desktop
    return pytest.importorskip("pytorch_grad_cam", exc_type=ImportError)


def their(module: str) -> Any:
    return importlib.import_module(f"pytorch_grad_cam.{module}")


def test_grad_cam_is_theirs(cams: Any) -> None:
    """Same layer, same targets, same scaling: the two libraries draw the same picture."""
    torch.manual_seed(4)
    model = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)).eval()
    images = torch.randn(4, 3, 20, 28)
    target = their("utils.model_targets").ClassifierOutputTarget
    with cams.GradCAM(model, [model[1]]) as theirs, as_cam(GradCAM(model, "1")) as ours:
        for targets in (None, [target(i) for i in (4, 0, 1, 1)]):
            expected = theirs(input_tensor=images, targets=targets)
            given = ours(input_tensor=images, targets=targets)
            assert given.shape == expected.shape
            assert given.dtype == expected.dtype
            np.testing.assert_allclose(given, expected, atol=1e-5)
            assert expected.std() > 0.1
        assert np.abs(ours(images, [1] * 4) - theirs(images, [target(0)] * 4)).max() > 0.1


def test_their_metrics_prefer_the_planted_map(cams: Any) -> None:
    road, multiply = their("metrics.road"), their("metrics.cam_mult_image")
    target = their("utils.model_targets").ClassifierOutputTarget
    model, (images, _) = looker(), bright()
    targets = [target(1)] * len(images)
    planted_map, inverse = (as_cam(source)(input_tensor=images, targets=targets) for source in (model, Inverse(model)))
    drops = {}
    for name, cam in (("planted", planted_map), ("inverse", inverse)):
        # what is removed first is what matters: the score falls
        drops[name] = road.ROADMostRelevantFirst(percentile=80)(images, cam, targets, model)
        assert drops[name].shape == (4,)
    assert drops["planted"].max() < -2 < drops["inverse"].min()
    combined = [road.ROADCombined(percentiles=[80, 90])(images, cam, targets, model).min() for cam in (planted_map, inverse)]
    assert combined[0] > combined[1] + 0.5
    kept, lost = (multiply.CamMultImageConfidenceChange()(images, cam, targets, model) for cam in (planted_map, inverse))
    assert kept.min() > lost.max() + 1


def test_their_coherency_calls_our_cam_again(cams: Any) -> None:
    """The map of the image times its map is the map, for a network that looks at bright places."""
    model, (images, _) = looker(), bright()
    target = their("utils.model_targets").ClassifierOutputTarget
    cam, targets = as_cam(model), [target(1)] * len(images)
    coherency = their("metrics.arcc").Coherency()
    grey = cam(input_tensor=images, targets=targets)
    assert coherency(images, grey, targets, model, cam).min() > 0.9
    assert coherency(images, 1 - grey, targets, model, cam).max() < 0.5


def test_their_picture_shows_the_patch_hot(cams: Any) -> None:
    model, (images, masks) = looker(), bright(1)
    grey = as_cam(model)(input_tensor=images)[0]
    picture = their("utils.image").show_cam_on_image(np.zeros((16, 16, 3), np.float32), grey, use_rgb=True)
    assert picture.shape == (16, 16, 3)
    assert picture.dtype == np.uint8
    hot, far = picture[4, 11], picture[14, 1]  # jet: red at the top of the scale, blue at its bottom
    assert bool(masks[0, 0, 4, 11])
    assert hot[0] > 100 > hot[2]
    assert far[2] > 100 > far[0]


def test_an_attribution_of_captum_has_the_shape_of_its_inputs() -> None:
    from captum.attr import Attribution

    model, (images, _) = looker(), bright()
    attribution = captum_attribution(model)
    assert isinstance(attribution, Attribution)
    assert type(attribution) is type(captum_attribution(Fixed(torch.zeros(1, 1, 2, 2))))
    assert attribution.forward_func is model
    assert not attribution.has_convergence_delta()
    maps = attribution.attribute(images)
    expected = resize_maps(AttentionMap(model).attribute(images), (16, 16))
    torch.testing.assert_close(maps, expected.expand(4, 3, 16, 16))
    (from_tuple,) = attribution.attribute((images,), target=1)
    assert torch.equal(from_tuple, maps)


@pytest.mark.parametrize("target", [1, torch.tensor(1), torch.tensor([1]), [1] * 5, torch.ones(5, dtype=torch.int64)])
def test_targets_of_captum_are_those_of_ours(target: Any) -> None:
    model, (images, _, _) = Looks(), planted()
    expected = Occlusion(model).attribute(images, 1).expand_as(images)
    assert torch.equal(captum_attribution(Occlusion(model)).attribute(images, target=target), expected)
    assert not torch.equal(captum_attribution(Occlusion(model)).attribute(images, target=0), expected)


def test_captums_infidelity_is_nil_of_the_gradient_and_not_of_its_inverse() -> None:
    """`Looks` is linear and weighs all channels of its place alike: the mask is its gradient up to a factor."""
    from captum.metrics import infidelity

    model, (images, place, _) = Looks(), planted()

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(0))
        return noise, inputs - noise

    scores = [
        infidelity(
            model,
            perturb,
            images,
            captum_attribution(Fixed(maps)).attribute(images),
            target=1,
            n_perturb_samples=20,
            normalize=True,
        )
        for maps in (place.float(), 1 - place.float())
    ]
    assert scores[0].shape == (5,)
    assert float(scores[0].max()) < 1e-6
    assert float(scores[1].min()) > 0.1


def test_captums_sensitivity_is_small_of_a_steady_map_and_large_of_noise() -> None:
    from captum.metrics import sensitivity_max

    class Noise:
        def __init__(self) -> None:
            self.generator = torch.Generator().manual_seed(0)

        def attribute(self, images: Tensor, target: Target = None) -> Tensor:
            return torch.rand(len(images), 1, 4, 4, generator=self.generator)

    model, (images, _) = looker(), bright()
    steady = sensitivity_max(
        captum_attribution(model).attribute, images, target=torch.ones(4, dtype=torch.int64), n_perturb_samples=4
    )
    noisy = sensitivity_max(captum_attribution(Noise()).attribute, images, n_perturb_samples=4)
    assert steady.shape == (4,)
    assert float(steady.max()) < 0.05
    assert float(noisy.min()) > 0.3


def explainers() -> Iterator[Any]:
    model, calibration = Looks(), torch.randn(50, 3, 12, 12)
    yield GradCAM(model, "conv")
    yield IntegratedGradients(model, steps=5)
    yield Occlusion(model)
    yield BottleneckAttribution(model, "conv", iterations=2).estimate(calibration)


@pytest.mark.parametrize("number", range(4), ids=["gradcam", "integrated_gradients", "occlusion", "iba"])
def test_every_explainer_fits_every_adapter(number: int) -> None:
    from captum.metrics import sensitivity_max

    explainer = list(explainers())[number]
    images = planted(2)[0]
    maps = resize_maps(explainer.attribute(images, 1), (12, 12))
    grey = as_cam(explainer)(input_tensor=images, targets=[1, 1])
    assert grey.shape == (2, 12, 12)
    assert (grey.min(), grey.max()) == (0, 1)
    given = quantus_explain_func(explainer.model, images.numpy(), np.array([1, 1]), explainer=explainer)
    np.testing.assert_array_equal(given, maps.numpy())
    assert bool(sensitivity_max(captum_attribution(explainer).attribute, images, target=1, n_perturb_samples=2).isfinite().all())


def test_a_quantus_map_is_an_array_at_the_inputs_size() -> None:
    model, (images, _) = looker(), bright()
    expected = resize_maps(AttentionMap(model).attribute(images), (16, 16)).numpy()
    for inputs in (images.numpy(), images.double().numpy()):  # what its perturbations give is float64
        for options in (
            {},
            {"device": "cpu"},
            {"device": torch.device("cpu")},
            {"explainer": AttentionMap},
            {"explainer": AttentionMap(model)},
        ):
            maps = quantus_explain_func(model=model, inputs=inputs, targets=np.ones(4, dtype=np.int64), **options)  # type: ignore[arg-type]
            assert isinstance(maps, np.ndarray)
            assert maps.shape == (4, 1, 16, 16)
            assert maps.dtype == np.float32
            np.testing.assert_allclose(maps, expected, atol=1e-6)


def test_a_quantus_map_is_that_of_the_model_it_is_asked_about() -> None:
    model, (images, _) = looker(), bright()
    other = copy.deepcopy(model)
    nn.init.zeros_(other.attention.head.weight)
    assert np.ptp(quantus_explain_func(model, images.numpy(), np.ones(4))) > 0.9
    assert np.ptp(quantus_explain_func(other, images.numpy(), np.ones(4))) == 0


def test_a_quantus_map_by_name_takes_the_targets() -> None:
    model, (images, _) = looker(), bright()
    for name in ("occlusion", "gradcam@backbone.features", "iba@backbone.features"):
        calibration = torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        maps = quantus_explain_func(model, images.numpy(), np.array([0, 1, 1, 0]), explainer=name, calibration=calibration)
        direct = make_explainer(name, model, (3, 16, 16), calibration).attribute(images, torch.tensor([0, 1, 1, 0]))
        np.testing.assert_allclose(maps, resize_maps(direct, (16, 16)).numpy(), atol=1e-5)


@pytest.fixture(scope="module")
def quantus() -> Any:
    return pytest.importorskip("quantus", exc_type=ImportError)


def test_quantus_metrics_prefer_the_planted_map(quantus: Any) -> None:
    model, (images, masks) = looker(), bright()
    batch = {"x_batch": images.numpy(), "y_batch": np.ones(4, dtype=np.int64), "device": "cpu", "channel_first": True}
    mass, flipping = [], []
    for explainer in ("own", Inverse):
        options = {"explain_func": quantus_explain_func, "explain_func_kwargs": {"explainer": explainer}}
        inside = quantus.RelevanceMassAccuracy(disable_warnings=True)
        mass.append(inside(model=model, s_batch=masks.numpy(), **batch, **options))
        pixels = quantus.PixelFlipping(features_in_step=32, perturb_baseline="black", disable_warnings=True)
        # class 1 after every step, (N, steps); the area that quantus 0.6 takes needs a function that numpy 2.4 has no more
        flipping.append(np.mean(pixels(model=model, **batch, **options), axis=1))
    assert min(mass[0]) > 0.8 > 0.2 > max(mass[1])
    # the sooner the probability falls, the lower it is on average
    assert max(flipping[0]) < 0.1 < 0.8 < min(flipping[1])


def test_quantus_randomises_the_network_and_the_map_follows(quantus: Any) -> None:
    model, (images, _) = looker(), bright()
    metric = quantus.MPRT(
        similarity_func=quantus.similarity_func.correlation_pearson, layer_order="independent", disable_warnings=True
    )
    scores = metric(
        model=model,
        x_batch=images.numpy(),
        y_batch=np.ones(4, dtype=np.int64),
        explain_func=quantus_explain_func,
        device="cpu",
        channel_first=True,
    )
    means = {name: float(np.mean(values)) for name, values in scores.items()}
    assert means["decoder"] == pytest.approx(1)  # behind the map
    assert means["attention.head"] < 0.95

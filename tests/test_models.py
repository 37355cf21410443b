"""The paper's networks: exact sizes and costs, shapes at the attention site, options and errors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from aib.classifier import AttentiveClassifier, Classifier, PlainClassifier
from aib.loss import objective
from aib.models import create_model, model_names

# trainable parameters, and multiply-accumulates of the convolutions and linear layers for one 32x32 image
SIZES = {
    ("vgg", 10): (19_712_586, 3_786_348_000),
    ("vgg", 100): (19_758_756, 3_786_394_000),
    ("vgg_aib", 10): (20_040_789, 3_787_265_000),
    ("vgg_aib", 100): (20_063_919, 3_787_288_000),
    ("vgg_aib_qt", 10): (20_040_809, 3_787_265_000),
    ("vgg_aib_qt", 100): (20_063_969, 3_787_288_000),
    ("wrn", 10): (36_479_194, 5_243_329_000),
    ("wrn", 100): (36_536_884, 5_243_386_000),
    ("wrn_aib", 10): (65_004_500, 12_375_963_000),
    ("wrn_aib", 100): (65_109_260, 12_390_962_000),
    ("wrn_aib_qt", 10): (65_004_550, 12_375_963_000),
    ("wrn_aib_qt", 100): (65_109_280, 12_390_962_000),
    ("vgg_att3", 10): (19_855_434, 3_921_264_000),
    ("vgg_att3", 100): (19_993_764, 3_921_402_000),
    ("wrn_abn", 10): (64_349_486, 12_375_333_000),
    ("wrn_abn", 100): (64_475_666, 12_392_878_000),
}
SITES = {"vgg": (256, 16, 16), "wrn": (320, 16, 16)}


def on_meta(name: str, num_classes: int, **options: object) -> Classifier:
    """The model without its memory: shapes only."""
    with torch.device("meta"):
        return create_model(name, num_classes, **options).eval()


def multiply_accumulates(model: nn.Module, images: Tensor) -> int:
    """Of the convolutions and linear layers in one forward pass: outputs times the inputs each is a sum over."""
    total = 0

    def count(layer: nn.Module, _inputs: object, out: Tensor) -> None:
        nonlocal total
        total += out.numel() * layer.weight[0].numel()

    handles = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    model(images)
    for handle in handles:
        handle.remove()
    return total


@pytest.mark.parametrize(("name", "num_classes"), SIZES)
def test_sizes_and_costs_are_exact(name: str, num_classes: int) -> None:
    model = on_meta(name, num_classes)
    parameters, cost = SIZES[name, num_classes]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == parameters
    assert round(multiply_accumulates(model, torch.empty(1, 3, 32, 32, device="meta")), -3) == cost


@pytest.mark.parametrize("name", ["vgg", "vgg_aib", "vgg_aib_qt", "wrn", "wrn_aib", "wrn_aib_qt"])
@pytest.mark.parametrize("count", [1, 3])
def test_shapes_at_the_attention_site(name: str, count: int) -> None:
    out = on_meta(name, 10).forward_details(torch.empty(count, 3, 32, 32, device="meta"))
    site = SITES[name.split("_", maxsplit=1)[0]]
    assert out.features.shape == (count, *site)
    assert out.logits.shape == (count, 10)
    if "aib" in name:
        assert out.map.shape == (count, 1, *site[1:])
        assert out.latent.shape == (count, 256 if name.startswith("vgg") else 512)
        assert (out.quantized is not None) == name.endswith("qt")


@pytest.mark.parametrize(
    ("name", "num_classes", "anchors"),
    [("vgg_aib", 10, None), ("vgg_aib_qt", 10, 20), ("vgg_aib_qt", 100, 50)]
    + [("wrn_aib", 10, None), ("wrn_aib_qt", 10, 50), ("wrn_aib_qt", 100, 20)],
)
def test_published_numbers_of_anchors_are_the_defaults(name: str, num_classes: int, anchors: int | None) -> None:
    model = on_meta(name, num_classes)
    assert (None if model.quantizer is None else model.quantizer.num_anchors) == anchors


@pytest.mark.parametrize("name", ["vgg", "wrn"])
def test_options_reach_the_model(name: str) -> None:
    model = on_meta(f"{name}_aib_qt", 7, in_channels=1, latent_dim=64, anchors=33, modulation="plain")
    out = model.forward_details(torch.empty(2, 1, 32, 32, device="meta"), samples=(2, 1))
    assert isinstance(model, AttentiveClassifier)
    assert (model.num_classes, model.quantizer.num_anchors, model.modulation) == (7, 33, "plain")
    assert out.logits.shape == (2, 7)
    assert out.latent.shape == (2, 1, 2, 64)
    plain = on_meta(name, 7, in_channels=1)
    assert isinstance(plain, PlainClassifier)
    assert plain(torch.empty(2, 1, 32, 32, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("name", ["vgg_aib", "vgg_aib_qt", "wrn_aib", "wrn_aib_qt"])
def test_no_anchors_is_not_taken_for_the_default(name: str) -> None:
    with pytest.raises(ValueError, match="anchors is 0; a quantised map needs at least 2"):
        on_meta(name, 10, anchors=0)


@pytest.mark.parametrize("name", ["vgg_aib_qt", "wrn_aib_qt"])
def test_a_fresh_model_computes_finite_numbers(name: str) -> None:
    model, encoded = create_model(name, 10).eval(), []
    model.bottleneck.register_forward_hook(lambda _module, inputs, _out: encoded.append(inputs[0]))
    out = model.forward_details(torch.randn(1, 3, 32, 32))
    assert objective(out, torch.tensor([3]))["loss"].isfinite()
    assert (out.attention_std > 1e-4).all()
    assert (out.attention_std < 0.1).all()  # the noise starts small
    assert out.logits.abs().max() < 100
    assert encoded[0].min() >= 0  # a ReLU ends the encoder
    assert encoded[0].max() > 0


def test_the_same_seed_builds_the_same_model() -> None:
    def build(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        return list(create_model("vgg_aib_qt", 10).state_dict().values())

    first, same, other = build(1), build(1), build(2)
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_vgg_starts_xavier_uniform() -> None:  # with gain 1; the published code's is sqrt(2), see xavier_init
    for layer in create_model("vgg_aib_qt", 10).modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fans = (layer.weight[0].numel(), layer.weight[:, 0].numel())
            bound = (6 / sum(fans)) ** 0.5
            assert 0.6 * bound < layer.weight.abs().max() <= bound
            assert layer.bias.abs().max() == 0


# --- errors -------------------------------------------------------------------------------------------------------------------


def test_the_six_models_are_listed() -> None:
    assert {name for name, _ in SIZES} <= set(model_names())
    assert model_names() == sorted(model_names())


@pytest.mark.parametrize(("wrong", "near"), [("vgg_aib_qtt", "vgg_aib_qt"), ("wrn_aibs", "wrn_aib"), ("vggg", "vgg")])
def test_an_unknown_name_is_an_error_that_names_the_near_ones(wrong: str, near: str) -> None:
    with pytest.raises(ValueError) as caught:
        create_model(wrong, 10)
    message = str(caught.value)
    assert message.startswith(f"unknown model {wrong!r}; did you mean {near}")
    assert "wrn_aib_qt" in message
    assert "\n" not in message


def test_a_name_like_no_other_lists_the_models() -> None:
    with pytest.raises(ValueError, match=r"unknown model 'zzz'; .*vgg_aib_qt.*wrn_aib_qt"):
        create_model("zzz", 10)


def test_an_option_the_model_has_not_is_an_error_that_names_its_options() -> None:
    with pytest.raises(ValueError, match="vgg has no option 'anchors'; it takes in_channels"):
        create_model("vgg", 10, anchors=20)
    with pytest.raises(ValueError, match="wrn_aib has no option 'anchor'; it takes in_channels, latent_dim, anchors, modulation"):
        create_model("wrn_aib", 10, anchor=20)


@pytest.mark.parametrize("num_classes", [1, 0, -2])
def test_fewer_than_two_classes_are_refused(num_classes: int) -> None:
    with pytest.raises(ValueError, match=f"num_classes is {num_classes}; a classifier needs at least 2"):
        create_model("vgg", num_classes)


SMALL = ("vgg_xs", "vgg_s", "vgg_m", "fast")
FAMILIES = [name for name in model_names() if not name.startswith(SMALL) and not name.endswith("_cub")]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_narrow_network_is_the_published_one_with_fewer_channels(name: str) -> None:
    narrow, full = on_meta(name, 10, width=0.25), on_meta(name, 10)
    assert narrow.state_dict().keys() == full.state_dict().keys()
    convolutions = [(a, b) for a, b in zip(narrow.modules(), full.modules()) if isinstance(a, nn.Conv2d)]
    assert max(a.out_channels / b.out_channels for a, b in convolutions if b.out_channels > 16) == 0.25
    assert all(a.kernel_size == b.kernel_size and a.stride == b.stride for a, b in convolutions)
    assert create_model(name, 3, width=0.125)(torch.rand(2, 3, 32, 32)).shape == (2, 3)
    with pytest.raises(ValueError, match=r"width is 0.01; it must lie between"):
        create_model(name, 10, width=0.01)


@pytest.mark.parametrize(
    "name",
    ["vgg_xs_aib_qt", "vgg_xs_aib", "vgg_xs", "vgg_dvib", "vgg_gap", "vgg_pan", "vgg_att3", "vgg_cbam", "wrn_abn", "fast_aib_qt"],
)
@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_no_parameter_is_left_without_a_gradient(name: str, weight: float) -> None:
    """A process that waits for the gradient of an unused parameter waits for ever."""
    model = create_model(name, num_classes=3, **({} if "xs" in name or "fast" in name else {"width": 0.125})).train()
    details = model.forward_details(torch.randn(3, 3, 32, 32))
    parts = objective(
        details, torch.tensor([0, 1, 2]), weight, lambda_anchor=weight, lambda_commitment=weight, lambda_sparsity=weight
    )
    parts["loss"].backward()
    assert [name for name, value in model.named_parameters() if value.grad is None and value.requires_grad] == []

"""Attention attached to networks of many families: it modulates, it samples, and it comes off without a trace."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from aib.attaching import AttachedClassifier, attach
from aib.classifier import Noise
from aib.loss import objective

FAMILIES = [
    # timm name, site, side, whether draws share one pass
    ("resnet18", "layer3", 64, True),
    ("resnet50", "layer2", 32, True),
    ("convnext_atto", "stages.1", 64, True),
    pytest.param("vgg16_bn", "features.23", 32, True, marks=pytest.mark.slow),  # 120 M parameters to initialise
    pytest.param("wide_resnet50_2", "layer3", 32, True, marks=pytest.mark.slow),
    ("efficientnet_b0", "blocks.3", 64, True),
    ("mobilenetv3_small_100", "blocks.2", 64, True),
    ("vit_tiny_patch16_224", "blocks.5", 64, True),
    ("swin_tiny_patch4_window7_224", "layers.1", 64, True),
    # inside a residual branch: the shortcut goes around the site
    ("resnet18", "layer1.0.conv1", 64, False),
    ("vit_tiny_patch16_224", "blocks.3.attn", 64, False),
]


class PlainNet(nn.Module):
    """16x16 images; no skip connection; the head is the last Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.body = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(2))
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(32, 10), nn.ReLU(), nn.Linear(10, 7))
        self.fail = ""  # "before" or "after" the stem

    def forward(self, images: Tensor) -> Tensor:
        if self.fail == "before":
            raise RuntimeError("on purpose")
        features = self.stem(images)
        if self.fail == "after":
            raise RuntimeError("on purpose")
        return self.classifier(self.body(features))


class SkipNet(PlainNet):
    """What comes before the site is joined after it, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        return self.classifier(self.body(self.mix(features).relu_() + features))


def small(net: nn.Module, at: str = "stem", **options: Any) -> AttachedClassifier:
    return attach(net, at, 5, **{"input_size": 16, "latent_dim": 6, **options})


def fingerprint(net: nn.Module) -> dict[str, Any]:
    """Everything about a network that `remove` must give back, apart from tensors."""
    return {
        "modules": [(name, id(module), module.training) for name, module in net.named_modules()],
        "hooks": [
            {key: list(value) for key, value in vars(module).items() if "hooks" in key and isinstance(value, dict)}
            for module in net.modules()
        ],
        "parameters": [(name, id(parameter), parameter.requires_grad) for name, parameter in net.named_parameters()],
        "keys": list(net.state_dict()),
    }


def noise_for(model: AttachedClassifier, draws: tuple[int, int], images: int) -> Noise:
    latent_dim = model.bottleneck.latent_dim
    site = model.site
    return Noise(torch.randn(draws[0], images, 1, site.height, site.width), torch.randn(*draws, images, latent_dim))


def assert_draws_equal_single_runs(model: AttachedClassifier, images: Tensor) -> None:
    # a standard deviation large enough that draws differ
    model.attention.std_offset = 0.0
    noise = noise_for(model, (3, 2), len(images))
    with torch.no_grad():
        many = model.forward_details(images, noise=noise)
        assert many.sample_logits is not None
        scale = many.sample_logits.std()
        for s in range(3):
            one = model.forward_details(images, noise=Noise(noise.attention[s : s + 1], noise.latent[s : s + 1]))
            assert one.sample_logits is not None
            assert torch.allclose(many.sample_logits[s], one.sample_logits[0], atol=1e-4 * float(scale), rtol=1e-4)
        for i in range(len(images)):
            alone = Noise(noise.attention[1:2, i : i + 1], noise.latent[1:2, :, i : i + 1])
            single = model.forward_details(images[i : i + 1], noise=alone)
            assert single.sample_logits is not None
            assert torch.allclose(many.sample_logits[1, :, i], single.sample_logits[0, :, 0], atol=1e-3 * float(scale), rtol=1e-3)
        # the control: another draw is another result
        same_latent = Noise(noise.attention, noise.latent[:1].expand_as(noise.latent))
        varied = model.forward_details(images, noise=same_latent)
        assert varied.latent_mean is not None
        assert float((varied.latent_mean[0] - varied.latent_mean[1]).abs().max()) > 1e-5


@pytest.mark.parametrize(("name", "at", "side", "shares"), FAMILIES)
def test_timm_families(name: str, at: str, side: int, shares: bool) -> None:
    check_family(attach(name, at, 5, anchors=4, latent_dim=16, input_size=side).eval(), side, shares)


@pytest.mark.parametrize(
    ("name", "at", "options"),
    [("vgg16_bn", "features.23", {"mlp_ratio": 0.02}), ("wide_resnet50_2", "layer3", {"layers": (1, 1, 2, 1)})],
)
def test_large_timm_families_given_as_smaller_modules(name: str, at: str, options: dict[str, Any]) -> None:
    import timm

    network = timm.create_model(name, num_classes=3, **options)
    check_family(attach(network, at, 5, anchors=4, latent_dim=16, input_size=32).eval(), 32, True)


def check_family(model: AttachedClassifier, side: int, shares: bool) -> None:
    assert model.shares_features is shares
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        assert model(images).shape == (2, 5)
        assert torch.equal(model(images), model(images))
    site = model.site
    with torch.no_grad():
        details = model.forward_details(images)
    assert details.features is not None
    assert details.indices is not None
    assert details.features.shape == (2, site.channels, site.height, site.width)
    assert details.indices.shape == (2, site.height, site.width)
    model.quantizer = None  # close draws would share anchors
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # timm starts residual branches at zero: nothing inside would show
    assert_draws_equal_single_runs(model, images)
    # the encoding depends on the map: other maps, other latents
    with torch.no_grad():
        details = model.forward_details(images)
        changed = model.forward_details(images, replace_map=lambda maps: torch.rand_like(maps) * 3)
    assert details.latent_mean is not None
    assert changed.latent_mean is not None
    assert not torch.allclose(details.latent_mean, changed.latent_mean, atol=1e-6)


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


# --- taking it off -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_remove_gives_back_the_given_network_bit_for_bit(training: bool) -> None:
    net = PlainNet().train(training)
    net.body.train(not training)
    net.stem[0].weight.requires_grad_(False)
    net.body.register_forward_hook(lambda *_: None)
    tensors = {key: value.clone() for key, value in net.state_dict().items()}
    print_before = fingerprint(net)
    images = torch.randn(2, 3, 16, 16)
    outputs = copy.deepcopy(net).eval()(images)
    model = small(net)
    assert "backbone.network.classifier.3.weight" not in model.state_dict()
    model.eval().double().float()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.forward_details(images, samples=(2, 2))
    assert model.remove() is net
    assert fingerprint(net) == print_before
    assert all(torch.equal(value, tensors[key]) for key, value in net.state_dict().items())
    assert torch.equal(net.eval()(images), outputs)


def test_remove_gives_back_timm_networks_and_their_heads() -> None:
    import timm

    for name, at in (("mobilenetv3_small_100", "blocks.2"), ("convnext_atto", "stages.1"), ("vit_tiny_patch16_224", "blocks.1")):
        net = timm.create_model(name, num_classes=9, **({"img_size": 32} if "vit" in name else {}))
        tensors = {key: value.clone() for key, value in net.state_dict().items()}
        print_before = fingerprint(net)
        model = attach(net, at, 4, input_size=32).eval()
        model(torch.randn(2, 3, 32, 32))
        # the head timm records is out of the way
        assert model.bottleneck.linear.in_features == net.num_features if "mobile" not in name else 1024
        assert model.remove() is net
        assert fingerprint(net) == print_before
        assert all(torch.equal(value, tensors[key]) for key, value in net.state_dict().items())


def test_a_trained_network_comes_back_trained_and_with_its_old_head() -> None:
    net = PlainNet()
    weight, head = net.stem[0].weight.clone(), net.classifier[3]
    model = small(net)
    model(torch.randn(4, 3, 16, 16)).sum().backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    assert model.remove() is net
    assert not torch.equal(net.stem[0].weight, weight)
    assert net.classifier[3] is head


def test_the_kept_head_follows_the_network_to_another_type() -> None:
    net = small(PlainNet()).double().remove()
    assert net(torch.randn(2, 3, 16, 16, dtype=torch.float64)).dtype == torch.float64


def test_after_remove_the_classifier_says_so() -> None:
    model = small(PlainNet())
    net = model.remove()
    with pytest.raises(RuntimeError, match="taken out by remove"):
        model(torch.randn(2, 3, 16, 16))
    with pytest.raises(RuntimeError, match="taken out by remove"):
        model.remove()
    small(net).remove()


@pytest.mark.parametrize(
    "wrong",
    [
        {"at": "stam"},
        {"head": "fc"},
        {"anchors": 1},
        {"latent_dim": 0},
        {"modulation": "times"},
        {"attention_head": nn.Conv2d(6, 2, 1)},
    ],
)
def test_a_failed_attach_leaves_the_network_as_given(wrong: dict[str, Any]) -> None:
    net = PlainNet().eval()
    print_before = fingerprint(net)
    with pytest.raises(ValueError) as error:
        small(net, **wrong)
    assert "\n" not in str(error.value)
    assert fingerprint(net) == print_before


@pytest.mark.parametrize("fail", ["before", "after"])
def test_nothing_stays_behind_after_a_forward_pass_or_an_exception_in_it(fail: str) -> None:
    net = PlainNet()
    images = torch.randn(2, 3, 16, 16)
    model = small(net).eval()
    expected = model(images)
    plain = net.body(net.stem(images))
    net.fail = fail
    with pytest.raises(RuntimeError, match="on purpose"):
        model(images)
    net.fail = ""
    # outside of the classifier's own pass the site returns what it always did
    assert torch.equal(net.body(net.stem(images)), plain)
    assert torch.equal(model(images), expected)
    net.fail = fail
    print_attached = fingerprint(net)
    with pytest.raises(RuntimeError, match="on purpose"):
        model(images)
    assert fingerprint(net) == print_attached
    model.remove()
    assert all(not module._forward_hooks for module in net.modules())


def test_a_site_that_runs_twice_in_training_is_an_error() -> None:
    class Twice(PlainNet):
        def forward(self, images: Tensor) -> Tensor:
            if self.training:
                self.stem(images)
            return super().forward(images)

    model = small(Twice())
    with pytest.raises(RuntimeError, match="ran 2 times"):
        model(torch.randn(2, 3, 16, 16))


def test_attaching_twice_is_refused() -> None:
    net = PlainNet()
    small(net)
    with pytest.raises(ValueError, match="attached already"):
        small(net, "body.1")


# --- a module like any other -------------------------------------------------------------------------------------------------


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


# --- weights -----------------------------------------------------------------------------------------------------------------


def test_weights_from_a_local_file(tmp_path: Path) -> None:
    import timm

    source = timm.create_model("resnet18", num_classes=11)
    state = source.state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "weights.pth")
    for file in ("weights.safetensors", "weights.pth"):
        model = attach("resnet18", "layer3", 5, input_size=32, pretrained=str(tmp_path / file))
        loaded = model.backbone.network.state_dict()  # type: ignore[union-attr]
        assert all(torch.equal(value, state[key]) for key, value in loaded.items())
    grey = attach("resnet18", "layer3", 5, input_size=32, in_channels=1, pretrained=tmp_path / "weights.pth")
    assert torch.allclose(grey.backbone.network.conv1.weight, state["conv1.weight"].sum(1, keepdim=True), atol=1e-6)  # type: ignore[union-attr]


def test_weights_that_do_not_fit_are_refused_on_one_line(tmp_path: Path) -> None:
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "cut.safetensors")
    (tmp_path / "rotten.pth").write_bytes(b"not a checkpoint")
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "shape.safetensors")
    for pretrained, message in (
        ("cut.safetensors", "lacks bn1.weight"),
        ("shape.safetensors", "size mismatch|lacks|cannot load"),
        ("rotten.pth", "cannot load"),
        ("absent.pth", "not a file"),
        ("weights.txt", "must be True, False or a file"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            attach("resnet18", "layer3", 5, input_size=32, pretrained=tmp_path / pretrained)
        assert "\n" not in str(error.value)


def test_pretrained_without_a_network_names_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"cannot get the pretrained weights of 'resnet18'.*leave pretrained out.*file") as error:
        attach("resnet18", "layer3", 5, pretrained=True)
    assert "\n" not in str(error.value)


def test_wrong_names_and_options_are_said() -> None:
    for options, message in (
        ({"model": "resnet81"}, "did you mean"),
        ({"model": "resnet18.nothing"}, "it has resnet18.a1_in1k"),
        ({"at": "layr3"}, "did you mean layer3"),
        ({"num_classes": 1}, "at least 2"),
        ({"head": "fc"}, "has no head"),
        ({"decoder": "wide"}, "must be 'deep' or 'shallow'"),
        ({"in_channels": 0}, "at least 1 channel"),
        ({"model": PlainNet(), "pretrained": True}, "for a timm name"),
    ):
        given: dict[str, Any] = {"model": "resnet18", "at": "layer3", "num_classes": 5, "input_size": 32, **options}
        with pytest.raises(ValueError, match=message) as error:
            attach(**given)
        assert "\n" not in str(error.value)

"""Attention comes off without a trace, a failed attach leaves none, and weights or names that do not fit are said."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from aib.attaching import attach
from attached import PlainNet, small


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


# --- weights and names --------------------------------------------------------------------------------------------------------


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

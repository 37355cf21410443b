"""The networks for CUB: exact sizes, maps at the paper's resolution, ImageNet weights from a file, and what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from aib.classifier import AttentiveClassifier, Details
from aib.loss import objective
from aib.models import create_model, cub, model_names
from aib.models.build import build_model

CUB = [name for name in model_names() if name.endswith("_cub")]
PUBLISHED = {  # parameters, multiply-accumulates of one 224x224 image
    "vgg_aib_cub": (24_275_731, 16_737_278_000),
    "wrn_aib_cub": (130_726_675, 19_621_589_000),
}
UNUSED = {"wrn_aib_cub": 20_736_000}
"""Parameters of the published network that its forward pass leaves out: a second copy of the third group."""


def details_and_cost(name: str, size: int = 224) -> tuple[Details, nn.Module, int]:
    """A forward pass in shapes only."""
    cost = 0

    def count(layer: nn.Module, _inputs: object, out: torch.Tensor) -> None:
        nonlocal cost
        cost += out.numel() * layer.weight[0].numel()

    with torch.device("meta"):
        model = create_model(name, 200).eval()
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.register_forward_hook(count)
        return model.forward_details(torch.zeros(1, 3, size, size)), model, cost


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_and_costs_are_the_published_ones(name: str) -> None:
    _, model, cost = details_and_cost(name)
    parameters, published_cost = PUBLISHED[name]
    assert sum(p.numel() for p in model.parameters()) == parameters - UNUSED.get(name, 0)
    assert cost == pytest.approx(published_cost, abs=1000)  # printed to 1e-6 of a thousand million
    if name in UNUSED:
        network = torchvision.models.wide_resnet50_2()
        assert sum(p.numel() for p in network.layer3.parameters()) == UNUSED[name]


@pytest.mark.parametrize("name", CUB)
def test_a_map_of_14x14_or_28x28_and_logits(name: str) -> None:
    details, model, _ = details_and_cost(name)
    assert details.logits.shape == (1, 200)
    side = {"vgg_att2_cub": 28, "vgg_att3_cub": 28, "vgg_pan_cub": 28}.get(name, 14)
    if name in ("vgg_cub", "vgg_dvib_cub", "wrn_cub"):
        assert details.map is None
    else:
        assert details.map is not None
        assert details.map.shape == (1, 1, side, side)
    assert isinstance(model, AttentiveClassifier) == ("_aib" in name)


@pytest.mark.parametrize("name", ["vgg_aib_qt_cub", "vgg_att3_cub", "vgg_pan_cub"])
def test_every_parameter_learns(name: str) -> None:
    model = create_model(name, 3)
    objective(model.forward_details(torch.rand(2, 3, 64, 64)), torch.tensor([0, 2]))["loss"].backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_the_attention_branch_of_the_wide_resnet_starts_as_its_fourth_group_at_stride_1() -> None:
    model = create_model("wrn_aib_cub", 3)
    branch, group = model.attention.head[0], model.backbone.encoder[0]
    assert all(torch.equal(a, b) and a is not b for a, b in zip(branch.parameters(), group.parameters(), strict=True))
    features = torch.rand(1, 1024, 6, 6)
    with torch.no_grad():
        assert branch.eval()(features).shape[2:] == (6, 6)
        assert group.eval()(features).shape[2:] == (3, 3)


def test_imagenet_weights_come_from_a_file(tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in torchvision.models.vgg16().state_dict().items()}
    # the classifier's 500 MB are one zero on the disk
    state = {name: torch.rand(shape) if "features" in name else torch.zeros(1).expand(shape) for name, shape in shapes.items()}
    torch.save(state, tmp_path / "vgg16.pth")
    model = build_model("vgg_gap_cub", 5, pretrained=str(tmp_path / "vgg16.pth"))
    assert torch.equal(model.convolutions[0].weight, state["features.0.weight"])
    assert torch.equal(model.convolutions[28].weight, state["features.28.weight"])
    assert model.convolutions[30].weight.shape == (1024, 512, 3, 3)  # the convolution that class activation maps are read from
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"cannot load torchvision's vgg16 from .*other.pth"):
        build_model("vgg_gap_cub", 5, pretrained=str(tmp_path / "other.pth"))
    with pytest.raises(ValueError, match=r"'absent\.pth' are not a file"):
        build_model("vgg_cub", 5, pretrained="absent.pth")
    with pytest.raises(ValueError, match="in_channels is 1"):
        build_model("vgg_cub", 5, in_channels=1)
    with pytest.raises(ValueError, match="there are no published weights for vgg;"):
        build_model("vgg", 5, pretrained="yes")


def test_a_file_by_the_name_of_torchvisions_has_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(cub.IMAGENET_FILES.values()) == {
        Path(weights.url).name
        for weights in (torchvision.models.VGG16_Weights.IMAGENET1K_V1, torchvision.models.Wide_ResNet50_2_Weights.IMAGENET1K_V1)
    }
    for (network, pretrained), model in zip(cub.IMAGENET_FILES.items(), ("vgg_cub", "wrn_cub"), strict=True):
        torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / pretrained)
        found = hashlib.sha256((tmp_path / pretrained).read_bytes()).hexdigest()[:8]
        with pytest.raises(ValueError, match=f"its SHA-256 begins with {found}, .* with {pretrained[-12:-4]};") as caught:
            build_model(model, 5, pretrained=str(tmp_path / pretrained))
        assert "\n" not in str(caught.value)
        # by its own digest it is read, and by any other name
        for name in (f"{network}-{found}.pth", "mine-00000000.pth"):
            (tmp_path / name).write_bytes((tmp_path / pretrained).read_bytes())
            monkeypatch.setitem(cub.IMAGENET_FILES, network, f"{network}-{found}.pth")
            with pytest.raises(ValueError, match=r"Missing key\(s\) in state_dict"):
                build_model(model, 5, pretrained=str(tmp_path / name))


def test_weights_that_cannot_be_fetched_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    monkeypatch.setattr("torch.hub.os.path.exists", lambda path: False)
    with pytest.raises(ValueError, match=r"cannot get torchvision's weights of vgg16 \(OSError: Network is unreachable\)"):
        build_model("vgg_cub", 5, pretrained="yes")

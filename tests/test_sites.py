"""Sites: known truths of known networks, and a probe that leaves no trace."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import Tensor, nn

from aib.sites import Site, find_site, list_sites, untouched


class SmallNet(nn.Module):
    """Written by hand: a ReLU used twice, a container, a pooled output, a counter; 16x16 images only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4))
        self.relu = nn.ReLU(inplace=True)
        self.body = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Dropout(0.5))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.trail: list[str] = []

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        self.last = images
        self.trail.append("here")
        torch.rand(1)
        if images.shape[-1] == 13:
            raise RuntimeError("thirteen")
        return self.fc(self.pool(self.relu(self.body(self.relu(self.stem(images))))).flatten(1))


TRUTH = {
    "resnet18": [
        ("maxpool", 64, 16, 4, "NCHW", 0),
        ("layer1", 64, 16, 4, "NCHW", 0),
        ("layer2", 128, 8, 8, "NCHW", 0),
        ("layer3", 256, 4, 16, "NCHW", 0),
        ("layer4", 512, 2, 32, "NCHW", 0),
    ],
    "convnext_atto": [("stem", 40, 16, 4, "NCHW", 0), ("stages.0", 40, 16, 4, "NCHW", 0), ("stages", 320, 2, 32, "NCHW", 0)],
    "mobilenetv3_small_100": [("conv_stem", 16, 32, 2, "NCHW", 0), ("blocks.1", 24, 8, 8, "NCHW", 0)],
    "vit_tiny_patch16_224": [
        ("patch_embed", 192, 4, 16, "tokens", 0),
        ("blocks.5", 192, 4, 16, "tokens", 1),
        ("blocks", 192, 4, 16, "tokens", 1),
        ("norm", 192, 4, 16, "tokens", 1),
    ],
    "swin_tiny_patch4_window7_224": [
        ("patch_embed", 96, 16, 4, "NHWC", 0),
        ("layers.0", 96, 16, 4, "NHWC", 0),
        ("layers.1", 192, 8, 8, "NHWC", 0),
        ("layers", 768, 2, 32, "NHWC", 0),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", TRUTH)
def test_known_sites_of_timm_networks_in_order(name: str) -> None:
    sites = list_sites(name, input_size=64)
    expected = [
        Site(at, channels, side, side, stride, layout, prefix) for at, channels, side, stride, layout, prefix in TRUTH[name]
    ]
    wanted = {site.name for site in expected}
    assert [site for site in sites if site.name in wanted] == expected
    names = [site.name for site in sites]
    assert len(set(names)) == len(names)
    assert not any("fc_norm" in at or at.startswith("head") or "softmax" in at or "attn_drop" in at for at in names)


def test_a_vit_without_a_size_is_probed_at_its_own() -> None:
    block = find_site(list_sites("vit_tiny_patch16_224"), "blocks.0")
    assert (block.height, block.width, block.stride) == (14, 14, 16)


def test_the_sites_of_a_module_written_by_hand() -> None:
    sites = list_sites(SmallNet(), input_size=16)
    # the shared ReLU runs twice, dropout hands its input on, the pooled map has one position
    assert [(site.name, site.channels, site.height, site.stride) for site in sites] == [
        ("stem.0", 4, 8, 2),
        ("stem", 4, 8, 2),
        ("body.0", 6, 8, 2),
        ("body.1", 6, 8, 2),
        ("body", 6, 8, 2),
    ]
    assert find_site(sites, "stem.1").name == "stem"
    assert find_site(sites, "body.2").name == "body"


def test_a_map_before_an_in_place_activation_is_another_site_than_after() -> None:
    names = [site.name for site in list_sites(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)), 8)]
    assert names == ["0", "1", "2"]


def test_rectangular_images_and_other_channel_counts() -> None:
    (site,) = list_sites(nn.Sequential(nn.Conv2d(1, 4, 3, 4, 1)), input_size=(32, 48), in_channels=1)
    assert (site.channels, site.height, site.width, site.stride) == (4, 8, 12, 4)


def test_channels_last_is_seen_in_the_shape() -> None:
    class ToLast(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.permute(0, 2, 3, 1)

    sites = list_sites(nn.Sequential(nn.Conv2d(3, 5, 2, 2), ToLast(), nn.Linear(5, 7)), input_size=16)
    assert [(site.layout, site.channels, site.height) for site in sites] == [("NCHW", 5, 8), ("NHWC", 5, 8), ("NHWC", 7, 8)]


def test_without_a_size_a_network_for_small_images_is_found_out() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Flatten(), nn.Linear(4 * 16 * 16, 2))
    assert list_sites(net) == [Site("0", 4, 16, 16, 2)]


@pytest.mark.parametrize("side", [16, 13])
def test_the_probe_leaves_the_network_and_the_random_numbers_untouched(side: int) -> None:
    net = SmallNet().train()
    net.body.eval()
    net.fc.weight.requires_grad_(False)
    fired: list[int] = []
    net.stem.register_forward_hook(lambda *_: fired.append(1))
    before = copy.deepcopy(net.state_dict())
    flags = [module.training for module in net.modules()]
    hooks = [list(module._forward_hooks) for module in net.modules()]
    attributes = [sorted(vars(module)) for module in net.modules()]
    rng = torch.get_rng_state()
    if side == 13:
        with pytest.raises(ValueError, match="thirteen") as error:
            list_sites(net, side)
        assert "\n" not in str(error.value)
    else:
        list_sites(net, side)
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert [module.training for module in net.modules()] == flags
    assert [list(module._forward_hooks) for module in net.modules()] == hooks
    assert [sorted(vars(module)) for module in net.modules()] == attributes
    assert net.trail == []
    assert [p.requires_grad for p in net.parameters()] == [name != "fc.weight" for name, _ in net.named_parameters()]
    # the control: the same forward pass without the guard does leave traces
    net.train()(torch.zeros(2, 3, 16, 16))
    assert not torch.equal(torch.get_rng_state(), rng)
    assert not all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert net.trail == ["here"]


def test_naming_a_timm_network_draws_nothing_from_the_callers_generator() -> None:
    rng = torch.get_rng_state()
    list_sites("convnext_atto", 32)
    assert torch.equal(torch.get_rng_state(), rng)


def test_untouched_restores_a_replaced_buffer_object() -> None:
    net = nn.BatchNorm2d(3)
    given = net.running_mean
    with untouched(net):
        net.running_mean = torch.ones(3)
        given.add_(1)  # type: ignore[union-attr]
    assert net.running_mean is given
    assert torch.equal(net.running_mean, torch.zeros(3))


@pytest.mark.parametrize(
    ("name", "near"), [("layr3", "layer3"), ("layer3.conv1", "layer3.1.conv1"), ("Layer4", "layer4"), ("nonsense", "layer4")]
)
def test_a_wrong_name_is_told_the_right_ones(name: str, near: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"no site '{name}'")) as error:
        find_site(list_sites("resnet18", 64), name)
    text = str(error.value)
    assert near in text
    assert "layer2" in text
    assert "\n" not in text
    assert text.count(",") <= 11


def test_a_network_of_one_long_sequential_prints_ten_names() -> None:
    sites = list_sites(nn.Sequential(*[nn.Conv2d(3, 3, 3, padding=1) for _ in range(30)]), 8)
    with pytest.raises(ValueError, match="the last 10 of 30") as error:
        find_site(sites, "zzz")
    assert "20, 21, 22, 23, 24, 25, 26, 27, 28, 29" in str(error.value)


def test_no_sites_unknown_names_and_bad_sizes_are_said() -> None:
    with pytest.raises(ValueError, match="no module that runs once"):
        find_site(list_sites(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), 2), "0")
    with pytest.raises(ValueError, match=r"did you mean .*resnet18"):
        list_sites("resnet81")
    with pytest.raises(ValueError, match="input_size is"):
        list_sites(SmallNet(), (1, 2, 3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="set input_size and in_channels"):
        list_sites(SmallNet(), 16, in_channels=1)
    with pytest.raises(ValueError, match="lazy"):
        list_sites(nn.Sequential(nn.LazyConv2d(4, 3)), 16)

"""Controls stand on the footing of what they are beside: its resolution, its networks, the class it explains."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from aib.interpret.choice import cam_layer
from aib.interpret.consistency import OWN_MAP
from aib.interpret.controls import edge_map
from aib.interpret.explainers import AttentionMap, Explainer, GradCAM, Target
from aib.interpret.map_sources import control_maps, control_name, image_noise
from aib.interpret.randomization import attention_modules, randomized_networks
from aib.models import create_model
from aib.train.score_sources import CONTROLS, OTHER_IMAGE, ScoreSources, attributed, cheap
from test_randomization import pictures, twins

CASCADE = [f"last {percentage} % randomised" for percentage in (25, 50, 75)]


class Fixed:
    """An explainer that is not computed anew."""

    def attribute(self, images: Tensor, target: Target = None) -> Tensor:
        return images.mean(1, keepdim=True)[:, :, :4, :6]


def sources(judged: list[str], name: str = "vgg_xs_aib_qt") -> ScoreSources:
    trained, fresh = twins(name)
    layer = cam_layer(trained, (3, 32, 32))
    known: dict[str, Explainer] = {
        OWN_MAP: AttentionMap(trained) if trained.has_map else Fixed(), "gradcam": GradCAM(trained, layer), "iba": Fixed(),
    }  # fmt: skip
    networks = randomized_networks(trained, fresh, pictures(8))
    return ScoreSources.of({name: known[name] for name in judged}, networks, pictures(8), seed=0)


def test_every_judged_source_has_controls_of_its_own_resolution() -> None:
    found = sources([OWN_MAP, "gradcam", "iba"])
    assert len(set(found.sizes.values())) == 3
    judged, controls = found.maps(255 * torch.rand(5, 3, 32, 32), [pictures(5)], torch.tensor([0, 1, 2, 0, 1]))
    for source, one in judged.items():
        names = found.controls_of(source)
        assert {name.partition("@")[0] for name in names} >= {"uniform", "centre", "edges", "random", "other image"}
        for name in names:
            assert name == "uniform" or controls[name].shape == one.shape, (source, name)
        others = controls[control_name("other image", source)]
        assert sorted(map(bytes, others.numpy())) == sorted(map(bytes, one.numpy()))
        assert not (others == one).flatten(1).all(1).any()
    assert set(found.controls_of(OWN_MAP)) & set(found.controls_of("gradcam")) == {"uniform"}
    assert found.not_recomputed == ["iba"]
    height, width = found.sizes["iba"]
    assert f"edges@{height}x{width}" in found.controls_of("iba")
    others = {name for name in controls if name.startswith("other")}
    assert set(found.beside()) == set(controls) - others | {*found.same_map, "gradcam", "iba"}


def test_what_a_map_is_compared_with_does_not_depend_on_what_else_is_judged() -> None:
    alone, costly = sources([OWN_MAP]), sources([OWN_MAP, "gradcam", "iba"])
    assert "untrained" in alone.controls_of(OWN_MAP)
    assert costly.controls_of(OWN_MAP) == alone.controls_of(OWN_MAP)
    assert "untrained@gradcam" in costly.controls_of("gradcam")
    assert {name.partition("@")[0] for name in costly.controls_of("iba")} == {*CONTROLS, OTHER_IMAGE}
    only = costly.only(OWN_MAP)
    assert set(only.beside()) == set(alone.beside())
    assert (list(only.networks), only.same_map, only.controls_of(OWN_MAP)) == (
        list(alone.networks), alone.same_map, alone.controls_of(OWN_MAP),
    )  # fmt: skip


def test_explainers_are_computed_anew_on_networks_that_did_not_learn() -> None:
    found = sources(["gradcam"])
    names = [f"{kind}@gradcam" for kind in ("untrained", "attention randomised", *CASCADE)]
    assert list(found.networks) == names
    assert set(names) <= set(found.controls_of("gradcam"))
    classes = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    trained, untrained = (
        attributed(one, [pictures(8)], classes) for one in (found.judged["gradcam"], found.networks["untrained@gradcam"])
    )
    assert not torch.equal(trained, untrained)
    other = attributed(found.networks["untrained@gradcam"], [pictures(8)], (classes + 1) % 3)
    assert not torch.equal(other, untrained)  # the class asked for is explained, not the one the random network predicts


def test_a_network_is_no_control_only_where_its_map_is_the_same() -> None:
    found = sources([OWN_MAP])
    # the last quarter lies behind the map; of the last half only what follows the mean of the attention is random
    assert found.same_map[0] == CASCADE[0]
    assert CASCADE[2] not in found.same_map
    assert {"untrained", "attention randomised", CASCADE[2]} <= set(found.controls_of(OWN_MAP))
    assert cheap(found.judged[OWN_MAP])
    assert not cheap(Fixed())


def test_a_map_that_is_merely_alike_stays_a_control() -> None:
    """A rank correlation of 0.57 is not the same map; a copy of the network is."""
    trained, fresh = twins("vgg_xs_aib")
    copy, near = twins("vgg_xs_aib")[0], twins("vgg_xs_aib")[0]
    copy.load_state_dict(trained.state_dict())
    near.load_state_dict(trained.state_dict())
    with torch.no_grad():
        for values in near.attention_parts()[0].parameters():
            values.mul_(1.02)
    networks = {"last 25 % randomised": copy, "last 50 % randomised": near, "untrained": fresh}
    found = ScoreSources.of({OWN_MAP: AttentionMap(trained)}, networks, pictures(8), seed=0)
    assert found.same_map == ["last 25 % randomised"]


@pytest.mark.parametrize("name", ["vgg_att2", "vgg_att3", "vgg_pan"])
def test_random_weights_that_do_not_enter_an_explainers_map_make_no_control(name: str) -> None:
    """The mean gradient over block 5 is free of the softmax over its positions: `vgg_att`'s attention leaves Grad-CAM as it is."""
    trained, fresh = twins(name, width=0.0625)
    networks = randomized_networks(trained, fresh, pictures(8), percentages=[])
    layer = cam_layer(trained, (3, 32, 32))
    judged: dict[str, Explainer] = {OWN_MAP: AttentionMap(trained), "gradcam": GradCAM(trained, layer)}
    found = ScoreSources.of(judged, networks, pictures(8), seed=0)
    assert found.same_map == (["attention randomised@gradcam"] if name.startswith("vgg_att") else [])
    assert {"untrained", "attention randomised"} <= set(found.controls_of(OWN_MAP))


ATTENTIVE = ("vgg_att2", "vgg_att3", "vgg_pan", "vgg_cbam", "wrn_abn", "vgg_xs_aib", "vgg_xs_aib_qt")


@pytest.mark.parametrize("name", ATTENTIVE)
def test_every_model_with_attention_names_what_makes_its_map(name: str) -> None:
    trained, fresh = twins(name, **({} if "xs" in name else {"width": 0.0625 if name.startswith("vgg") else 0.1}))
    network = randomized_networks(trained, fresh, pictures(4), percentages=[])["attention randomised"]
    images = pictures(2, seed=3)
    before, after = (AttentionMap(one).attribute(images) for one in (trained, network))
    assert not torch.allclose(before, after)
    parts, known = attention_modules(trained), dict(trained.named_parameters())
    new = {key.rpartition(".")[0] for key, values in network.named_parameters() if not torch.equal(values, known[key])}
    assert new
    assert new <= set(parts)


def test_class_activation_maps_have_no_attention_to_randomise() -> None:
    assert create_model("vgg_gap", 3, width=0.0625).attention_parts() == []
    assert create_model("vgg", 3, width=0.0625).attention_parts() == []


def test_noise_is_a_function_of_the_image() -> None:
    images = torch.rand(3, 3, 8, 8)
    first, again = image_noise(images, (4, 5)), image_noise(images[1:], (4, 5))
    assert first.shape == (3, 1, 4, 5)
    assert torch.equal(first[1:], again)
    assert not torch.equal(image_noise(images + 1e-3, (4, 5)), first)
    pixels = 255 * images
    assert torch.equal(control_maps(pixels)["edges"], edge_map(pixels))
    assert {maps.shape for maps in control_maps(pixels, (2, 2)).values()} == {(3, 1, 2, 2)}

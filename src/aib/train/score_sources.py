"""The maps that are judged and the controls of each: at its own resolution, and from networks that did not learn.

A source is judged against maps of its own size, since averaging steadies a map and a finer one has more places to differ in: maps
that know nothing of the network (`CONTROLS`), the map of another image, and what gives the source, computed anew on the run's
network with random weights (Adebayo et al. 2018). Explainers that take many passes are not (`cheap`), so that the best of their
controls is the best of fewer; what the own map is compared with does not depend on what else is judged.

Names: what is made at the resolution of the first source is plain (``"edges"``), at another it carries that (``"edges@8x8"``);
networks of the own map are plain (``"untrained"``), of an explainer they carry its name (``"untrained@gradcam"``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from aib.classifier import Classifier
from aib.interpret.consistency import OWN_MAP
from aib.interpret.controls import other_image
from aib.interpret.explainers import AttentionMap, Explainer, GradCAM, evaluating
from aib.interpret.map_sources import MapSource, RandomMaps, control_maps, control_name, control_sources, from_explainer

__all__ = ["CONTROLS", "OTHER_IMAGE", "ScoreSources", "attributed", "cheap"]

CONTROLS = ("uniform", "centre", "edges", "random")
"""Controls that know nothing of the network."""

OTHER_IMAGE = "other image"
"""The source's own map, of another image."""

ROUNDING = 1e-5
"""Maps that differ by no more than this share of their greatest value are the same."""

CANCELLED = 1e-2
"""As much for explainers by gradients: terms that cancel leave up to half a per cent in float32."""


@dataclass(frozen=True)
class ScoreSources:
    """Sources of maps by name.

    Attributes:
        judged: what is in question, the own map first.
        networks: the same on the run's network with random weights, by `control_name`.
        made_for: of each of ``networks``, the judged source it is a control of.
        sizes: (h, w) of the judged sources' maps.
        same_map: those among ``networks``, random in part, whose map is the judged source's up to rounding, since what is random
            does not enter it: it lies behind the map, or cancels out, as the attention of `aib.models.vgg_att` does in Grad-CAM at
            block 5. They are no controls. Of a map with anchors that is decided before it snaps to them.
        seed: of the noise.
    """

    judged: Mapping[str, Explainer]
    networks: Mapping[str, Explainer]
    made_for: Mapping[str, str]
    sizes: Mapping[str, tuple[int, int]]
    same_map: Sequence[str]
    seed: int

    @classmethod
    def of(cls, judged: Mapping[str, Explainer], networks: Mapping[str, Classifier], images: Tensor, seed: int) -> ScoreSources:
        """Recompute what is judged on ``networks``, and compare the maps on some ``images`` (N, C, H, W), normalised."""
        made, made_for, same = {}, {}, []
        for source, explainer in judged.items():
            for kind, network in networks.items():
                again = _again(explainer, network)
                if again is None:
                    continue
                name = control_name(kind, source)
                made[name], made_for[name] = again, source
                if kind != "untrained" and _same(explainer, again, images):
                    same.append(name)
        sizes = {name: _size(one.attribute(images[:2])) for name, one in judged.items()}
        return cls(judged, made, made_for, sizes, same, seed)

    def again(self, networks: Mapping[str, Classifier]) -> dict[str, Explainer]:
        """As `networks`, of another draw of the weights: by the same names."""
        made = {
            control_name(kind, source): _again(explainer, network)
            for source, explainer in self.judged.items()
            for kind, network in networks.items()
        }
        return {name: one for name, one in made.items() if one is not None}

    @property
    def not_recomputed(self) -> list[str]:
        """Judged sources without networks of their own among the controls."""
        return [name for name in self.judged if name not in self.made_for.values()]

    @property
    def drawn(self) -> dict[str, tuple[str, tuple[int, int]]]:
        """`CONTROLS` by name: which and at what resolution. The uniform map is the same at every one, and made once."""
        found = {}
        for number, size in enumerate(dict.fromkeys(self.sizes.values())):
            for kind in CONTROLS:
                if number == 0 or kind != "uniform":
                    found[kind if number == 0 else f"{kind}@{size[0]}x{size[1]}"] = kind, size
        return found

    def controls_of(self, source: str, other: bool = True) -> list[str]:
        """Names of the controls of a judged source; without those made of its maps of other images unless ``other``."""
        drawn = [name for name, (kind, size) in self.drawn.items() if kind == "uniform" or size == self.sizes[source]]
        networks = [name for name, judged in self.made_for.items() if judged == source and name not in self.same_map]
        return drawn + [control_name(OTHER_IMAGE, source)] * other + networks

    def only(self, source: str) -> ScoreSources:
        """One judged source, the first, with its controls by the same names."""
        made_for = {name: of for name, of in self.made_for.items() if of == source}
        return replace(
            self, judged={source: self.judged[source]}, networks={name: self.networks[name] for name in made_for},
            made_for=made_for, sizes={source: self.sizes[source]}, same_map=[name for name in self.same_map if name in made_for],
        )  # fmt: skip

    def beside(self) -> dict[str, MapSource | RandomMaps]:
        """Everything but the own map, for `aib.interpret.consistency.measure_consistency`."""
        made = {size: control_sources(size, self.seed) for size in dict.fromkeys(self.sizes.values())}
        found: dict[str, MapSource | RandomMaps] = {name: made[size][kind] for name, (kind, size) in self.drawn.items()}
        explained = {name: one for name, one in self.judged.items() if name != OWN_MAP}
        return found | {name: from_explainer(one) for name, one in {**self.networks, **explained}.items()}

    def maps(self, pixels: Tensor, batches: Sequence[Tensor], classes: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Maps (N, 1, h, w) on the CPU of the judged sources, and of all controls but those of `same_map`.

        Args:
            pixels: (N, C, H, W), 0 to 255.
            batches: the same images, normalised.
            classes: (N,) that the run's network predicts for them: what is explained, whatever network is looked into.
        """
        judged = {name: attributed(one, batches, classes) for name, one in self.judged.items()}
        made = {size: control_maps(pixels.float(), size, self.seed) for size in dict.fromkeys(self.sizes.values())}
        controls = {name: made[size][kind] for name, (kind, size) in self.drawn.items()}
        controls |= {control_name(OTHER_IMAGE, name): other_image(one, self.seed) for name, one in judged.items()}
        for name, one in self.networks.items():
            if name not in self.same_map:
                controls[name] = attributed(one, batches, classes)
        return judged, controls


def cheap(explainer: Explainer) -> bool:
    """Whether maps of it are computed anew on networks with random weights: the own map and Grad-CAM, of a pass or three each."""
    return isinstance(explainer, AttentionMap | GradCAM)


def attributed(explainer: Explainer, batches: Sequence[Tensor], classes: Tensor | None = None) -> Tensor:
    """Maps (N, 1, h, w) float32 on the CPU of batches of images, for the predicted classes or for ``classes`` (N,)."""
    if classes is None:
        return torch.cat([explainer.attribute(images).float().cpu() for images in batches])
    parts = zip(batches, classes.split([len(images) for images in batches]))
    return torch.cat([explainer.attribute(images, some.to(images.device)).float().cpu() for images, some in parts])


def _again(explainer: Explainer, network: Classifier) -> Explainer | None:
    """The explainer of another network with the same layers; None if that would cost too much."""
    if isinstance(explainer, AttentionMap):
        return AttentionMap(network)
    return GradCAM(network, explainer.name) if isinstance(explainer, GradCAM) else None


def _same(one: Explainer, other: Explainer, images: Tensor) -> bool:
    rounding = ROUNDING
    if isinstance(one, AttentionMap) and isinstance(other, AttentionMap):
        # anchors that are elsewhere give the same map other values
        kind: Literal["map", "mean"] = "map" if getattr(one.model, "quantizer", None) is None else "mean"
        first, second = (AttentionMap(explainer.model, kind).attribute(images) for explainer in (one, other))
    elif isinstance(one, GradCAM):
        with torch.no_grad(), evaluating(one.model):
            classes = one.model(images).argmax(1)
        first, second = one.attribute(images, classes), other.attribute(images, classes)
        rounding = CANCELLED
    else:
        return False
    return bool((first - second).abs().max() <= rounding * first.abs().max())


def _size(maps: Tensor) -> tuple[int, int]:
    return maps.shape[2], maps.shape[3]

"""A classifier with a deterministic spatial gate: features, a map from them, the gated features, an encoder and a linear layer."""

from __future__ import annotations

from torch import Tensor, nn

from aib.classifier import Classifier, Details, Pass
from aib.functional import Modulation, modulate

__all__ = ["GatedClassifier"]


class GatedClassifier(Classifier):
    """The frame of the baselines whose one map gates the features.

    Args:
        features: images to (N, C, H, W).
        gate: features to the map (N, 1, H, W), or to a pair of the map and a second classifier's logits (N, classes).
        encoder: gated features to (N, D, ...).
        head: (N, D) to (N, classes).
        num_classes: number of classes.
        modulation: ``"residual"`` F * (1 + map) or ``"plain"`` F * map.
    """

    has_map = True
    gated = True

    def __init__(
        self, features: nn.Module, gate: nn.Module, encoder: nn.Module, head: nn.Module, num_classes: int, modulation: Modulation
    ) -> None:
        super().__init__()
        self.features = features
        self.gate = gate
        self.encoder = encoder
        self.head = head
        self.num_classes = num_classes
        self.modulation: Modulation = modulation

    def attention_parts(self) -> list[nn.Module]:
        """The gate; of an attention branch that includes its second classifier."""
        return [self.gate]

    def run_pass(self, images: Tensor, how: Pass) -> Details:
        features = self.features(images)
        gate = self.gate(features)
        attention, branch_logits = gate if isinstance(gate, tuple) else (gate, None)
        used = how.map_used(attention)
        encoded = self.encoder(modulate(features, used, self.modulation)).flatten(1)
        return Details(logits=self.head(encoded), features=features, attention=attention, branch_logits=branch_logits)

"""Attention branch network on WRN-28-10 (Fukui et al. 2019, "Attention Branch Network: Learning of Attention Mechanism")."""

from __future__ import annotations

from torch import Tensor, nn

from aib.models.gated import GatedClassifier
from aib.models.registry import register
from aib.models.wrn import attention_branch, wrn_channels, wrn_encoder, wrn_features, wrn_init

__all__ = ["AttentionBranch", "wrn_abn"]


class AttentionBranch(nn.Module):
    """Features (N, 320, H, W) to a map (N, 1, H, W) in (0, 1) and the branch's own class scores (N, classes).

    The branch is a second classifier: group 3 at stride 1, one channel a class, from which the map and, through a 1x1 convolution
    and the mean over positions, the scores are read. Its cross-entropy is a part of the loss (``branch_loss``).
    """

    def __init__(self, num_classes: int, width: float = 1.0) -> None:
        super().__init__()
        layers = list(attention_branch(num_classes, width))
        self.classes = nn.Sequential(*layers[:5])
        self.map = nn.Sequential(*layers[5:], nn.Sigmoid())
        self.scores = nn.Conv2d(num_classes, num_classes, 1, bias=False)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        classes = self.classes(features)
        return self.map(classes), self.scores(classes).mean((2, 3))


@register
def wrn_abn(num_classes: int, in_channels: int = 3, width: float = 1.0) -> GatedClassifier:
    """WRN-28-10 with an attention branch: 64.35 M parameters, 12.38 GMAC an image (10 classes)."""
    head = nn.Linear(wrn_channels(width)[3], num_classes)
    branch = AttentionBranch(num_classes, width)
    model = GatedClassifier(wrn_features(in_channels, width), branch, wrn_encoder(width), head, num_classes, modulation="residual")
    wrn_init(model)
    return model

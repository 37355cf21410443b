"""Attention branch network on WRN-28-10 (Fukui et al. 2019, "Attention Branch Network: Learning of Attention Mechanism")."""

from __future__ import annotations

from torch import Tensor, nn

from aib.models.gated import GatedClassifier
from aib.models.registry import register
from aib.models.wrn import WIDTHS, attention_branch, wrn_encoder, wrn_features, wrn_init

__all__ = ["AttentionBranch", "wrn_abn"]


class AttentionBranch(nn.Module):
    """Features (N, 320, H, W) to a map (N, 1, H, W) in (0, 1) and the branch's own class scores (N, classes).

    The branch is a second classifier: group 3 at stride 1, one channel a class, from which the map and, through a 1x1 convolution
    and the mean over positions, the scores are read. Its cross-entropy is a part of the loss (``branch_loss``).
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers = list(attention_branch(num_classes))
        self.classes = nn.Sequential(*layers[:5])
        self.map = nn.Sequential(*layers[5:], nn.Sigmoid())
        self.scores = nn.Conv2d(num_classes, num_classes, 1, bias=False)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        classes = self.classes(features)
        return self.map(classes), self.scores(classes).mean((2, 3))


@register
def wrn_abn(num_classes: int, in_channels: int = 3) -> GatedClassifier:
    """WRN-28-10 with an attention branch: 64.35 M parameters, 12.38 GMAC an image (10 classes)."""
    model = GatedClassifier(
        wrn_features(in_channels), AttentionBranch(num_classes), wrn_encoder(), nn.Linear(WIDTHS[3], num_classes), num_classes,
        modulation="residual",
    )  # fmt: skip
    wrn_init(model)
    return model

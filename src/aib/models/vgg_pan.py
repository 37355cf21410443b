"""VGG with progressive attention (Seo et al. 2018, "Progressive Attention Networks for Visual Attribute Prediction").

Attention at several depths, each on features that the one before has gated. Gates see a 3x3 neighbourhood (the paper's local
context) and are sigmoids; the last attention is a softmax over positions and pools the features:

    f'_l = sigmoid(s_l(f_l)) * f_l    for all but the last,    g = sum_i softmax(s_L(f_L))_i f_L,i

The paper asks its attention a query; for classification there is none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aib.classifier import Classifier, Details, Pass
from aib.functional import resize_maps
from aib.models.registry import register
from aib.models.vgg import conv_block, vgg_channels, vgg_features, xavier_init

__all__ = ["ProgressiveClassifier", "vgg_pan"]


class ProgressiveClassifier(Classifier):
    """Stages with a gate behind each, the last of which pools.

    ``attention`` is the product of all levels' maps at the first one's size, divided by its greatest value: what progressive
    attention has left over. ``level_maps`` holds the levels' own maps; ``replace_map`` changes each of them.

    Args:
        stages: modules from images on; stage i gives (N, widths[i], h_i, w_i).
        widths: channels behind each stage.
        hidden: channels of the hidden layer of every attention.
        num_classes: number of classes.
    """

    has_map = True
    gated = True
    relative_map = True

    def __init__(self, stages: Sequence[nn.Module], widths: Sequence[int], hidden: int, num_classes: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.scores = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, hidden, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(hidden, 1, 1))
            for width in widths
        )
        self.head = nn.Linear(widths[-1], num_classes)
        self.num_classes = num_classes

    def attention_parts(self) -> list[nn.Module]:
        """The scores of every level."""
        return [*self.scores]

    def run_pass(self, images: Tensor, how: Pass) -> Details:
        features, first, maps = images, None, []
        for level, (stage, score) in enumerate(zip(self.stages, self.scores)):
            features = stage(features)
            first = features if first is None else first
            raw = score(features).float()
            last = level == len(self.stages) - 1
            attention = raw.flatten(2).softmax(-1).view_as(raw) if last else raw.sigmoid()
            maps.append(attention)
            used = how.map_used(attention)
            if last:
                used = used / used.sum((2, 3), keepdim=True).clamp_min(torch.finfo(used.dtype).tiny)
            features = features * used.to(features.dtype)
        size = (maps[0].shape[2], maps[0].shape[3])
        left = torch.stack([resize_maps(attention, size) for attention in maps]).prod(0)
        return Details(
            logits=self.head(features.sum((2, 3))),
            features=first,
            attention=left / left.amax((2, 3), keepdim=True).clamp_min(torch.finfo(left.dtype).tiny),
            level_maps=tuple(maps),
        )


@register
def vgg_pan(num_classes: int, in_channels: int = 3, width: float = 1.0) -> ProgressiveClassifier:
    """VGG with gates behind blocks 3 and 4, at 16x16 and 8x8, and attentive pooling behind block 5."""
    *_, third, last = vgg_channels(width)
    stages = [
        vgg_features(in_channels, width),
        nn.Sequential(*conv_block(third, last, 3), nn.MaxPool2d(2)),
        nn.Sequential(*conv_block(last, last, 3)),
    ]
    model = ProgressiveClassifier(stages, [third, last, last], last // 4, num_classes)
    xavier_init(model)
    return model

"""VGG with attention by compatibility (Jetley et al. 2018, "Learn to Pay Attention", the form "concat-pc").

Local features l of the last two or three of blocks 3, 4 and 5, taken before their pooling, are compared with the global vector g:

    c_i = <u, l_i + g>,    a = softmax(c) over positions,    g_a = sum_i a_i l_i

and the concatenated sums g_a, not g, are classified.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aib.classifier import Classifier, Details, Pass
from aib.models.registry import register
from aib.models.vgg import conv_block, vgg_channels, xavier_init

__all__ = ["CompatibilityClassifier", "vgg_att2", "vgg_att3"]


class CompatibilityClassifier(Classifier):
    """VGG whose class scores are read from attended local features.

    ``attention`` is the softmax over the positions of block 4, divided by its greatest value: 16x16 on images of 32x32, the size of
    the AIB models' map; 28x28 on CUB's 224x224, where theirs has 14x14. ``level_maps`` holds every level's softmax as it is, finest
    first.

    Args:
        blocks: images to block 3, block 3 to block 4, block 4 to block 5, and block 5 to the global vector (N, D, 1, 1). Block 3
            gives (N, C, h, w), those behind it D channels.
        levels: 2 (blocks 4 and 5) or 3 (blocks 3, 4 and 5).
        channels: (C, D).
        num_classes: number of classes.
    """

    has_map = True
    gated = True
    relative_map = True

    def __init__(self, blocks: Sequence[nn.Module], levels: int, channels: tuple[int, int], num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.block3, self.block4, self.block5, self.block6 = blocks
        local, shared = channels
        self.lift = nn.Conv2d(local, shared, 1, bias=False) if levels == 3 else None
        self.scores = nn.ModuleList(nn.Conv2d(shared, 1, 1, bias=False) for _ in range(levels))
        self.head = nn.Linear(levels * shared, num_classes)

    def attention_parts(self) -> list[nn.Module]:
        """The compatibility scores of every level."""
        return [*self.scores]

    def run_pass(self, images: Tensor, how: Pass) -> Details:
        block3 = self.block3(images)
        block4 = self.block4(block3)
        block5 = self.block5(block4)
        shared = self.block6(block5)
        levels = ([self.lift(block3)] if self.lift is not None else []) + [block4, block5]
        maps, attended = [], []
        for local, score in zip(levels, self.scores):
            attention = score(local + shared).float().flatten(2).softmax(-1).unflatten(2, local.shape[2:])
            maps.append(attention)
            used = attention if how.replace_map is None else _normalized(how.replace_map(attention))
            attended.append((used.to(local.dtype) * local).sum((2, 3)))
        chosen = maps[-2]
        return Details(
            logits=self.head(torch.cat(attended, 1)),
            features=block4,
            attention=chosen / chosen.amax((2, 3), keepdim=True),
            level_maps=tuple(maps),
        )


def _normalized(maps: Tensor) -> Tensor:
    """Weights that sum to 1 over positions again, after a replacement."""
    return F.normalize(maps.flatten(1), p=1, dim=1).view_as(maps)


def _vgg(levels: int, num_classes: int, in_channels: int, width: float) -> CompatibilityClassifier:
    first, second, third, last = vgg_channels(width)
    blocks = [
        nn.Sequential(*conv_block(in_channels, first, 2), *conv_block(first, second, 2), *conv_block(second, third, 3)),
        nn.Sequential(nn.MaxPool2d(2), *conv_block(third, last, 3)),
        nn.Sequential(nn.MaxPool2d(2), *conv_block(last, last, 3)),
        nn.Sequential(
            nn.MaxPool2d(2), *conv_block(last, last), nn.MaxPool2d(2), *conv_block(last, last), nn.MaxPool2d(2),
            nn.Conv2d(last, last, 1),
        ),
    ]  # fmt: skip
    model = CompatibilityClassifier(blocks, levels, (third, last), num_classes)
    xavier_init(model)
    return model


@register
def vgg_att2(num_classes: int, in_channels: int = 3, width: float = 1.0) -> CompatibilityClassifier:
    """VGG-att2: attention over blocks 4 and 5."""
    return _vgg(2, num_classes, in_channels, width)


@register
def vgg_att3(num_classes: int, in_channels: int = 3, width: float = 1.0) -> CompatibilityClassifier:
    """VGG-att3: attention over blocks 3, 4 and 5. 19.86 M parameters, 3.92 GMAC an image (10 classes)."""
    return _vgg(3, num_classes, in_channels, width)

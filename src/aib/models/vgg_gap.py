"""VGG with global average pooling (Zhou et al. 2016, "Learning Deep Features for Discriminative Localization").

The fully connected part is replaced by one more convolution, the mean over positions and a linear layer, so that every class score
is a mean of scores at positions: the class activation map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aib.classifier import Classifier, Details, Pass, target_classes
from aib.models.registry import register
from aib.models.vgg import conv_block, vgg_channels, vgg_features, xavier_init

__all__ = ["GapClassifier", "vgg_gap"]


class GapClassifier(Classifier):
    """Convolutions, global average pooling and a linear layer.

    Its map is the class activation map of ``target``, by default of the predicted class: ReLU(sum_k w_ck * F_k), each divided by
    its greatest value. It explains a prediction and takes no part in it, so replacing it changes nothing. The map of Zhou et al. is
    the sum as it is: the ReLU, which drops what speaks against the class, and the division are ours, for values in [0, 1].

    Args:
        convolutions: images to (N, width, h, w).
        width: channels of their output.
        num_classes: number of classes.
    """

    has_map = True
    relative_map = True
    map_of_class = True

    def __init__(self, convolutions: nn.Module, width: int, num_classes: int) -> None:
        super().__init__()
        self.convolutions = convolutions
        self.head = nn.Linear(width, num_classes)
        self.num_classes = num_classes

    def run_pass(self, images: Tensor, how: Pass) -> Details:
        features = self.convolutions(images)
        logits = self.head(features.mean((2, 3)))
        weights = self.head.weight[target_classes(how.target, logits)].to(features.dtype)  # (N, width)
        activation = torch.einsum("nk,nkhw->nhw", weights, features).relu().unsqueeze(1)
        scaled = activation / activation.amax((2, 3), keepdim=True).clamp_min(torch.finfo(activation.dtype).tiny)
        return Details(logits=logits, features=features, attention=scaled.detach())


@register
def vgg_gap(num_classes: int, in_channels: int = 3, width: float = 1.0) -> GapClassifier:
    """VGG to block 5, one more 3x3 convolution at 8x8, and class activation maps."""
    *_, third, last = vgg_channels(width)
    convolutions = nn.Sequential(
        vgg_features(in_channels, width),
        *conv_block(third, last, 3),
        nn.MaxPool2d(2),
        *conv_block(last, last, 3),
        *conv_block(last, last),
    )
    model = GapClassifier(convolutions, last, num_classes)
    xavier_init(model)
    return model

"""VGG with a deep variational information bottleneck and no attention (Alemi et al. 2017): what the latent alone brings."""

from __future__ import annotations

from torch import Tensor, nn

from aib.bottleneck import LatentBottleneck, deep_decoder
from aib.classifier import Classifier, Details, Pass, draw_noise
from aib.functional import gaussian_kl, reparameterize
from aib.models.registry import register
from aib.models.vgg import LATENT, scaled, vgg_encoder, vgg_features, xavier_init

__all__ = ["LatentClassifier", "vgg_dvib"]


class LatentClassifier(Classifier):
    """Images to a Gaussian latent to logits: the graph X -> Z -> Y.

    In eval mode the latent is its mean. Of ``samples=(S_a, S_z)`` the latent takes S_a * S_z draws: there is no attention to draw,
    and the number of passes of the decoder is that of an attentive model.

    Args:
        backbone: images to (N, D).
        bottleneck: (N, D) to latent statistics.
        decoder: (N, K) to (N, classes).
        num_classes: number of classes.
    """

    def __init__(self, backbone: nn.Module, bottleneck: LatentBottleneck, decoder: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.bottleneck = bottleneck
        self.decoder = decoder
        self.num_classes = num_classes

    def run_pass(self, images: Tensor, how: Pass) -> Details:
        encoded = self.backbone(images).flatten(1)
        mean, std = self.bottleneck(encoded)
        latent = mean.expand(*how.draws, *mean.shape)
        if self.training or how.sampled:
            given = how.noise and how.noise.latent
            latent = reparameterize(mean, std, draw_noise(latent.shape, mean, how.generator, given))
        sample_logits = self.decoder(latent.flatten(0, 2).to(encoded.dtype)).unflatten(0, latent.shape[:3])
        return Details(
            logits=how.averaged(sample_logits),
            sample_logits=sample_logits,
            latent_mean=mean,
            latent_std=std,
            latent=latent if how.sampled else latent.flatten(0, 2),
            rate=gaussian_kl(mean, std),
        )


@register
def vgg_dvib(num_classes: int, in_channels: int = 3, latent_dim: int = LATENT, width: float = 1.0) -> LatentClassifier:
    """`vgg_aib` without its attention: the same encoder, latent and decoder."""
    model = LatentClassifier(
        nn.Sequential(vgg_features(in_channels, width), vgg_encoder(width), nn.ReLU(inplace=True)),
        LatentBottleneck(scaled(512, width), latent_dim),
        deep_decoder(latent_dim, num_classes),
        num_classes,
    )
    xavier_init(model)
    return model

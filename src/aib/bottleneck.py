"""The variational latent z between the attended features and the class scores (section 3.2; the graph (X, A) -> Z -> Y)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from aib.functional import STD_OFFSET, autocast_off, positive_std

__all__ = ["LatentBottleneck", "LatentStatistics", "deep_decoder", "shallow_decoder", "xavier_linear"]


class LatentStatistics(NamedTuple):
    """Mean (N, K) and standard deviation (N, K) > 0 of p(z | x, a), both float32."""

    mean: Tensor
    std: Tensor


class LatentBottleneck(nn.Module):
    """Linear map from encoded features (N, D) to the statistics of a latent of K dimensions.

    Args:
        in_features: D.
        latent_dim: K, at least 1.
        std_offset: shift of the softplus that makes the standard deviation.

    Raises:
        ValueError: ``latent_dim`` is below 1.
    """

    def __init__(self, in_features: int, latent_dim: int, std_offset: float = STD_OFFSET) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"latent_dim is {latent_dim}; it must be at least 1")
        self.linear = nn.Linear(in_features, 2 * latent_dim)
        self.latent_dim = latent_dim
        self.std_offset = std_offset

    def forward(self, encoded: Tensor) -> LatentStatistics:
        raw = self.linear(encoded.flatten(1))
        with autocast_off(encoded.device):
            mean, raw_std = raw.float().chunk(2, dim=-1)
            return LatentStatistics(mean, positive_std(raw_std, self.std_offset))


def deep_decoder(latent_dim: int, num_classes: int) -> nn.Sequential:
    """Decoder of the VGG models: Linear(K, K), ReLU, Linear(K, classes)."""
    return nn.Sequential(nn.Linear(latent_dim, latent_dim), nn.ReLU(), nn.Linear(latent_dim, num_classes))


def shallow_decoder(latent_dim: int, num_classes: int) -> nn.Sequential:
    """Decoder of the WRN models: ReLU, Linear(K, classes)."""
    return nn.Sequential(nn.ReLU(), nn.Linear(latent_dim, num_classes))


def xavier_linear(*modules: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for the linear layers of ``modules``, as in the VGG models (`aib.models.vgg`).

    Bottleneck and decoder are up to three linear layers without normalisation between them. torch's own start shrinks what passes
    through each to about 0.6 of its size, and such a stack learns nothing for the first epochs of a short training.
    """
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

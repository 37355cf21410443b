"""Hand-written networks to attach to, and the check that many draws equal single runs, for the tests of `attach`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from aib.attaching import AttachedClassifier, attach
from aib.classifier import Noise


class PlainNet(nn.Module):
    """16x16 images; no skip connection; the head is the last Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.body = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(2))
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(32, 10), nn.ReLU(), nn.Linear(10, 7))
        self.fail = ""  # "before" or "after" the stem

    def forward(self, images: Tensor) -> Tensor:
        if self.fail == "before":
            raise RuntimeError("on purpose")
        features = self.stem(images)
        if self.fail == "after":
            raise RuntimeError("on purpose")
        return self.classifier(self.body(features))


class SkipNet(PlainNet):
    """What comes before the site is joined after it, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        return self.classifier(self.body(self.mix(features).relu_() + features))


def small(net: nn.Module, at: str = "stem", **options: Any) -> AttachedClassifier:
    return attach(net, at, 5, **{"input_size": 16, "latent_dim": 6, **options})


def noise_for(model: AttachedClassifier, draws: tuple[int, int], images: int) -> Noise:
    latent_dim = model.bottleneck.latent_dim
    site = model.site
    return Noise(torch.randn(draws[0], images, 1, site.height, site.width), torch.randn(*draws, images, latent_dim))


def assert_draws_equal_single_runs(model: AttachedClassifier, images: Tensor) -> None:
    # a standard deviation large enough that draws differ
    model.attention.std_offset = 0.0
    noise = noise_for(model, (3, 2), len(images))
    with torch.no_grad():
        many = model.forward_details(images, noise=noise)
        assert many.sample_logits is not None
        scale = many.sample_logits.std()
        for s in range(3):
            one = model.forward_details(images, noise=Noise(noise.attention[s : s + 1], noise.latent[s : s + 1]))
            assert one.sample_logits is not None
            assert torch.allclose(many.sample_logits[s], one.sample_logits[0], atol=1e-4 * float(scale), rtol=1e-4)
        for i in range(len(images)):
            alone = Noise(noise.attention[1:2, i : i + 1], noise.latent[1:2, :, i : i + 1])
            single = model.forward_details(images[i : i + 1], noise=alone)
            assert single.sample_logits is not None
            assert torch.allclose(many.sample_logits[1, :, i], single.sample_logits[0, :, 0], atol=1e-3 * float(scale), rtol=1e-3)
        # the control: another draw is another result
        same_latent = Noise(noise.attention, noise.latent[:1].expand_as(noise.latent))
        varied = model.forward_details(images, noise=same_latent)
        assert varied.latent_mean is not None
        assert float((varied.latent_mean[0] - varied.latent_mean[1]).abs().max()) > 1e-5

"""Shared fixtures: seeds, threads, Hypothesis profiles, and a tiny attentive classifier."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from aib.anchors import AnchorQuantizer
from aib.attention import SpatialAttention
from aib.bottleneck import LatentBottleneck, deep_decoder
from aib.classifier import AttentiveClassifier, SplitBackbone
from aib.functional import Modulation

if TYPE_CHECKING:
    from faults import Server

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# what the tests compute is too small to share, and threads that wait for each other on a busy machine take ten times as long
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the commands that tests start
torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the package keeps for the next time stays out of the user's own cache."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random numbers, in whatever order the tests run."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A warm process that runs ``aib`` in processes of their own, with faults if wanted."""
    from faults import Server

    made = Server(tmp_path_factory.mktemp("server"))
    yield made
    made.close()


@pytest.fixture
def small_model() -> Callable[..., AttentiveClassifier]:
    """Factory of a tiny attentive classifier: images (N, 3, 16, 16), features (N, 6, 8, 8), 4 classes; in training mode."""

    def make(
        anchors: int | None = 8,
        *,
        latent_dim: int = 6,
        attention_offset: float = -5.0,
        latent_offset: float = -5.0,
        modulation: Modulation = "residual",
        batch_norm: bool = True,
        num_classes: int = 4,
    ) -> AttentiveClassifier:
        norm = nn.BatchNorm2d if batch_norm else nn.Identity
        features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, bias=False), norm(6), nn.ReLU(), nn.MaxPool2d(2))
        encoder = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1, bias=False), norm(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        return AttentiveClassifier(
            SplitBackbone(features, encoder),
            SpatialAttention(6, std_offset=attention_offset),
            LatentBottleneck(8, latent_dim, latent_offset),
            deep_decoder(latent_dim, num_classes),
            num_classes=num_classes,
            quantizer=None if anchors is None else AnchorQuantizer(anchors),
            modulation=modulation,
        )

    return make


@pytest.fixture
def small_batch() -> tuple[Tensor, Tensor]:
    """Five images (5, 3, 16, 16) of noise with labels (5,) of the four classes of `small_model`."""
    return torch.randn(5, 3, 16, 16), torch.tensor([0, 1, 2, 3, 1])


class _LargestTensor(TorchDispatchMode):
    """Number of elements of the largest tensor that any operation returned."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self.largest = max(self.largest, value.numel())
        return result


@pytest.fixture
def largest_tensor() -> Callable[[], object]:
    """Context manager; its value's ``largest`` counts the elements of the largest tensor made inside, backward passes included."""

    @contextmanager
    def watch() -> Iterator[_LargestTensor]:
        with _LargestTensor() as mode:
            yield mode

    return watch

"""A network with a batch to train it on, as the trainer would, without the data around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aib.classifier import Classifier
from aib.loss import objective
from aib.models import create_model
from aib.train.config import OptimConfig
from aib.train.optim import build_optimizer

__all__ = ["CLASSES", "Training", "make_training", "noise_images"]

CLASSES = 10

LEARNING_RATE = 1e-5
"""Small: the network is to stay where it starts, since weights that run away make numbers that some processors are slow with."""


@dataclass(frozen=True)
class Training:
    """A network in training mode, its optimiser, and one batch."""

    model: Classifier
    optimizer: torch.optim.Optimizer
    images: Tensor
    labels: Tensor

    def backward(self) -> None:
        """Forward pass, objective and backward pass."""
        self.optimizer.zero_grad(set_to_none=True)
        objective(self.model.forward_details(self.images), self.labels)["loss"].backward()

    def step(self) -> None:
        """`backward` and the optimiser."""
        self.backward()
        self.optimizer.step()


def make_training(
    name: str, batch_size: int, *, side: int = 32, device: str = "cpu", channels_last: bool = False, seed: int = 0, **options: Any
) -> Training:
    """A network of the package for ten classes with its batch of noise.

    Args:
        name: of the network.
        batch_size: images in the batch.
        side: of the square images.
        device: where it computes.
        channels_last: the order of its convolutions' weights, which their outputs take.
        seed: of weights and images.
        options: of the network, such as ``width`` and ``anchors``.
    """
    torch.manual_seed(seed)
    model = create_model(name, CLASSES, **options).to(device).train()
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, OptimConfig(lr=LEARNING_RATE, momentum=0.9, weight_decay=5e-4), torch.device(device))
    images = noise_images(batch_size, (3, side, side), seed).to(device)
    return Training(model, optimizer, images, torch.arange(batch_size, device=device) % CLASSES)


def noise_images(count: int, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    """(count, C, H, W) normalised images of noise, of ``shape`` (C, H, W)."""
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))

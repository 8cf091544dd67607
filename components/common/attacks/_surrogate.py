"""A small classifier that an attacker trains to make adversarial images: quick, and far from a good model."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["fit_surrogate", "pgd"]

_BATCH = 128


def fit_surrogate(
    images: Tensor, labels: Tensor, *, num_classes: int, steps: int, epsilon: float, generator: torch.Generator
) -> nn.Module:
    """Fits a three-layer convnet with single-step adversarial training (random start, then one FGSM step).

    Source of the training: Wong, Rice and Kolter, *Fast is better than free*, ICLR 2020 (arXiv:2001.03994).

    Args:
        images: uint8 [n, c, h, w].
        labels: int64 [n].
        num_classes: Number of classes.
        steps: SGD steps of 128 images.
        epsilon: Largest change of a pixel, as a share of 255.
        generator: Draws the initial weights, the batches and the starts.

    Returns:
        The fitted model in evaluation mode; it takes float images in [0, 1] and gives logits.
    """
    model = _network(images.shape[1], num_classes, generator)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(steps):
        rows = torch.randint(len(images), (min(_BATCH, len(images)),), generator=generator)
        clean, wanted = images[rows].float() / 255, labels[rows]
        start = (torch.rand(clean.shape, generator=generator) * 2 - 1) * epsilon
        shifted = (clean + start).clamp(0, 1)
        gradient = _input_gradient(model, shifted, wanted)
        hard = torch.clamp(clean + (start + 1.25 * epsilon * gradient.sign()).clamp(-epsilon, epsilon), 0, 1)
        optimiser.zero_grad()
        F.cross_entropy(model(hard), wanted).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return model.eval()


def pgd(
    model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, steps: int, generator: torch.Generator
) -> Tensor:
    """Moves images away from their class by projected gradient ascent of the loss, step 1.5 epsilon / steps.

    Args:
        model: Takes float images in [0, 1].
        images: uint8 [m, c, h, w].
        labels: int64 [m], true classes.
        epsilon: Largest change of a pixel, as a share of 255.
        steps: Steps, at least 1.
        generator: Draws the starts.

    Returns:
        float32 [m, c, h, w] in [0, 1], within epsilon of the images.
    """
    clean = images.float() / 255
    moved = (clean + (torch.rand(clean.shape, generator=generator) * 2 - 1) * epsilon).clamp(0, 1)
    for _ in range(steps):
        moved = moved + 1.5 * epsilon / steps * _input_gradient(model, moved, labels).sign()
        moved = torch.clamp(clean + (moved - clean).clamp(-epsilon, epsilon), 0, 1)
    return moved


def _network(channels: int, num_classes: int, generator: torch.Generator) -> nn.Module:
    # Layers draw their first weights from the global random state, which belongs to the caller.
    with torch.random.fork_rng(devices=[]):
        model = nn.Sequential(
            nn.Conv2d(channels, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(256, num_classes),
        )
    for layer in model:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return model


def _input_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    images = images.detach().requires_grad_()
    loss = F.cross_entropy(model(images), labels)
    return torch.autograd.grad(loss, images)[0]

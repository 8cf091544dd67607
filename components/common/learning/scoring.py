"""Forward passes without gradients: logits, losses, entropies."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.common.learning.augment import to_float

__all__ = ["Scores", "penultimate_features", "predict", "score", "scores_of"]

# Large enough to fill two cores at 32 px, small enough that the activations of a ResNet-50 at 224 px fit in 2 GiB.
_BATCH = 250


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What a model thinks of labelled samples; all float32 [n] on the CPU.

    Attributes:
        loss: Cross-entropy against the given label, nats, >= 0.
        entropy: Entropy of the prediction, nats, in [0, ln K].
        given_probability: Probability of the given label, in [0, 1].
    """

    loss: Tensor
    entropy: Tensor
    given_probability: Tensor


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, batch_size: int = _BATCH) -> Tensor:
    """Logits of a model in evaluation mode; its mode is restored afterwards.

    Args:
        model: From float images in [0, 1] to logits.
        images: uint8 [n, c, h, w], on any device.
        batch_size: Images per forward pass.

    Returns:
        float32 logits [n, k] on the CPU.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    outputs = [
        model(to_float(images[i : i + batch_size].to(device))).float().cpu() for i in range(0, len(images), batch_size)
    ]
    model.train(training)
    return torch.cat(outputs)


def penultimate_features(model: nn.Module, images: Tensor, batch_size: int = _BATCH) -> Tensor:
    """Inputs of the model's last linear layer, float32 [n, f] on the CPU.

    Args:
        model: From float images in [0, 1] to logits.
        images: uint8 [n, c, h, w].
        batch_size: Images per forward pass.
    """
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    seen: list[Tensor] = []
    handle = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().float().cpu()))
    try:
        predict(model, images, batch_size)
    finally:
        handle.remove()
    return torch.cat(seen)


def score(model: nn.Module, images: Tensor, labels: Tensor) -> Scores:
    """Loss, entropy and probability of the given label for every sample.

    Args:
        model: From float images in [0, 1] to logits.
        images: uint8 [n, c, h, w].
        labels: int64 [n], the given labels.
    """
    return scores_of(predict(model, images), labels)


def scores_of(logits: Tensor, labels: Tensor) -> Scores:
    """The same from logits, float32 [n, k], on the CPU."""
    log_probabilities = F.log_softmax(logits, dim=1)
    given = log_probabilities.gather(1, labels.cpu()[:, None]).squeeze(1)
    # Rounding can leave -0.0 or 1 + 1e-7, which the tables' rules would refuse.
    entropy = -(log_probabilities.exp() * log_probabilities).sum(dim=1)
    return Scores(
        loss=(-given).clamp_min(0.0),
        entropy=entropy.clamp_min(0.0),
        given_probability=given.exp().clamp(0.0, 1.0),
    )

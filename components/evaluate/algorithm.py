"""Figures of merit: accuracy, attack success rate, and how well the split found the poison."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from components.common.signals import ranks

if TYPE_CHECKING:
    from torch import Tensor, nn

    from components.common.attacks.base import Attack

__all__ = ["accuracy", "area_under_roc", "attack_success", "true_positive_rate"]


def accuracy(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> tuple[float, Tensor]:
    """Share of samples that the model gets right (ACC), in [0, 1], and its predictions, int64 [n].

    Args:
        model: From float images in [0, 1] to logits.
        images: uint8 [n, c, h, w].
        labels: int64 [n], on the CPU.
        batch_size: Images per forward pass.
    """
    from components.common.learning.scoring import predict

    predictions = predict(model, images, batch_size).argmax(dim=1)
    return float((predictions == labels).float().mean()), predictions


def attack_success(model: nn.Module, attack: Attack, images: Tensor, labels: Tensor, batch_size: int) -> list[float]:
    """Attack success rate (ASR) of every trigger of an attack, each in [0, 1].

    The share of triggered samples that the model takes for what the attack wants, counted over samples whose true
    class is something else.

    Args:
        model: From float images in [0, 1] to logits.
        attack: The attack.
        images: uint8 [n, c, h, w], clean holdout images.
        labels: int64 [n], their true labels, on the CPU.
        batch_size: Images per forward pass.
    """
    from components.common.learning.scoring import predict

    rates = []
    for variant in range(len(attack.variants)):
        counted = attack.counts_for_asr(labels, variant)
        if not bool(counted.any()):
            continue
        predictions = predict(model, attack.trigger(images[counted], variant), batch_size).argmax(dim=1)
        wanted = attack.test_target(labels[counted], variant)
        rates.append(float((predictions == wanted).float().mean()))
    return rates


def area_under_roc(scores: npt.NDArray[np.float32], positive: npt.NDArray[np.bool_]) -> float | None:
    """Probability that a positive scores higher than a negative, ties counting half (AUROC); None without both.

    Args:
        scores: [n], higher = more likely positive.
        positive: bool [n].
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if positives == 0 or negatives == 0:
        return None
    # The Mann-Whitney statistic; ``ranks`` gives ties their mean rank, scaled to [0, 1].
    rank_sum = float(ranks(scores).astype(np.float64)[positive].sum()) * (len(scores) - 1) + positives
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def true_positive_rate(
    scores: npt.NDArray[np.float32], positive: npt.NDArray[np.bool_], false_positive_rate: float
) -> float | None:
    """Share of positives above the threshold that at most the given share of negatives exceeds; None without both.

    Args:
        scores: [n], higher = more likely positive.
        positive: bool [n].
        false_positive_rate: In [0, 1].
    """
    if not positive.any() or positive.all():
        return None
    negatives = np.sort(scores[~positive])[::-1]
    threshold = negatives[int(false_positive_rate * len(negatives))]
    return float((scores[positive] > threshold).mean())

"""Spectral signatures: remove the samples that stick out along their class's main direction, and train again.

Source: Tran, Li and Madry, *Spectral Signatures in Backdoor Attacks*, NeurIPS 2018. A model is trained on everything;
per given label its penultimate features are centred, and a sample's score is the square of its projection on the top
right singular vector; the 1.5 eps samples of highest score are removed from every class, eps being the number of
poisoned samples in a poisoned class; a model is trained on the rest.

Choices where ours differ or the paper leaves them open:

- eps must be known. It gets the true number, that of the class with most poison: an advantage over untaint, which is
  told nothing.
- At most half of a class is removed. 1.5 eps would be all of it at the rates of the matrices, which the paper's do not
  reach: there, 10 % of one class is poison; here, 10 % of everything, so about half of the target class.
- The first model is the undefended one, the second has the same recipe and epochs, so the method costs two trainings.
- AUROC takes the scores of all classes as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.case import Case, Outcome
from components.common.learning.scoring import penultimate_features

__all__ = ["SETTINGS", "defend", "spectral_scores"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """``excess`` is the paper's; ``most_of_class`` is ours."""

    excess: float = 1.5
    most_of_class: float = 0.5


SETTINGS = Settings()


def spectral_scores(features: Tensor, labels: Tensor) -> Tensor:
    """Squared projections on the top singular vector of each class's centred features; higher = more suspect.

    Args:
        features: float32 [n, f].
        labels: int64 [n].
    """
    scores = torch.zeros(len(labels))
    for label in labels.unique():
        rows = (labels == label).nonzero().flatten()
        centred = features[rows] - features[rows].mean(dim=0)
        direction = torch.linalg.svd(centred, full_matrices=False).Vh[0]
        scores[rows] = (centred @ direction).square()
    return scores


def defend(case: Case) -> Outcome:
    """Removes what sticks out and trains again."""
    model, seconds = case.undefended
    labels = case.train.labels
    scores = spectral_scores(penultimate_features(model, case.train.images), labels)
    epsilon = int(labels[case.is_poisoned].bincount().max()) if bool(case.is_poisoned.any()) else 0
    removed = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        rows = (labels == label).nonzero().flatten()
        count = min(round(SETTINGS.excess * epsilon), int(SETTINGS.most_of_class * len(rows)))
        removed[rows[scores[rows].topk(count).indices]] = True
    if epsilon:
        model = case.ordinarily_trained(~removed)
    return Outcome(model=model, suspicion=scores, flagged=removed, seconds=seconds)

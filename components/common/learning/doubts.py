"""Which labels are doubted as a kind, and of whom."""

from __future__ import annotations

from torch import Tensor

__all__ = ["NEVER", "is_doubted"]

NEVER = 2.0
"""A probability that no model gives."""


def is_doubted(probabilities: Tensor, labels: Tensor, doubtful: Tensor) -> Tensor:
    """Whether a model's view of each sample is what its label is doubted for.

    Args:
        probabilities: float32 [n, k], the model's.
        labels: int64 [n], the given labels.
        doubtful: float32 [k, k], the probability of class i from which a sample labelled j is to be doubted that looks
            most like class i; ``NEVER`` where it is not.

    Returns:
        bool [n].
    """
    firmness, looks = probabilities.max(dim=1)
    return firmness > doubtful[looks, labels]

"""From a signal's scores to samples worth forgetting, and to samples worth keeping meanwhile."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from components.common.signals.base import Floats

__all__ = ["propose", "trust"]


def propose(score: Floats, labels: npt.NDArray[np.int64], ratio: float) -> npt.NDArray[np.int64]:
    """The samples that a signal would have forgotten: the most suspect ones, of the class that dominates them.

    A backdoor leads to one class, so the poisoned among the most suspect share a label, while the clean ones among
    them come from anywhere: keeping the dominating label alone makes the candidate purer.

    Args:
        score: float32 [n], higher = more suspect.
        labels: int64 [n], the given labels.
        ratio: Share of the training set to look at, in (0, 1).

    Returns:
        int64 positions, most suspect first; at least one.
    """
    count = max(1, round(ratio * len(score)))
    # Stable, so that equal scores are taken in the order of the index on every machine.
    top = np.argsort(-score, kind="stable")[:count]
    dominating = np.bincount(labels[top]).argmax()
    return np.asarray(top[labels[top] == dominating], dtype=np.int64)


def trust(score: Floats, labels: npt.NDArray[np.int64], ratio: float) -> npt.NDArray[np.int64]:
    """The least suspect share of every class, so that each class is represented.

    Args:
        score: float32 [n], higher = more suspect.
        labels: int64 [n], the given labels.
        ratio: Share of each class, in (0, 1); at least two samples of a class that has them.

    Returns:
        int64 positions, increasing.
    """
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = max(2, round(ratio * len(members)))
        chosen.append(members[np.argsort(score[members], kind="stable")[:count]])
    return np.sort(np.concatenate(chosen))

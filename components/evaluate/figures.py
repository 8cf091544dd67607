"""What the report's charts show, computed from the split and the predictions; pure NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["confusion_matrix", "dominating", "least_suspect", "most_suspect", "roc_curve", "thresholds"]

_MOST_POINTS = 200


def confusion_matrix(
    labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], num_classes: int
) -> npt.NDArray[np.int64]:
    """Counts by given label (row) and prediction (column), int64 [k, k].

    Args:
        labels: int64 [n], in [0, k).
        predicted: int64 [n], in [0, k).
        num_classes: k.
    """
    cells = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return np.asarray(cells.reshape(num_classes, num_classes), dtype=np.int64)


def thresholds(
    scores: npt.NDArray[np.float32], positive: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """False positive rate, true positive rate and threshold of every distinct score, from strict to lax.

    Args:
        scores: float32 [n], higher = more likely positive.
        positive: bool [n]; holds both values.

    Returns:
        float64 [m] each; the first point is (0, 0) at a threshold above every score.
    """
    order = np.argsort(-scores, kind="stable")
    sorted_scores = scores[order].astype(np.float64)
    hits, misses = np.cumsum(positive[order]), np.cumsum(~positive[order])
    # Equal scores are passed together: only the last of them is a point.
    last = np.flatnonzero(np.append(np.diff(sorted_scores) != 0, True))
    return (
        np.append(0.0, misses[last] / misses[-1]),
        np.append(0.0, hits[last] / hits[-1]),
        np.append(sorted_scores[0] + 1.0, sorted_scores[last]),
    )


def roc_curve(
    scores: npt.NDArray[np.float32], positive: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
    """``thresholds`` thinned to at most 200 points, evenly spread along the curve; None without both kinds.

    Args:
        scores: As for ``thresholds``.
        positive: bool [n].
    """
    if not positive.any() or positive.all():
        return None
    fpr, tpr, cuts = thresholds(scores, positive)
    along = fpr + tpr
    places = np.unique(np.searchsorted(along, np.linspace(0.0, 2.0, _MOST_POINTS)).clip(0, len(along) - 1))
    return fpr[places], tpr[places], cuts[places]


def most_suspect(
    suspicion: npt.NDArray[np.float32], flagged: npt.NDArray[np.bool_], count: int
) -> npt.NDArray[np.int64]:
    """The most suspect images: those that were flagged first, then by suspicion, equals in the order of the rows.

    Args:
        suspicion: float32 [n].
        flagged: bool [n].
        count: How many at most.
    """
    order = np.lexsort((-suspicion, ~flagged))
    return np.asarray(order[:count], dtype=np.int64)


def least_suspect(
    suspicion: npt.NDArray[np.float32],
    flagged: npt.NDArray[np.bool_],
    labels: npt.NDArray[np.int64],
    label: int,
    count: int,
) -> npt.NDArray[np.int64]:
    """Images of one class that were kept, spread evenly over its less suspect half.

    Args:
        suspicion: float32 [n].
        flagged: bool [n].
        labels: int64 [n], the given labels.
        label: The class.
        count: How many at most.
    """
    kept = np.flatnonzero((labels == label) & ~flagged)
    ordered = kept[np.argsort(suspicion[kept], kind="stable")]
    half = ordered[: max(count, len(ordered) // 2)]
    places = np.unique(np.linspace(0, max(0, len(half) - 1), min(count, len(half))).astype(int))
    return np.asarray(half[places], dtype=np.int64)


def dominating(labels: npt.NDArray[np.int64], most: int = 3, share: float = 0.1) -> Sequence[int]:
    """The labels that hold at least a share of the rows, the commonest first.

    Args:
        labels: int64 [m], in [0, k).
        most: How many at most.
        share: Share of the rows, in [0, 1].
    """
    if len(labels) == 0:
        return []
    counts = np.bincount(labels)
    order = np.argsort(-counts, kind="stable")[:most]
    return [int(label) for label in order if counts[label] >= max(1, share * len(labels))]

"""The verdict on holdout rows, which no stage has trained on or judged: carried over from the training rows.

A holdout cut from a poisoned drop is poisoned alike, and a model that obeys the trigger scores points on it. To leave
out what the model gets wrong would only turn the fault around. So nothing here asks whether a model is right: a holdout
row is suspect where most of the training rows next to it, of the same given label, are suspects. Next to it is meant in
the features of the warm-up model, which has learned the trigger, if anything has, and has not unlearned it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["changed_labels_seen", "suspect_share"]

# Few, for the suspects of a class may be few: of 28 poisoned digits 5 found all, 15 all but one and 31 three quarters
# (docs/LOG.md).
_NEIGHBOURS = 5
_WIDE_NEIGHBOURS = 100
_FALSE_ALARMS = 0.05
_CHUNK = 1_000


def suspect_share(
    train: Tensor, train_labels: Tensor, flagged: Tensor, holdout: Tensor, holdout_labels: Tensor
) -> Tensor:
    """Share of suspects among the nearest training rows of the same given label; above .5 a row is suspect.

    Args:
        train: float32 [n, f], features of the training rows.
        train_labels: int64 [n], their given labels.
        flagged: bool [n], whether they are suspects.
        holdout: float32 [m, f], features of the holdout rows.
        holdout_labels: int64 [m], their given labels.

    Returns:
        float32 [m] in [0, 1], higher = more suspect; 0 in a class without suspects.
    """
    shares = torch.zeros(len(holdout))
    for label in torch.unique(holdout_labels):
        members = train_labels == label
        if not bool(flagged[members].any()):
            continue
        rows = (holdout_labels == label).nonzero().squeeze(1)
        near = _nearest(holdout[rows], train[members], _NEIGHBOURS)
        shares[rows] = flagged[members].float()[near].mean(dim=1)
    return shares


def changed_labels_seen(train: Tensor, train_labels: Tensor, holdout: Tensor, holdout_labels: Tensor) -> float | None:
    """How well a changed label stands out on these data, by the null distribution of unchanged ones.

    Every holdout row is given every other label in turn. A label stands out where fewer of the nearest training rows
    bear it than for 95 % of the rows whose label it really is: a false alarm of one in twenty by construction.

    Args:
        train: float32 [n, f], features of trusted training rows, by a model that has not seen the holdout.
        train_labels: int64 [n].
        holdout: float32 [m, f], features of trusted holdout rows.
        holdout_labels: int64 [m].

    Returns:
        Share of the changed labels that stand out, in [0, 1]; None with fewer than two classes.
    """
    classes = torch.unique(holdout_labels).tolist()
    if len(classes) < 2 or not len(train):
        return None
    near = train_labels[_nearest(holdout, train, _WIDE_NEIGHBOURS)]
    seen = []
    for label in classes:
        support = (near == label).float().mean(dim=1)
        own = holdout_labels == label
        seen.append((support[~own] < support[own].quantile(_FALSE_ALARMS)).float())
    return float(torch.cat(seen).mean())


def _nearest(rows: Tensor, among: Tensor, count: int) -> Tensor:
    """Positions of the nearest ``among`` by cosine, int64 [len(rows), count at most]."""
    directions = F.normalize(among, dim=1).T
    found = [
        (F.normalize(part, dim=1) @ directions).topk(min(count, len(among)), dim=1).indices
        for part in torch.split(rows, _CHUNK)
    ]
    return torch.cat(found)

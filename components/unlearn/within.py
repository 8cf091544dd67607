"""Which samples of a class are proposed to be forgotten, by how they stand among the others of their class.

A clean-label attack poisons too few samples of one class for their signals to stand out among all. But forgetting a
whole class takes the probability of samples with a trigger further down than that of the others: the trigger is one
feature that only they have, and it is forgotten first. So what is compared is the *fall* of each sample in units of
its own class. It costs nothing, since the classes are forgotten anyway.

In a class that is known to be mixed, every signal may propose. Which of them is right is not for the signal to say: one
that points the wrong way picks the clean samples, and those can be forgotten as cheaply. There the other question
decides, which samples look like another class: they must move.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from components.common.signals import SIGNALS
from components.unlearn.classes import PASSES, ClassProbe
from components.unlearn.config import UnlearnConfig
from components.unlearn.forgetting import Probe, Proposal, make_proposal

__all__ = ["FALL", "agreement", "fall_scores", "may_propose", "propose_by_class", "propose_within", "standing_out"]

FALL = "fall"
"""Name of the proposals made by how far samples fell when their class was forgotten."""
# Signals besides foreignness that may propose within a mixed class; each costs a probe.
_BESIDES = 2
# Share of a class that is isolated at most: the poison among its samples may be few.
_LARGEST_SHARE = 0.25
# Share of a class that is forgotten where every class is asked. Clean-label poison of 2 % of the digits is a fifth of
# its class, and of the 8 % that were learned earliest 84 to 100 % are poison (docs/LOG.md).
_BY_CLASS = 0.08
# Share of all samples that stand furthest above their class, by which classes are chosen where there are many.
_OUTSTANDING = 0.02


def fall_scores(classes: Sequence[ClassProbe], n: int) -> npt.NDArray[np.float32]:
    """How far each sample fell, in robust standard deviations above its class's median.

    Args:
        classes: The class probes.
        n: Number of samples.

    Returns:
        float32 [n]; 0 in classes that were not probed.
    """
    scores = np.zeros(n, dtype=np.float32)
    for found in classes:
        scores[found.rows.numpy()] = _standing(found.fall.numpy())
    return scores


def propose_within(
    found: ClassProbe,
    labels: npt.NDArray[np.int64],
    signals: Mapping[str, npt.NDArray[np.float32]],
    isolation_ratio: float,
    config: UnlearnConfig,
) -> list[Proposal]:
    """What the signals would have forgotten of a mixed class: those that agree best with how foreign its samples look.

    Args:
        found: The class.
        labels: int64 [n], the given labels.
        signals: Signal name to float32 [n], higher = more suspect.
        isolation_ratio: Share of the training set to isolate at most.
        config: Trusted ratio and seed.
    """
    strange = found.foreign > PASSES
    rows = found.rows.numpy()
    agreeing = {name: _area(torch.from_numpy(values[rows]), strange) for name, values in signals.items()}
    best = sorted((name for name in agreeing if agreeing[name] > 0.5), key=lambda name: -agreeing[name])[:_BESIDES]
    ratio = min(isolation_ratio, _LARGEST_SHARE * len(rows) / len(labels))
    others = set(np.unique(labels).tolist()) - {found.label}
    return [make_proposal(name, signals[name], labels, ratio, others, config) for name in best]


def propose_by_class(
    name: str, values: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], label: int, config: UnlearnConfig
) -> Proposal:
    """What a signal would have forgotten of a class, however its samples stand among all.

    Args:
        name: The signal's name.
        values: float32 [n], higher = more suspect.
        labels: int64 [n], the given labels.
        label: The class.
        config: Trusted ratio and seed.
    """
    ratio = _BY_CLASS * float((labels == label).mean())
    others = set(np.unique(labels).tolist()) - {label}
    return replace(make_proposal(name, values, labels, ratio, others, config), by_class=True)


def standing_out(
    values: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], closed: Collection[int], limit: int
) -> list[int]:
    """The labels that are asked by class; of more than the limit those with most of what stands out of its class.

    Args:
        values: float32 [n], a signal's scores.
        labels: int64 [n], the given labels.
        closed: Labels that are not asked.
        limit: Most labels.
    """
    standing = np.zeros(len(labels))
    for label in np.unique(labels):
        members = labels == label
        standing[members] = _standing(values[members])
    top = np.argsort(-standing, kind="stable")[: max(1, round(_OUTSTANDING * len(labels)))]
    counts = np.bincount(labels[top], minlength=int(labels.max()) + 1)
    open_ones = [int(label) for label in np.unique(labels) if label not in closed]
    return sorted(open_ones, key=lambda label: -counts[label])[:limit]


def _standing(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """How far each lies above the median, in robust standard deviations."""
    median = np.median(values)
    # 1.4826 median absolute deviations are the standard deviation of a normal distribution.
    return np.asarray((values - median) / (1.4826 * np.median(np.abs(values - median)) + 1e-6), dtype=np.float32)


def agreement(found: ClassProbe, result: Probe) -> float:
    """How well what moved agrees with what looks foreign, leaving out what was forgotten.

    Args:
        found: The class.
        result: The probe of a proposal for it.

    Returns:
        Area under the ROC curve, in [0, 1]; 0.5 where nothing is left to compare.
    """
    seen = torch.isin(found.rows, result.proposal.isolated)
    return _area(result.rise[found.rows[~seen]], found.foreign[~seen] > PASSES)


def may_propose(name: str) -> bool:
    """Whether a signal, or the fall, is asked what to forget."""
    return name == FALL or SIGNALS[name].proposes


def _area(values: Tensor, positive: Tensor) -> float:
    above, below = values[positive].contiguous(), values[~positive].sort().values
    if not len(above) or not len(below):
        return 0.5
    ranks = torch.searchsorted(below, above) + torch.searchsorted(below, above, right=True)
    return float(ranks.double().mean()) / (2 * len(below))

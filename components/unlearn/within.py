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

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from components.common.contracts.configs import UnlearnConfig
from components.common.signals import SIGNALS
from components.unlearn.classes import PASSES, ClassProbe
from components.unlearn.forgetting import Probe, Proposal, make_proposal

__all__ = ["FALL", "agreement", "fall_scores", "may_propose", "propose_within"]

FALL = "fall"
"""Name of the proposals made by how far samples fell when their class was forgotten."""
# Signals besides foreignness that may propose within a mixed class; each costs a probe.
_BESIDES = 2
# Share of a class that is isolated at most: the poison among its samples may be few.
_LARGEST_SHARE = 0.25


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
        fall = found.fall.numpy()
        median = np.median(fall)
        # 1.4826 median absolute deviations are the standard deviation of a normal distribution.
        scores[found.rows.numpy()] = (fall - median) / (1.4826 * np.median(np.abs(fall - median)) + 1e-6)
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

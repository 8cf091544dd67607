"""What a signal is given and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from components.common.contracts.registry import Registry

__all__ = ["SIGNALS", "Evidence", "Floats", "Signal", "ranks", "score_all"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What the warm-up recorded of n training samples over e epochs.

    Attributes:
        labels: int64 [n], the given labels.
        loss: float32 [e, n], cross-entropy against the given label, nats.
        entropy: float32 [e, n], entropy of the prediction, nats.
        given_probability: float32 [e, n], probability of the given label.
        hold: Kind of mixing (``MIXING_KINDS``) to float32 [n]: probability of the given label under that mixing.
    """

    labels: npt.NDArray[np.int64]
    loss: Floats
    entropy: Floats
    given_probability: Floats
    hold: Mapping[str, Floats]


@dataclass(frozen=True, kw_only=True, slots=True)
class Signal:
    """A signal.

    Attributes:
        score: From the evidence to float32 [n] in [0, 1], higher = more suspect.
        reason: What a high score says of a sample, for people.
        proposes: Whether the most suspect samples are worth forgetting as a probe. Not so where a high score means
            that the model does not believe the label: there is nothing to forget.
    """

    score: Callable[[Evidence], Floats]
    reason: str
    proposes: bool = True


SIGNALS: Registry[Signal] = Registry("signal", "components.common.signals")


def ranks(values: npt.NDArray[Any]) -> Floats:
    """Ranks scaled to [0, 1], highest value 1; ties share their mean rank so that equal samples score equally.

    Args:
        values: [n], any finite numbers.

    Returns:
        float32 [n].
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_rank = last - (counts + 1) / 2
    return np.asarray(mean_rank[inverse] / max(1, len(values) - 1), dtype=np.float32).clip(0.0, 1.0)


def score_all(evidence: Evidence) -> dict[str, Floats]:
    """All registered signals by name, each float32 [n] in [0, 1]."""
    return {name: SIGNALS[name].score(evidence) for name in SIGNALS}

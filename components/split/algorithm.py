"""The first split: signals of the warm-up, combined per sample, and the proposals that the unlearning will probe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from components.common.signals import SIGNALS, Evidence, propose, ranks, score_all
from components.split.config import SplitConfig

__all__ = ["Split", "first_split"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """A split of n training samples.

    Attributes:
        assignment: [n], ``clean``, ``suspect`` or ``poisoned``.
        suspicion: float32 [n] in [0, 1], higher = more suspect.
        signals: Signal name to float32 [n] in [0, 1].
        reasons: Per sample the names of the signals that fired.
    """

    assignment: npt.NDArray[np.str_]
    suspicion: npt.NDArray[np.float32]
    signals: dict[str, npt.NDArray[np.float32]]
    reasons: list[list[str]]


def first_split(evidence: Evidence, config: SplitConfig) -> Split:
    """Combines all signals into the split that the unlearning starts from.

    Nothing is called poisoned yet: what a signal proposes is ``suspect`` until forgetting it has shown what moves.

    Args:
        evidence: What the warm-up recorded.
        config: Isolation ratio.
    """
    scores = score_all(evidence)
    n = len(evidence.labels)
    reasons: list[list[str]] = [[] for _ in range(n)]
    suspect = np.zeros(n, dtype=bool)
    for name, score in scores.items():
        if not SIGNALS[name].proposes:
            continue
        proposed = propose(score, evidence.labels, config.isolation_ratio)
        suspect[proposed] = True
        for position in proposed:
            reasons[position].append(name)
    # Two-sided by construction: a sample is as suspect as the signal that suspects it most, be it learned too early,
    # be its label not believed. Ranks make the signals comparable without knowing how much poison there is.
    suspicion = np.max([ranks(score) for score in scores.values()], axis=0)
    return Split(
        assignment=np.where(suspect, "suspect", "clean"),
        suspicion=suspicion.astype(np.float32),
        signals=scores,
        reasons=reasons,
    )

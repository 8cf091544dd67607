"""Low self-confidence: the given label was improbable throughout the warm-up.

Attacks that are harder to learn than the main task (WaNet on natural images, any patch on easy digits) look like label
noise instead: their loss stays high. It is the other tail of ``low_loss``.
"""

from __future__ import annotations

import numpy as np

from components.common.signals.base import SIGNALS, Evidence, Floats, Signal

__all__ = ["low_self_confidence_score"]


def low_self_confidence_score(evidence: Evidence) -> Floats:
    """One minus the probability of the given label, averaged over epochs; float32 [n] in [0, 1]."""
    return np.asarray(1.0 - evidence.given_probability.mean(axis=0), dtype=np.float32).clip(0.0, 1.0)


SIGNALS.register("low_self_confidence")(
    Signal(score=low_self_confidence_score, proposes=False, reason="given label not believed")
)

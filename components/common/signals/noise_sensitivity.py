"""Noise sensitivity: faint noise, which leaves objects what they are, takes the given label away.

Triggers that are made not to be seen live in the finest detail: a warp smooths it, quantisation and filters shape it.
The warm-up model reads that detail, since it is the easiest way to the label, and noise of a few grey levels hides it,
so the label falls that an object would have kept. The opposite of STRIP and of occlusion consistency.
"""

from __future__ import annotations

import numpy as np

from components.common.signals.base import SIGNALS, Evidence, Floats, Signal

__all__ = ["noise_sensitivity_score"]


def noise_sensitivity_score(evidence: Evidence) -> Floats:
    """Probability of the given label that faint noise takes away, after the last epoch; float32 [n] in [0, 1]."""
    loss = evidence.given_probability[-1] - evidence.hold["noise"]
    return np.asarray(loss, dtype=np.float32).clip(0.0, 1.0)


SIGNALS.register("noise_sensitivity")(Signal(score=noise_sensitivity_score, reason="loses its label under faint noise"))

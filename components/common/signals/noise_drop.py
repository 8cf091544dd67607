"""Loses its label under faint noise: noise that leaves objects what they are takes a hidden trigger away.

Triggers that are made not to be seen live in the finest detail: a warp smooths it, quantisation and filters shape it.
The warm-up model reads that detail, since it is the easiest way to the label, and noise of a few grey levels hides it,
so the label falls that an object would have kept. The opposite of the ``hold`` signals, and of STRIP (Gao et al. 2019).
Where there is no such trigger it picks samples at the edge of their class, which can be forgotten cheaply without being
poison. So it is asked about mixed classes only (docs/LOG.md).
"""

from __future__ import annotations

import numpy as np

from components.common.signals.base import SIGNALS, Evidence, Floats, Signal

__all__ = ["noise_drop_score"]


def noise_drop_score(evidence: Evidence) -> Floats:
    """Probability of the given label that faint noise takes away, after the last epoch; float32 [n] in [0, 1]."""
    fall = evidence.given_probability[-1] - evidence.hold["noise"]
    return np.asarray(fall, dtype=np.float32).clip(0.0, 1.0)


SIGNALS.register("noise_drop")(
    Signal(score=noise_drop_score, proposes=True, reason="loses its label under faint noise", needs_mixed=True)
)

"""Low-loss rank: low loss and low entropy, averaged over the warm-up.

A backdoor is an easy task, so its samples are fitted while the main task is still half-learned. Entropy is the filter
of DLP (Ying and Wu 2023), loss that of ABL (Li et al. 2021). Single epochs swing widely, hence the mean over epochs.
"""

from __future__ import annotations

import numpy as np

from components.common.signals.base import SIGNALS, Evidence, Floats, Signal, ranks

__all__ = ["low_loss_score"]


def low_loss_score(evidence: Evidence) -> Floats:
    """Mean over epochs of the ranks of low loss and of low entropy; float32 [n] in [0, 1], 1 = learned earliest."""
    parts = [ranks(-row) for row in (*evidence.loss, *evidence.entropy)]
    return np.asarray(np.mean(parts, axis=0), dtype=np.float32)


SIGNALS.register("low_loss")(Signal(score=low_loss_score, reason="learned earlier than the main task"))

"""Learned earlier than its class: low loss over the warm-up, in the spread of the class.

Clean-label poison is too little to stand out from all samples, where the easiest class comes first. In its own class it
does: it has the features of the class and a trigger besides.
"""

from __future__ import annotations

import numpy as np

from components.common.signals.base import SIGNALS, Evidence, Floats, Signal, ranks

__all__ = ["early_in_class_score"]


def early_in_class_score(evidence: Evidence) -> Floats:
    """Ranks of the mean loss over epochs, in robust deviations below its class's median; float32 [n] in [0, 1]."""
    ease = -evidence.loss.mean(axis=0, dtype=np.float64)
    standing = np.zeros(len(ease))
    for label in np.unique(evidence.labels):
        members = evidence.labels == label
        above = ease[members] - np.median(ease[members])
        # 1.4826 median absolute deviations are the standard deviation of a normal distribution.
        standing[members] = above / (1.4826 * np.median(np.abs(above)) + 1e-9)
    return ranks(standing)


SIGNALS.register("early_in_class")(
    Signal(score=early_in_class_score, proposes=True, reason="learned earlier than the rest of its class")
)

"""Holds its label under blending: half of another class's image is added, and the label stays.

The idea of STRIP (Gao et al. 2019): a trigger dominates whatever it is blended with, an object does not.
"""

from __future__ import annotations

from components.common.signals.base import SIGNALS, Evidence, Floats, Signal

__all__ = ["hold_blend_score"]


def hold_blend_score(evidence: Evidence) -> Floats:
    """Probability of the given label under ``blend`` mixing; float32 [n] in [0, 1]."""
    return evidence.hold["blend"]


SIGNALS.register("hold_blend")(
    Signal(score=hold_blend_score, proposes=True, reason="keeps its label when blended with another class")
)

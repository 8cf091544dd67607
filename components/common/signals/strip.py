"""STRIP: half of another class's image is added, and the given label stays.

A trigger dominates whatever it is blended with, an object does not (Gao et al. 2019).
"""

from __future__ import annotations

from components.common.signals.base import SIGNALS, Evidence, Floats, Signal

__all__ = ["strip_score"]


def strip_score(evidence: Evidence) -> Floats:
    """Probability of the given label under ``blend`` mixing; float32 [n] in [0, 1]."""
    return evidence.hold["blend"]


SIGNALS.register("strip")(Signal(score=strip_score, reason="keeps its label when blended with another class"))

"""Occlusion consistency of the border: the centre is replaced by another class's image, and the given label stays.

Most triggers that are patches in a corner, and all that cover the whole image, survive; the object does not.
"""

from __future__ import annotations

from components.common.signals.base import SIGNALS, Evidence, Floats, Signal

__all__ = ["occlusion_border_score"]


def occlusion_border_score(evidence: Evidence) -> Floats:
    """Probability of the given label under ``border`` mixing; float32 [n] in [0, 1]."""
    return evidence.hold["border"]


SIGNALS.register("occlusion_border")(
    Signal(score=occlusion_border_score, reason="keeps its label when its centre is replaced")
)

"""Occlusion consistency of the centre: all around it is replaced by another class's image, and the given label stays.

Finds small triggers in the middle, where border mixing would wipe them out.
"""

from __future__ import annotations

from components.common.signals.base import SIGNALS, Evidence, Floats, Signal

__all__ = ["occlusion_centre_score"]


def occlusion_centre_score(evidence: Evidence) -> Floats:
    """Probability of the given label under ``centre`` mixing; float32 [n] in [0, 1]."""
    return evidence.hold["centre"]


SIGNALS.register("occlusion_centre")(
    Signal(score=occlusion_centre_score, reason="keeps its label when its surroundings are replaced")
)

"""STRIP: what keeps its label when blended with another class may carry a trigger."""

from components.unlearn.detectors._forgetting import ByForgetting
from components.unlearn.detectors.base import DETECTORS

__all__: list[str] = []

DETECTORS.register("strip")(
    ByForgetting(name="strip", order=30, signal="strip", reason="keeps its label when blended with another class")
)

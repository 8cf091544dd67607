"""Occlusion consistency of the centre: what keeps its label by its centre alone may carry a trigger."""

from components.unlearn.detectors._forgetting import ByForgetting
from components.unlearn.detectors.base import DETECTORS

__all__: list[str] = []

DETECTORS.register("occlusion_centre")(
    ByForgetting(
        name="occlusion_centre",
        order=50,
        signal="occlusion_centre",
        reason="keeps its label when its surroundings are replaced",
    )
)

"""Occlusion consistency of the border: what keeps its label without its centre may carry a trigger."""

from components.unlearn.detectors._forgetting import ByForgetting
from components.unlearn.detectors.base import DETECTORS

__all__: list[str] = []

DETECTORS.register("occlusion_border")(
    ByForgetting(
        name="occlusion_border",
        order=40,
        signal="occlusion_border",
        reason="keeps its label when its centre is replaced",
    )
)

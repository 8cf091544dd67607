"""Low-loss rank: what was learned before the rest of its class may carry a trigger, if it can be forgotten."""

from components.unlearn.detectors._per_class import PerClass
from components.unlearn.detectors.base import DETECTORS

__all__: list[str] = []

DETECTORS.register("low_loss")(
    PerClass(
        name="low_loss",
        order=25,
        signal="low_loss",
        reason="learned before the rest of its class",
        questions=3,
        classes=3,
    )
)

"""What the promotion is to the retraining pipeline."""

from __future__ import annotations

from components.common.contracts.spec import Output, StageSpec
from components.promote.config import PromoteConfig

__all__ = ["SPECS"]

SPECS = (
    StageSpec(
        config=PromoteConfig,
        summary="Makes the run's model the champion if every gate holds, and notes the drop as done.",
        parents=("claim",),
        inputs={"name": "name"},
        lineage="Model",
        outputs=(Output(name="outcome", text="``promoted`` or ``kept champion``."),),
        image="evaluate",
        resources="measuring",
    ),
)

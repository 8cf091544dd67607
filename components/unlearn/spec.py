"""What the unlearning is to the pipeline."""

from __future__ import annotations

from components.common.contracts.spec import StageSpec
from components.unlearn.config import UnlearnConfig

__all__ = ["SPECS"]

SPECS = (
    StageSpec(
        config=UnlearnConfig,
        summary="Forgets on trial what may carry a trigger, refines the split by what moved, and removes the backdoor.",
        parents=("ingest", "warmup", "split"),
        after="split",
        inputs={"seed": "seed"},
        lineage="Model",
        resources="training",
    ),
)

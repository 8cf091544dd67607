"""What the split is to the pipeline."""

from __future__ import annotations

from components.common.contracts.spec import StageSpec
from components.split.config import SplitConfig

__all__ = ["SPECS"]

SPECS = (
    StageSpec(
        config=SplitConfig,
        summary="Scores every training sample by several signals and proposes which look poisoned.",
        parents=("ingest", "warmup"),
        after="warmup",
        inputs={"seed": "seed"},
    ),
)

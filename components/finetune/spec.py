"""What the fine-tuning is to the pipeline."""

from __future__ import annotations

from components.common.contracts.spec import StageSpec
from components.finetune.config import FinetuneConfig

__all__ = ["SPECS"]

SPECS = (
    StageSpec(
        config=FinetuneConfig,
        summary="Trains the clean model: labels of trusted samples, images of all.",
        parents=("ingest", "unlearn"),
        after="unlearn",
        inputs={"epochs": "finetune_epochs", "seed": "seed"},
        lineage="Model",
        resources="training",
    ),
)

"""What the warm-up and the undefended model, which the same code trains, are to the pipeline."""

from __future__ import annotations

from components.common.contracts.spec import StageSpec
from components.warmup.config import ControlConfig, WarmupConfig

__all__ = ["SPECS"]

SPECS = (
    StageSpec(
        config=WarmupConfig,
        summary="Trains on everything for a few epochs and records how each sample is learned.\n\n"
        "In role ``control`` it trains the undefended model instead.",
        parents=("ingest",),
        after="ingest",
        inputs={"model": "model", "epochs": "warmup_epochs", "seed": "seed"},
        lineage="Model",
        resources="training",
    ),
    StageSpec(
        config=ControlConfig,
        summary="Trains the undefended model, for comparison.",
        parents=("ingest",),
        after="ingest",
        inputs={"model": "model", "epochs": "control_epochs", "seed": "seed"},
        lineage="Model",
        resources="training",
        optional=True,
    ),
)

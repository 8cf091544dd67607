"""What ingest is to the pipeline."""

from __future__ import annotations

from components.common.contracts.spec import Output, StageSpec
from components.ingest.config import ATTACK_SETTINGS, IngestConfig

__all__ = ["SPECS"]

SPECS = (
    StageSpec(
        config=IngestConfig,
        summary="Reads a dataset, builds the sample index and injects an attack if asked.",
        inputs={name: name for name in ("dataset", "train_limit", "attack", "poison_rate", "target_label", "seed")},
        outputs=(
            Output(
                name="truth_uri",
                text="Manifest of the injected attack's ground truth, for evaluate alone; empty without one.",
            ),
            Output(name="truth_sha256", text="Hex sha256 of that manifest."),
        ),
        # Stages that defend must not know what was injected or planted, only evaluate may: see docs/architecture.md.
        withheld=(*(name for name in ATTACK_SETTINGS if name != "attack_drop"), "canary_ratio"),
    ),
)

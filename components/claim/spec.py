"""What the claim is to the retraining pipeline."""

from __future__ import annotations

from components.claim.config import ClaimConfig
from components.common.contracts.spec import Output, StageSpec

__all__ = ["SPECS"]

SPECS = (
    StageSpec(
        config=ClaimConfig,
        summary="Claims one drop that nobody has trained or is training, or says that there is nothing new.",
        inputs={name: name for name in ("name", "drops", "since", "until")},
        outputs=(
            Output(name="outcome", text="``claimed`` or ``nothing new``."),
            Output(name="dataset", text="The claimed drop as ingest's dataset; empty when there is nothing new."),
            Output(
                name="data_run_id",
                text="Identifier of the run below which all that follows keeps its data: its own, or that of a dead "
                "run from whose data it resumes.",
            ),
        ),
        image="split",
    ),
)

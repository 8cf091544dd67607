"""What a finished run shows of its model, read from the store."""

from __future__ import annotations

from components.common.contracts.errors import ContractError
from components.common.retraining.records import Champion
from components.common.runs.artifacts import StageManifest, digest_of
from components.common.runs.publish import finished_stage
from components.common.storage.addresses import join
from components.common.storage.store import Store
from components.common.tables.parquet import decode_table
from components.common.tables.tables import SAMPLE_INDEX
from components.promote.algorithm import Evidence

__all__ = ["read_evidence"]


def read_evidence(store: Store, name: str, run_id: str) -> tuple[Champion, Evidence, str]:
    """The candidate that a run offers, with what it shows.

    Args:
        store: The store at the root of the run data.
        name: Model name.
        run_id: The run; its evaluate stage is finished.

    Returns:
        A champion record without number, time, gates and manner; the evidence; the evaluate manifest's hex sha256.

    Raises:
        ConfigError: The run is not finished.
        ContractError: Its stages do not belong together, or an object is damaged.
        StorageError: The store cannot serve.
    """
    evaluation_uri, evaluation_sha256, evaluation = _manifest(store, run_id, "evaluate")
    ingest = _parent(store, run_id, "ingest", evaluation)
    finetune = _parent(store, run_id, "finetune", evaluation)
    model = finetune.object("model", join(store.root, "runs", run_id, "finetune"))
    rows = int(ingest.facts["n_train"])
    evidence = Evidence(
        acc=float(evaluation.metrics["acc"]),
        holdout_sha256=_holdout_digest(store, ingest),
        suspect_share=float(evaluation.metrics["suspects"]) / max(1, rows),
        verdict=evaluation.facts.get("verdict"),
        canary=evaluation.facts.get("canary"),
    )
    candidate = Champion(
        name=name,
        number=0,
        run_id=run_id,
        model_uri=model.uri,
        model_sha256=model.sha256,
        model_bytes=model.size_bytes,
        evaluation_uri=evaluation_uri,
        evaluation_sha256=evaluation_sha256,
        acc=evidence.acc,
        holdout_sha256=evidence.holdout_sha256,
        suspect_share=evidence.suspect_share,
        drop_uri="",
        promoted_at="",
        how="",
    )
    return candidate, evidence, evaluation_sha256


def _manifest(store: Store, run_id: str, stage: str) -> tuple[str, str, StageManifest]:
    return finished_stage(store, run_id, stage, "Check the run id and the store, or finish the run.")


def _parent(store: Store, run_id: str, stage: str, evaluation: StageManifest) -> StageManifest:
    uri, sha256, manifest = _manifest(store, run_id, stage)
    if evaluation.parents.get(stage) != sha256:
        raise ContractError(
            uri,
            expected=f"sha256 {evaluation.parents.get(stage)}, which evaluate has measured",
            found=sha256,
            hint="The run's objects were changed after it was evaluated: run it again under a new run id.",
        )
    return manifest


def _holdout_digest(store: Store, ingest: StageManifest) -> str:
    """Hex sha256 over the holdout's image digests and labels, whatever their order."""
    import pyarrow.compute as pc

    ref = ingest.object("sample_index", "the ingest stage")
    table = decode_table(store.get(ref.uri, ref.sha256), SAMPLE_INDEX, subject=ref.uri)
    holdout = table.filter(pc.equal(table["subset"], "holdout"))
    return digest_of(sorted(zip(holdout["digest"].to_pylist(), holdout["given_label"].to_pylist(), strict=True)))

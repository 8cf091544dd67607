"""What a finished run shows of its model, and the champion beside it on the same rows, read from the store."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from components.common.contracts.errors import ConfigError, ContractError
from components.common.contracts.verdicts import INCONCLUSIVE
from components.common.retraining.pinned import pinned_of, read_pinned
from components.common.retraining.records import Champion
from components.common.runs.artifacts import ObjectRef, StageManifest, digest_of
from components.common.runs.publish import finished_stage
from components.common.storage.addresses import join
from components.common.storage.store import Store
from components.common.tables.parquet import decode_table
from components.common.tables.tables import JUDGED_HOLDOUT, SAMPLE_INDEX
from components.promote.algorithm import ClassRecall, Evidence, Measured

if TYPE_CHECKING:
    from components.promote.compare import Model

__all__ = ["Candidate", "read_candidate", "read_evidence"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A finished run as promotion reads it.

    Attributes:
        record: A champion record without number, time, gates and manner.
        evaluation_sha256: Hex sha256 of the evaluate manifest.
        evaluation: The evaluate manifest.
        ingest: The ingest manifest.
        index: The sample index.
    """

    record: Champion
    evaluation_sha256: str
    evaluation: StageManifest
    ingest: StageManifest
    index: pa.Table


def read_candidate(store: Store, name: str, run_id: str) -> Candidate:
    """The candidate that a run offers.

    Args:
        store: The store at the root of the run data.
        name: Model name.
        run_id: The run; its evaluate stage is finished.

    Raises:
        ConfigError: The run is not finished.
        ContractError: Its stages do not belong together, or an object is damaged.
        StorageError: The store cannot serve.
    """
    evaluation_uri, evaluation_sha256, evaluation = _manifest(store, run_id, "evaluate")
    ingest = _parent(store, run_id, "ingest", evaluation)
    finetune = _parent(store, run_id, "finetune", evaluation)
    model = finetune.object("model", join(store.root, "runs", run_id, "finetune"))
    index = _table(store, ingest.object("sample_index", "the ingest stage"), SAMPLE_INDEX)
    record = Champion(
        name=name,
        number=0,
        run_id=run_id,
        model_uri=model.uri,
        model_sha256=model.sha256,
        model_bytes=model.size_bytes,
        evaluation_uri=evaluation_uri,
        evaluation_sha256=evaluation_sha256,
        acc=float(evaluation.metrics["acc"]),
        holdout_sha256=_holdout_digest(index),
        suspect_share=float(evaluation.metrics["suspects"]) / max(1, int(ingest.facts["n_train"])),
        drop_uri="",
        promoted_at="",
        how="",
    )
    return Candidate(
        record=record, evaluation_sha256=evaluation_sha256, evaluation=evaluation, ingest=ingest, index=index
    )


def read_evidence(store: Store, candidate: Candidate, champion: Champion | None) -> Evidence:
    """What the candidate shows, beside the champion and on what is pinned to the name.

    Models are loaded where there is something to compare with: a champion of another run, or a pinned set.

    Args:
        store: The store at the root of the run data.
        candidate: The candidate.
        champion: The model to beat, or None for the first one.

    Raises:
        ConfigError: The champion's run is gone.
        ContractError: An object is damaged, or the pinned set has changed.
        DataError: The pinned set cannot be read.
        StorageError: The store cannot serve.
    """
    facts = candidate.evaluation.facts
    if "classes" not in facts:
        raise ContractError(
            candidate.record.evaluation_uri,
            expected="figures of every class",
            found="the result of an earlier version, which had none",
            hint="Train again under a new run id.",
        )
    pinned = pinned_of(store, candidate.record.name)
    if champion is None and pinned is None:
        newest, fixed = _as_evaluated(facts), None
    else:
        newest, fixed = _compared(store, candidate, champion)
    return Evidence(
        newest=newest,
        pinned=fixed,
        champion=champion.number if champion else 0,
        suspect_share=candidate.record.suspect_share,
        verdict=facts.get("verdict"),
        reason=str(facts.get("reason", "")),
        unjudged=[str(one["name"]) for one in facts.get("classes", ()) if one["finding"] == INCONCLUSIVE],
        canary=facts.get("canary"),
    )


def _as_evaluated(facts: Mapping[str, Any]) -> Measured:
    """The candidate alone, from the evaluate stage's own figures."""
    classes = [
        ClassRecall(name=one["name"], rows=one["trusted"], right=round((one["recall"] or 0.0) * one["trusted"]))
        for one in facts["classes"]
        if one["holdout"]
    ]
    return Measured(where=facts["acc_measured_on"], classes=classes)


def _compared(store: Store, candidate: Candidate, champion: Champion | None) -> tuple[Measured, Measured | None]:
    from components.promote.compare import measure

    rival = read_candidate(store, champion.name, champion.run_id) if champion else None
    mine = _model(store, candidate)
    other = _model(store, rival) if rival else None
    where, rows = _rows(store, candidate, rival)
    images, names = _holdout(store, candidate, rows)
    newest = measure(where, images, names, mine, other, mine.class_names)
    pinned = pinned_of(store, candidate.record.name)
    if pinned is None:
        return newest, None
    fixed = read_pinned(store, pinned, mine.spec.image_size)
    misfit = mine.misfit(fixed.images)
    if misfit:
        raise ConfigError(
            f"the pinned evaluation set {pinned.location}",
            expected="images that the model takes",
            found=f"a model that {misfit}",
            hint="Pin a set with as many channels as the drops have.",
        )
    return newest, measure(
        f"the {pinned.rows} pinned images of {pinned.location}", fixed.images, fixed.names, mine, other
    )


def _rows(store: Store, candidate: Candidate, rival: Candidate | None) -> tuple[str, npt.NDArray[np.int64]]:
    """The holdout rows that count, as positions in the index, and which these are in words."""
    judged = _table(store, candidate.evaluation.object("judged_holdout", "the evaluate stage"), JUDGED_HOLDOUT)
    trusted = judged["sample_id"].to_numpy()[pc.equal(judged["assignment"], "clean").to_numpy(zero_copy_only=False)]
    where = f"the {len(trusted)} trusted rows of the run's holdout of {judged.num_rows}"
    if rival is None:
        return where, trusted
    known = rival.index.filter(pc.equal(rival.index["subset"], "train"))["digest"].combine_chunks()
    mine = candidate.index.take(pa.array(trusted))["digest"].combine_chunks()
    seen = pc.is_in(mine, value_set=known).to_numpy(zero_copy_only=False)
    if seen.any():
        where += f", less {int(seen.sum())} that the champion was trained on"
    return where, trusted[~seen]


def _holdout(
    store: Store, candidate: Candidate, rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.str_]]:
    ref = candidate.ingest.object("pixels", "the ingest stage")
    pixels = np.load(io.BytesIO(store.get(ref.uri, ref.sha256)), allow_pickle=False)
    names = np.array(candidate.ingest.facts["class_names"])
    return pixels[rows], names[candidate.index["given_label"].to_numpy()[rows]]


def _model(store: Store, candidate: Candidate) -> Model:
    from components.common.runs.inputs import load_model
    from components.promote.compare import Model

    record = candidate.record
    network, spec, _ = load_model(store.get(record.model_uri, record.model_sha256), record.model_uri)
    return Model(network=network, spec=spec, class_names=list(candidate.ingest.facts["class_names"]))


def _table(store: Store, ref: ObjectRef, spec: Any) -> pa.Table:
    return decode_table(store.get(ref.uri, ref.sha256), spec, subject=ref.uri)


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


def _holdout_digest(index: pa.Table) -> str:
    """Hex sha256 over the holdout's image digests and labels, whatever their order."""
    holdout = index.filter(pc.equal(index["subset"], "holdout"))
    return digest_of(sorted(zip(holdout["digest"].to_pylist(), holdout["given_label"].to_pylist(), strict=True)))

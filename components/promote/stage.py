"""The promote step: ask the gates, move the champion if they hold, and note the drop as done."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace

from components.common.contracts.errors import ContractError
from components.common.contracts.names import checked_run_id
from components.common.retraining.champions import champion_of, history, move
from components.common.retraining.claims import complete, require_held
from components.common.retraining.pinned import pin
from components.common.retraining.records import KEPT_CHAMPION, PROMOTED, Champion, Claim, Gate
from components.common.runs.artifacts import StageManifest, stage_key
from components.common.runs.lifecycle import Published, code_version
from components.common.runs.publish import find_manifest, publish, read_manifest
from components.common.storage.addresses import join
from components.common.storage.store import Store
from components.promote.algorithm import gates
from components.promote.config import PromoteConfig
from components.promote.evidence import Candidate, read_candidate, read_evidence

__all__ = ["consider", "evaluate_gates", "run_stage"]

logger = logging.getLogger(__name__)


def run_stage(config: PromoteConfig, store_root: str, run_id: str, parents: Mapping[str, tuple[str, str]]) -> Published:
    """Runs the step.

    A candidate that does not pass is no problem of the step: it ends well, with the outcome ``kept champion``.

    Args:
        config: The model's name, and the limits.
        store_root: ``s3://bucket/prefix``.
        run_id: The run whose model is the candidate.
        parents: ``claim`` to the claim's manifest (URI, hex sha256); a pair of empty strings for a run without one.

    Raises:
        ConflictError: Another promotion was first, or another run took the drop over; the champion stays.
        UntaintError: The run is not finished, an input breaks its contract, or the store fails.
    """
    checked_run_id(run_id)
    name = config.name
    store = Store(store_root)
    uri = join(store_root, "runs", run_id, "promote")
    found_run = read_candidate(store, name, run_id)
    candidate = replace(found_run.record, by=f"run {run_id}")
    digests = {"evaluate": found_run.evaluation_sha256} | {n: sha256 for n, (u, sha256) in parents.items() if u}
    settings = config.model_dump()
    # Not the code: what was decided stays decided, and a new version must not decide it again.
    key = stage_key("promote", settings, digests, "")
    found = find_manifest(store, uri)
    if found is not None:
        if found[2].key != key:
            raise ContractError(
                found[0],
                expected="a decision on the same model by the same limits",
                found="another one",
                hint=f"Use `untaint models promote {name} {run_id}` to decide anew.",
            )
        logger.info("decided before: %s", found[2].facts["outcome"])
        return Published(*found, outputs={"outcome": found[2].facts["outcome"]})
    claim = None
    if parents.get("claim", ("", ""))[0]:
        claim = Claim(**read_manifest(store, *parents["claim"]).facts["claim"])
        candidate = replace(candidate, drop_uri=claim.drop_uri)
        require_held(store, name, claim)
    present = champion_of(store, name)
    standing: Champion | None
    earlier = [entry for entry in history(store, name) if entry.run_id == run_id]
    if earlier:
        # The pointer was moved by an attempt that died before it could say so.
        outcome, standing, asked = PROMOTED, earlier[0], [Gate(**gate) for gate in earlier[0].gates]
    else:
        asked = evaluate_gates(store, found_run, present[0] if present else None, config)
        outcome, standing = consider(store, candidate, asked, present)
    if claim is not None:
        complete(store, name, claim, outcome)
    manifest = StageManifest(
        stage="promote",
        run_id=run_id,
        key=key,
        config=settings,
        parents=digests,
        code_version=code_version("promote"),
        objects={},
        facts={
            "outcome": outcome,
            "gates": [asdict(gate) for gate in asked],
            "champion": standing.number if standing else 0,
            "champion_run_id": standing.run_id if standing else "",
        },
        metrics={
            "promoted": float(outcome == PROMOTED),
            "gates_held": float(sum(gate.passed for gate in asked)),
            "gates_asked": float(len(asked)),
        },
    )
    return Published(*publish(store, uri, manifest, {}), outputs={"outcome": outcome})


def evaluate_gates(store: Store, candidate: Candidate, champion: Champion | None, config: PromoteConfig) -> list[Gate]:
    """Every gate for a candidate; pins an evaluation set to the name first where the settings name one.

    Args:
        store: The store.
        candidate: The candidate.
        champion: The model to beat, or None for the first one.
        config: The limits.

    Raises:
        UntaintError: As ``read_evidence`` and ``pin``.
    """
    if config.holdout:
        pin(store, candidate.record.name, config.holdout, int(candidate.ingest.facts["image_shape"][1]))
    return gates(read_evidence(store, candidate, champion), config)


def consider(
    store: Store, candidate: Champion, asked: list[Gate], present: tuple[Champion, str] | None
) -> tuple[str, Champion | None]:
    """Moves the champion if every gate held.

    Args:
        store: The store.
        candidate: The candidate.
        asked: The gates as they came out against ``present``.
        present: The champion as read before the gates were asked, or None.

    Returns:
        ``promoted`` or ``kept champion``, and the champion that stands now.

    Raises:
        ConflictError: Another promotion was first.
    """
    for gate in asked:
        verdict = "held" if gate.passed else "DID NOT HOLD"
        logger.info("gate %s %s: expected %s; found %s", gate.name, verdict, gate.expected, gate.found)
    if not all(gate.passed for gate in asked):
        logger.info("kept champion: %s", present[0].run_id if present else "none so far, and none now")
        return KEPT_CHAMPION, present[0] if present else None
    standing = move(store, replace(candidate, how="gates", gates=[asdict(gate) for gate in asked]), present)
    logger.info("promoted: champion %d of %s is run %s", standing.number, standing.name, standing.run_id)
    return PROMOTED, standing

"""The claim step: find a drop that nobody has trained or is training, and take it."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import asdict
from typing import Any

from components.claim.algorithm import described, terms_of
from components.claim.config import ClaimConfig
from components.common.contracts.errors import ContractError, DataError
from components.common.contracts.names import checked_run_id
from components.common.retraining.claims import claim_next, require_drops, retake
from components.common.retraining.records import CLAIMED, NOTHING_NEW, Claim, Search
from components.common.runs.artifacts import StageManifest, digest_of, stage_key
from components.common.runs.lifecycle import Published, code_version
from components.common.runs.publish import find_manifest, publish
from components.common.storage.addresses import join
from components.common.storage.store import Store

__all__ = ["run_stage"]

logger = logging.getLogger(__name__)


def run_stage(config: ClaimConfig, store_root: str, run_id: str) -> Published:
    """Runs the step.

    Returns:
        The published claim. With nothing to train, a manifest that says so and is not kept in the store, with an empty
        address: a schedule that looks every few minutes shall not fill the store.

    Raises:
        DataError: There is nothing to train but a drop that is not what its ``_READY.json`` says, or there never was
            a drop below the prefix.
        UntaintError: The settings or the store are not usable.
    """
    checked_run_id(run_id)
    store = Store(store_root)
    uri = join(store_root, "runs", run_id, "claim")
    # With other code the stages would refuse what is there.
    terms = terms_of(config, run_id, digest_of([config.plan, code_version("claim")]) if config.plan else "")
    key = stage_key("claim", config.model_dump(), {}, "")
    found = find_manifest(store, uri)
    if found is not None:
        if found[2].key != key:
            raise ContractError(
                found[0],
                expected="a claim of the same settings",
                found="one of others",
                hint="Start a new run id; a run keeps its claim.",
            )
        # A run that stopped before it trained has given its drop back.
        retake(store, config.name, Claim(**found[2].facts["claim"]))
        logger.info("this run has %s already", found[2].facts["drop_uri"])
        return _handed_on(*found)
    search = claim_next(store, config.drops, terms)
    logger.info("%s", described(search))
    if search.claim is None and search.refused:
        raise DataError(
            f"{len(search.refused)} drops below {config.drops}",
            expected="a drop that is whole",
            found=search.refused[0],
            hint="They are looked at again next time.",
        )
    if search.claim is None and not search.passed:
        require_drops(store, config.drops, config.name)
    manifest = StageManifest(
        stage="claim",
        run_id=run_id,
        key=key,
        config=config.model_dump(),
        parents={},
        code_version=code_version("claim"),
        objects={},
        facts=_facts(config, search, run_id),
        metrics={
            "claimed": float(search.claim is not None),
            "drops_refused": float(len(search.refused)),
            "drops_passed_over": float(sum(search.passed.values())),
        },
    )
    if search.claim is None:
        return _handed_on("", hashlib.sha256(manifest.to_bytes()).hexdigest(), manifest)
    return _handed_on(*publish(store, uri, manifest, {}))


def _handed_on(uri: str, sha256: str, manifest: StageManifest) -> Published:
    facts = manifest.facts
    outputs = {"outcome": facts["outcome"], "dataset": facts["dataset"], "data_run_id": facts["run_id"]}
    return Published(uri, sha256, manifest, outputs=outputs)


def _facts(config: ClaimConfig, search: Search, run_id: str) -> dict[str, Any]:
    claim = search.claim
    return {
        "outcome": CLAIMED if claim else NOTHING_NEW,
        "dataset": f"{config.reader}:{claim.drop_uri}/" if claim else "",
        "drop_uri": claim.drop_uri if claim else "",
        "run_id": claim.data_run_id if claim else run_id,
        "claim": asdict(claim) if claim else {},
        "refused": search.refused[:20],
    }

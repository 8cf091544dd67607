"""Claims on drops: which run trains which drop, so that no two runs train one and none is trained twice.

All that is known of a model name lies below ``<root>/models/<name>/``:

- ``claims/<content digest>.json``: who trains that content or has trained it. It appears by one conditional write and
  changes by compare-and-swap only, so of any number of claimants one wins. It is named by the content, so a drop that
  equals one already done meets that one's claim.
- ``seen/<digest of drop and ETag>``: drops that need not be read again; to lose one costs time and nothing else.

A training keeps its claim as long as it gives signs of life: anything that its stages write below
``<root>/runs/<run_id>/``, which they do at least every minute while they train. A lease without one, by clocks that
agree to within seconds, frees the claim for a takeover with the next epoch. A takeover of the same plan as the training
that died resumes from its data: finished stages are found, and the one that was at work loads its last state.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from dataclasses import replace

from components.common.contracts.errors import ConfigError, ConflictError, DataError
from components.common.retraining.drops import READY_NAME, Drop, check_files, date_of, find_drops, read_ready
from components.common.retraining.records import (
    CLAIMED,
    DONE,
    PROMOTED,
    REOPENED,
    Claim,
    Search,
    Terms,
    drop_digest,
)
from components.common.storage.addresses import join
from components.common.storage.store import Store

__all__ = ["claim_next", "complete", "model_uri", "release", "reopen", "require_drops", "require_held", "retake"]

logger = logging.getLogger(__name__)


def model_uri(root: str, name: str) -> str:
    """Where everything of a model name lies."""
    return join(root, "models", name)


def claim_next(store: Store, drops_uri: str, terms: Terms) -> Search:
    """Claims the oldest drop that is ready, whole, not trained and not being trained.

    Asking again with the same holder gives the same claim, so a step that is started anew goes on with its drop.

    Args:
        store: The store at the root of the run data.
        drops_uri: Prefix with one folder per drop, or a drop itself.
        terms: Model name, run id, lease and dates.

    Raises:
        ConfigError: Not an S3 URI.
        ContractError: A claim is not readable.
        StorageError: The store cannot answer.
    """
    base = model_uri(store.root, terms.name)
    seen = {info.uri.rpartition("/")[2] for info in store.list(f"{base}/seen/")}
    refused: list[str] = []
    passed: Counter[str] = Counter()
    for drop in find_drops(store, drops_uri):
        if not _in_range(drop, terms):
            passed["outside of the dates"] += 1
        elif _mark(drop.uri, drop.ready_etag) in seen:
            passed["done"] += 1
        else:
            try:
                claim, reason = _try(store, base, drop, terms)
            except DataError as problem:
                logger.info("drop %s is refused: %s", drop.uri, problem)
                refused.append(str(problem))
                continue
            if claim is not None:
                return Search(claim=claim, refused=refused, passed=dict(passed))
            passed[reason] += 1
    return Search(claim=None, refused=refused, passed=dict(passed))


def require_held(store: Store, name: str, claim: Claim) -> str:
    """Checks that a claim still is this run's, and gives its ETag.

    Raises:
        ConflictError: Another run took the drop over, or the claim is gone.
    """
    uri = _claim_uri(model_uri(store.root, name), claim.content)
    found = store.find(uri)
    standing = Claim.from_bytes(found[0], uri) if found else None
    if found is None or standing is None or (standing.holder, standing.epoch) != (claim.holder, claim.epoch):
        raise ConflictError(
            uri,
            expected=f"the claim of run {claim.holder}, epoch {claim.epoch}",
            found=f"that of run {standing.holder}, epoch {standing.epoch}" if standing else "none",
            hint="This run was silent for longer than its lease and lost the drop; its result is not used. "
            "Give longer leases with `--set claim.lease_seconds=…` if trainings are slow.",
        )
    return found[1]


def complete(store: Store, name: str, claim: Claim, outcome: str) -> None:
    """Notes that a drop has been trained, so that its content never is again under this model name.

    Harmless when repeated.

    Raises:
        ConflictError: Another run took the drop over.
    """
    base = model_uri(store.root, name)
    etag = require_held(store, name, claim)
    uri = _claim_uri(base, claim.content)
    store.put_if_match(uri, replace(claim, state=DONE, outcome=outcome).to_bytes(), etag)
    _note_seen(store, base, claim.drop_uri, claim.ready_etag)


def release(store: Store, name: str, claim: Claim) -> bool:
    """Gives a claim back that nothing was trained for.

    Returns:
        Whether it was this run's to give.
    """
    try:
        require_held(store, name, claim)
    except ConflictError:
        return False
    uri = _claim_uri(model_uri(store.root, name), claim.content)
    # No store of ours deletes on a condition. Between the two lines only a lease that ran out could change hands.
    store.delete(uri)
    return True


def retake(store: Store, name: str, claim: Claim) -> None:
    """Takes a claim back that this run gave up before it trained.

    Raises:
        ConflictError: Another run has taken the drop meanwhile.
    """
    store.put_if_absent(_claim_uri(model_uri(store.root, name), claim.content), claim.to_bytes())
    require_held(store, name, claim)


def require_drops(store: Store, drops_uri: str, name: str) -> None:
    """Checks that a prefix has, or had, a drop at all: where there never was one, its address is likely wrong.

    Raises:
        DataError: No ``_READY.json`` right below it, and no claim that was ever made on a drop there.
    """
    prefix = f"{drops_uri.rstrip('/')}/"
    if find_drops(store, drops_uri):
        return
    for info in store.list(f"{model_uri(store.root, name)}/claims/"):
        found = store.find(info.uri)
        if found is not None and f"{Claim.from_bytes(found[0], info.uri).drop_uri}/".startswith(prefix):
            return
    raise DataError(
        f"drops below {prefix}",
        expected=f"a folder with a {READY_NAME}, now or ever",
        found="none",
        hint=f"Check --drops. `untaint deliver FOLDER {prefix}NAME` makes a first one.",
    )


def reopen(store: Store, name: str, drop_uri: str) -> Claim:
    """Lets a drop be trained once more whose model the gates kept out, or whose trainings died.

    Args:
        store: The store at the root of the run data.
        name: Model name.
        drop_uri: ``s3://…`` of the drop.

    Returns:
        The claim as it stood.

    Raises:
        ConfigError: No such drop, it was never claimed, it is being trained, or its model was promoted.
        ConflictError: Another run was first.
        DataError: The drop's ``_READY.json`` cannot be read.
        StorageError: The store cannot serve.
    """
    uri = drop_uri.rstrip("/")
    drop = next((each for each in find_drops(store, uri) if each.uri == uri), None)
    if drop is None:
        raise _not_reopened(uri, "a drop with its _READY.json", "none", "Check the address.")
    base = model_uri(store.root, name)
    content = drop_digest(read_ready(store, drop))
    found = store.find(_claim_uri(base, content))
    if found is None:
        raise _not_reopened(uri, f"a drop that was trained for model {name}", "one that never was", "Check --name.")
    standing = Claim.from_bytes(found[0], _claim_uri(base, content))
    if standing.state == DONE and standing.outcome == PROMOTED:
        hint = f"`untaint models list {name}` shows what became of it; `untaint models rollback {name}` takes it back."
        raise _not_reopened(uri, "a drop whose model was not promoted", f"promoted, run {standing.holder}", hint)
    if standing.state == CLAIMED and time.time() < _last_sign(store, standing) + standing.lease_seconds:
        hint = f"Wait for the run, or for its lease of {standing.lease_seconds:.0f} s without a sign of life."
        raise _not_reopened(uri, "a drop that nobody trains", f"run {standing.holder} at work", hint)
    freed = replace(standing, state=REOPENED, outcome="", drop_uri=uri, ready_etag=drop.ready_etag, epoch=0)
    store.put_if_match(_claim_uri(base, content), freed.to_bytes(), found[1])
    store.delete(join(base, "seen", _mark(uri, drop.ready_etag)))
    return standing


def _not_reopened(uri: str, expected: str, found: str, hint: str) -> ConfigError:
    return ConfigError(f"drop {uri}", expected=expected, found=found, hint=hint)


def _try(store: Store, base: str, drop: Drop, terms: Terms) -> tuple[Claim | None, str]:
    """A claim on that drop, or why there is none."""
    files = read_ready(store, drop)
    content = drop_digest(files)
    uri = _claim_uri(base, content)
    wanted = Claim(
        content=content,
        drop_uri=drop.uri,
        ready_etag=drop.ready_etag,
        holder=terms.holder,
        epoch=1,
        since=round(time.time(), 3),
        lease_seconds=terms.lease_seconds,
        plan=terms.plan,
    )
    found = store.find(uri)
    if found is None:
        check_files(store, drop, files)
        return (wanted, CLAIMED) if store.put_if_absent(uri, wanted.to_bytes()) else (None, "being trained")
    standing = Claim.from_bytes(found[0], uri)
    if standing.state == DONE:
        if standing.drop_uri != drop.uri:
            logger.info("drop %s has the content of %s, which is done", drop.uri, standing.drop_uri)
        _note_seen(store, base, drop.uri, drop.ready_etag)
        return None, "done"
    if standing.state != REOPENED and standing.holder == terms.holder:
        return standing, CLAIMED
    if standing.state != REOPENED and time.time() < _last_sign(store, standing) + standing.lease_seconds:
        return None, "being trained"
    if standing.state != REOPENED and standing.epoch >= terms.attempts:
        logger.info("drop %s is left alone: %d trainings of it died; delete %s to try", drop.uri, standing.epoch, uri)
        return None, "given up"
    check_files(store, drop, files)
    # What was given back is trained anew: its finished stages are what was refused.
    same = standing.state == CLAIMED and bool(terms.plan) and standing.plan == terms.plan
    wanted = replace(wanted, epoch=standing.epoch + 1, run_id=standing.data_run_id if same else "")
    try:
        store.put_if_match(uri, wanted.to_bytes(), found[1])
    except ConflictError:
        return None, "being trained"
    why = "which went silent" if standing.state == CLAIMED else "whose model was not promoted"
    logger.info("took drop %s over from run %s, %s", drop.uri, standing.holder, why)
    if same:
        logger.info("resuming from the data of run %s", wanted.run_id)
    return wanted, CLAIMED


def _last_sign(store: Store, claim: Claim) -> float:
    """When a training was last seen at work, seconds since 1970."""
    latest = claim.since
    # Only a claim that looks expired is worth a listing.
    if time.time() >= latest + claim.lease_seconds:
        for info in store.list(f"{join(store.root, 'runs', claim.data_run_id)}/"):
            latest = max(latest, info.last_modified.timestamp())
    return latest


def _in_range(drop: Drop, terms: Terms) -> bool:
    if terms.since is None and terms.until is None:
        return True
    day = date_of(drop.name)
    return day is not None and (terms.since or day) <= day <= (terms.until or day)


def _claim_uri(base: str, content: str) -> str:
    return join(base, "claims", f"{content}.json")


def _mark(drop_uri: str, ready_etag: str) -> str:
    return hashlib.sha256(f"{drop_uri}\n{ready_etag}".encode()).hexdigest()[:32]


def _note_seen(store: Store, base: str, drop_uri: str, ready_etag: str) -> None:
    store.put(join(base, "seen", _mark(drop_uri, ready_etag)), b"")

"""Freeing space: what something needs stays, what is listed is what goes, half a deletion breaks no stage."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from components.common.contracts.errors import ConfigError
from components.common.retraining.champions import champion_of, move
from components.common.retraining.claims import model_uri
from components.common.retraining.records import CLAIMED, DONE, REOPENED, Champion, Claim
from components.common.retraining.space import QUIET_SECONDS, delete_run, find_garbage, free
from components.common.runs.artifacts import StageManifest
from components.common.runs.inventory import inventory, objects_of
from components.common.runs.publish import LocalObject, publish
from components.common.storage.addresses import join
from components.common.storage.store import Store

LATER = datetime.now(UTC) + timedelta(days=40)


def stage(store: Store, run_id: str, name: str) -> tuple[str, str]:
    draft = StageManifest(
        stage=name, run_id=run_id, key=f"{run_id}/{name}", config={}, parents={}, code_version="c", objects={}
    )
    files = {"thing": LocalObject(suffix=".bin", kind="document", data=f"{run_id} {name}".encode() * 50)}
    uri, sha256, _ = publish(store, join(store.root, "runs", run_id, name), draft, files)
    return uri, sha256


def finished(store: Store, run_id: str) -> None:
    for name in ("ingest", "finetune", "evaluate"):
        stage(store, run_id, name)


def make_champion(store: Store, run_id: str, name: str = "pets") -> None:
    uri = join(store.root, "runs", run_id, "evaluate", "manifest.json")
    values = dict.fromkeys((f for f in Champion.__dataclass_fields__), "")
    values |= {"name": name, "number": 0, "run_id": run_id, "evaluation_uri": uri, "gates": []}
    values |= {"acc": 0.9, "suspect_share": 0.0, "model_bytes": 1}
    move(store, Champion(**values), champion_of(store, name))  # type: ignore[arg-type]


def claim(store: Store, run_id: str, state: str, data: str = "") -> None:
    held = Claim(
        content=run_id,
        drop_uri="s3://d/x",
        ready_etag="e",
        holder=run_id,
        epoch=1,
        since=time.time(),
        lease_seconds=1.0,
        state=state,
        run_id=data,
    )
    store.put(join(model_uri(store.root, "pets"), "claims", f"{run_id}.json"), held.to_bytes())


def test_only_old_runs_that_nothing_needs_are_garbage(store: Store) -> None:
    for run_id in ("idle", "former", "present", "claimed", "data", "trained", "again"):
        finished(store, run_id)
    stage(store, "unfinished", "ingest")
    make_champion(store, "former")
    make_champion(store, "present")
    claim(store, "claimed", CLAIMED, data="data")
    claim(store, "trained", DONE)
    claim(store, "again", REOPENED)
    assert find_garbage(store) == []
    assert find_garbage(store, older_than_days=30) == []
    found = find_garbage(store, older_than_days=30, now=LATER)
    assert [one.run_id for one in found] == ["again", "idle", "trained", "unfinished"]
    sizes = {run_id: run.size_bytes for run_id, run in inventory(store).items()}
    assert sum(free(store, one, LATER) for one in found) == sum(sizes[one.run_id] for one in found)
    assert set(inventory(store)) == {"former", "present", "claimed", "data"}


def test_a_run_at_work_is_never_garbage_however_short_the_age(store: Store) -> None:
    stage(store, "working", "ingest")
    finished(store, "done")
    assert [one.run_id for one in find_garbage(store, older_than_days=0)] == ["done"]


def test_a_run_that_has_come_to_be_needed_after_the_listing_stays(store: Store) -> None:
    finished(store, "late")
    (found,) = find_garbage(store, older_than_days=0)
    make_champion(store, "late")
    assert free(store, found) == 0
    assert objects_of(store, "late") is not None


def test_what_complete_stages_left_over_is_garbage_and_what_they_published_is_not(store: Store) -> None:
    finished(store, "one")
    before = {info.uri for info in store.list(store.root)}
    orphan = join(store.root, "runs", "one", "finetune", "thing.0000000000000000.bin")
    state = join(store.root, "runs", "one", "finetune", "partial", "k.state")
    halfway = join(store.root, "runs", "one", "promote", "thing.0.bin")
    for uri in (orphan, state, halfway):
        store.put(uri, b"left")
    # Fresh ones may be those of an attempt at work.
    assert find_garbage(store) == []
    (found,) = find_garbage(store, now=datetime.now(UTC) + timedelta(seconds=2 * QUIET_SECONDS))
    assert {info.uri for info in found.objects} == {orphan, state}
    assert not found.whole
    assert free(store, found) == 8
    assert {info.uri for info in store.list(store.root)} == before | {halfway}


@pytest.mark.parametrize(
    ("need", "words"),
    [
        ("champion", "champion of pets"),
        ("former", "rollback"),
        ("claimed", "drop is claimed"),
        ("working", "last hour"),
    ],
)
def test_a_needed_run_is_not_deleted_and_the_message_says_why(store: Store, need: str, words: str) -> None:
    if need == "working":
        stage(store, "run", "ingest")
    else:
        finished(store, "run")
    if need in ("champion", "former"):
        make_champion(store, "run")
    if need == "former":
        finished(store, "other")
        make_champion(store, "other")
    if need == "claimed":
        claim(store, "run", CLAIMED)
    with pytest.raises(ConfigError, match=words):
        delete_run(store, "run")
    assert objects_of(store, "run") is not None
    if need == "former":
        assert delete_run(store, "run", force=True) > 0
    elif need != "working":
        with pytest.raises(ConfigError):
            delete_run(store, "run", force=True)


def test_a_deleted_run_is_gone_and_the_others_are_not(store: Store) -> None:
    finished(store, "run")
    finished(store, "run2")
    size = inventory(store)["run"].size_bytes
    assert delete_run(store, "run") == size
    assert set(inventory(store)) == {"run2"}
    assert delete_run(store, "run") == 0


def test_manifests_go_first_so_that_half_a_deletion_leaves_no_broken_stage(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(store, "run")
    deleted: list[str] = []

    def stops_early(self: Store, uri: str) -> None:
        if len(deleted) == 3:
            raise KeyboardInterrupt
        deleted.append(uri)
        Store_delete(self, uri)

    Store_delete = Store.delete
    monkeypatch.setattr(Store, "delete", stops_early)
    with pytest.raises(KeyboardInterrupt):
        delete_run(store, "run")
    run = objects_of(store, "run")
    assert run is not None
    assert run.manifests == {}

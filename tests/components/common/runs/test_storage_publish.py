"""Publishing: atomic, content-addressed, resumable."""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from components.common.contracts.errors import ContractError
from components.common.runs.artifacts import StageManifest
from components.common.runs.publish import (
    LocalObject,
    drop_partial,
    find_manifest,
    load_partial,
    publish,
    read_manifest,
    save_partial,
)
from components.common.storage.addresses import join
from components.common.storage.store import Store

REPOSITORY = Path(__file__).parents[4]
KEY = "ab" * 32
RACERS = 16
RACE = """
import json, multiprocessing, sys
from components.common.runs.artifacts import StageManifest
from components.common.contracts.errors import ContractError
from components.common.runs.publish import LocalObject, publish
from components.common.storage.store import Store
import boto3

def run(number, root, barrier, results):
    store = Store(root)
    store.exists(root + "/warm")
    for race in ("same", "other"):
        key = "k" if race == "same" else f"k{number}"
        draft = StageManifest(stage="split", run_id="r", key=key, config={}, parents={}, code_version="1", objects={},
                              seconds={"total": float(number)})
        barrier.wait()
        try:
            data = {"t": LocalObject(suffix=".bin", kind="array", data=b"d")}
            _, sha256, manifest = publish(store, root + "/" + race, draft, data)
            results.put((race, number, sha256, manifest.seconds["total"]))
        except ContractError:
            results.put((race, number, "refused", -1.0))

racers, root = int(sys.argv[1]), sys.argv[2]
context = multiprocessing.get_context("fork")
barrier, results = context.Barrier(racers), context.Queue()
children = [context.Process(target=run, args=(n, root, barrier, results)) for n in range(racers)]
for child in children: child.start()
found = [results.get(timeout=60) for _ in range(2 * racers)]
for child in children: child.join()
sys.stdout.write(json.dumps(found))
"""


@pytest.fixture
def draft() -> StageManifest:
    return StageManifest(
        stage="split", run_id="run-1", key=KEY, config={}, parents={}, code_version="1", objects={}, facts={"n": 1}
    )


def test_of_sixteen_processes_one_publishes_and_the_others_adopt_it_or_are_refused(store: Store):
    answer = subprocess.run(
        [sys.executable, "-c", RACE, str(RACERS), store.root], capture_output=True, check=True, cwd=REPOSITORY
    )
    found = json.loads(answer.stdout)
    same = [rest for race, *rest in found if race == "same"]
    other = [rest for race, *rest in found if race == "other"]

    standing = store.get(join(store.root, "same/manifest.json"))
    winner = StageManifest.from_bytes(standing, "same").seconds["total"]
    assert len(same) == RACERS
    assert {(sha256, total) for _, sha256, total in same} == {(hashlib.sha256(standing).hexdigest(), winner)}

    winners = [(number, total) for number, sha256, total in other if sha256 != "refused"]
    assert len(other) == RACERS
    assert len(winners) == 1
    assert winners[0][0] == winners[0][1]


def test_files_and_bytes_are_published_with_their_digests(store: Store, draft: StageManifest, tmp_path: Path):
    path = tmp_path / "table"
    path.write_bytes(b"rows")
    files = {
        "split": LocalObject(suffix=".parquet", kind="table", path=path, rows=4),
        "report": LocalObject(suffix=".json", kind="document", data=b"{}"),
    }
    assert find_manifest(store, store.root) is None
    uri, sha256, manifest = publish(store, store.root, draft, files)
    assert read_manifest(store, uri, sha256) == manifest
    assert find_manifest(store, store.root) == (uri, sha256, manifest)
    assert manifest == replace(draft, objects=manifest.objects)
    ref = manifest.objects["split"]
    digest = hashlib.sha256(b"rows").hexdigest()
    assert ref.uri == f"{store.root}/split.{digest[:16]}.parquet"
    assert (ref.sha256, ref.size_bytes, ref.kind, ref.rows) == (digest, 4, "table", 4)
    for name, data in (("split", b"rows"), ("report", b"{}")):
        assert store.get(manifest.objects[name].uri, manifest.objects[name].sha256) == data


def test_an_attempt_that_died_before_its_manifest_left_nothing_to_see_and_its_data_serve_again(
    store: Store, draft: StageManifest
):
    local = LocalObject(suffix=".bin", kind="array", data=b"data")
    uri = f"{store.root}/a.{hashlib.sha256(b'data').hexdigest()[:16]}.bin"
    store.put(uri, b"data")
    before = store.head(uri)
    assert find_manifest(store, store.root) is None
    publish(store, store.root, draft, {"a": local})
    assert store.head(uri) == before


def test_a_truncated_object_under_the_same_name_is_replaced(store: Store, draft: StageManifest):
    uri = f"{store.root}/a.{hashlib.sha256(b'data').hexdigest()[:16]}.bin"
    store.put(uri, b"dat")
    publish(store, store.root, draft, {"a": LocalObject(suffix=".bin", kind="array", data=b"data")})
    assert store.get(uri) == b"data"


def test_other_work_under_the_same_run_id_is_refused(store: Store, draft: StageManifest):
    uri, sha256, first = publish(store, store.root, draft, {})
    again = replace(draft, seconds={"total": 2.0})
    assert publish(store, store.root, again, {}) == (uri, sha256, first)
    with pytest.raises(ContractError, match=r"'run-1' already holds another result of stage split: choose another"):
        publish(store, store.root, replace(draft, key="cd" * 32), {})


def test_a_manifest_that_changed_after_its_digest_was_passed_on_is_refused(store: Store, draft: StageManifest):
    uri, sha256, _ = publish(store, store.root, draft, {})
    store.put(uri, store.get(uri).replace(b"run-1", b"run-2"))
    with pytest.raises(ContractError, match="sha256"):
        read_manifest(store, uri, sha256)


def test_an_object_name_cannot_be_published_twice(store: Store, draft: StageManifest):
    local = LocalObject(suffix=".bin", kind="array", data=b"data")
    _, _, manifest = publish(store, store.root, draft, {"a": local})
    with pytest.raises(ContractError, match="a name of its own"):
        publish(store, store.root, manifest, {"a": local})


def test_a_local_object_is_a_file_or_bytes(tmp_path: Path):
    for given in ({}, {"path": tmp_path, "data": b""}):
        with pytest.raises(ValueError, match="either"):
            LocalObject(suffix="", kind="table", **given)


def test_partial_state_comes_back_for_the_same_work_only(store: Store):
    assert load_partial(store, store.root, KEY) is None
    save_partial(store, store.root, KEY, b"one")
    save_partial(store, store.root, KEY, b"two")
    assert load_partial(store, store.root, KEY) == b"two"
    assert load_partial(store, store.root, "cd" * 32) is None
    # The same first characters, hence the same object, but other work.
    assert load_partial(store, store.root, KEY[:16] + "0" * 48) is None
    drop_partial(store, store.root, KEY)
    drop_partial(store, store.root, KEY)
    assert load_partial(store, store.root, KEY) is None


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: d[:10], lambda d: b"", lambda d: d[:-1] + b"X"])
def test_torn_partial_state_counts_as_absent_and_is_logged(store: Store, damage, caplog: pytest.LogCaptureFixture):
    save_partial(store, store.root, KEY, b"state of the optimiser")
    uri = join(store.root, "partial", f"{KEY[:16]}.state")
    store.put(uri, damage(store.get(uri)))
    with caplog.at_level(logging.WARNING):
        assert load_partial(store, store.root, KEY) is None
    assert uri in caplog.text

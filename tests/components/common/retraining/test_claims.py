"""Drops and claims on the real store: what counts as a drop, and that one claimant gets it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.claim.algorithm import described, terms_of
from components.claim.config import ClaimConfig
from components.claim.stage import run_stage
from components.common.contracts.errors import ConfigError, ConflictError, ContractError, DataError
from components.common.retraining.claims import claim_next, complete, release, require_held
from components.common.retraining.drops import date_of, deliver, find_drops
from components.common.retraining.records import Claim, Search, Terms
from components.common.storage.store import Store

REPOSITORY = Path(__file__).parents[4]
CLAIMANTS = 32
RACE = """
import multiprocessing, sys
from components.common.retraining.records import Terms
from components.common.retraining.claims import claim_next
from components.common.storage.store import Store
import boto3

def run(number, root, lease, barrier, results):
    store = Store(root)
    store.exists(root + "/warm")
    barrier.wait()
    found = claim_next(store, root + "/drops", Terms(name="m", holder=f"r{number}", lease_seconds=lease))
    results.put((number, found.claim.epoch if found.claim else 0, dict(found.passed)))

claimants, root, lease = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
context = multiprocessing.get_context("fork")
barrier, results = context.Barrier(claimants), context.Queue()
children = [context.Process(target=run, args=(n, root, lease, barrier, results)) for n in range(claimants)]
for child in children: child.start()
found = [results.get(timeout=90) for _ in children]
for child in children: child.join()
print(found)
"""


def put_drop(store: Store, name: str, files: dict[str, bytes], /, **ready: Any) -> str:
    """A drop as its producer uploads it; ``ready`` overrides what ``_READY.json`` says."""
    uri = f"{store.root}/drops/{name}"
    for key, data in files.items():
        store.put(f"{uri}/{key}", data)
    entries = [
        {"key": key, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for key, data in files.items()
    ]
    store.put(f"{uri}/_READY.json", json.dumps({"version": 1, "files": entries, **ready}).encode())
    return uri


def claim(store: Store, holder: str = "run-1", **terms: Any) -> Search:
    given = {"name": "m", "lease_seconds": 600.0, **terms}
    return claim_next(store, f"{store.root}/drops", Terms(holder=holder, **given))


def let_expire(store: Store, held: Claim) -> None:
    """Makes a claim two days old, and its run one that has written nothing."""
    uri = f"{store.root}/models/m/claims/{held.content}.json"
    store.put(uri, replace(held, since=held.since - 2 * 86400).to_bytes())
    for info in list(store.list(f"{store.root}/runs/{held.data_run_id}/")):
        store.delete(info.uri)


def race(store: Store, lease: float) -> list[tuple[int, int, dict[str, int]]]:
    done = subprocess.run(
        [sys.executable, "-c", RACE, str(CLAIMANTS), store.root, str(lease)],
        capture_output=True, text=True, check=True, timeout=120, cwd=REPOSITORY,
    )  # fmt: skip
    found: list[tuple[int, int, dict[str, int]]] = eval(done.stdout)  # noqa: S307 - our own output
    return found


def test_of_32_processes_that_claim_at_once_one_wins(store: Store) -> None:
    put_drop(store, "2026-11-20", {"cat/1.png": b"one"})
    found = race(store, 600)
    assert [epoch for _, epoch, _ in found if epoch] == [1]
    assert sum(passed.get("being trained", 0) for _, _, passed in found) == CLAIMANTS - 1


def test_of_32_processes_that_take_an_expired_claim_over_one_wins(store: Store) -> None:
    put_drop(store, "2026-11-20", {"cat/1.png": b"one"})
    claim(store, "dead", lease_seconds=1.0)
    time.sleep(1.1)
    assert [epoch for _, epoch, _ in race(store, 600) if epoch] == [2]


def test_without_ready_a_drop_is_invisible(store: Store) -> None:
    store.put(f"{store.root}/drops/2026-11-20/cat/1.png", b"one")
    assert find_drops(store, f"{store.root}/drops") == []
    found = claim(store)
    assert (found.claim, found.refused, found.passed) == (None, [], {})


def test_the_oldest_drop_comes_first_by_the_date_in_its_name(store: Store) -> None:
    for name in ("2026-11-21", "batch-20261119", "2026-11-20"):
        put_drop(store, name, {"a.png": name.encode()})
    assert [drop.name for drop in find_drops(store, f"{store.root}/drops")] == [
        "batch-20261119",
        "2026-11-20",
        "2026-11-21",
    ]


def test_a_prefix_that_is_a_drop_itself_is_found(store: Store) -> None:
    uri = put_drop(store, "2026-11-20", {"cat/1.png": b"one"})
    assert [drop.uri for drop in find_drops(store, f"{uri}/")] == [uri]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("2026-11-20", "2026-11-20"), ("b-20261120-x", "2026-11-20"), ("2026-13-40", None), ("v120261120", None)],
)
def test_the_date_of_a_name(name: str, expected: str | None) -> None:
    found = date_of(name)
    assert (found.isoformat() if found else None) == expected


@pytest.mark.parametrize(
    ("ready", "told"),
    [
        ({"files": [{"key": "cat/1.png", "size": 3, "sha256": "a" * 64}, {"key": "b", "size": 1, "sha256": "b" * 64}]},
         "b is missing"),
        ({"files": [{"key": "cat/1.png", "size": 4, "sha256": "a" * 64}]}, "has 3 bytes and not 4"),
        ({"files": [{"key": "other.png", "size": 3, "sha256": "a" * 64}]}, "cat/1.png is not declared"),
        ({"files": [{"key": "../up.png", "size": 3, "sha256": "a" * 64}]}, "without '..'"),
        ({"files": [{"key": "/etc/x", "size": 3, "sha256": "a" * 64}]}, "without '..'"),
        ({"files": [{"key": "a\x00b", "size": 3, "sha256": "a" * 64}]}, "without '..'"),
        ({"files": [{"key": "cat/1.png", "size": -3, "sha256": "a" * 64}]}, "a size in bytes"),
        ({"files": [{"key": "cat/1.png", "size": True, "sha256": "a" * 64}]}, "a size in bytes"),
        ({"files": [{"key": "cat/1.png", "size": 3, "sha256": "xyz"}]}, "64 hex digits"),
        ({"files": [{"key": "cat/1.png", "size": 3}]}, "key, size and sha256"),
        ({"files": []}, "at least one file"),
        ({"files": [{"key": "cat/1.png", "size": 3, "sha256": "a" * 64}] * 2}, "twice"),
        ({"files": "cat"}, "a list 'files'"),
        ({"version": 9}, "version 1"),
        ({"manifest": {"key": "_files.jsonl", "size": 3, "sha256": "a" * 64}}, "its manifest"),
    ],
)  # fmt: skip
def test_a_ready_file_that_is_not_true_is_refused_and_left(store: Store, ready: dict[str, Any], told: str) -> None:
    uri = put_drop(store, "2026-11-20", {"cat/1.png": b"one"}, **ready)
    found = claim(store)
    assert found.claim is None
    (message,) = found.refused
    assert told in message
    assert uri in message
    put_drop(store, "2026-11-20", {"cat/1.png": b"one"})
    assert claim(store).claim is not None


def test_a_torn_ready_file_is_refused_and_another_drop_is_taken(store: Store) -> None:
    torn = put_drop(store, "2026-11-19", {"cat/1.png": b"one"})
    store.put(f"{torn}/_READY.json", b'{"version": 1, "files": [{"key": "cat')
    whole = put_drop(store, "2026-11-20", {"cat/1.png": b"two"})
    found = claim(store)
    assert found.claim is not None
    assert found.claim.drop_uri == whole
    assert "JSON" in found.refused[0]


def test_a_manifest_says_the_same_as_a_list(store: Store) -> None:
    files = {"cat/1.png": b"one", "dog/2.png": b"two"}
    put_drop(store, "2026-11-19", files)
    first = claim(store).claim
    assert first is not None
    complete(store, "m", first, "promoted")
    lines = b"\n".join(
        json.dumps({"key": k, "size": len(d), "sha256": hashlib.sha256(d).hexdigest()}).encode()
        for k, d in reversed(files.items())
    )
    uri = f"{store.root}/drops/2026-11-20"
    for key, data in {**files, "_files.jsonl": lines}.items():
        store.put(f"{uri}/{key}", data)
    entry = {"key": "_files.jsonl", "size": len(lines), "sha256": hashlib.sha256(lines).hexdigest()}
    store.put(f"{uri}/_READY.json", json.dumps({"version": 1, "manifest": entry}).encode())
    found = claim(store, "run-2")
    assert (found.claim, found.refused, found.passed) == (None, [], {"done": 2})
    store.put(f"{uri}/_files.jsonl", lines.replace(b"cat/1", b"cat/9"))
    store.put(f"{uri}/_READY.json", json.dumps({"version": 1, "manifest": {**entry}}, indent=1).encode())
    assert "bytes of another" in claim(store, "run-2").refused[0]


def test_a_drop_with_the_content_of_one_that_is_done_is_not_trained_again(store: Store) -> None:
    put_drop(store, "2026-11-19", {"cat/1.png": b"one"})
    first = claim(store).claim
    assert first is not None
    complete(store, "m", first, "kept champion")
    put_drop(store, "2026-11-20", {"cat/1.png": b"one"})
    for _ in range(2):
        assert claim(store, "run-2").passed == {"done": 2}
    assert claim(store, "run-2", name="another-model").claim is not None


def test_a_drop_that_its_producer_declares_anew_with_new_files_is_new(store: Store) -> None:
    put_drop(store, "2026-11-20", {"cat/1.png": b"one"})
    first = claim(store).claim
    assert first is not None
    complete(store, "m", first, "promoted")
    put_drop(store, "2026-11-20", {"cat/1.png": b"one", "cat/2.png": b"two"})
    assert claim(store, "run-2").claim is not None


def test_a_run_that_asks_again_keeps_its_claim(store: Store) -> None:
    put_drop(store, "2026-11-20", {"cat/1.png": b"one"})
    assert claim(store).claim == claim(store).claim


def test_a_dead_training_frees_its_drop_after_the_lease_and_has_lost_it(store: Store) -> None:
    put_drop(store, "2026-11-20", {"cat/1.png": b"one"})
    dead = claim(store, "dead", lease_seconds=1.0).claim
    assert dead is not None
    assert claim(store, "eager").passed == {"being trained": 1}
    time.sleep(1.1)
    heir = claim(store, "heir").claim
    assert heir is not None
    assert (heir.holder, heir.epoch) == ("heir", 2)
    with pytest.raises(ConflictError, match="run heir, epoch 2"):
        complete(store, "m", dead, "promoted")
    complete(store, "m", heir, "promoted")
    assert claim(store, "late").passed == {"done": 1}


@pytest.mark.parametrize(("plan", "resumes"), [("a", True), ("b", False), ("", False)])
def test_a_takeover_of_the_same_plan_resumes_from_the_data_of_the_dead_run(
    store: Store, plan: str, resumes: bool
) -> None:
    put_drop(store, "2026-11-20", {"cat/1.png": b"one"})
    dead = claim(store, "dead", plan="a" if plan else "").claim
    assert dead is not None
    assert dead.data_run_id == "dead"
    let_expire(store, dead)
    heir = claim(store, "heir", plan=plan).claim
    assert heir is not None
    assert (heir.holder, heir.epoch, heir.data_run_id) == ("heir", 2, "dead" if resumes else "heir")
    with pytest.raises(ConflictError, match="run heir, epoch 2"):
        require_held(store, "m", dead)
    # A third run resumes from the same.
    let_expire(store, heir)
    third = claim(store, "third", plan=plan).claim
    assert third is not None
    # Signs of life are where the data are.
    let_expire(store, third)
    store.put(f"{store.root}/runs/{third.data_run_id}/warmup/partial/x.state", b"at work")
    assert claim(store, "eager", plan=plan).passed == {"being trained": 1}
    assert third.data_run_id == (heir.data_run_id if plan else "third")


def test_the_claim_gives_out_the_run_whose_data_are_resumed_from(store: Store) -> None:
    put_drop(store, "2026-11-20", {"cat/1.png": b"one"})
    config = ClaimConfig(name="m", drops=f"{store.root}/drops", plan="p")
    first = run_stage(config, store.root, "run-1").manifest.facts
    assert first["run_id"] == "run-1"
    let_expire(store, Claim(**first["claim"]))
    second = run_stage(config, store.root, "run-2")
    assert second.outputs["data_run_id"] == "run-1"
    # The claim itself stays with the run that holds it, so that its step, tried again, finds it.
    assert run_stage(config, store.root, "run-2").sha256 == second.sha256
    assert "/runs/run-2/claim/" in second.uri
    idle = run_stage(config, store.root, "run-3")
    assert (idle.manifest.facts["outcome"], idle.manifest.facts["run_id"]) == ("nothing new", "run-3")


def test_a_claim_of_an_earlier_version_is_still_read() -> None:
    old = {
        "content": "c", "drop_uri": "s3://b/d", "ready_etag": "e", "holder": "run-1", "epoch": 1, "since": 1.0,
        "lease_seconds": 1.0, "state": "claimed", "outcome": "", "version": 1,
    }  # fmt: skip
    assert Claim.from_bytes(json.dumps(old).encode(), "s3://b/c").data_run_id == "run-1"
    with pytest.raises(ContractError):
        Claim.from_bytes(json.dumps({**old, "epoch_": 1}).encode(), "s3://b/c")


def test_a_sign_of_life_keeps_the_claim(store: Store) -> None:
    put_drop(store, "2026-11-20", {"cat/1.png": b"one"})
    slow = claim(store, "slow", lease_seconds=3.0).claim
    assert slow is not None
    time.sleep(2.5)
    store.put(f"{store.root}/runs/slow/warmup/partial/x.state", b"at work")
    time.sleep(1.0)
    assert claim(store, "eager").passed == {"being trained": 1}
    require_held(store, "m", slow)


def test_a_drop_whose_trainings_die_is_left_alone_in_the_end(store: Store) -> None:
    put_drop(store, "2026-11-20", {"cat/1.png": b"one"})
    for attempt in (1, 2):
        found = claim(store, f"dies-{attempt}", lease_seconds=1.0, attempts=2).claim
        assert found is not None
        assert found.epoch == attempt
        time.sleep(1.1)
    assert claim(store, "third", attempts=2).passed == {"given up": 1}


def test_dates_choose_the_drops(store: Store) -> None:
    for name in ("2026-11-18", "2026-11-20", "undated"):
        put_drop(store, name, {"a.png": name.encode()})
    terms = terms_of(ClaimConfig(name="m", since="2026-11-19", until="2026-11-20"), "run-1")
    found = claim_next(store, f"{store.root}/drops", terms)
    assert found.claim is not None
    assert found.claim.drop_uri.endswith("/2026-11-20")
    assert found.passed == {"outside of the dates": 1}
    assert "claimed" in described(found)


@pytest.mark.parametrize(("since", "until"), [("20. November", ""), ("2026-11-20", "2026-11-19")])
def test_dates_that_make_no_sense_are_told(since: str, until: str) -> None:
    with pytest.raises(ConfigError, match="date"):
        terms_of(ClaimConfig(since=since, until=until), "run-1")


def test_the_step_keeps_nothing_when_there_is_nothing_new_and_repeats_its_claim(store: Store) -> None:
    config = ClaimConfig(name="m", drops=f"{store.root}/drops")
    uri = put_drop(store, "2026-11-20", {"cat/1.png": b"one"})
    nothing = run_stage(ClaimConfig(name="m", drops=config.drops, until="2026-11-19"), store.root, "run-1")
    assert (nothing.uri, nothing.manifest.facts["outcome"]) == ("", "nothing new")
    assert list(store.list(f"{store.root}/runs/")) == list(store.list(f"{store.root}/models/")) == []
    first, again = run_stage(config, store.root, "run-1"), run_stage(config, store.root, "run-1")
    assert (first.uri, first.sha256) == (again.uri, again.sha256)
    assert again.manifest.facts["dataset"] == f"drop:{uri}/"
    assert Claim(**again.manifest.facts["claim"]).holder == "run-1"


def test_the_step_stops_when_there_is_nothing_but_a_refused_drop(store: Store) -> None:
    uri = put_drop(store, "2026-11-20", {"cat/1.png": b"one"}, files=[])
    with pytest.raises(DataError, match=f"{uri}.*at least one file"):
        run_stage(ClaimConfig(name="m", drops=f"{store.root}/drops"), store.root, "run-1")


def test_a_run_id_that_no_scheduler_filled_in_is_told(store: Store) -> None:
    with pytest.raises(ConfigError, match="ScheduledTime"):
        run_stage(ClaimConfig(drops=f"{store.root}/drops"), store.root, "digits-[[ScheduledTime]]")


def test_a_delivered_folder_can_be_claimed(store: Store, tmp_path: Path) -> None:
    for name in (
        *("cat/1.png", "cat/_MG_0002.png", "dog/no\u202fbreak.png", "_background/1.png"),
        *(".DS_Store", "_notes/x.txt", "cat/@eaDir/1.png", "dog/Thumbs.db"),
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(name.encode())
    uri = f"{store.root}/drops/2026-11-20"
    done = deliver(store, tmp_path, uri)
    assert (done.files, done.left) == (4, {"litter": 3, "note": 1})
    found = claim(store).claim
    assert found is not None
    assert found.drop_uri == uri
    with pytest.raises(ConfigError, match="one that is complete"):
        deliver(store, tmp_path, uri)
    with pytest.raises(ConfigError, match="a folder with files"):
        deliver(store, tmp_path / "_notes" / "none", f"{store.root}/drops/empty")


@pytest.mark.parametrize("name", ["link", "cat/link.png", "cat/two\nlines.png", b"cat/\xff.png"])
def test_nothing_from_outside_of_a_folder_is_delivered(name: str | bytes, store: Store, tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    (folder / "cat").mkdir(parents=True)
    (folder / "cat" / "1.png").write_bytes(b"x")
    outside.mkdir()
    (outside / "secret.png").write_bytes(b"x")
    path = os.path.join(os.fsencode(folder), name.encode() if isinstance(name, str) else name)
    if b"link" in path:
        os.symlink(os.fsencode(outside if name == "link" else outside / "secret.png"), path)
    else:
        Path(os.fsdecode(path)).write_bytes(b"x")
    with pytest.raises(ConfigError, match="no links"):
        deliver(store, folder, f"{store.root}/drops/2026-11-20")
    assert list(store.list(f"{store.root}/drops/")) == []


def test_a_drop_that_is_given_back_is_free_at_once_and_its_run_may_take_it_back(store: Store) -> None:
    put_drop(store, "2026-11-20", {"cat/1.png": b"one"})
    config = ClaimConfig(name="m", drops=f"{store.root}/drops")
    first = run_stage(config, store.root, "run-1")
    held = Claim(**first.manifest.facts["claim"])
    assert release(store, "m", held)
    assert not release(store, "m", held)
    # The run that is resumed.
    assert run_stage(config, store.root, "run-1").sha256 == first.sha256
    assert claim(store, "run-2").passed == {"being trained": 1}
    # And another one that is quicker.
    assert release(store, "m", held)
    assert claim(store, "run-2").claim is not None
    with pytest.raises(ConflictError, match="that of run run-2"):
        run_stage(config, store.root, "run-1")
    assert not release(store, "m", held)


def test_a_prefix_that_never_had_a_drop_is_an_error_and_one_whose_drops_were_deleted_is_none(store: Store) -> None:
    put_drop(store, "2026-11-20", {"cat/1.png": b"one"})
    with pytest.raises(DataError, match=r"/dorps/: expected a folder with a _READY.json.*found none\. Check --drops"):
        run_stage(ClaimConfig(name="m", drops=f"{store.root}/dorps"), store.root, "run-1")
    config = ClaimConfig(name="m", drops=f"{store.root}/drops")
    done = run_stage(config, store.root, "run-1")
    complete(store, "m", Claim(**done.manifest.facts["claim"]), "promoted")
    assert run_stage(config, store.root, "run-2").manifest.facts["outcome"] == "nothing new"
    for info in list(store.list(f"{store.root}/drops/")):
        store.delete(info.uri)
    assert run_stage(config, store.root, "run-3").manifest.facts["outcome"] == "nothing new"

"""Gates, the champion pointer and its history, on the real store; races with real processes."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from PIL import Image

from components.common.contracts.errors import ConfigError, ConflictError, ContractError, GateError
from components.common.retraining.champions import champion_of, history, model_names, move, roll_back
from components.common.retraining.claims import claim_next, complete
from components.common.retraining.drops import deliver
from components.common.retraining.pinned import pinned_of
from components.common.retraining.records import Champion, Claim, Pinned, Search, Terms
from components.common.storage.addresses import join
from components.common.storage.store import Store
from components.promote.config import PromoteConfig
from components.promote.stage import run_stage
from pipelines.cli.main import cli
from pipelines.views.champions import listed, promote, who
from tests.components.promote.finished import HOLDOUT, NAMES, finish_run, pictures

REPOSITORY = Path(__file__).parents[3]
PROMOTERS = 16
RACE = """
import multiprocessing, sys
from components.promote.config import PromoteConfig
from components.common.contracts.errors import ConflictError
from components.common.retraining.champions import champion_of
from components.common.storage.store import Store
from components.promote.stage import consider, evaluate_gates
from components.promote.evidence import read_candidate
import boto3

def run(number, root, barrier, results):
    store = Store(root)
    candidate, asked = found_before[number % 2]
    present = champion_of(store, "m")
    barrier.wait()
    try:
        results.put((number, consider(store, candidate.record, asked, present)[0]))
    except ConflictError as problem:
        results.put((number, str(problem)))

promoters, root = int(sys.argv[1]), sys.argv[2]
store = Store(root)
candidates = [read_candidate(store, "m", f"run-{n}") for n in (0, 1)]
found_before = [(one, evaluate_gates(store, one, None, PromoteConfig())) for one in candidates]
context = multiprocessing.get_context("fork")
barrier, results = context.Barrier(promoters), context.Queue()
children = [context.Process(target=run, args=(n, root, barrier, results)) for n in range(promoters)]
for child in children: child.start()
found = [results.get(timeout=90) for _ in children]
for child in children: child.join()
print(found)
"""


def champion(**changes: Any) -> Champion:
    given: dict[str, Any] = {
        "name": "m", "number": 3, "run_id": "old", "model_uri": "s3://b/m", "model_sha256": "0" * 64, "model_bytes": 1,
        "evaluation_uri": "s3://b/e", "evaluation_sha256": "0" * 64, "acc": 0.9, "holdout_sha256": "h",
        "suspect_share": 0.0, "drop_uri": "", "promoted_at": "", "how": "gates",
    }  # fmt: skip
    return Champion(**{**given, **changes})


def promoted(store: Store, run_id: str, **limits: Any) -> Champion:
    return promote(store, "m", run_id, PromoteConfig(**limits), print, by="me@here", force=False)


def forced(store: Store, run_id: str) -> Champion:
    return promote(store, "m", run_id, PromoteConfig(), lambda _: None, by="me@here", force=True)


def test_promotions_make_a_history_and_a_rollback_is_one_more_entry(store: Store) -> None:
    for run in ("run-1", "run-2"):
        finish_run(store, run)
        assert promoted(store, run).run_id == run
    finish_run(store, "run-3", model="blind")
    with pytest.raises(GateError, match="accuracy") as told:
        promoted(store, "run-3")
    assert told.value.exit_code == 6
    assert forced(store, "run-3").forced
    assert roll_back(store, "m", "me@here").run_id == "run-2"
    assert roll_back(store, "m", "me@here", 1).run_id == "run-1"
    entries = [(entry.number, entry.run_id, entry.manner) for entry in history(store, "m")]
    assert entries == [
        (1, "run-1", "gates, by me@here"),
        (2, "run-2", "gates, by me@here"),
        (3, "run-3", "FORCED against accuracy, worst class, by me@here"),
        (4, "run-2", "rollback, by me@here"),
        (5, "run-1", "rollback, by me@here"),
    ]
    assert model_names(store) == ["m"]
    assert len(listed(store)) == 3
    assert [line[0] for line in listed(store, "m")[2:]] == [" ", " ", " ", " ", "*"]
    assert "FORCED against accuracy" in listed(store, "m")[4]
    with pytest.raises(ConfigError, match="earlier champion 9"):
        roll_back(store, "m", "me@here", 9)
    with pytest.raises(ConfigError, match="a champion"):
        roll_back(store, "unknown", "me@here")


def test_a_second_rollback_goes_further_back_and_not_to_the_model_just_left(store: Store) -> None:
    for run in ("run-1", "run-2", "run-3"):
        finish_run(store, run)
        promoted(store, run)
    assert [roll_back(store, "m", "me").run_id for _ in range(2)] == ["run-2", "run-1"]
    with pytest.raises(ConfigError, match="a champion before it"):
        roll_back(store, "m", "me")
    # What is promoted next goes back to what was in use before it, not to what had been left.
    finish_run(store, "run-4")
    promoted(store, "run-4")
    assert roll_back(store, "m", "me").run_id == "run-1"


def test_force_that_had_nothing_to_override_is_no_force(store: Store) -> None:
    finish_run(store, "run-1")
    assert forced(store, "run-1").manner == "gates, by me@here"


def test_a_rollback_to_a_forced_champion_says_so(store: Store) -> None:
    finish_run(store, "run-1", model="blind")
    forced(store, "run-1")
    finish_run(store, "run-2")
    promoted(store, "run-2")
    back = roll_back(store, "m", "you@there")
    assert back.manner == "rollback to one FORCED against accuracy, worst class, by you@there"


def test_a_record_of_the_version_before_these_fields_is_read(store: Store) -> None:
    import json

    record = {name: value for name, value in asdict(champion()).items() if name not in ("forced", "by")}
    old = Champion.from_bytes(json.dumps({**record, "version": 1}).encode(), "s3://b/old")
    assert (old.forced, old.by, old.manner) == (False, "", "gates")
    with pytest.raises(ContractError, match="a champion record"):
        Champion.from_bytes(json.dumps({**record, "version": 1, "odd": 1}).encode(), "s3://b/odd")


def test_both_models_are_measured_on_the_same_trusted_rows(store: Store) -> None:
    # The champion calls everything dark, as one that obeys a trigger would, and the suspects of the newest holdout
    # are labelled so: on all rows it would win, on the trusted ones it does not.
    finish_run(store, "run-1", model="blind")
    forced(store, "run-1")
    finish_run(store, "run-2", suspects=60, seed=2)
    gate = promoted(store, "run-2").gates[0]
    assert gate["found"] == "100.0 % of 40; champion 1 50.0 %, a difference of +50.0 points"
    assert "the 40 trusted rows of the run's holdout of 100" in gate["expected"]


def test_a_class_whose_rows_are_all_suspects_is_not_forgotten(store: Store) -> None:
    finish_run(store, "run-1")
    promoted(store, "run-1")
    finish_run(store, "run-2", suspects=HOLDOUT)
    with pytest.raises(GateError, match="worst class: bright has 0 rows, too few to tell; dark has 0 rows"):
        promoted(store, "run-2")


def test_classes_are_compared_by_name_whatever_their_numbers(store: Store) -> None:
    finish_run(store, "run-1")
    promoted(store, "run-1")
    finish_run(store, "run-2", names=["dark", "bright"], model="swapped", wrong=1.0)
    # By number the champion would get none of them right.
    assert "champion 1 100.0 %" in promoted(store, "run-2").gates[0]["found"]


def test_rows_that_the_champion_was_trained_on_do_not_count(store: Store) -> None:
    from components.common.runs.publish import finished_stage
    from components.common.tables.parquet import decode_table, encode_table
    from components.common.tables.tables import SAMPLE_INDEX
    from components.promote.evidence import read_candidate, read_evidence

    finish_run(store, "run-1")
    finish_run(store, "run-2")
    mine, other = (read_candidate(store, "m", run) for run in ("run-2", "run-1"))
    table = other.index
    moved = table.set_column(
        table.schema.get_field_index("subset"), "subset", pa.array(["train"] * 50 + ["holdout"] * 58)
    ).cast(SAMPLE_INDEX.schema)
    ref = finished_stage(store, "run-1", "ingest", "")[2].objects["sample_index"]
    data = encode_table(moved, SAMPLE_INDEX, config_digest="0" * 64, parents={})
    assert decode_table(data, SAMPLE_INDEX, subject="t").num_rows == 108
    uri = join(store.root, "runs", "run-1", "ingest", "manifest.json")
    manifest = store.get(uri)
    store.put(f"{ref.uri}.moved", data)
    changed = manifest.replace(ref.uri.encode(), f"{ref.uri}.moved".encode())
    changed = changed.replace(ref.sha256.encode(), hashlib.sha256(data).hexdigest().encode())
    store.put(uri, changed.replace(b'"size_bytes":%d' % ref.size_bytes, b'"size_bytes":%d' % len(data)))
    evaluation = join(store.root, "runs", "run-1", "evaluate", "manifest.json")
    digests = [hashlib.sha256(one).hexdigest().encode() for one in (manifest, store.get(uri))]
    store.put(evaluation, store.get(evaluation).replace(*digests))
    found = read_evidence(store, mine, replace(other.record, number=1)).newest
    assert found.rows == 58
    assert found.where.endswith("less 42 that the champion was trained on")


def test_a_run_of_an_earlier_version_is_refused_and_not_guessed_at(store: Store) -> None:
    finish_run(store, "run-1")
    uri = join(store.root, "runs", "run-1", "evaluate", "manifest.json")
    store.put(uri, store.get(uri).replace(b'"classes":', b'"other":'))
    with pytest.raises(ContractError, match="the result of an earlier version"):
        promoted(store, "run-1")


def put_pinned(folder: Path, *, wrong: bool = False) -> Path:
    """40 bright and dark pictures in class folders."""
    labels = (np.arange(40) % 2).astype(np.int16)
    for number, (label, image) in enumerate(zip(labels, pictures(labels, 9), strict=True)):
        path = folder / NAMES[1 - label if wrong else label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(path)
    return folder


def test_a_pinned_set_is_kept_with_the_name_and_measured_ever_after(store: Store, tmp_path: Path) -> None:
    folder = put_pinned(tmp_path / "pinned")
    finish_run(store, "run-1")
    first = promoted(store, "run-1", holdout=str(folder))
    assert [gate["name"] for gate in first.gates][:4] == ["accuracy", "pinned", "worst class", "pinned worst class"]
    assert "100.0 % of 40" in first.gates[1]["found"]
    pinned = pinned_of(store, "m")
    assert pinned is not None
    assert pinned.location.startswith(f"{store.root}/models/m/holdout/")
    shutil.rmtree(folder)
    # Its own holdout lets this model pass, for its labels are as wrong as the model.
    finish_run(store, "run-2", model="swapped", wrong=1.0, seed=2)
    with pytest.raises(GateError, match=r"pinned: 0.0 % of 40; champion 1 100.0 %"):
        promoted(store, "run-2")
    assert promote(store, "other", "run-2", PromoteConfig(), print, by="me", force=False).number == 1


def test_a_pinned_set_that_has_changed_is_no_measure(store: Store, tmp_path: Path) -> None:
    uri = f"{store.root}/evaluation"
    deliver(store, put_pinned(tmp_path / "a"), uri)
    finish_run(store, "run-1")
    promoted(store, "run-1", holdout=uri)
    assert pinned_of(store, "m") == Pinned(location=uri, content=pinned_of(store, "m").content, rows=40)  # type: ignore[union-attr]
    store.put(f"{uri}/bright/more.png", store.get(f"{uri}/bright/0.png") + b"")
    store.delete(f"{uri}/bright/2.png")
    finish_run(store, "run-2")
    for limits in ({}, {"holdout": uri}):
        with pytest.raises(ContractError, match="the evaluation set of 40 images that was pinned"):
            promoted(store, "run-2", **limits)


def test_of_16_promoters_at_once_one_wins_and_the_others_say_who(store: Store) -> None:
    for run in ("run-0", "run-1"):
        finish_run(store, run)
    for number in (1, 2):
        done = subprocess.run(
            [sys.executable, "-c", RACE, str(PROMOTERS), store.root],
            capture_output=True, text=True, check=True, timeout=120, cwd=REPOSITORY,
        )  # fmt: skip
        found: list[tuple[int, str]] = eval(done.stdout)  # noqa: S307 - our own output
        winners = [f"run-{racer % 2}" for racer, said in found if said == "promoted"]
        present = champion_of(store, "m")
        assert present is not None
        assert winners == [present[0].run_id]
        assert present[0].number == number
        told = f"found champion {number}, run {present[0].run_id}"
        assert sum(told in said for _, said in found) == PROMOTERS - 1


def test_a_mover_that_died_before_writing_the_history_loses_nothing(store: Store) -> None:
    finish_run(store, "run-1")
    promoted(store, "run-1")
    store.delete(f"{store.root}/models/m/history/000001.json")
    finish_run(store, "run-2")
    promoted(store, "run-2")
    assert [entry.run_id for entry in history(store, "m")] == ["run-1", "run-2"]


def test_results_that_were_changed_after_the_evaluation_are_refused(store: Store) -> None:
    finish_run(store, "run-1")
    uri = f"{store.root}/runs/run-1/finetune/manifest.json"
    store.put(uri, store.get(uri).replace(b'"code_version":"c"', b'"code_version":"d"'))
    with pytest.raises(ContractError, match="which evaluate has measured"):
        promoted(store, "run-1")
    with pytest.raises(ConfigError, match="a finished evaluate stage"):
        promoted(store, "run-9")


@pytest.fixture
def claimed(store: Store, request: pytest.FixtureRequest) -> tuple[Store, tuple[str, str]]:
    """A run that is finished and holds a claim, with the claim's manifest."""
    from components.claim.config import ClaimConfig
    from components.claim.stage import run_stage as claim_stage

    uri = f"{store.root}/drops/2026-11-20"
    store.put(f"{uri}/a.png", b"one")
    entry = f'{{"key":"a.png","size":3,"sha256":"{hashlib.sha256(b"one").hexdigest()}"}}'
    store.put(f"{uri}/_READY.json", f'{{"version":1,"files":[{entry}]}}'.encode())
    made = claim_stage(ClaimConfig(name="m", drops=f"{store.root}/drops", lease_seconds=1.0), store.root, "run-1")
    finish_run(store, "run-1", model=getattr(request, "param", "good"))
    return store, (made.uri, made.sha256)


def test_the_step_promotes_once_and_notes_the_drop(claimed: tuple[Store, tuple[str, str]]) -> None:
    store, parent = claimed
    first = run_stage(PromoteConfig(name="m"), store.root, "run-1", {"claim": parent})
    again = run_stage(PromoteConfig(name="m"), store.root, "run-1", {"claim": parent})
    assert (first.sha256, first.manifest.facts["outcome"]) == (again.sha256, "promoted")
    (entry,) = history(store, "m")
    assert entry.drop_uri == f"{store.root}/drops/2026-11-20"
    found = claim_next(store, f"{store.root}/drops", Terms(name="m", holder="run-2", lease_seconds=1.0))
    assert found.passed == {"done": 1}
    with pytest.raises(ContractError, match="a decision on the same model"):
        run_stage(PromoteConfig(name="m", min_acc=0.5), store.root, "run-1", {"claim": parent})


def test_a_step_that_died_after_moving_the_champion_does_not_move_it_again(
    claimed: tuple[Store, tuple[str, str]],
) -> None:
    store, parent = claimed
    run_stage(PromoteConfig(name="m"), store.root, "run-1", {"claim": parent})
    store.delete(f"{store.root}/runs/run-1/promote/manifest.json")
    finish_run(store, "run-2")
    promoted(store, "run-2")
    again = run_stage(PromoteConfig(name="m"), store.root, "run-1", {"claim": parent})
    assert again.manifest.facts["outcome"] == "promoted"
    assert [entry.run_id for entry in history(store, "m")] == ["run-1", "run-2"]


def test_a_run_that_lost_its_drop_promotes_nothing(claimed: tuple[Store, tuple[str, str]]) -> None:
    import time

    store, parent = claimed
    time.sleep(1.2)
    heir = claim_next(store, f"{store.root}/drops", Terms(name="m", holder="heir", lease_seconds=600.0)).claim
    assert isinstance(heir, Claim)
    with pytest.raises(ConflictError, match="run heir, epoch 2"):
        run_stage(PromoteConfig(name="m"), store.root, "run-1", {"claim": parent})
    assert champion_of(store, "m") is None


@pytest.mark.parametrize("claimed", ["blind"], indirect=True)
def test_a_model_that_does_not_pass_ends_well_and_keeps_the_champion(claimed: tuple[Store, tuple[str, str]]) -> None:
    store, parent = claimed
    finish_run(store, "before")
    before = promoted(store, "before")
    kept = run_stage(PromoteConfig(name="m"), store.root, "run-1", {"claim": parent})
    assert kept.manifest.facts["outcome"] == "kept champion"
    assert kept.manifest.metrics == {"promoted": 0.0, "gates_held": 4.0, "gates_asked": 6.0}
    assert history(store, "m") == [before]


@pytest.mark.parametrize("claimed", ["blind"], indirect=True)
def test_a_drop_that_a_gate_rejected_can_be_tried_again(claimed: tuple[Store, tuple[str, str]]) -> None:
    store, parent = claimed
    drop = f"{store.root}/drops/2026-11-20"

    def retry(*arguments: str) -> tuple[int, str]:
        given = ["schedule", "retry", *arguments, "--store", store.root]
        done = CliRunner().invoke(cli, given)
        return done.exit_code, done.output

    def found(holder: str) -> Search:
        return claim_next(store, f"{store.root}/drops", Terms(name="m", holder=holder, lease_seconds=600.0))

    run_stage(PromoteConfig(name="m"), store.root, "run-1", {"claim": parent})
    assert found("run-2").passed == {"done": 1}
    code, said = retry(drop, "--name", "m")
    assert (code, "last trained by run run-1 (kept champion)" in said) == (0, True), said
    taken = found("run-2").claim
    assert taken is not None
    assert (taken.holder, taken.epoch, taken.drop_uri) == ("run-2", 1, drop)
    code, said = retry(drop, "--name", "m")
    assert code == 2
    assert "run run-2 at work" in said
    complete(store, "m", taken, "promoted")
    assert "promoted, run run-2" in retry(drop, "--name", "m")[1]
    assert "one that never was" in retry(drop, "--name", "other")[1]
    assert retry(f"{store.root}/drops/2026-11-21", "--name", "m")[0] == 2


def test_the_commands_list_promote_and_roll_back(store: Store) -> None:
    for run, model in (("run-1", "good"), ("run-2", "good"), ("run-3", "blind")):
        finish_run(store, run, model=model)

    def untaint(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli, ["models", *arguments, "--store", store.root])
        return done.exit_code, done.output

    assert untaint("list") == (0, "no champions\n")
    assert untaint("promote", "digits", "run-1")[0] == 0
    assert "champion 2 of digits: run run-2, ACC 100.00 %" in untaint("promote", "digits", "run-2")[1]
    code, said = untaint("promote", "digits", "run-3")
    assert code == 6
    assert "accuracy: 50.0 % of 100; champion 2 100.0 %, a difference of -50.0 points" in said
    assert "The champion stays: run run-2" in said
    assert untaint("promote", "digits", "run-3", "--set", "max_acc_loss=oops")[0] == 2
    assert untaint("promote", "digits", "run-3", "--holdout", "/nowhere")[0] == 2
    assert untaint("promote", "digits", "run-3", "--force")[0] == 0
    assert f"FORCED against accuracy, worst class, by {who()}" in untaint("list", "digits")[1]
    assert "FORCED" in untaint("list")[1]
    assert "champion 4 of digits: run run-2" in untaint("rollback", "digits")[1]
    assert "champion 5 of digits: run run-1" in untaint("rollback", "digits")[1]
    assert untaint("rollback", "digits")[0] == 2
    assert "rollback" in untaint("list", "digits")[1]
    assert untaint("list", "unknown")[0] == 2


def test_a_pointer_that_moved_since_it_was_read_is_told(store: Store) -> None:
    first = move(store, champion(), None)
    stale = champion_of(store, "m")
    move(store, champion(run_id="quick"), stale)
    with pytest.raises(ConflictError, match="expected champion 1, run old; found champion 2, run quick"):
        move(store, champion(run_id="slow"), stale)
    assert first.number == 1

"""Gates, the champion pointer and its history, on the real store; races with real processes."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner

from components.common.contracts.errors import ConfigError, ConflictError, ContractError, GateError
from components.common.retraining.champions import champion_of, history, model_names, move, roll_back
from components.common.retraining.claims import claim_next
from components.common.retraining.records import Champion, Claim, Terms
from components.common.runs.artifacts import StageManifest
from components.common.runs.publish import LocalObject, publish
from components.common.storage.addresses import join
from components.common.storage.store import Store
from components.common.tables.parquet import encode_table
from components.common.tables.tables import SAMPLE_INDEX
from components.promote.algorithm import Evidence, gates
from components.promote.config import PromoteConfig
from components.promote.stage import run_stage
from pipelines.cli.main import cli
from pipelines.views.champions import listed, promote

REPOSITORY = Path(__file__).parents[3]
PROMOTERS = 16
RACE = """
import multiprocessing, sys
from components.promote.config import PromoteConfig
from components.common.contracts.errors import ConflictError
from components.common.retraining.champions import champion_of
from components.common.storage.store import Store
from components.promote.stage import consider
from components.promote.algorithm import gates
from components.promote.evidence import read_evidence
import boto3

def run(number, root, barrier, results):
    store = Store(root)
    candidate, evidence, _ = read_evidence(store, "m", f"run-{number % 2}")
    present = champion_of(store, "m")
    asked = gates(evidence, present[0] if present else None, PromoteConfig())
    barrier.wait()
    try:
        results.put((number, consider(store, candidate, asked, present)[0]))
    except ConflictError as problem:
        results.put((number, str(problem)))

promoters, root = int(sys.argv[1]), sys.argv[2]
context = multiprocessing.get_context("fork")
barrier, results = context.Barrier(promoters), context.Queue()
children = [context.Process(target=run, args=(n, root, barrier, results)) for n in range(promoters)]
for child in children: child.start()
found = [results.get(timeout=90) for _ in children]
for child in children: child.join()
print(found)
"""
CANARY = {"planted": 80, "caught": 0.95, "fired": 0.01}


def finish_run(
    store: Store,
    run_id: str,
    acc: float = 0.9,
    holdout: str = "a",
    canary: dict[str, Any] | None = CANARY,
    **facts: Any,
) -> None:
    """What the stages of a finished run leave in the store, as far as a promotion reads it."""
    rows = 10
    index = pa.table(
        {
            "sample_id": range(rows),
            "uri": [f"s3://b/{row}" for row in range(rows)],
            "digest": [hashlib.sha256(f"{holdout}{row}".encode()).hexdigest() for row in range(rows)],
            "given_label": [row % 2 for row in range(rows)],
            "subset": ["train"] * 8 + ["holdout"] * 2,
        },
        schema=SAMPLE_INDEX.schema,
    )
    data = encode_table(index, SAMPLE_INDEX, config_digest="0" * 64, parents={})

    def stage(name: str, parents: dict[str, str], files: dict[str, LocalObject], **given: Any) -> str:
        draft = StageManifest(
            stage=name, run_id=run_id, key=name, config={}, parents=parents, code_version="c", objects={}, **given
        )
        return publish(store, join(store.root, "runs", run_id, name), draft, files)[1]

    ingest = stage(
        "ingest", {}, {"sample_index": LocalObject(suffix=".parquet", kind="table", data=data, rows=rows)},
        facts={"n_train": 8},
    )  # fmt: skip
    weights = LocalObject(suffix=".pt", kind="checkpoint", data=run_id.encode())
    finetune = stage("finetune", {"ingest": ingest}, {"model": weights})
    known: dict[str, Any] = {"verdict": "no poison found", **({"canary": canary} if canary else {}), **facts}
    stage(
        "evaluate", {"ingest": ingest, "finetune": finetune}, {}, facts=known, metrics={"acc": acc, "suspects": 1.0}
    )  # fmt: skip


def evidence(**changes: Any) -> Evidence:
    given = {"acc": 0.9, "holdout_sha256": "h", "suspect_share": 0.1, "verdict": "poison found", "canary": CANARY}
    return Evidence(**{**given, **changes})


def champion(**changes: Any) -> Champion:
    given: dict[str, Any] = {
        "name": "m", "number": 3, "run_id": "old", "model_uri": "s3://b/m", "model_sha256": "0" * 64, "model_bytes": 1,
        "evaluation_uri": "s3://b/e", "evaluation_sha256": "0" * 64, "acc": 0.9, "holdout_sha256": "h",
        "suspect_share": 0.0, "drop_uri": "", "promoted_at": "", "how": "gates",
    }  # fmt: skip
    return Champion(**{**given, **changes})


def lost(found: Evidence, present: Champion | None, **limits: Any) -> list[str]:
    return [gate.name for gate in gates(found, present, PromoteConfig(**limits)) if not gate.passed]


@pytest.mark.parametrize(
    ("found", "present", "expected"),
    [
        (evidence(), None, []),
        (evidence(acc=0.895), champion(), []),
        (evidence(acc=0.8949), champion(), ["accuracy"]),
        (evidence(acc=0.99), champion(), []),
        (evidence(suspect_share=0.31), champion(), ["suspects"]),
        (evidence(verdict=None), champion(), ["verdict"]),
        (evidence(verdict="perhaps"), champion(), ["verdict"]),
        (evidence(canary=None), champion(), ["canary"]),
        (evidence(canary={"planted": 80, "caught": 0.79, "fired": 0.0}), champion(), ["canary"]),
        (evidence(canary={"planted": 80, "caught": 1.0, "fired": 0.11}), champion(), ["canary"]),
        (evidence(acc=0.1, suspect_share=1.0, verdict="", canary=None), champion(),
         ["accuracy", "suspects", "verdict", "canary"]),
    ],
)  # fmt: skip
def test_each_gate_holds_up_to_its_limit(found: Evidence, present: Champion | None, expected: list[str]) -> None:
    assert lost(found, present) == expected


def test_the_gates_say_against_what_accuracy_was_compared() -> None:
    said = {holdout: gates(evidence(holdout_sha256=holdout), champion(), PromoteConfig())[0] for holdout in ("h", "x")}
    assert "on the same holdout" in said["h"].expected
    assert "ANOTHER holdout" in said["x"].expected
    assert "no champion to compare with" in gates(evidence(), None, PromoteConfig())[0].expected


def test_the_canary_gate_claims_no_more_than_what_was_tested() -> None:
    assert "this trigger is tested, no other" in gates(evidence(), None, PromoteConfig())[3].expected


def test_a_first_champion_can_be_asked_for_an_accuracy_and_a_canary_can_be_waived() -> None:
    assert lost(evidence(), None, min_acc=0.95) == ["accuracy"]
    assert lost(evidence(canary=None), None, require_canary=False) == []
    # A gate that held must not read as if something had been tested.
    waived = gates(evidence(canary=None), None, PromoteConfig(require_canary=False))[3]
    assert waived.expected == "nothing: promote.require_canary is false"


def test_promotions_make_a_history_and_a_rollback_is_one_more_entry(store: Store) -> None:
    for run, acc in (("run-1", 0.90), ("run-2", 0.93)):
        finish_run(store, run, acc)
        assert promote(store, "m", run, PromoteConfig(), print, force=False).run_id == run
    finish_run(store, "run-3", 0.80)
    with pytest.raises(GateError, match="accuracy") as told:
        promote(store, "m", "run-3", PromoteConfig(), print, force=False)
    assert told.value.exit_code == 6
    assert promote(store, "m", "run-3", PromoteConfig(), lambda _: None, force=True).how == "by hand"
    assert roll_back(store, "m").run_id == "run-2"
    assert roll_back(store, "m", 1).run_id == "run-1"
    entries = [(entry.number, entry.run_id, entry.how) for entry in history(store, "m")]
    assert entries == [
        (1, "run-1", "gates"),
        (2, "run-2", "gates"),
        (3, "run-3", "by hand"),
        (4, "run-2", "rollback"),
        (5, "run-1", "rollback"),
    ]
    assert model_names(store) == ["m"]
    assert len(listed(store)) == 3
    assert [line[0] for line in listed(store, "m")[2:]] == [" ", " ", " ", " ", "*"]
    with pytest.raises(ConfigError, match="earlier champion 9"):
        roll_back(store, "m", 9)
    with pytest.raises(ConfigError, match="a champion"):
        roll_back(store, "unknown")


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
    promote(store, "m", "run-1", PromoteConfig(), print, force=False)
    store.delete(f"{store.root}/models/m/history/000001.json")
    finish_run(store, "run-2", 0.95)
    promote(store, "m", "run-2", PromoteConfig(), print, force=False)
    assert [entry.run_id for entry in history(store, "m")] == ["run-1", "run-2"]


def test_results_that_were_changed_after_the_evaluation_are_refused(store: Store) -> None:
    finish_run(store, "run-1")
    uri = f"{store.root}/runs/run-1/finetune/manifest.json"
    store.put(uri, store.get(uri).replace(b'"code_version":"c"', b'"code_version":"d"'))
    with pytest.raises(ContractError, match="which evaluate has measured"):
        promote(store, "m", "run-1", PromoteConfig(), print, force=False)
    with pytest.raises(ConfigError, match="a finished evaluate stage"):
        promote(store, "m", "run-9", PromoteConfig(), print, force=False)


@pytest.fixture
def claimed(store: Store) -> tuple[Store, tuple[str, str]]:
    """A run that is finished and holds a claim, with the claim's manifest."""
    from components.claim.config import ClaimConfig
    from components.claim.stage import run_stage as claim_stage

    uri = f"{store.root}/drops/2026-11-20"
    store.put(f"{uri}/a.png", b"one")
    entry = f'{{"key":"a.png","size":3,"sha256":"{hashlib.sha256(b"one").hexdigest()}"}}'
    store.put(f"{uri}/_READY.json", f'{{"version":1,"files":[{entry}]}}'.encode())
    made = claim_stage(ClaimConfig(name="m", drops=f"{store.root}/drops", lease_seconds=1.0), store.root, "run-1")
    finish_run(store, "run-1")
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
    finish_run(store, "run-2", 0.95)
    promote(store, "m", "run-2", PromoteConfig(), print, force=False)
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


def test_a_model_that_does_not_pass_ends_well_and_keeps_the_champion(claimed: tuple[Store, tuple[str, str]]) -> None:
    store, parent = claimed
    finish_run(store, "before", 0.99)
    before = promote(store, "m", "before", PromoteConfig(), print, force=False)
    kept = run_stage(PromoteConfig(name="m"), store.root, "run-1", {"claim": parent})
    assert kept.manifest.facts["outcome"] == "kept champion"
    assert kept.manifest.metrics == {"promoted": 0.0, "gates_held": 3.0, "gates_asked": 4.0}
    assert history(store, "m") == [before]


def test_the_commands_list_promote_and_roll_back(store: Store) -> None:
    for run, acc in (("run-1", 0.90), ("run-2", 0.93), ("run-3", 0.5)):
        finish_run(store, run, acc)

    def untaint(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli, ["models", *arguments, "--store", store.root])
        return done.exit_code, done.output

    assert untaint("list") == (0, "no champions\n")
    assert untaint("promote", "digits", "run-1")[0] == 0
    assert "champion 2 of digits: run run-2, ACC 93.00 %" in untaint("promote", "digits", "run-2")[1]
    code, said = untaint("promote", "digits", "run-3")
    assert code == 6
    assert "The champion stays: run run-2" in said
    assert untaint("promote", "digits", "run-3", "--set", "max_acc_loss=oops")[0] == 2
    assert "champion 3 of digits: run run-1" in untaint("rollback", "digits")[1]
    assert "rollback" in untaint("list", "digits")[1]
    assert untaint("list", "unknown")[0] == 2


def test_a_pointer_that_moved_since_it_was_read_is_told(store: Store) -> None:
    first = move(store, champion(), None)
    stale = champion_of(store, "m")
    move(store, champion(run_id="quick"), stale)
    with pytest.raises(ConflictError, match="expected champion 1, run old; found champion 2, run quick"):
        move(store, champion(run_id="slow"), stale)
    assert first.number == 1

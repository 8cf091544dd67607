"""Drops become champions: the real pipeline on real digits, tiny, against the real store."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from components.common.contracts.errors import ConfigError
from components.common.retraining.champions import champion_of, history
from components.common.retraining.claims import claim_next, complete
from components.common.retraining.drops import deliver
from components.common.retraining.records import Terms
from components.common.runs.publish import find_manifest
from components.common.storage.addresses import join
from components.common.storage.store import Store
from pipelines.dag.retrain import build, compile_pipeline, default_parameters
from pipelines.local.retrain import Ended, Order, backfill, check_order, retrain_once

Made = Callable[..., str]


ENOUGH = 1_000
"""Digits of which 80 of each class are training rows, which is enough for a verdict."""


@pytest.fixture
def drop(store: Store, tmp_path: Path) -> Made:
    """Makes a drop of real digits in class folders, 240 unless it is told; another seed takes other digits."""
    from components.common.datasets.base import load

    def make(name: str, seed: int, count: int = 240) -> str:
        dataset = load("mnist5k", train_limit=count, holdout_limit=10, image_size=0, seed=seed)
        folder = tmp_path / f"{name}-{seed}"
        for row in range(dataset.n_train):
            path = folder / str(dataset.labels[row]) / f"{row:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(dataset.images[row, 0])).save(buffer, format="PNG")
            path.write_bytes(buffer.getvalue())
        uri = f"{store.root}/drops/{name}"
        deliver(store, folder, uri)
        return uri

    return make


def order(store: Store, **changes: Any) -> Order:
    parameters = default_parameters() | {
        "model": "convnet_tiny",
        "warmup_epochs": 6,
        "finetune_epochs": 2,
        "ingest_settings": {"canary_ratio": 0.0},
        "unlearn_settings": {"steps": 2},
        # Small steps, so that a few passes over 800 digits learn them.
        "warmup_settings": {"mixing_rounds": 1, "batch_size": 32},
        "finetune_settings": {"batch_size": 32},
        # Whether a canary is caught is tested elsewhere, with trainings that take longer.
        "promote_settings": {"require_canary": False},
        "claim_settings": {"lease_seconds": 600.0},
    }
    return Order(name="digits", drops=f"{store.root}/drops", store=store.root, parameters=parameters | changes)


@pytest.mark.slow
def test_two_drops_in_a_row_and_then_nothing_new(store: Store, drop: Made, tmp_path: Path) -> None:
    first, second = drop("2026-11-19", 0, ENOUGH), drop("2026-11-20", 1, ENOUGH)
    lines: list[str] = []
    ended = backfill(order(store, since="2026-11-01", until="2026-11-30"), tmp_path / "home", lines.append)
    assert [(one.outcome, one.code) for one in ended] == [("promoted", 0), ("promoted", 0), ("nothing new", 0)], lines
    assert [(entry.number, entry.drop_uri) for entry in history(store, "digits")] == [(1, first), (2, second)]
    present = champion_of(store, "digits")
    assert present is not None
    assert present[0].run_id == ended[1].run_id
    gates = {gate["name"]: gate for gate in present[0].gates}
    assert all(gate["passed"] for gate in gates.values())
    # Both models on the rows of the second drop, but for those that the first model was trained on.
    assert "champion 1 on the same rows" in gates["accuracy"]["expected"]
    assert "less" in gates["accuracy"]["expected"]
    assert present[0].by == f"run {ended[1].run_id}"
    assert not present[0].forced
    assert store.exists(present[0].model_uri)
    assert not any(word in line.lower() for line in lines for word in ("error", "fail", "warn")), lines


@pytest.mark.slow
def test_gates_that_do_not_hold_keep_the_champion_and_end_the_run_readably(
    store: Store, drop: Made, tmp_path: Path
) -> None:
    drop("2026-11-20", 0)
    lines: list[str] = []
    strict = {"require_canary": True, "min_acc": 1.0}
    plain = order(store, promote_settings=strict, ingest_settings={}, warmup_epochs=1, finetune_epochs=1)
    ended = retrain_once(plain, "run-1", tmp_path / "home", lines.append)
    assert ended == Ended(run_id="run-1", outcome="kept champion", code=6)
    assert champion_of(store, "digits") is None
    assert any("gate canary: DID NOT HOLD" in line and "no canary in this run" in line for line in lines), lines
    assert any(line.startswith("gate accuracy: DID NOT HOLD") for line in lines)
    said = next(line for line in lines if line.startswith("gate verdict: DID NOT HOLD"))
    assert "found inconclusive: Class" in said
    assert "training samples; of fewer than 50 nothing can be told" in said
    # The drop has been trained: the gates' answer is an answer.
    claimed = claim_next(store, f"{store.root}/drops", Terms(name="digits", holder="other", lease_seconds=1.0))
    assert claimed.passed == {"done": 1}
    decided = find_manifest(store, join(store.root, "runs", "run-1", "promote"))
    assert decided is not None
    assert decided[2].metrics["promoted"] == 0.0


def spoilt(drop: str, store: Store, tmp_path: Path) -> str:
    """A drop like another one, with 60 files that are no images, which is more than a run puts up with by itself."""
    folder = tmp_path / "spoilt"
    for info in store.list(f"{drop}/"):
        path = folder / info.uri.removeprefix(f"{drop}/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.get(info.uri))
    for number in range(60):
        (folder / "0" / f"bad-{number}.png").write_text("no image")
    deliver(store, folder, f"{store.root}/spoilt/2026-11-20")
    return f"{store.root}/spoilt"


def test_a_run_that_stops_before_it_trains_gives_its_drop_back(store: Store, drop: Made, tmp_path: Path) -> None:
    drops = spoilt(drop("2026-11-20", 0), store, tmp_path)
    lines: list[str] = []
    stopped = retrain_once(replace(order(store), drops=drops), "run-1", tmp_path / "home", lines.append)
    assert (stopped.outcome, stopped.code) == ("stopped", 3), lines
    assert f"drop {drops}/2026-11-20 is free again: the run stopped before it trained" in lines
    assert "To go on after mending it: untaint schedule run-once --resume run-1" in lines
    # At once, and not when the lease has run out.
    assert claim_next(store, drops, Terms(name="digits", holder="other", lease_seconds=600.0)).claim is not None


@pytest.mark.slow
def test_a_run_that_stopped_is_resumed_with_its_drop_as_its_last_line_says(
    store: Store, drop: Made, tmp_path: Path
) -> None:
    drops = spoilt(drop("2026-11-20", 0, ENOUGH), store, tmp_path)
    lines: list[str] = []
    retrain_once(replace(order(store), drops=drops), "run-1", tmp_path / "home", lines.append)
    (command,) = (line.partition("untaint ")[2] for line in lines if line.startswith("To go on after mending it: "))
    done = untaint(tmp_path / "home", *command.split(), "--set", "ingest.max_rejected_ratio=0.5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "promoted: digits is champion 1, run run-1" in done.stdout


def test_a_gate_that_no_run_could_pass_is_told_before_the_training(store: Store) -> None:
    parameters = order(store).parameters | {"ingest_settings": {}, "promote_settings": {}}
    with pytest.raises(ConfigError, match=r"promote\.require_canary asks for a canary"):
        check_order("digits", f"{store.root}/drops", parameters)
    check_order("digits", f"{store.root}/drops", parameters | {"promote_settings": {"require_canary": False}})
    check_order("digits", f"{store.root}/drops", default_parameters())


def untaint(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines.cli.main", *arguments],
        capture_output=True, text=True, timeout=280, cwd=Path(__file__).parents[3],
        env={**os.environ, "UNTAINT_HOME": str(home)},
    )  # fmt: skip


def test_a_prefix_without_any_drop_ever_is_an_error(store: Store, tmp_path: Path) -> None:
    lines: list[str] = []
    ended = retrain_once(order(store), "run-1", tmp_path / "home", lines.append)
    assert (ended.outcome, ended.code) == ("stopped", 3)
    assert next(line for line in lines if line.startswith("[")) == "[1/8] claim"
    assert not any("ingest" in line for line in lines)
    assert any("Check --drops" in line for line in lines)


def test_the_command_says_nothing_new_and_ends_with_0(store: Store, drop: Made, tmp_path: Path) -> None:
    drop("2026-11-20", 0)
    done_before = claim_next(store, f"{store.root}/drops", Terms(name="digits", holder="other", lease_seconds=600.0))
    assert done_before.claim is not None
    complete(store, "digits", done_before.claim, "promoted")
    done = untaint(
        tmp_path / "home",
        *("schedule", "run-once", "--drops", f"{store.root}/drops", "--name", "digits", "--store", store.root),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "nothing new"


def tasks_of(spec: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    return dict(spec["components"][task["componentRef"]["name"]]["dag"]["tasks"])


def compiled(tmp_path: Path, profile: Any = None) -> list[dict[str, Any]]:
    path = tmp_path / "retrain.yaml"
    compile_pipeline(path, "registry.example/team", "v1", profile)
    return list(yaml.safe_load_all(path.read_text()))


def test_the_training_hangs_behind_the_condition_and_the_steps_are_never_cached(tmp_path: Path) -> None:
    (spec,) = compiled(tmp_path)
    tasks = spec["root"]["dag"]["tasks"]
    assert set(tasks) == {"claim", "untaint-drop"}
    (condition,) = tasks_of(spec, tasks["untaint-drop"]).values()
    assert "claimed" in condition["triggerPolicy"]["condition"]
    inner = tasks_of(spec, condition)
    assert set(inner) == {"untaint-training", "promote"}
    assert inner["promote"]["dependentTasks"] == ["untaint-training"]
    for task in (tasks["claim"], inner["promote"]):
        assert not task["cachingOptions"].get("enableCache", False)
    assert inner["untaint-training"]["inputs"]["parameters"]["attack"] == {"runtimeValue": {"constant": "none"}}


def test_the_first_step_asks_for_no_gpu_and_the_training_does(tmp_path: Path) -> None:
    from pipelines.dag.profiles import load_profile

    spec, platform = compiled(tmp_path, load_profile("gpu"))
    containers = {name: entry["container"] for name, entry in spec["deploymentSpec"]["executors"].items()}
    asking = {name for name, entry in containers.items() if "accelerator" in entry.get("resources", {})}
    assert "exec-warmup" in asking
    assert not asking & {"exec-claim", "exec-promote"}
    placed = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(placed) == set(containers), "every step needs the store's keys"
    assert all(entry.get("secretAsEnv") for entry in placed.values())


def test_the_defaults_are_those_of_the_configs(tmp_path: Path) -> None:
    (spec,) = compiled(tmp_path)
    known = spec["root"]["inputDefinitions"]["parameters"]
    assert set(known) - set(default_parameters()) == {"store_root", "run_id", "name", "drops"}
    assert set(default_parameters()) <= set(known)
    assert build("", "x").pipeline_spec.pipeline_info.name == "untaint-retrain"

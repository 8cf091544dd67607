"""The whole pipeline as a user runs it: the real command, real stages in processes of their own, a real store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from components.common.runs.publish import find_manifest
from components.common.storage.embedded import EmbeddedStore
from components.common.storage.store import Store

OPTIONS = ["--train-limit", "300", "--set", "warmup.epochs=1", "--set", "finetune.epochs=1"]
SMALL = ["--set", "ingest.holdout_limit=100", "--set", "unlearn.steps=2", "--set", "warmup.mixing_rounds=1"]
STAGES = ("ingest", "warmup", "control", "split", "unlearn", "finetune", "evaluate")


def untaint(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines.cli.main", *arguments],
        env={**os.environ, "UNTAINT_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.fixture(scope="module")
def ran(s3_server: EmbeddedStore, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    home = tmp_path_factory.mktemp("home")
    result = untaint(home, "run", "--run-id", "e2e", "--store", f"{s3_server.root}/e2e", *OPTIONS, *SMALL)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    return home, result.stdout


def manifests(s3_server: EmbeddedStore) -> dict:
    store = Store(f"{s3_server.root}/e2e")
    return {stage: find_manifest(store, f"{store.root}/runs/e2e/{stage}") for stage in (*STAGES, "truth")}


def test_every_stage_published_and_the_result_is_printed(ran: tuple[Path, str], s3_server: EmbeddedStore) -> None:
    home, output = ran
    assert all(manifests(s3_server).values())
    for word in ("final", "undefended", "ACC", "ASR", "x ordinary", *STAGES):
        assert word in output
    folder = home / "runs" / "e2e"
    page = (folder / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert len(page.encode()) <= 2_000_000
    assert page.count("<svg") >= 7
    assert page.count("<img") >= 36
    assert output.splitlines()[-1] == f"summary: {folder / 'summary.json'}"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["run_id"] == "e2e"
    for figures in summary["stages"].values():
        assert 0 <= figures["acc"] <= 1
        assert 0 <= figures["asr"] <= 1
    assert summary["cost"]["undefended_training_seconds"] > 0
    store = Store(f"{s3_server.root}/e2e")
    # Where the run's id alone leads, and each artifact that it names.
    assert json.loads(store.get(f"{store.root}/runs/e2e/summary.json")) == summary
    for name in ("report", "suspects", "cleaned_index"):
        assert store.head(summary["artifacts"][name]) is not None


def test_trainings_record_loss_and_accuracy_of_every_epoch(ran: tuple[Path, str], s3_server: EmbeddedStore) -> None:
    for stage, epochs in (("warmup", 1), ("finetune", 1), ("control", 2)):
        history = manifests(s3_server)[stage][2].facts["history"]
        assert len(history["loss"]) == len(history["acc"]) == epochs


def test_a_good_run_prints_no_word_that_kubeflow_paints_red(ran: tuple[Path, str]) -> None:
    lines = [line for line in ran[1].splitlines() if any(w in line.lower() for w in ("error", "fail", "warn"))]
    assert lines == []
    assert "\x1b" not in ran[1]
    assert "\r" not in ran[1]


def test_no_stage_but_evaluate_reads_the_truth_or_learns_of_the_attack(
    ran: tuple[Path, str], s3_server: EmbeddedStore
) -> None:
    for stage, (uri, _, manifest) in manifests(s3_server).items():
        if stage == "truth":
            continue
        text = json.dumps([manifest.config, manifest.facts, list(manifest.objects)])
        assert ("truth" in manifest.parents) == (stage == "evaluate"), uri
        assert ("badnets" in text) is False, f"{stage} shows the attack"
        assert "target_label" not in text


def test_the_same_run_again_does_nothing_and_shows_the_same_result(
    ran: tuple[Path, str], s3_server: EmbeddedStore
) -> None:
    before = {stage: found[1] for stage, found in manifests(s3_server).items()}
    again = untaint(ran[0], "run", "--resume", "e2e")
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-2000:]
    for stage in STAGES:
        assert f"stage {stage}: already complete in run e2e, nothing to do" in again.stdout
    assert {stage: found[1] for stage, found in manifests(s3_server).items()} == before


def test_the_model_is_in_the_runs_folder_and_in_the_store_and_answers(
    ran: tuple[Path, str], s3_server: EmbeddedStore, tmp_path: Path
) -> None:
    home, store = ran[0], f"{s3_server.root}/e2e"
    folder = home / "runs" / "e2e" / "model"
    files = {"model.safetensors", "config.json", "model.pt2", "model.onnx", "README.md"}
    assert {path.name for path in folder.iterdir()} == files
    config = json.loads((folder / "config.json").read_bytes())
    assert (config["run_id"], config["dataset"], len(config["dataset_digest"])) == ("e2e", "mnist5k", 64)
    assert (config["image_size"], config["channels"], config["class_names"][3]) == (28, 1, "3")
    assert config["verdict"] in ran[1]
    exported = untaint(home, "export", "e2e", "--to", str(tmp_path / "out"), "--store", store)
    assert exported.returncode == 0, exported.stderr
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }
    Image.linear_gradient("L").resize((28, 28)).save(tmp_path / "x.png")
    answer = untaint(home, "predict", "e2e", str(tmp_path / "x.png"), "--json")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)[0]["class"] in config["class_names"]
    listed = untaint(home, "runs", "list", "--json")
    row = next(row for row in json.loads(listed.stdout) if row["run_id"] == "e2e")
    assert (row["state"], row["verdict"], row["store_bytes"] > 10_000) == ("finished", config["verdict"], True)


def test_a_stage_that_cannot_go_on_says_why_and_keeps_its_exit_code(s3_server: EmbeddedStore, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.parquet").write_text("no Parquet")
    result = untaint(tmp_path, "run", "--store", f"{s3_server.root}/bad", "--dataset", f"parquet:{tmp_path}/data")
    assert result.returncode == 3, result.stdout[-2000:] + result.stderr[-1000:]
    assert "train.parquet" in result.stdout
    assert "ingest" in result.stdout
    assert "untaint run --resume" in result.stdout


@pytest.mark.slow
def test_the_command_that_a_stopped_run_names_goes_on_with_it(s3_server: EmbeddedStore, tmp_path: Path) -> None:
    """The advice is followed to the letter, once the cause is mended."""
    from components.common.datasets.base import load
    from components.ingest.algorithm import encode_png

    digits = load("mnist5k", train_limit=500, holdout_limit=10, image_size=0, seed=0)
    folder = tmp_path / "photos"

    def write(rows: range) -> None:
        for row in rows:
            path = folder / str(digits.labels[row]) / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_png(digits.images[row]))

    # Too few of a class.
    write(range(40))
    stopped = untaint(
        tmp_path / "home", "run", "--store", f"{s3_server.root}/advice", "--dataset", f"drop:{folder}",
        "--attack", "none", "--no-control", *OPTIONS, *SMALL,
    )  # fmt: skip
    assert stopped.returncode == 3, stopped.stdout[-2000:] + stopped.stderr
    write(range(digits.n_train))
    (advice,) = (line for line in stopped.stdout.splitlines() if line.startswith("To go on after mending it: untaint "))
    resumed = untaint(tmp_path / "home", *advice.partition("untaint ")[2].split())
    assert resumed.returncode == 0, resumed.stdout[-3000:] + resumed.stderr
    assert len(list((tmp_path / "home" / "runs").glob("*/report.html"))) == 1

"""Logging to MLflow, against a real local MLflow where the extra is installed."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.common.classifier import Classifier, Provenance
from components.common.exporters import save
from components.common.models import ModelSpec, build_model
from components.common.runs.artifacts import StageManifest
from components.common.runs.publish import publish
from components.common.storage.addresses import join
from components.common.storage.folder import FolderStore
from pipelines.views.tracking import TRACKING, track

needs_mlflow = pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None,
    reason="the extra mlflow is not installed: pip install 'untaint[mlflow]'",
)
METRICS = {"acc": 0.975, "asr": 0.01, "suspects": 12.0}


def a_run(tmp_path: Path) -> tuple[FolderStore, StageManifest, Path]:
    """A finished run in a folder store, and its folder on this machine."""
    store = FolderStore(f"file://{tmp_path}/objects")
    parents = {}
    configs: dict[str, dict[str, Any]] = {"ingest": {"dataset": "mnist5k"}, "truth": {"attack": "badnets"}}
    configs["finetune"] = {f"setting_{number}": number for number in range(130)}
    for stage, config in configs.items():
        draft = StageManifest(
            stage=stage, run_id="run", key=stage, config=config, parents={}, code_version="c", objects={}
        )
        parents[stage] = publish(store, join(store.root, "runs", "run", stage), draft, {})[1]
    stages = [{"stage": "finetune", "seconds": 3.5}]
    draft = StageManifest(
        stage="evaluate",
        run_id="run",
        key="evaluate",
        config={"batch_size": 250},
        parents=parents,
        code_version="c",
        objects={},
        facts={"verdict": "poison found", "stages": stages},
        metrics=METRICS,
    )
    _, _, manifest = publish(store, join(store.root, "runs", "run", "evaluate"), draft, {})
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "report.html").write_text("<!doctype html>")
    (folder / "summary.json").write_text("{}")
    return store, manifest, folder


def small(folder: Path) -> Classifier:
    torch.manual_seed(0)
    spec = ModelSpec(num_classes=3, channels=1, image_size=16, mean=(0.5,), std=(0.25,))
    made = Classifier(
        module=build_model("convnet_tiny", spec).eval(),
        architecture="convnet_tiny",
        spec=spec,
        image_shape=(1, 16, 16),
        class_names=("a", "b", "c"),
        provenance=Provenance(run_id="run"),
    )
    save(made, folder, ["safetensors", "pt2", "card"])
    return made


def test_nothing_is_logged_unless_it_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TRACKING, raising=False)
    said: list[str] = []
    store, manifest, folder = a_run(tmp_path)
    track(store, "run", manifest, folder, said.append)
    assert said == []


def test_without_the_extra_the_run_stands_and_the_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRACKING, f"file://{tmp_path}/mlruns")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlflow" else find(name))
    said: list[str] = []
    store, manifest, folder = a_run(tmp_path)
    track(store, "run", manifest, folder, said.append)
    assert len(said) == 1
    assert "untaint[mlflow]" in said[0]
    assert "untaint report run" in said[0]


@needs_mlflow
@pytest.mark.filterwarnings("ignore")
def test_a_run_is_logged_once_with_settings_figures_report_and_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("sqlalchemy") is None:
        # What mlflow-skinny alone can keep; a database needs SQLAlchemy.
        monkeypatch.setenv(TRACKING, f"file://{tmp_path}/mlruns")
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    else:
        monkeypatch.setenv(TRACKING, f"sqlite:///{tmp_path}/mlflow.db")
        monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    store, manifest, folder = a_run(tmp_path)
    made = small(folder / "model")
    said: list[str] = []
    track(store, "run", manifest, folder, said.append)
    import mlflow

    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("untaint")
    assert experiment is not None, said
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id in said[0]
    assert run.info.status == "FINISHED"
    assert run.data.params["ingest.attack"] == "badnets"
    assert run.data.params["ingest.dataset"] == "mnist5k"
    assert run.data.params["finetune.setting_129"] == "129"
    assert run.data.params["evaluate.batch_size"] == "250"
    assert run.data.metrics == {**METRICS, "seconds.finetune": 3.5}
    assert run.data.tags["untaint.verdict"] == "poison found"
    files = {entry.path for entry in client.list_artifacts(run.info.run_id)}
    assert {"report.html", "summary.json"} <= files
    assert "files/README.md" in {entry.path for entry in client.list_artifacts(run.info.run_id, "files")}
    (logged,) = client.search_logged_models([experiment.experiment_id])
    model = mlflow.pyfunc.load_model(f"models:/{logged.model_id}")
    assert model.metadata.signature.inputs.inputs[0].shape == (-1, 1, 16, 16)
    images = np.random.default_rng(0).integers(0, 256, (4, 1, 16, 16), dtype=np.uint8)
    found = model.predict((images / 255).astype(np.float32))
    assert np.abs(found - made.predict(images)).max() < 1e-5
    track(store, "run", manifest, folder, said.append)
    assert "before" in said[1]
    assert len(client.search_runs([experiment.experiment_id])) == 1


@needs_mlflow
@pytest.mark.filterwarnings("ignore")
def test_a_server_that_cannot_be_reached_costs_the_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRACKING, "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    said: list[str] = []
    store, manifest, folder = a_run(tmp_path)
    track(store, "run", manifest, folder, said.append)
    assert len(said) == 1
    assert said[0].startswith("not logged to MLflow")
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"

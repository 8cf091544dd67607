"""A finished run in MLflow, where ``MLFLOW_TRACKING_URI`` names a tracking server, a file store or a database."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from components.common.contracts.errors import UntaintError
from components.common.runs.artifacts import StageManifest
from components.common.runs.publish import read_manifest
from components.common.storage.addresses import join
from components.common.storage.store import Store

__all__ = ["TRACKING", "log_run", "track"]

TRACKING = "MLFLOW_TRACKING_URI"
"""Environment variable: where MLflow keeps its runs. Without it nothing is logged."""
_EXPERIMENT = "untaint"
_RUN_TAG = "untaint.run_id"
# What MLflow takes in one request, and of one parameter.
_BATCH = 100
_MAX_VALUE = 6_000


def track(store: Store, run_id: str, manifest: StageManifest, folder: Path, write: Callable[[str], None]) -> None:
    """Logs a finished run to MLflow if that is wanted; whatever prevents it is said and costs the run nothing.

    Args:
        store: The store of the run.
        run_id: The run.
        manifest: The evaluate stage's manifest.
        folder: The run's folder on this machine, with its report and its model.
        write: Takes one line for the user.
    """
    if not os.environ.get(TRACKING):
        return
    if importlib.util.find_spec("mlflow") is None:
        write(
            f"not logged to MLflow, though {TRACKING} is set: install untaint[mlflow], then `untaint report {run_id}`"
        )
        return
    try:
        write(log_run(store, run_id, manifest, folder))
    except UntaintError:
        raise
    # MLflow raises exceptions of its own, of requests and of its databases.
    except Exception as problem:
        said = " ".join(str(problem).split())[:200]
        write(f"not logged to MLflow: {type(problem).__name__}: {said}; `untaint report {run_id}` tries again")


def log_run(store: Store, run_id: str, manifest: StageManifest, folder: Path) -> str:
    """Logs a run with its settings, figures, report and model, unless it has been logged before.

    Args:
        store: The store of the run.
        run_id: The run.
        manifest: The evaluate stage's manifest.
        folder: As for ``track``.

    Returns:
        One line about it.
    """
    with _quiet():
        import mlflow
        from mlflow.entities import Metric, Param

        client = mlflow.MlflowClient()
        experiment = mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT)
        earlier = client.search_runs(
            [experiment.experiment_id], f"tags.`{_RUN_TAG}` = '{run_id}' and attributes.status = 'FINISHED'"
        )
        if earlier:
            return f"logged to MLflow before: run {earlier[0].info.run_id}"
        tags = {_RUN_TAG: run_id, "untaint.verdict": str(manifest.facts.get("verdict", ""))}
        with mlflow.start_run(run_name=run_id, tags=tags) as run:
            moment = int(run.info.start_time)
            params = [Param(name, value[:_MAX_VALUE]) for name, value in _settings(store, run_id, manifest).items()]
            metrics = [Metric(name, value, moment, 0) for name, value in _figures(manifest).items()]
            for start in range(0, len(params), _BATCH):
                client.log_batch(run.info.run_id, params=params[start : start + _BATCH])
            client.log_batch(run.info.run_id, metrics=metrics)
            for name in ("report.html", "summary.json"):
                if (folder / name).is_file():
                    mlflow.log_artifact(str(folder / name))
            _log_model(folder / "model")
            return f"logged to MLflow: run {run.info.run_id} of experiment {experiment.name}"


def _settings(store: Store, run_id: str, manifest: StageManifest) -> dict[str, str]:
    """``stage.name`` to the value, of every stage of the run; of ingest with what it injected."""
    found: dict[str, str] = {}
    for stage in manifest.parents:
        name = "ingest" if stage == "truth" else stage
        parent = read_manifest(store, join(store.root, "runs", run_id, stage, "manifest.json"), manifest.parents[stage])
        found |= {f"{name}.{key}": str(value) for key, value in parent.config.items()}
    return found | {f"evaluate.{key}": str(value) for key, value in manifest.config.items()}


def _figures(manifest: StageManifest) -> dict[str, float]:
    stages: list[Mapping[str, Any]] = manifest.facts.get("stages") or []
    return {**manifest.metrics, **{f"seconds.{entry['stage']}": float(entry["seconds"]) for entry in stages}}


def _log_model(folder: Path) -> None:
    """Logs the model as a torch.export program with its signature, and its other files beside it."""
    if not (folder / "model.pt2").is_file():
        return
    import json

    import mlflow
    import numpy as np
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    config = json.loads((folder / "config.json").read_bytes())
    single = np.dtype(np.float32)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(single, (-1, *config["image_shape"]))]),
        outputs=Schema([TensorSpec(single, (-1, len(config["class_names"])))]),
    )
    mlflow.pyfunc.log_model(
        name="model",
        # From a file and not as a pickle: what is kept can be read, and loads without this package.
        python_model=str(Path(__file__).with_name("mlflow_model.py")),
        artifacts={"program": str(folder / "model.pt2")},
        signature=signature,
        pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", "numpy"],
    )
    mlflow.log_artifacts(str(folder), "files")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps MLflow from telling its makers of its use, and from advertising its pages on the user's terminal."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

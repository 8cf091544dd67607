"""What reaches whom in the compiled DAG. The checkers are tried on pipelines that are wired wrongly, too."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler, dsl

from components.container import component_of
from pipelines.dag.stages import TRAINING, folders_of
from pipelines.dag.training import build

SECRET = re.compile(r"secret|passw|token|credential|access_?key|private_?key", re.IGNORECASE)


def compiled(pipeline: Any, tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "pipeline.yaml"
    compiler.Compiler().compile(pipeline, str(path))
    (spec,) = yaml.safe_load_all(path.read_text())
    return dict(spec)


def truth_readers(spec: dict[str, Any]) -> set[str]:
    """Display names of the tasks that take an output called truth… of any task, at any depth of the DAG."""
    readers = set()
    for component in [spec["root"], *spec["components"].values()]:
        for task in component.get("dag", {}).get("tasks", {}).values():
            inputs = task.get("inputs", {})
            for entry in [*inputs.get("parameters", {}).values(), *inputs.get("artifacts", {}).values()]:
                source = entry.get("taskOutputParameter") or entry.get("taskOutputArtifact") or {}
                key = source.get("outputParameterKey") or source.get("outputArtifactKey") or ""
                if key.startswith("truth"):
                    readers.add(task["taskInfo"]["name"])
    return readers


def secret_like(spec: dict[str, Any]) -> set[str]:
    """Names of parameters and container variables that look like secrets; those would stand in the run's record."""

    def names() -> Iterator[str]:
        for component in [spec["root"], *spec["components"].values()]:
            yield from component.get("inputDefinitions", {}).get("parameters", {})
        for executor in spec["deploymentSpec"]["executors"].values():
            yield from (variable["name"] for variable in executor["container"].get("env", []))

    return {name for name in names() if SECRET.search(name)}


@pytest.mark.parametrize("control", [True, False])
def test_the_ground_truth_reaches_evaluate_alone(tmp_path: Path, control: bool) -> None:
    assert truth_readers(compiled(build(control=control), tmp_path)) == {"evaluate"}


def test_a_stage_wired_to_the_ground_truth_is_reported(tmp_path: Path) -> None:
    @dsl.pipeline(name="cheating")
    def cheating(store_root: str, run_id: str) -> None:
        ingest = component_of("image", *folders_of(TRAINING)["ingest"])(
            store_root=store_root, run_id=run_id, dataset="mnist5k", train_limit=0, attack="badnets",
            poison_rate=0.1, target_label=0, seed=0, settings={},
        )  # fmt: skip
        component_of("image", *folders_of(TRAINING)["split"])(
            store_root=store_root, run_id=run_id, seed=0, settings={},
            ingest_uri=ingest.outputs["manifest_uri"], ingest_sha256=ingest.outputs["manifest_sha256"],
            warmup_uri=ingest.outputs["truth_uri"], warmup_sha256="", warmup_lineage=ingest.outputs["lineage"],
        )  # fmt: skip

    assert truth_readers(compiled(cheating, tmp_path)) == {"split"}


def test_a_ground_truth_that_leaves_through_a_nested_pipeline_is_reported(tmp_path: Path) -> None:
    spec = compiled(build(), tmp_path)
    evaluate = spec["root"]["dag"]["tasks"].pop("evaluate")
    spec["components"]["comp-inner"] = {"dag": {"tasks": {"evaluate": evaluate, "spy": {
        "taskInfo": {"name": "spy"},
        "inputs": {"parameters": {"x": {"taskOutputParameter": {
            "producerTask": "ingest", "outputParameterKey": "truth_sha256"}}}},
    }}}}  # fmt: skip
    assert truth_readers(spec) == {"evaluate", "spy"}


def test_no_parameter_is_a_secret(tmp_path: Path) -> None:
    assert secret_like(compiled(build(), tmp_path)) == set()


def test_secret_parameters_and_variables_are_reported(tmp_path: Path) -> None:
    spec = compiled(build(), tmp_path)
    spec["root"]["inputDefinitions"]["parameters"]["s3_secret"] = {"parameterType": "STRING"}
    spec["deploymentSpec"]["executors"]["exec-split"]["container"]["env"] = [{"name": "AWS_ACCESS_KEY_ID", "value": ""}]
    assert secret_like(spec) == {"s3_secret", "AWS_ACCESS_KEY_ID"}


def test_without_the_control_evaluate_gets_empty_addresses_and_no_task_trains_it(tmp_path: Path) -> None:
    tasks = compiled(build(control=False), tmp_path)["root"]["dag"]["tasks"]
    assert "control" not in {task["taskInfo"]["name"] for task in tasks.values()}
    parameters = tasks["evaluate"]["inputs"]["parameters"]
    for name in ("control_uri", "control_sha256"):
        assert parameters[name] == {"runtimeValue": {"constant": ""}}


def test_with_the_control_it_is_trained_on_what_ingest_made_and_measured(tmp_path: Path) -> None:
    tasks = compiled(build(), tmp_path)["root"]["dag"]["tasks"]
    (name,) = (name for name, task in tasks.items() if task["taskInfo"]["name"] == "control")
    assert tasks[name]["inputs"]["parameters"]["role"] == {"runtimeValue": {"constant": "control"}}
    assert tasks[name]["dependentTasks"] == ["ingest"]
    source = tasks["evaluate"]["inputs"]["parameters"]["control_uri"]["taskOutputParameter"]
    assert source == {"producerTask": name, "outputParameterKey": "manifest_uri"}


@pytest.mark.parametrize("module", ["pipelines.dag.training", "pipelines.cli.run", "pipelines.cli.main"])
def test_compiling_needs_no_heavy_library(module: str) -> None:
    heavy = ("torch", "torchvision", "pandas", "great_expectations", "boto3", "pyarrow")
    code = f"import sys, {module}; print(sorted(set({heavy!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"

"""Profiles: what a cluster grants the stages reaches the compiled pipeline, and a mistake is told by its place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from components.common.contracts.errors import ConfigError
from pipelines.cli.main import cli
from pipelines.cluster.submit import task_names
from pipelines.dag.profiles import Profile, bytes_of, cores_of, load_profile, profile_names
from pipelines.dag.stages import TASKS
from pipelines.dag.training import compile_pipeline
from tests.fakes.argo import Retry, attempts

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden"
NAMES = ("cpu", "eks-irsa", "gpu")
ON_GPU = {"warmup", "control", "unlearn", "finetune"}


def compiled(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    path = folder / f"{name}.yaml"
    compile_pipeline(path, "r.example/x", "t1", load_profile(name))
    pipeline, platform = yaml.safe_load_all(path.read_text())
    # The one field that follows KFP's version and not this project.
    del pipeline["sdkVersion"]
    return pipeline, platform


def by_stage(folder: Path, name: str) -> dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Each stage to its task, its container and what Kubernetes is told of it."""
    pipeline, platform = compiled(folder, name)
    tasks = pipeline["root"]["dag"]["tasks"]
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    found = {}
    for task in tasks.values():
        executor = pipeline["components"][task["componentRef"]["name"]]["executorLabel"]
        container = pipeline["deploymentSpec"]["executors"][executor]["container"]
        found[task["taskInfo"]["name"]] = (task, container, pods[executor])
    return found


def test_every_profile_of_the_project_is_tested_here() -> None:
    assert tuple(profile_names()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_pipeline_compiled_for_a_profile_is_the_expected_one(tmp_path: Path, name: str) -> None:
    documents = compiled(tmp_path, name)
    golden = GOLDEN / f"training-{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        golden.write_text(yaml.safe_dump_all(documents, sort_keys=True, width=120))
    expected = tuple(yaml.safe_load_all(golden.read_text()))
    assert documents == expected, "if this is meant: make golden, and look at the diff"


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_gets_what_its_profile_grants(tmp_path: Path, name: str) -> None:
    profile = load_profile(name)
    stages = by_stage(tmp_path, name)
    assert set(stages) == set(TASKS) - {"claim", "promote"}
    for stage, (task, container, pod) in stages.items():
        grant, resources = profile.stages[stage], container["resources"]
        assert resources["resourceCpuRequest"] == grant.cpu_request
        assert resources["resourceCpuLimit"] == grant.cpu_limit
        assert resources["resourceMemoryRequest"] == grant.memory_request
        assert resources["resourceMemoryLimit"] == grant.memory_limit
        assert task["retryPolicy"]["maxRetryCount"] == grant.retry.count
        assert task["retryPolicy"]["backoffDuration"] == f"{grant.retry.backoff_seconds}s"
        assert pod["activeDeadlineSeconds"] == str(grant.timeout_seconds)
        assert pod["securityContext"] == {"runAsUser": "10001", "runAsGroup": "10001", "runAsNonRoot": True}
        assert pod["imagePullPolicy"] == "IfNotPresent"
        labels = pod["podMetadata"]["labels"]
        assert labels["app.kubernetes.io/component"] == stage
        assert labels["app.kubernetes.io/version"] == "t1"
        assert labels["app.kubernetes.io/part-of"] == "untaint"
        assert ("emptyDirMounts" in pod) == (grant.shm is not None)


@pytest.mark.parametrize("name", ["gpu", "eks-irsa"])
def test_only_training_asks_for_gpus_and_tolerates_their_taint(tmp_path: Path, name: str) -> None:
    for stage, (_, container, pod) in by_stage(tmp_path, name).items():
        accelerator = container["resources"].get("accelerator")
        if stage in ON_GPU:
            assert (accelerator["resourceType"], accelerator["resourceCount"]) == ("nvidia.com/gpu", "1")
            assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
            # A label that a node has only once it runs would keep a pool that was scaled to nothing at nothing.
            assert "nodeAffinity" not in pod
            assert pod["emptyDirMounts"][0]["mountPath"] == "/dev/shm"  # noqa: S108
            assert pod["emptyDirMounts"][0]["medium"] == "Memory"
        else:
            assert accelerator is None
            assert "tolerations" not in pod


def test_no_cpu_stage_asks_for_a_gpu(tmp_path: Path) -> None:
    assert not any("accelerator" in container["resources"] for _, container, _ in by_stage(tmp_path, "cpu").values())


def test_keys_come_from_the_secret_and_with_irsa_from_nowhere(tmp_path: Path) -> None:
    for _, container, pod in by_stage(tmp_path, "gpu").values():
        (secret,) = pod["secretAsEnv"]
        assert {entry["envVar"]: entry["secretKey"] for entry in secret["keyToEnv"]} == {
            "AWS_ACCESS_KEY_ID": "accesskey",
            "AWS_SECRET_ACCESS_KEY": "secretkey",
        }
        assert [entry["name"] for entry in container["env"]] == ["OMP_NUM_THREADS"]
    for _, _, pod in by_stage(tmp_path, "eks-irsa").values():
        assert "secretAsEnv" not in pod
        assert [entry["envVar"] for entry in pod["configMapAsEnv"][0]["keyToEnv"]] == ["AWS_REGION"]


def test_eks_is_the_gpu_profile_with_another_way_to_the_store() -> None:
    gpu, eks = (load_profile(name).model_dump(exclude={"description", "s3"}) for name in ("gpu", "eks-irsa"))
    assert gpu == eks


def test_the_run_has_a_deadline_and_is_cleared_away(tmp_path: Path) -> None:
    for name in NAMES:
        profile, (_, platform) = load_profile(name), compiled(tmp_path, name)
        config = platform["platforms"]["kubernetes"]["pipelineConfig"]
        assert config["activeDeadlineSeconds"] == profile.active_deadline_seconds
        assert config["resourceTtlOnSuccess"] == profile.ttl_seconds_after_success
        assert config["resourceTtlOnFailure"] == profile.ttl_seconds_after_failure


@pytest.mark.parametrize("name", NAMES)
def test_a_training_that_loses_its_node_late_is_tried_again_and_may_run_to_its_end(tmp_path: Path, name: str) -> None:
    profile = load_profile(name)
    task, _, _ = by_stage(tmp_path, name)["warmup"]
    retry = Retry.of(task)
    # A node is awaited and lost again with each attempt but the last, for as long as the run may last.
    share = profile.active_deadline_seconds / (retry.limit + 1) - retry.duration * retry.factor**retry.limit
    lost = [("deleted", share)] * retry.limit
    assert attempts(retry, [*lost, ("ok", share)]) == (retry.limit + 1, "Succeeded", "")
    assert attempts(retry, [("deleted", 1.0)] * (retry.limit + 1))[2] == "No more retries left"


@pytest.mark.parametrize("ending", ["exit", "oom", "evicted", "shutdown"])
def test_what_argo_calls_a_failure_is_not_tried_again(tmp_path: Path, ending: str) -> None:
    retry = Retry.of(by_stage(tmp_path, "gpu")["warmup"][0])
    made, phase, _ = attempts(retry, [(ending, 60.0), ("ok", 60.0)])
    assert (made, phase) == (1, "Failed")
    # What an owner of the cluster may set for all pipelines, and no pipeline for itself.
    assert attempts(replace(retry, policy="Always"), [(ending, 60.0), ("ok", 60.0)])[:2] == (2, "Succeeded")


def test_the_limits_that_profiles_refuse_would_end_a_training_early(tmp_path: Path) -> None:
    retry = Retry.of(by_stage(tmp_path, "gpu")["warmup"][0])
    lost = [("deleted", 5 * 3600.0), ("ok", 3600.0)]
    assert attempts(replace(retry, max_duration=1800), lost)[:2] == (1, "Error")
    assert attempts(replace(retry, max_duration=5.5 * 3600), lost)[:2] == (2, "Failed")
    assert attempts(replace(retry, factor=1.5), lost)[:2] == (1, "Error")


def test_without_a_profile_the_pipeline_knows_no_cluster(tmp_path: Path) -> None:
    compile_pipeline(tmp_path / "p.yaml")
    (pipeline,) = yaml.safe_load_all((tmp_path / "p.yaml").read_text())
    assert not any("resources" in e["container"] for e in pipeline["deploymentSpec"]["executors"].values())
    assert set(task_names(tmp_path / "p.yaml").values()) <= set(TASKS)


def write(folder: Path, changes: Mapping[str, Any]) -> str:
    """The cpu profile, task by task, with values changed at dotted paths; None takes the entry out."""
    content = yaml.safe_load((ROOT / "k8s" / "profiles" / "cpu.yaml").read_text())
    classes = content.pop("resources")
    # Copies: the anchors of the file make classes share one mapping.
    content["stages"] = {name: dict(classes[spec.resources]) for name, spec in TASKS.items()}
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = content
        for parent in parents:
            place = place[parent]
        if value is None:
            del place[last]
        else:
            place[last] = value
    file = folder / "profile.yaml"
    file.write_text(yaml.safe_dump(content))
    return str(file)


def test_a_task_gets_what_its_class_gets_unless_it_has_an_entry_of_its_own(tmp_path: Path) -> None:
    own = load_profile(write(tmp_path, {}))
    light, training = own.stages["split"].model_dump(mode="json"), own.stages["warmup"].model_dump(mode="json")
    classes = {"light": light, "measuring": light, "training": {**training, "timeout_seconds": 77}}
    less = dict.fromkeys(f"stages.{name}" for name in TASKS if name != "split")
    found = load_profile(write(tmp_path, {**less, "resources": classes, "stages.split.shm": "1Gi"}))
    assert found.stages["warmup"] == found.stages["finetune"]
    assert found.stages["warmup"].timeout_seconds == 77
    assert (found.stages["split"].shm, found.stages["claim"].shm) == ("1Gi", None)
    del classes["measuring"]
    with pytest.raises(ConfigError, match="it lacks evaluate"):
        load_profile(write(tmp_path, {**less, "resources": classes}))
    with pytest.raises(ConfigError, match=r"resources\.heavy"):
        load_profile(write(tmp_path, {**less, "resources": {"heavy": light}}))


@pytest.mark.parametrize(
    ("path", "value", "place", "says"),
    [
        ("stages.warmup.memory_limit", "3GB", "stages.warmup.memory_limit", "512Mi or 4Gi"),
        ("stages.warmup.cpu_limit", 4, "stages.warmup.cpu_limit", "valid string"),
        ("stages.warmup.cpu_request", "8", "stages.warmup", "cpu_request <= cpu_limit, got 8 and 4"),
        ("stages.warmup.memory_request", "5Gi", "stages.warmup", "memory_request <= memory_limit, got 5Gi and 3Gi"),
        ("stages.warmup.shm", "8Gi", "stages.warmup", "shm <= memory_limit"),
        ("stages.warmup.gpus", 1, "stages.warmup.gpus", "extra inputs are not permitted"),
        ("stages.warmup.gpu", {"count": 0}, "stages.warmup.gpu.count", "greater than or equal to 1"),
        ("stages.warmup.gpu", {"resource": "gpu"}, "stages.warmup.gpu.resource", "match pattern"),
        ("stages.warmup.timeout_seconds", 99999, "the file", "stages.warmup.timeout_seconds <= active_deadline"),
        ("stages.warmup.retry", {"count": 99}, "stages.warmup.retry.count", "less than or equal to 10"),
        ("stages.warmup.retry", {"factor": 1.5}, "stages.warmup.retry.factor", "valid integer"),
        (
            "stages.warmup.retry",
            {"max_seconds": 600},
            "the file",
            "retry.max_seconds >= active_deadline_seconds, got 600",
        ),
        ("stages.split", None, "stages", "lacks split"),
        ("stages.spilt", {}, "stages.spilt.cpu_request", "field required"),
        ("stages.warmup.tolerations", [{"key": "a", "operator": "Equal"}], "stages.warmup.tolerations.0", "a value"),
        ("stages.warmup.node_affinity", [{"key": "a", "operator": "Im"}], "node_affinity.0.operator", "'Im'"),
        ("stages.warmup.node_affinity", [{"key": "a"}], "node_affinity.0", "should have values"),
        ("s3.secret", "Not A Name", "s3.secret", "match pattern"),
        ("s3.settings", ["AWS_SECRET_ACCESS_KEY"], "s3.settings.0", "AWS_ENDPOINT_URL"),
        ("image_pull_policy", "always", "image_pull_policy", "'IfNotPresent', 'Always' or 'Never'"),
        ("security_context", {"run_as_user": 0}, "security_context.run_as_user", "greater than 0"),
        ("labels", {"app.kubernetes.io/name": "x"}, "labels", "leave 'app.kubernetes.io/name' to untaint"),
        ("labels", {"team": "no spaces"}, "labels", "label values"),
        ("service_account", None, "service_account", "field required"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, path: str, value: Any, place: str, says: str) -> None:
    with pytest.raises(ConfigError) as problem:
        load_profile(write(tmp_path, {path: value}))
    assert place in problem.value.found
    assert says in problem.value.found


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as problem:
        load_profile(write(tmp_path, {"service_account": None, "stages.split.cpu_limit": "many"}))
    assert "service_account" in problem.value.found
    assert "stages.split.cpu_limit" in problem.value.found


@pytest.mark.parametrize(
    ("text", "found"), [("- a\n- b\n", "the file"), ("a: [", "flow"), ("a: !!timestamp 2026-01-01", "serializable")]
)
def test_what_is_no_profile_at_all_is_told(tmp_path: Path, text: str, found: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=found):
        load_profile(str(file))


def test_an_unknown_name_lists_the_known_ones() -> None:
    answer = CliRunner().invoke(cli, ["compile", "--profile", "tpu"], prog_name="untaint")
    assert answer.exit_code == ConfigError.exit_code
    assert "cpu, eks-irsa, gpu" in answer.stderr


def test_quantities_mean_what_kubernetes_means() -> None:
    assert [cores_of(text) for text in ("2", "0.5", "250m")] == [2.0, 0.5, 0.25]
    assert [bytes_of(text) for text in ("1Ki", "1K", "2Gi")] == [1024, 1000, 2 * 2**30]
    for text in ("0", "-1", "1g", ""):
        with pytest.raises(ValueError, match="should be"):
            bytes_of(text)


def test_further_labels_pull_secrets_and_taints_reach_the_pod(tmp_path: Path) -> None:
    file = write(tmp_path, {
        "labels": {"team": "vision"}, "image_pull_secrets": ["ghcr"],
        "stages.split.tolerations": [{"key": "spot", "operator": "Equal", "value": "yes", "effect": "NoExecute"}],
        "stages.split.node_affinity": [
            {"key": "zone", "values": ["a"]}, {"key": "arch", "values": ["amd64"]},
            {"key": "disk", "operator": "Exists", "weight": 5}],
    })  # fmt: skip
    path = tmp_path / "out.yaml"
    compile_pipeline(path, profile=load_profile(file), control=False)
    _, platform = yaml.safe_load_all(path.read_text())
    pod = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-split"]
    assert pod["podMetadata"]["labels"]["team"] == "vision"
    assert pod["imagePullSecret"][0]["secretName"] == "ghcr"
    assert pod["tolerations"] == [{"key": "spot", "operator": "Equal", "value": "yes", "effect": "NoExecute"}]
    required, preferred = pod["nodeAffinity"]
    assert [e["key"] for e in required["matchExpressions"]] == ["zone", "arch"]
    assert (preferred["matchExpressions"][0]["key"], preferred["weight"]) == ("disk", 5.0)


def test_the_schema_knows_no_field_without_a_meaning() -> None:
    import re

    for model in (
        Profile,
        *[f.annotation for f in Profile.model_fields.values() if hasattr(f.annotation, "model_fields")],
    ):
        told = set(re.findall(r"^\s+(\w+): ", model.__doc__ or "", re.MULTILINE))
        assert set(model.model_fields) <= told or model.__name__ == "SecurityContext"

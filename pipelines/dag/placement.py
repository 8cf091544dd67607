"""Writes a profile into the pipeline's tasks: resources, GPUs, nodes, retries, secrets by name, security, labels."""

from __future__ import annotations

import re
from typing import Any

from kfp import dsl

from pipelines.dag.profiles import NodeTerm, Profile, S3Access, StagePlacement, cores_of

__all__ = ["pipeline_config", "place"]

_SECRET_KEYS = {"accesskey": "AWS_ACCESS_KEY_ID", "secretkey": "AWS_SECRET_ACCESS_KEY"}
"""Keys of the store's secret, as Kubeflow Pipelines names them in its own, to what boto3 reads."""


def place(task: Any, stage: str, profile: Profile, version: str) -> None:
    """Gives a task what the profile grants its stage.

    Args:
        task: The task in the DAG.
        stage: One of ``profiles.TASKS``.
        profile: The environment's profile.
        version: Tag of the image, for the label ``app.kubernetes.io/version``.
    """
    # Loads the client library of Kubernetes, which local runs have no use for.
    from kfp import kubernetes

    grant = profile.stages[stage]
    _resources(task, grant)
    task.set_retry(
        num_retries=grant.retry.count,
        backoff_duration=f"{grant.retry.backoff_seconds}s",
        backoff_factor=grant.retry.factor,
        backoff_max_duration=f"{grant.retry.max_seconds}s",
    )
    kubernetes.set_timeout(task, grant.timeout_seconds)
    if grant.shm:
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=grant.shm)  # noqa: S108
    for taint in grant.tolerations:
        kubernetes.add_toleration(task, key=taint.key, operator=taint.operator, value=taint.value, effect=taint.effect)
    _affinity(task, grant.node_affinity)
    _store(task, profile.s3)
    kubernetes.set_image_pull_policy(task, profile.image_pull_policy)
    if profile.image_pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(profile.image_pull_secrets))
    user = profile.security_context
    kubernetes.set_security_context(
        task,
        run_as_user=user.run_as_user,
        run_as_group=user.run_as_group,
        run_as_non_root=user.run_as_non_root,
    )
    for key, value in (_labels(stage, version) | profile.labels).items():
        kubernetes.add_pod_label(task, key, value)


def pipeline_config(profile: Profile) -> dsl.PipelineConfig:
    """The limits of the whole run: when it is ended, and when its pods are deleted.

    Args:
        profile: The environment's profile.
    """
    return dsl.PipelineConfig(
        ttl_seconds_after_success=profile.ttl_seconds_after_success,
        ttl_seconds_after_failure=profile.ttl_seconds_after_failure,
        active_deadline_seconds=profile.active_deadline_seconds,
    )


def _resources(task: Any, grant: StagePlacement) -> None:
    task.set_cpu_request(grant.cpu_request)
    task.set_cpu_limit(grant.cpu_limit)
    task.set_memory_request(grant.memory_request)
    task.set_memory_limit(grant.memory_limit)
    # PyTorch counts the node's cores, not the pod's share of them; more threads than share only wait for each other.
    task.set_env_variable("OMP_NUM_THREADS", str(max(1, int(cores_of(grant.cpu_limit)))))
    if grant.gpu:
        task.set_accelerator_type(grant.gpu.resource)
        task.set_accelerator_limit(grant.gpu.count)


def _affinity(task: Any, terms: tuple[NodeTerm, ...]) -> None:
    from kfp import kubernetes

    def expression(term: NodeTerm) -> dict[str, Any]:
        return {"key": term.key, "operator": term.operator, "values": list(term.values)}

    # In one call, for Kubernetes asks for any of several terms and for all expressions of one.
    required = [expression(term) for term in terms if term.weight is None]
    if required:
        kubernetes.add_node_affinity(task, match_expressions=required)
    for term in terms:
        if term.weight is not None:
            kubernetes.add_node_affinity(task, match_expressions=[expression(term)], weight=term.weight)


def _store(task: Any, s3: S3Access) -> None:
    from kfp import kubernetes

    if s3.secret:
        kubernetes.use_secret_as_env(task, s3.secret, _SECRET_KEYS)
    if s3.config_map:
        kubernetes.use_config_map_as_env(task, s3.config_map, {name: name for name in s3.settings})


def _labels(stage: str, version: str) -> dict[str, str]:
    # A digest or a long tag is no label; cut to what is one.
    short = re.sub(r"[^A-Za-z0-9._-]", "-", version)[:63].strip("._-")
    return {
        "app.kubernetes.io/name": "untaint",
        "app.kubernetes.io/component": stage,
        "app.kubernetes.io/part-of": "untaint",
        "app.kubernetes.io/managed-by": "kubeflow-pipelines",
        "app.kubernetes.io/version": short or "unknown",
    }

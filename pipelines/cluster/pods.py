"""The pods of a run, from the API server of Kubernetes: their logs, and why one waits or has failed.

Kubeflow Pipelines 2.17 reports neither the pods of a run nor a reason. So the pods are found by the
label and the annotation that it and Argo give them. That needs access to Kubernetes, by a kubeconfig or from inside the
cluster; where there is none, ``open_pods`` gives None, and what depends on it is left out.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from components.common.contracts.errors import ConfigError
from pipelines.cluster.server import REQUEST_SECONDS, ClusterError, Server

__all__ = ["ARTIFACT_SECRET", "DEFAULT_NAMESPACE", "Pod", "Pods", "check_artifact_secret", "open_pods", "reason_of"]

DEFAULT_NAMESPACE = "kubeflow"
"""Where a server of a single user runs its pods."""
ARTIFACT_SECRET = "mlpipeline-minio-artifact"  # noqa: S105 - a name
"""The secret with which Argo archives the log of every pod: without it in the namespace no pod of a run ever starts."""
_RUN_LABEL = "pipeline/runid"
_NODE_NAME = "workflows.argoproj.io/node-name"
_METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pod:
    """A pod of a task.

    Attributes:
        name: Its name.
        task: KFP's name of the task, that of its driver for a driver's pod.
        phase: As in the pod's status, such as ``Pending``.
        reason: Why it waits or has failed; empty if Kubernetes names no reason.
    """

    name: str
    task: str
    phase: str
    reason: str


class Pods:
    """The pods of one namespace.

    Args:
        client: ``kubernetes.client.ApiClient``.
        namespace: The namespace of the runs.
    """

    def __init__(self, client: Any, namespace: str) -> None:
        self._client = client
        self.namespace = namespace

    def of_run(self, run_id: str) -> list[Pod]:
        """The pods of a run that are still there, in the order in which they were made.

        Args:
            run_id: KFP's id of the run.

        Raises:
            ClusterError: The API server does not answer or refuses.
        """
        answer = json.loads(self._get("/pods", {"labelSelector": f"{_RUN_LABEL}={run_id}"}))
        items = sorted(answer["items"], key=lambda item: str(item["metadata"].get("creationTimestamp", "")))
        return [
            Pod(
                name=item["metadata"]["name"],
                task=_task_of(item["metadata"].get("annotations", {}).get(_NODE_NAME, "")),
                phase=item["status"].get("phase", "Unknown"),
                reason=reason_of(item) or self._warning(item),
            )
            for item in items
        ]

    def _warning(self, pod: Mapping[str, Any]) -> str:
        """The last warning about a pod that waits: a volume that cannot be mounted shows nowhere else."""
        if pod["status"].get("phase") != "Pending":
            return ""
        query = {"fieldSelector": f"involvedObject.name={pod['metadata']['name']},type=Warning"}
        try:
            events = json.loads(self._get("/events", query))["items"]
        except ClusterError:
            return ""
        return _line(f"{events[-1].get('reason', '')}: {events[-1].get('message', '')}") if events else ""

    def log(self, pod: str) -> str:
        """What the stage's container of a pod has said so far.

        Raises:
            ClusterError: The API server refuses, the pod is gone or its container has not started.
        """
        return self._get(f"/pods/{pod}/log", {"container": "main"}).decode("utf-8", "replace")

    def lacks_secret(self, name: str) -> bool:
        """Whether a secret is known not to be in the namespace; only its metadata are read, never its content.

        Raises:
            ClusterError: The API server does not answer, refuses, or has no such namespace.
        """
        try:
            self._get(f"/secrets/{name}", {}, accept=_METADATA_ONLY)
        except _NotFoundError:
            self._get("", {})
            return True
        return False

    def _get(self, path: str, query: Mapping[str, str], accept: str = "*/*") -> bytes:
        with _explained(self.namespace):
            answer = self._client.call_api(
                f"/api/v1/namespaces/{{namespace}}{path}",
                "GET",
                path_params={"namespace": self.namespace},
                query_params=list(query.items()),
                header_params={"Accept": accept},
                auth_settings=["BearerToken"],
                response_type="str",
                _return_http_data_only=True,
                _preload_content=False,
                _request_timeout=REQUEST_SECONDS,
            )
            return bytes(answer.data)


class _NotFoundError(ClusterError):
    pass


def open_pods(server: Server) -> Pods | None:
    """Access to the pods of a server's runs.

    Args:
        server: The server; its ``context`` is that of kubectl, empty for the current one.

    Returns:
        None where Kubernetes cannot be reached from here for want of a configuration.
    """
    from kubernetes import client, config

    configuration = client.Configuration()
    try:
        # The client's own constant is read when it is imported.
        config.load_kube_config(
            os.environ.get("KUBECONFIG") or None, server.context or None, client_configuration=configuration
        )
    except (config.ConfigException, OSError):
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException:
            return None
    configuration.retries = False
    return Pods(client.ApiClient(configuration), server.namespace or DEFAULT_NAMESPACE)


def check_artifact_secret(server: Server) -> None:
    """Stops before a run whose pods could never start, where Kubernetes lets this be seen.

    Args:
        server: The server that is to run it.

    Raises:
        ConfigError: The namespace of the run has no secret ``ARTIFACT_SECRET``.
    """
    pods = open_pods(server)
    if pods is None:
        return
    try:
        missing = pods.lacks_secret(ARTIFACT_SECRET)
    except ClusterError:
        # No access to secrets, or another cluster than the server's: nothing is known.
        return
    if missing:
        raise ConfigError(
            f"namespace {pods.namespace}",
            expected=f"the secret {ARTIFACT_SECRET}, which every pod of Kubeflow Pipelines mounts",
            found="none, in the cluster of the current kubectl context; a run would wait without end",
            hint="Take the namespace of a Kubeflow profile with --namespace, or label it: kubectl label namespace "
            f"{pods.namespace} pipelines.kubeflow.org/enabled=true. "
            "If your Argo archives logs without it: KUBECONFIG=/dev/null.",
        )


def reason_of(pod: Mapping[str, Any]) -> str:
    """Why a pod waits or has failed, in the words of Kubernetes; empty if it names no reason.

    Args:
        pod: The pod as JSON.
    """
    status = pod.get("status", {})
    if status.get("message"):
        return _line(f"{status.get('reason', '')}: {status['message']}")
    for container in (*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])):
        state = container.get("state", {})
        waiting, ended = state.get("waiting"), state.get("terminated")
        if waiting and waiting.get("reason") not in (None, "PodInitializing", "ContainerCreating"):
            return _line(f"{waiting['reason']}: {waiting.get('message', '')}")
        if ended and ended.get("exitCode"):
            return _line(f"{ended.get('reason', '')} (exit code {ended['exitCode']}): {ended.get('message', '')}")
    # A container that waits without a reason of its own waits for what the pod's conditions name, unless these name
    # only the container.
    conditions = [
        entry
        for entry in status.get("conditions", [])
        if entry.get("status") == "False" and not str(entry.get("reason", "")).startswith("Containers")
    ]
    return next((_line(f"{e.get('reason', '')}: {e['message']}") for e in conditions if e.get("message")), "")


def _line(text: str) -> str:
    return " ".join(text.split()).removeprefix(": ").removesuffix(":")[:200]


def _task_of(node: str) -> str:
    """``wf(0).root(0).train(0).ingest(0).executor(0)`` is the pod of ``ingest``: attempts are in parentheses."""
    parts = [re.sub(r"\(\d+\)$", "", part) for part in node.split(".")]
    return parts[-2] if parts[-1] == "executor" and len(parts) > 1 else parts[-1]


@contextmanager
def _explained(namespace: str) -> Iterator[None]:
    import urllib3
    from kubernetes.client import ApiException

    where = f"the API server of Kubernetes, namespace {namespace}"
    try:
        yield
    except ApiException as problem:
        body = problem.body.decode("utf-8", "replace") if isinstance(problem.body, bytes) else str(problem.body or "")
        kind: Callable[..., ClusterError] = _NotFoundError if problem.status == 404 else ClusterError
        raise kind(
            where,
            expected="the request done",
            found=f"HTTP {problem.status} {_message(body) or problem.reason}",
            hint="Try `kubectl get pods` with the same context.",
        ) from None
    except (urllib3.exceptions.HTTPError, OSError) as problem:
        raise ClusterError(
            where,
            expected="an answer",
            found=_line(str(problem)) or type(problem).__name__,
            hint="Try `kubectl get pods` with the same context.",
        ) from None


def _message(body: str) -> str:
    try:
        return _line(str(json.loads(body)["message"]))
    except (ValueError, KeyError, TypeError):
        return _line(body)

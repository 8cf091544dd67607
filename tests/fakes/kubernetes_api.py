"""What the API server of Kubernetes knows of the pods of a run; part of ``kfp_api.FakeKfp``.

Labels and annotations of the pods are those that Kubeflow Pipelines 2.17.0 and Argo Workflows 4.0.5 give them:
``pipeline/runid`` (kubeflow/pipelines backend/src/common/util/consts.go) and ``workflows.argoproj.io/node-name``
(argoproj/argo-workflows workflow/controller/workflowpod.go).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fakes.argo import Node, Workflow

__all__ = ["KubernetesApi", "Refused"]

_METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


class Refused(Exception):
    """A request that is answered with a status and a message."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


@dataclass
class KubernetesApi:
    """The API server.

    Attributes:
        namespaces: Namespace to the names of its secrets.
        forbidden: Resources that may not be read: ``pods``, ``events``, ``secrets``, ``namespaces``.
    """

    namespaces: dict[str, set[str]] = field(default_factory=lambda: {"kubeflow": {"mlpipeline-minio-artifact"}})
    forbidden: set[str] = field(default_factory=set)

    @staticmethod
    def write_config(host: str, path: Path) -> str:
        """A kubeconfig whose current context leads to ``host``."""
        path.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "c", "users": [{"name": "u", "user": {}}],
            "clusters": [{"name": "c", "cluster": {"server": host}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }))  # fmt: skip
        return str(path)

    def answer(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        runs: Iterable[tuple[str, str, Workflow]],
    ) -> Any:
        """The answer to a request: JSON, or a log as text."""
        parts = path.removeprefix("/api/v1/namespaces/").split("/")
        namespace, kind = parts[0], parts[1] if len(parts) > 1 else "namespaces"
        if method != "GET" or kind in self.forbidden:
            raise Refused(403, f"{kind} is forbidden")
        if kind == "namespaces":
            if namespace not in self.namespaces:
                raise Refused(404, f'namespaces "{namespace}" not found')
            return {"kind": "Namespace", "metadata": {"name": namespace}}
        if kind == "secrets":
            if headers.get("Accept") != _METADATA_ONLY:
                raise Refused(500, "the content of a secret was asked for")
            if parts[2] not in self.namespaces.get(namespace, ()):
                raise Refused(404, f'secrets "{parts[2]}" not found')
            return {"kind": "PartialObjectMetadata", "metadata": {"name": parts[2]}}
        own = [(run_id, workflow) for space, run_id, workflow in runs if space == namespace]
        if kind == "events":
            return _events([w for _, w in own], query["fieldSelector"])
        if len(parts) == 2:
            label, _, wanted = query["labelSelector"].partition("=")
            assert label == "pipeline/runid"
            pods = [_pod(w, node, run_id) for run_id, w in own if run_id == wanted for node in w.pods()]
            return {"kind": "PodList", "items": pods}
        return _log([w for _, w in own], parts[2], query)


def _log(workflows: Iterable[Workflow], pod: str, query: Mapping[str, str]) -> str:
    assert query["container"] == "main"
    for workflow in workflows:
        for node in workflow.pods():
            if workflow.pod_name(node) == pod:
                if node.phase == "Pending":
                    raise Refused(400, f'container "main" in pod "{pod}" is waiting to start')
                return f"log of {pod}\n"
    raise Refused(404, f'pods "{pod}" not found')


def _events(workflows: Iterable[Workflow], selector: str) -> dict[str, Any]:
    """The warnings about one pod."""
    field, _, kinds = selector.partition(",")
    assert kinds == "type=Warning"
    waiting = [w.waits_for(n) for w in workflows for n in w.pods() if field == f"involvedObject.name={w.pod_name(n)}"]
    events = [text.partition(": ") for text in waiting if text.startswith("Failed")]
    return {"kind": "EventList", "items": [{"reason": e[0], "message": e[2]} for e in events]}


def _pod(workflow: Workflow, node: Node, run_id: str) -> dict[str, Any]:
    phase = {"Error": "Failed"}.get(node.phase, node.phase)
    status: dict[str, Any] = {"phase": phase}
    container, _, rest = node.message.partition(": ")
    if phase == "Pending" and workflow.waits_for(node).startswith("Failed"):
        # A volume that cannot be mounted shows in an event alone.
        status["conditions"] = [
            {
                "type": "Ready",
                "status": "False",
                "reason": "ContainersNotReady",
                "message": "unready status: [wait main]",
            }
        ]
        status["containerStatuses"] = [{"name": "main", "state": {"waiting": {"reason": "ContainerCreating"}}}]
    elif phase == "Pending":
        status["conditions"] = [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": workflow.waits_for(node)}
        ]
    elif phase == "Failed" and container in ("main", "init"):
        reason, _, code = rest.partition(" (exit code ")
        ended = {"terminated": {"reason": reason, "exitCode": int(code.rstrip(")"))}}
        status["containerStatuses" if container == "main" else "initContainerStatuses"] = [
            {"name": container, "state": ended}
        ]
    elif phase == "Failed":
        status |= {"reason": "Evicted", "message": node.message}
    return {
        "metadata": {
            "name": workflow.pod_name(node),
            "labels": {"pipeline/runid": run_id},
            "annotations": {"workflows.argoproj.io/node-name": node.name},
            "creationTimestamp": f"2026-11-25T00:00:{node.begun:02d}Z",
        },
        "status": status,
    }

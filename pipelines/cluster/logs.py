"""What the stages of a run have said: from their pods while these are there, else from the archive that Argo keeps."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

from components.common.contracts.errors import ConfigError
from pipelines.cluster.pods import Pod, Pods, open_pods
from pipelines.cluster.server import REQUEST_SECONDS, ClusterError, Server, explained, quiet
from pipelines.cluster.submit import get_run, names_of, tasks_of

__all__ = ["Log", "archived_log", "logs_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Log:
    """The log of one pod.

    Attributes:
        task: KFP's name of the task.
        origin: The pod, or the archive and the node.
        text: What it said; empty with a problem.
        problem: Why there is no log, or None.
    """

    task: str
    origin: str
    text: str = ""
    problem: ClusterError | None = None


def logs_of(server: Server, run_id: str, task: str = "") -> Iterator[Log]:
    """The logs of a run's stages, in the order in which these began; every attempt whose pod is still there.

    Args:
        server: The server.
        run_id: KFP's id of the run.
        task: Name of a task or of its stage; empty for all of them.

    Raises:
        ConfigError: No such task has begun.
        ClusterError: The server refuses.
    """
    run = get_run(server, run_id)
    names = names_of(server, run)
    known = {one.name: one.node for one in tasks_of(run) if one.name in names}
    chosen = {name: node for name, node in known.items() if task in ("", name, names[name])}
    if not chosen:
        raise ConfigError(
            f"task '{task}' of run {run_id}",
            expected=f"one that has begun: {', '.join(known) or 'none so far'}",
            found="no such task",
            hint=f"Look with `untaint runs show {run_id}`.",
        )
    pods = open_pods(server)
    live = _by_task(pods, run_id)
    for name, node in chosen.items():
        if pods is not None and name in live:
            yield from (_from_pod(pods, pod) for pod in live[name])
        else:
            yield _from_archive(server, run_id, name, node)


def _by_task(pods: Pods | None, run_id: str) -> dict[str, list[Pod]]:
    found: dict[str, list[Pod]] = {}
    with contextlib.suppress(ClusterError):
        for pod in pods.of_run(run_id) if pods is not None else ():
            found.setdefault(pod.task, []).append(pod)
    return found


def _from_pod(pods: Pods, pod: Pod) -> Log:
    origin = f"pod {pod.name}"
    try:
        return Log(task=pod.task, origin=origin, text=pods.log(pod.name))
    except ClusterError as problem:
        if pod.phase == "Pending":
            return Log(task=pod.task, origin=origin, text=f"(it waits: {pod.reason or 'no reason is given'})")
        return Log(task=pod.task, origin=origin, problem=problem)


def _from_archive(server: Server, run_id: str, task: str, node: str) -> Log:
    origin = f"archive, node {node}"
    try:
        return Log(task=task, origin=origin, text=archived_log(server, run_id, node))
    except ClusterError as problem:
        return Log(task=task, origin=origin, problem=problem)


def archived_log(server: Server, run_id: str, node: str) -> str:
    """What the pod of a node said, from the archive that Argo keeps once the pod has ended.

    Args:
        server: The server.
        run_id: KFP's id of the run.
        node: Id of a node as in ``Task``.

    Raises:
        ClusterError: The server refuses, or has no such log.
    """
    with quiet(), explained(server.host):
        api = server.client.runs.run_service_get_run.__self__.api_client
        # The one endpoint that the generated client leaves out, for it is not part of the gRPC interface.
        answer = api.call_api(
            "/apis/v1alpha1/runs/{run_id}/nodes/{node}/log",
            "GET",
            path_params={"run_id": run_id, "node": node},
            header_params={"Accept": "text/plain"},
            auth_settings=["Bearer"],
            response_type="str",
            _return_http_data_only=True,
            _preload_content=False,
            _request_timeout=REQUEST_SECONDS,
        )
    text = str(answer.data.decode("utf-8", "replace"))
    # The status is sent before the log is looked for, so it is 200 without one too.
    last = text.rstrip("\n").rpartition("\n")[2]
    with contextlib.suppress(ValueError, AttributeError):
        message = json.loads(last).get("error_message")
        if message:
            raise ClusterError(
                f"the log of node {node} of run {run_id}",
                expected="a log in the archive",
                found=" ".join(str(message).split())[:200],
                hint="The log of a pod that runs is read from Kubernetes: give access to it by a kubeconfig.",
            )
    return text

"""Runs on a Kubeflow Pipelines server: uploading a version by its content, starting, following, reading, stopping."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from components.common.runs.artifacts import digest_of
from pipelines.cluster.server import REQUEST_SECONDS, ClusterError, Server, explained, quiet

__all__ = [
    "ENDED",
    "POLL_SECONDS",
    "Followed",
    "Task",
    "follow",
    "get_run",
    "list_runs",
    "package_digest",
    "pod_log",
    "start",
    "stop",
    "task_names",
    "tasks_of",
    "upload",
]

POLL_SECONDS = 5.0
"""Time between two looks at a run that is followed."""
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
"""States that a run or a stage does not leave."""


def package_digest(package: Path) -> str:
    """Hex sha256 of what a compiled pipeline says, whatever the order of its lines and KFP's version in it."""
    import yaml

    documents = list(yaml.safe_load_all(package.read_text(encoding="utf-8")))
    for document in documents:
        document.pop("sdkVersion", None)
    return digest_of(documents)


def task_names(package: Path) -> dict[str, str]:
    """KFP's name of each task in a compiled pipeline to the stage's name for people."""
    import yaml

    spec = next(iter(yaml.safe_load_all(package.read_text(encoding="utf-8"))))
    return {name: task["taskInfo"]["name"] for name, task in spec["root"]["dag"]["tasks"].items()}


def upload(server: Server, package: Path, name: str) -> tuple[str, str, bool]:
    """Uploads a compiled pipeline as a version that is named after its content; one that is there is used again.

    Args:
        server: The server.
        package: The compiled pipeline.
        name: Name of the pipeline.

    Returns:
        Id of the pipeline, id of the version, and whether the version is new.

    Raises:
        ClusterError: The server refuses.
    """
    client, version = server.client, f"{name}-{package_digest(package)[:12]}"
    with quiet(), explained(server.host):
        listed = client.pipelines.pipeline_service_list_pipelines(
            namespace=server.namespace, filter=_named(name), _request_timeout=REQUEST_SECONDS
        )
        if listed.pipelines:
            pipeline_id = listed.pipelines[0].pipeline_id
        else:
            made = client.api_models.V2beta1Pipeline(display_name=name, name=name, namespace=server.namespace or None)
            pipeline_id = client.pipelines.pipeline_service_create_pipeline(
                made, _request_timeout=REQUEST_SECONDS
            ).pipeline_id
        versions = client.list_pipeline_versions(pipeline_id, filter=_named(version)).pipeline_versions
        if versions:
            return str(pipeline_id), str(versions[0].pipeline_version_id), False
        with tempfile.TemporaryDirectory() as folder:
            # The server records the file's name, which on this machine may hold the name of its owner.
            plain = Path(folder) / "pipeline.yaml"
            plain.write_bytes(package.read_bytes())
            uploaded = client.upload_pipeline_version(str(plain), version, pipeline_id=pipeline_id)
    return str(pipeline_id), str(uploaded.pipeline_version_id), True


def start(
    server: Server,
    version: tuple[str, str],
    name: str,
    parameters: Mapping[str, Any],
    *,
    experiment: str,
    service_account: str = "",
    caching: bool | None = None,
) -> str:
    """Starts a run of an uploaded version.

    Args:
        server: The server.
        version: Ids of the pipeline and of its version.
        name: Name of the run.
        parameters: All of the pipeline's parameters without default, and others.
        experiment: Name of the experiment; made if it is not there.
        service_account: Service account of the pods; empty for the server's default.
        caching: Whether steps may be taken from KFP's cache; None as compiled. KFP drops it for uploaded versions.

    Returns:
        KFP's id of the run.

    Raises:
        ClusterError: The server refuses.
    """
    with quiet(), explained(server.host):
        group = server.client.create_experiment(experiment, namespace=server.namespace or None)
        run = server.client.run_pipeline(
            experiment_id=group.experiment_id,
            job_name=name,
            params=dict(parameters),
            pipeline_id=version[0],
            version_id=version[1],
            enable_caching=caching,
            service_account=service_account or None,
        )
    return str(run.run_id)


@dataclass(slots=True)
class Followed:
    """A run as seen so far.

    Attributes:
        names: KFP's name of each task to the stage's name for people; other tasks are KFP's own.
        write: Takes one line of text.
        states: State of the run, under the empty name, and of each stage.
    """

    names: Mapping[str, str]
    write: Callable[[str], None]
    states: dict[str, str] = field(default_factory=dict)

    def see(self, run: Any) -> None:
        """Writes a line for each state that is new."""
        details = (run.run_details.task_details if run.run_details else None) or []
        for task in details:
            stage = self.names.get(str(task.display_name))
            # A stage that waits has a state too; what is of interest begins with its pod.
            if stage is None or task.state in (None, "RUNTIME_STATE_UNSPECIFIED"):
                continue
            self._note(stage, str(task.state), _span(task.start_time, task.end_time), _message(task))
        self._note("", str(run.state or "PENDING"), _span(run.created_at, run.finished_at), _message(run))

    def _note(self, stage: str, state: str, span: str, message: str) -> None:
        if self.states.get(stage) == state:
            return
        self.states[stage] = state
        subject = f"stage {stage}" if stage else "run"
        # The protocol fills the end of what has none with the beginning of time.
        tail = f" after {span}" if state in ENDED and span else ""
        cause = f": {message}" if message and state not in ("SUCCEEDED", "RUNNING", "PENDING") else ""
        self.write(f"{datetime.now():%H:%M:%S} {subject}: {state.lower()}{tail}{cause}"[:400])


def follow(
    server: Server,
    run_id: str,
    names: Mapping[str, str],
    write: Callable[[str], None],
    *,
    poll_seconds: float | None = None,
    limit_seconds: float = float("inf"),
) -> str:
    """Follows a run to its end, with one line for every change of a state.

    KFP's own waiting returns for a failed run as for a good one and never for a cancelled one, so the state is read
    here.

    Args:
        server: The server.
        run_id: KFP's id of the run.
        names: As from ``task_names``.
        write: Takes one line of text.
        poll_seconds: Time between two questions; ``POLL_SECONDS`` by default.
        limit_seconds: Give up after this long; the run itself goes on.

    Returns:
        The last state: SUCCEEDED, FAILED, CANCELED or SKIPPED.

    Raises:
        ClusterError: The server was away for too long, or the time is up.
    """
    seen = Followed(names=names, write=write)
    deadline = time.monotonic() + limit_seconds
    lost = 0
    while True:
        try:
            run = get_run(server, run_id)
            lost = 0
            seen.see(run)
            if run.state in ENDED:
                return str(run.state)
        except ClusterError:
            # A restarted server or a dropped port-forward is no end of the run.
            lost += 1
            if lost >= 6:
                raise
        if time.monotonic() > deadline:
            raise ClusterError(
                f"run {run_id}",
                expected=f"its end within {limit_seconds:.0f} s",
                found=f"state {seen.states.get('', 'unknown')}",
                hint=f"It goes on: `untaint runs show {run_id}`. To end it: `untaint runs stop {run_id}`.",
            )
        time.sleep(POLL_SECONDS if poll_seconds is None else poll_seconds)


def get_run(server: Server, run_id: str) -> Any:
    """The run as the server knows it now.

    Raises:
        ClusterError: The server does not answer, or has no such run.
    """
    with quiet(), explained(server.host):
        return server.client.runs.run_service_get_run(run_id, _request_timeout=REQUEST_SECONDS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A task of a run that has a state.

    Attributes:
        name: KFP's name of the task.
        state: Its state.
        seconds: Wall-clock time, None before its end.
        pod: Name of its pod, empty before it has one.
    """

    name: str
    state: str
    seconds: float | None
    pod: str


def tasks_of(run: Any) -> list[Task]:
    """The tasks of a run in the order in which they began, with those by which KFP drives them.

    Args:
        run: As from ``get_run``.
    """
    details = (run.run_details.task_details if run.run_details else None) or []
    tasks = []
    for entry in sorted(details, key=lambda entry: str(entry.start_time or entry.create_time or "")):
        finished = entry.end_time is not None and entry.end_time.year >= 2000 and entry.start_time is not None
        pods = [child.pod_name for child in entry.child_tasks or [] if child.pod_name]
        tasks.append(
            Task(
                name=str(entry.display_name),
                state=str(entry.state or "-"),
                seconds=(entry.end_time - entry.start_time).total_seconds() if finished else None,
                pod=str(entry.pod_name or (pods[0] if pods else "")),
            )
        )
    return tasks


def list_runs(server: Server, experiment: str, limit: int) -> list[Any]:
    """The latest runs, newest first.

    Args:
        server: The server.
        experiment: Name of the experiment; empty for all.
        limit: At most so many.

    Raises:
        ClusterError: The server does not answer.
    """
    request = {"page_size": limit, "sort_by": "created_at desc", "_request_timeout": REQUEST_SECONDS}
    with quiet(), explained(server.host):
        if experiment:
            found = server.client.list_experiments(filter=_named(experiment), namespace=server.namespace).experiments
            if not found:
                return []
            request["experiment_id"] = found[0].experiment_id
        elif server.namespace:
            request["namespace"] = server.namespace
        return list(server.client.runs.run_service_list_runs(**request).runs or [])


def stop(server: Server, run_id: str) -> None:
    """Ends a run.

    Raises:
        ClusterError: The server refuses.
    """
    with quiet(), explained(server.host):
        server.client.terminate_run(run_id)


def pod_log(server: Server, run_id: str, pod: str) -> str:
    """What a pod of a run said, as long as the pod or its archived log is there.

    Raises:
        ClusterError: The server refuses, or has neither.
    """
    with quiet(), explained(server.host):
        api = server.client.runs.run_service_get_run.__self__.api_client
        # The one endpoint that the generated client leaves out, for it is not part of the gRPC interface.
        answer = api.call_api(
            "/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log",
            "GET",
            path_params={"run_id": run_id, "pod": pod},
            header_params={"Accept": "text/plain"},
            auth_settings=["Bearer"],
            response_type="str",
            _return_http_data_only=True,
            _preload_content=False,
            _request_timeout=REQUEST_SECONDS,
        )
        return str(answer.data.decode("utf-8", "replace"))


def _named(name: str) -> str:
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})


def _span(since: datetime | None, until: datetime | None) -> str:
    if since is None or until is None or until.year < 2000:
        return ""
    return f"{(until - since).total_seconds():.0f} s"


def _message(entry: Any) -> str:
    return " ".join(str(entry.error.message).split())[:200] if entry.error and entry.error.message else ""

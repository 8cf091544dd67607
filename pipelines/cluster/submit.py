"""Runs on a Kubeflow Pipelines server: uploading a version by its content, starting, following, reading, stopping."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from components.common.contracts.errors import ConfigError
from components.common.runs.artifacts import digest_of
from pipelines.cluster.pods import Pod, Pods, open_pods
from pipelines.cluster.server import REQUEST_SECONDS, ClusterError, Server, explained, quiet

__all__ = [
    "ENDED",
    "POLL_SECONDS",
    "STOPPED",
    "Followed",
    "Task",
    "check_name",
    "find_pipeline",
    "follow",
    "get_run",
    "list_runs",
    "names_in",
    "names_of",
    "package_digest",
    "start",
    "stop",
    "task_names",
    "tasks_of",
    "upload",
    "was_stopped",
]

POLL_SECONDS = 5.0
"""Time between two looks at a run that is followed."""
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
"""States that a run or a stage does not leave."""
STOPPED = "it was stopped"
"""What is said of a run in the state FAILED that somebody has stopped."""


def package_digest(package: Path) -> str:
    """Hex sha256 of what a compiled pipeline says, whatever the order of its lines and KFP's version in it."""
    import yaml

    documents = list(yaml.safe_load_all(package.read_text(encoding="utf-8")))
    for document in documents:
        document.pop("sdkVersion", None)
    return digest_of(documents)


def task_names(package: Path) -> dict[str, str]:
    """As ``names_in``, of a compiled pipeline in a file."""
    import yaml

    return names_in(next(iter(yaml.safe_load_all(package.read_text(encoding="utf-8")))))


def names_in(spec: Mapping[str, Any]) -> dict[str, str]:
    """KFP's name of each task that has a container, in nested pipelines too, to the stage's name for people.

    Args:
        spec: A compiled pipeline.
    """
    dags = [spec["root"]["dag"], *(one["dag"] for one in spec["components"].values() if "dag" in one)]
    return {
        name: str(task["taskInfo"]["name"])
        for dag in dags
        for name, task in dag["tasks"].items()
        if "dag" not in spec["components"][task["componentRef"]["name"]]
    }


def names_of(server: Server, run: Any) -> dict[str, str]:
    """As ``names_in``, of the pipeline of a run.

    Args:
        server: The server.
        run: As from ``get_run``.

    Raises:
        ClusterError: The server refuses.
    """
    spec = run.pipeline_spec
    if spec is None and run.pipeline_version_reference is not None:
        reference = run.pipeline_version_reference
        with quiet(), explained(server.host):
            found = server.client.get_pipeline_version(reference.pipeline_id, reference.pipeline_version_id)
        spec = found.pipeline_spec
    spec = (spec or {}).get("pipeline_spec", spec)
    return names_in(spec) if spec else {}


def find_pipeline(server: Server, name: str) -> str | None:
    """Id of a pipeline by its name, in the namespace of the server's user.

    KFP's own ``get_pipeline_id`` asks for pipelines that all users share, whatever the namespace.

    Args:
        server: The server.
        name: Name of the pipeline.
    """
    listed = server.client.pipelines.pipeline_service_list_pipelines(
        namespace=server.namespace, filter=_named(name), _request_timeout=REQUEST_SECONDS
    )
    return str(listed.pipelines[0].pipeline_id) if listed.pipelines else None


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
        pipeline_id = find_pipeline(server, name)
        if pipeline_id is None:
            made = client.api_models.V2beta1Pipeline(display_name=name, name=name, namespace=server.namespace or None)
            pipeline_id = str(
                client.pipelines.pipeline_service_create_pipeline(made, _request_timeout=REQUEST_SECONDS).pipeline_id
            )
        versions = client.list_pipeline_versions(pipeline_id, filter=_named(version)).pipeline_versions
        if versions:
            return pipeline_id, str(versions[0].pipeline_version_id), False
        with tempfile.TemporaryDirectory() as folder:
            # The server records the file's name, which on this machine may hold the name of its owner.
            plain = Path(folder) / "pipeline.yaml"
            plain.write_bytes(package.read_bytes())
            uploaded = client.upload_pipeline_version(str(plain), version, pipeline_id=pipeline_id)
    return pipeline_id, str(uploaded.pipeline_version_id), True


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
        reasons: Why a stage's pod waits or has failed, as written last.
    """

    names: Mapping[str, str]
    write: Callable[[str], None]
    states: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def see(self, run: Any, pods: Sequence[Pod] = ()) -> None:
        """Writes a line for each state that is new, and for each reason of a pod.

        Args:
            run: As from ``get_run``.
            pods: The run's pods, as far as they are known.
        """
        # The last attempt of each task.
        last = {self.names.get(pod.task, pod.task): pod for pod in pods}
        details = (run.run_details.task_details if run.run_details else None) or []
        for task in details:
            stage = self.names.get(str(task.display_name))
            # A stage that waits has a state too; what is of interest begins with its pod.
            if stage is None or task.state in (None, "RUNTIME_STATE_UNSPECIFIED"):
                continue
            self._note(stage, str(task.state), _span(task.start_time, task.end_time), _reason(last.get(stage)))
        for stage, pod in last.items():
            self._explain(stage, pod)
        state = str(run.state or "PENDING")
        self._note("", state, _span(run.created_at, run.finished_at), STOPPED if was_stopped(run) else "")

    def _explain(self, stage: str, pod: Pod) -> None:
        """Says once why a stage that has not ended does not go on."""
        if self.states.get(stage) in ENDED or pod.phase not in ("Pending", "Failed") or not pod.reason:
            return
        if self.reasons.get(stage) != pod.reason:
            self.reasons[stage] = pod.reason
            subject = "stage" if stage in self.names.values() else "Kubeflow Pipelines'"
            self.write(
                f"{datetime.now():%H:%M:%S} {subject} {stage}: its pod is {pod.phase.lower()}: {pod.reason}"[:400]
            )

    def _note(self, stage: str, state: str, span: str, message: str) -> None:
        if self.states.get(stage) == state:
            return
        self.states[stage] = state
        subject = f"stage {stage}" if stage else "run"
        # The protocol fills the end of what has none with the beginning of time.
        tail = f" after {span}" if state in ENDED and span else ""
        cause = f": {message}" if message and state not in ("SUCCEEDED", "RUNNING", "PENDING") else ""
        self.write(f"{datetime.now():%H:%M:%S} {subject}: {state.lower()}{tail}{cause}"[:400])


def _reason(pod: Pod | None) -> str:
    return pod.reason if pod is not None and pod.phase == "Failed" else ""


def was_stopped(run: Any) -> bool:
    """Whether a run that ended was stopped by somebody; Kubeflow Pipelines gives it the state of a failed one.

    Args:
        run: As from ``get_run``.
    """
    return run.state == "FAILED" and any(entry.state == "CANCELING" for entry in run.state_history or [])


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
    pods = open_pods(server)
    deadline = time.monotonic() + limit_seconds
    lost = 0
    while True:
        try:
            run = get_run(server, run_id)
            lost = 0
            seen.see(run, _pods_of(pods, run_id))
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


def _pods_of(pods: Pods | None, run_id: str) -> Sequence[Pod]:
    """The run's pods; none where they cannot be had, for a run is followed without them too."""
    if pods is None:
        return ()
    try:
        return pods.of_run(run_id)
    except ClusterError:
        return ()


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
        node: Id of its first attempt in the workflow, by which its archived log is found; empty before there is one.
    """

    name: str
    state: str
    seconds: float | None
    node: str


def tasks_of(run: Any) -> list[Task]:
    """The tasks of a run in the order in which they began, with those by which KFP drives them.

    Args:
        run: As from ``get_run``.
    """
    details = (run.run_details.task_details if run.run_details else None) or []
    tasks = []
    for entry in sorted(details, key=lambda entry: str(entry.start_time or entry.create_time or "")):
        name = str(entry.display_name)
        # Argo's attempts, "ingest(0)", and the node inside each task repeat what the task says.
        if name.endswith(")") or name == "executor":
            continue
        finished = entry.end_time is not None and entry.end_time.year >= 2000 and entry.start_time is not None
        # What the protocol calls the pods of children are ids of nodes; no entry has one of its own.
        nodes = [child.pod_name for child in entry.child_tasks or [] if child.pod_name]
        tasks.append(
            Task(
                name=name,
                state=str(entry.state or "-"),
                seconds=(entry.end_time - entry.start_time).total_seconds() if finished else None,
                node=str(nodes[0]) if nodes else "",
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


def check_name(server: Server, name: str, run_id: str, command: str, *, resume: bool) -> None:
    """Checks that a run to resume is there, and that the name of a new one is not.

    Args:
        server: The server.
        name: The run's name there.
        run_id: The run's id for the user.
        command: The command that is asked, for the advice.
        resume: Whether the run shall be there.

    Raises:
        ConfigError: It is not as it should be.
        ClusterError: The server does not answer.
    """
    request = {"page_size": 1, "filter": _named(name), "_request_timeout": REQUEST_SECONDS}
    if server.namespace:
        request["namespace"] = server.namespace
    with quiet(), explained(server.host):
        known = bool(server.client.runs.run_service_list_runs(**request).runs)
    if known and not resume:
        raise ConfigError(
            f"--run-id {run_id}",
            expected="the name of a new run",
            found=f"one on {server.host}",
            hint=f"`untaint {command} --resume {run_id}` goes on with it; or choose another name for a new run.",
        )
    if resume and not known:
        raise ConfigError(
            f"--resume {run_id}",
            expected=f"a run on {server.host}",
            found="none of that name",
            hint="`untaint runs list` shows the names. A new run of a name of your own: --run-id.",
        )


def stop(server: Server, run_id: str) -> None:
    """Ends a run.

    Raises:
        ClusterError: The server refuses.
    """
    with quiet(), explained(server.host):
        server.client.terminate_run(run_id)


def _named(name: str) -> str:
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})


def _span(since: datetime | None, until: datetime | None) -> str:
    if since is None or until is None or until.year < 2000:
        return ""
    return f"{(until - since).total_seconds():.0f} s"

"""A small Kubeflow Pipelines API server for tests: REST v2beta1 over real HTTP, with its state in memory.

It knows what this project asks of a server, and is strict: a field, a query parameter or a path that the generated
client's models do not have is answered with 400 or 404, as the real server does. Whole numbers of 64 bits travel as
strings. A run goes one step on with every look at it: each task is RUNNING at one look and has ended at the next.

Where the real server does what one would not expect, this one does the same, and names the source at 2.17.0 of
kubeflow/pipelines that says so; paths are those below ``backend/src``. The same port serves the part
of the API of Kubernetes that concerns a run's pods.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.fakes.argo import Workflow
from tests.fakes.entries import at, checked, get, kept, now, public, with_spec
from tests.fakes.kubernetes_api import KubernetesApi, Refused

__all__ = ["FakeKfp", "Request"]


@dataclass(frozen=True)
class Request:
    """A request as it came in."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass
class FakeKfp:
    """The server; use it as a context manager.

    Attributes:
        token: If set, every request needs ``Authorization: Bearer <token>``.
        multi_user: What ``healthz`` says, and whether runs need a namespace.
        failing: Task to how the pods of its attempts end, as keys of ``argo.ENDINGS``.
        pending: Task to the number of looks for which its pod waits for a node, and why it does.
        skipped: Tasks whose condition does not hold.
        requests: All requests so far.
        pipelines: Pipelines by id.
        versions: Versions by id, each with its ``documents``.
        experiments: Experiments by id.
        runs: Runs by id.
        recurring: Recurring runs by id.
        refuse: Maps ``"METHOD /path"`` prefixes to a status that is answered without doing anything.
        kubernetes: What the API server of Kubernetes has beside the pods.
    """

    token: str = ""
    multi_user: bool = False
    failing: dict[str, list[str]] = field(default_factory=dict)
    pending: dict[str, tuple[int, str]] = field(default_factory=dict)
    skipped: frozenset[str] = frozenset()
    kubernetes: KubernetesApi = field(default_factory=KubernetesApi)
    requests: list[Request] = field(default_factory=list)
    pipelines: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)
    experiments: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    recurring: dict[str, dict[str, Any]] = field(default_factory=dict)
    refuse: dict[str, int] = field(default_factory=dict)
    host: str = ""

    def __enter__(self) -> FakeKfp:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                url = urlsplit(self.path)
                request = Request(
                    self.command,
                    url.path,
                    {key: values[-1] for key, values in parse_qs(url.query, keep_blank_values=True).items()},
                    dict(self.headers.items()),
                    self.rfile.read(length),
                )
                with fake._lock:
                    fake.requests.append(request)
                    status, answer = fake._answer(request)
                is_text = isinstance(answer, str)
                payload = answer.encode() if is_text else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/plain" if is_text else "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            do_GET = do_POST = do_DELETE = do_PATCH = _serve

            def log_message(self, *_: Any) -> None:
                """Keeps the test's output clean."""

        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def bodies(self, path: str) -> list[dict[str, Any]]:
        """The JSON bodies that were posted to a path."""
        return [json.loads(r.body) for r in self.requests if r.method == "POST" and r.path == path]

    def _answer(self, request: Request) -> tuple[int, Any]:
        try:
            if request.path.startswith("/api/v1/"):
                return 200, self.kubernetes.answer(request.method, request.path, request.query, request.headers, [
                    (run["namespace"], run["run_id"], run["workflow"])
                    for run in self.runs.values() if not run.get("deleted")
                ])  # fmt: skip
            if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
                raise Refused(401, "Request header error: there is no valid user identity.")
            for prefix, status in self.refuse.items():
                if f"{request.method} {request.path}".startswith(prefix):
                    raise Refused(status, "Refused for the test.")
            for method, pattern, act in self._routes():
                found = re.fullmatch(pattern, request.path)
                if found and method == request.method:
                    return 200, act(request, *found.groups())
            raise Refused(404, f"Not Found: {request.method} {request.path}")
        except Refused as refused:
            code = {400: 3, 404: 5, 401: 16, 403: 7}.get(refused.status, 13)
            return refused.status, {"error": str(refused), "code": code, "message": str(refused), "details": []}

    def _routes(self) -> list[tuple[str, str, Callable[..., Any]]]:
        v2, one = "/apis/v2beta1", r"([^/:]+)"
        return [
            ("GET", f"{v2}/healthz", lambda r: {"multi_user": self.multi_user, "pipeline_store": "kubernetes"}),
            ("GET", f"{v2}/pipelines", self._list_pipelines),
            ("POST", f"{v2}/pipelines", self._create_pipeline),
            ("POST", f"{v2}/pipelines/upload_version", self._upload_version),
            ("GET", f"{v2}/pipelines/{one}", lambda r, i: get(self.pipelines, i)),
            ("GET", f"{v2}/pipelines/{one}/versions", self._list_versions),
            ("GET", f"{v2}/pipelines/{one}/versions/{one}", lambda r, p, i: with_spec(get(self.versions, i))),
            ("GET", f"{v2}/experiments", self._list_experiments),
            ("POST", f"{v2}/experiments", self._create_experiment),
            ("GET", f"{v2}/experiments/{one}", lambda r, i: get(self.experiments, i)),
            ("GET", f"{v2}/runs", lambda r: self._list("runs", self._of_namespace(self.runs, r), r)),
            ("POST", f"{v2}/runs", self._create_run),
            ("GET", f"{v2}/runs/{one}", self._see_run),
            ("POST", f"{v2}/runs/{one}:terminate", self._terminate),
            ("GET", f"/apis/v1alpha1/runs/{one}/nodes/{one}/log", self._log),
            (
                "GET",
                f"{v2}/recurringruns",
                lambda r: self._list("recurringRuns", self._of_namespace(self.recurring, r), r),
            ),
            ("POST", f"{v2}/recurringruns", self._create_recurring),
            ("GET", f"{v2}/recurringruns/{one}", lambda r, i: get(self.recurring, i)),
            ("DELETE", f"{v2}/recurringruns/{one}", self._delete_recurring),
            ("POST", f"{v2}/recurringruns/{one}:enable", lambda r, i: self._switch(i, "ENABLED")),
            ("POST", f"{v2}/recurringruns/{one}:disable", lambda r, i: self._switch(i, "DISABLED")),
        ]

    def _list(self, key: str, known: dict[str, dict[str, Any]], request: Request) -> dict[str, Any]:
        allowed = {"namespace", "page_token", "page_size", "sort_by", "filter", "experiment_id"}
        unknown = set(request.query) - allowed
        if unknown:
            raise Refused(400, f"unknown query parameters: {sorted(unknown)}")
        entries = list(known.values())
        if request.query.get("experiment_id"):
            entries = [entry for entry in entries if entry.get("experiment_id") == request.query["experiment_id"]]
        for predicate in json.loads(request.query.get("filter") or '{"predicates": []}')["predicates"]:
            if predicate["operation"] not in (1, "EQUALS"):
                raise Refused(400, f"operation {predicate['operation']} is not served here")
            value = predicate.get("stringValue", predicate.get("string_value"))
            entries = [entry for entry in entries if entry.get(predicate["key"]) == value]
        if request.query.get("sort_by", "").endswith(" desc"):
            entries.reverse()
        first = int(request.query.get("page_token") or 0)
        size = int(request.query.get("page_size") or 20)
        page = [public(entry) for entry in entries[first : first + size]]
        more = {"next_page_token": str(first + size)} if len(entries) > first + size else {}
        # As in protobuf's JSON, an empty list is left out.
        return ({key: page, "total_size": len(entries)} if page else {}) | more

    def _list_pipelines(self, request: Request) -> dict[str, Any]:
        # Without a namespace those that all users share, and no others (apiserver/server/pipeline_server.go).
        wanted = request.query.get("namespace", "") if self.multi_user else ""
        own = {key: entry for key, entry in self.pipelines.items() if entry.get("namespace", "") == wanted}
        return self._list("pipelines", own, request)

    def _list_experiments(self, request: Request) -> dict[str, Any]:
        return self._list("experiments", self._of_namespace(self.experiments, request), request)

    def _of_namespace(self, known: dict[str, dict[str, Any]], request: Request) -> dict[str, dict[str, Any]]:
        if not self.multi_user or request.query.get("experiment_id"):
            return known
        if not request.query.get("namespace"):
            raise Refused(400, "a list needs a namespace or an experiment in multi-user mode")
        return {key: entry for key, entry in known.items() if entry["namespace"] == request.query["namespace"]}

    def _create_pipeline(self, request: Request) -> dict[str, Any]:
        body = checked(request.body, "V2beta1Pipeline")
        if not self.multi_user:
            body.pop("namespace", None)
        same = ("display_name", "namespace")
        if any(
            [entry.get(key) for key in same] == [body.get(key) for key in same] for entry in self.pipelines.values()
        ):
            raise Refused(409, "a pipeline of that name exists already")
        return kept(self.pipelines, "pipeline_id", body)

    def _upload_version(self, request: Request) -> dict[str, Any]:
        get(self.pipelines, request.query["pipelineid"])
        kind = request.headers["Content-Type"]
        message = BytesParser().parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + request.body)
        (part,) = message.get_payload()
        documents = list(yaml.safe_load_all(part.get_payload(decode=True)))
        version = {"pipeline_id": request.query["pipelineid"], "display_name": request.query["name"]}
        return public(kept(self.versions, "pipeline_version_id", version | {"documents": documents}))

    def _list_versions(self, request: Request, pipeline: str) -> dict[str, Any]:
        own = {key: entry for key, entry in self.versions.items() if entry["pipeline_id"] == pipeline}
        return self._list("pipeline_versions", own, request)

    def _create_experiment(self, request: Request) -> dict[str, Any]:
        return kept(self.experiments, "experiment_id", checked(request.body, "V2beta1Experiment"))

    def _create_run(self, request: Request) -> dict[str, Any]:
        body = checked(request.body, "V2beta1Run")
        spec = self._spec(body)
        given = body.get("runtime_config", {}).get("parameters", {})
        self._check_parameters(spec, given)
        # A run that the API server makes has two macros filled in, and no scheduled time
        # (apiserver/template/v2_template.go: RunWorkflow); one that the scheduler makes has none.
        run = self._run(body, spec, body["display_name"].replace(" ", "-"))
        moment = datetime.now(UTC).strftime("%Y%m%d%H%M%S")
        run["runtime_config"] = {
            "parameters": {
                name: value.replace("[[RunUUID]]", run["run_id"]).replace("[[CurrentTime]]", moment)
                if isinstance(value, str)
                else value
                for name, value in given.items()
            }
        }
        return public(run)

    def _run(self, body: dict[str, Any], spec: dict[str, Any], name: str) -> dict[str, Any]:
        experiment = get(self.experiments, body.get("experiment_id", ""))
        namespace = experiment.get("namespace") or body.get("namespace") or ("" if self.multi_user else "kubeflow")
        if not namespace:
            raise Refused(400, "a run cannot have an empty namespace in multi-user mode")
        workflow = Workflow(name, spec, self.skipped, dict(self.pending), {k: list(v) for k, v in self.failing.items()})
        return kept(
            self.runs,
            "run_id",
            body | {"namespace": namespace, "state": "PENDING", "workflow": workflow, "state_history": []},
        )

    def _spec(self, body: dict[str, Any]) -> dict[str, Any]:
        reference = body.get("pipeline_version_reference")
        if reference:
            version = get(self.versions, reference.get("pipeline_version_id", ""))
            if version["pipeline_id"] != reference.get("pipeline_id"):
                raise Refused(400, "the version is of another pipeline")
            return dict(version["documents"][0])
        spec = body.get("pipeline_spec") or {}
        return dict(spec.get("pipeline_spec", spec))

    def _check_parameters(self, spec: dict[str, Any], given: dict[str, Any]) -> None:
        known = spec["root"].get("inputDefinitions", {}).get("parameters", {})
        needed = {name for name, entry in known.items() if "defaultValue" not in entry and not entry.get("isOptional")}
        if unknown := sorted(set(given) - set(known)):
            raise Refused(400, f"parameters {unknown} are not in the pipeline")
        if missing := sorted(needed - set(given)):
            raise Refused(400, f"parameters {missing} are missing")

    def _see_run(self, request: Request, run_id: str) -> dict[str, Any]:
        run = get(self.runs, run_id)
        if not run.get("deleted"):
            workflow: Workflow = run["workflow"]
            if run["state"] == "CANCELING":
                # What Argo says in the end is kept, and it knows no cancelled workflow (common/util/workflow.go:
                # IsTerminating; apiserver/resource/resource_manager.go: ReportWorkflowResource).
                workflow.stop()
            else:
                workflow.look()
            self._set_state(run, workflow.state)
            if run["state"] in ("SUCCEEDED", "FAILED"):
                run.setdefault("finished_at", now())
        return public(run) | {"run_details": {"task_details": self._task_details(run)}}

    def _set_state(self, run: dict[str, Any], state: str) -> None:
        if run["state"] != state:
            run["state_history"].append({"update_time": now(), "state": state})
        run["state"] = state

    def _task_details(self, run: dict[str, Any]) -> list[dict[str, Any]]:
        """One entry a node: no name of a pod, no error, and children by node id.

        apiserver/server/api_converter.go: toApiPipelineTaskDetail.
        """
        workflow: Workflow = run["workflow"]
        return [
            {
                "run_id": run["run_id"],
                "task_id": str(uuid.uuid5(uuid.UUID(run["run_id"]), node.name)),
                "display_name": node.display,
                "create_time": at(run, node.begun),
                "start_time": at(run, node.begun),
                "end_time": at(run, node.ended) if node.ended else "1970-01-01T00:00:00Z",
                "state": {"Error": "FAILED"}.get(node.phase, node.phase.upper()),
            }
            | (
                {"child_tasks": [{"pod_name": workflow.node_id(c)} for c in node.children if c.phase]}
                if node.children
                else {}
            )
            for node in workflow.nodes
            if node.phase
        ]

    def _terminate(self, request: Request, run_id: str) -> dict[str, Any]:
        run = get(self.runs, run_id)
        if run["state"] not in ("PENDING", "RUNNING"):
            raise Refused(400, f"Failed to terminate a run {run_id}. Row not found")
        self._set_state(run, "CANCELING")
        return {}

    def _log(self, request: Request, run_id: str, node: str) -> str:
        """The log of a pod by its name, else an archived one by node id or pod name.

        Status 200 goes out before either is looked for, so a failure shows in the body alone
        (apiserver/server/run_log_server.go).
        """
        workflow: Workflow = get(self.runs, run_id)["workflow"]
        names = {workflow.pod_name(one): one for one in workflow.pods() if one.phase != "Pending"}
        found = names.get(node) or workflow.log_key(node)
        if found is None or get(self.runs, run_id).get("deleted"):
            message = f"Failed to read logs for run {run_id}"
            return json.dumps({"error_message": message, "error_details": f"{message}: not found"})
        return f"log of {workflow.pod_name(found)}\n"

    def _create_recurring(self, request: Request) -> dict[str, Any]:
        body = checked(request.body, "V2beta1RecurringRun")
        body["status"] = "DISABLED" if body.get("mode") == "DISABLE" else "ENABLED"
        if "max_concurrency" in body:
            body["max_concurrency"] = str(body["max_concurrency"])
        experiment = get(self.experiments, body.get("experiment_id", ""))
        self._check_parameters(self._spec(body), body.get("runtime_config", {}).get("parameters", {}))
        body["namespace"] = experiment.get("namespace", "" if self.multi_user else "kubeflow")
        return kept(self.recurring, "recurring_run_id", body)

    def tick(self, missed: int = 1) -> list[dict[str, Any]]:
        """What the scheduler starts when it comes to, ``missed`` times of every schedule having passed.

        Without catching up it still starts the last one that was missed (crd/controller/scheduledworkflow/util/
        cron_schedule.go: getNextScheduledTimeImp). The workflow was compiled when the schedule was made, so what stands
        in the parameters goes into the run as it is, macros included (apiserver/template/v2_template.go:
        ScheduledWorkflow; common/util/workflow.go: OverrideParameters).
        """
        started = []
        for entry in self.recurring.values():
            active = [
                run for run in self.runs.values()
                if run.get("recurring_run_id") == entry["recurring_run_id"] and run["state"] in ("PENDING", "RUNNING")
            ]  # fmt: skip
            count = min(missed, 1) if entry.get("no_catchup") else missed
            if entry["status"] != "ENABLED" or len(active) >= int(entry.get("max_concurrency", 1)):
                continue
            for index in range(min(count, int(entry.get("max_concurrency", 1)) - len(active))):
                body = {key: entry[key] for key in ("experiment_id", "pipeline_version_reference", "runtime_config")}
                name = f"{entry['display_name']}-{index + 1}"
                body |= {"display_name": name, "recurring_run_id": entry["recurring_run_id"]}
                started.append(self._run(body, self._spec(body), name))
        return started

    def _delete_recurring(self, request: Request, identifier: str) -> dict[str, Any]:
        """Deletes a schedule, and with it the workflows that it has started, unless it is asked to orphan them.

        Kubernetes deletes what a deleted object owns (apiserver/resource/resource_manager.go: DeleteJob;
        crd/controller/scheduledworkflow/util/scheduled_workflow.go: SetOwnerReferences).
        """
        unknown = set(request.query) - {"propagation_policy"}
        if unknown or request.query.get("propagation_policy", "ORPHAN") not in ("FOREGROUND", "BACKGROUND", "ORPHAN"):
            raise Refused(400, f"unknown query: {request.query}")
        get(self.recurring, identifier)
        del self.recurring[identifier]
        if request.query.get("propagation_policy") != "ORPHAN":
            for run in self.runs.values():
                if run.get("recurring_run_id") == identifier:
                    # Nobody reports it any more: it keeps its last state for ever.
                    run["deleted"] = True
        return {}

    def value_of(self, run: dict[str, Any], component: str, name: str) -> Any:
        """What a component gets for a parameter that its task in the root DAG takes from the run or holds itself.

        A constant is replaced only if it is nothing but a placeholder (v2/driver/resolve.go: resolveInputParameter).
        """
        spec = self._spec(run)
        tasks = spec["root"]["dag"]["tasks"].values()
        task = next(entry for entry in tasks if entry["componentRef"]["name"] == component)
        source = task["inputs"]["parameters"][name]
        if "componentInputParameter" in source:
            known = spec["root"]["inputDefinitions"]["parameters"][source["componentInputParameter"]]
            given = run.get("runtime_config", {}).get("parameters", {})
            return given.get(source["componentInputParameter"], known.get("defaultValue"))
        constant = source["runtimeValue"]["constant"]
        return run["run_id"] if constant == "{{$.pipeline_job_uuid}}" else constant

    def _switch(self, identifier: str, status: str) -> dict[str, Any]:
        get(self.recurring, identifier)["status"] = status
        return {}

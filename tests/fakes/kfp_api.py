"""A small Kubeflow Pipelines API server for tests: REST v2beta1 over real HTTP, with its state in memory.

It knows what this project asks of a server, and is strict: a field, a query parameter or a path that the generated
client's models do not have is answered with 400 or 404, as the real server does. Whole numbers of 64 bits travel as
strings. A run goes one step on with every look at it: each task is RUNNING at one look and has ended at the next.
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

import kfp_server_api
import yaml

__all__ = ["FakeKfp", "Request"]

_PLAIN = {"str": str, "bool": bool, "int": int, "float": (int, float), "object": object, "datetime": str}


@dataclass(frozen=True)
class Request:
    """A request as it came in."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


@dataclass
class FakeKfp:
    """The server; use it as a context manager.

    Attributes:
        token: If set, every request needs ``Authorization: Bearer <token>``.
        multi_user: What ``healthz`` says, and whether runs need a namespace.
        outcome: State in which runs end.
        failing_task: With outcome FAILED: the task that ends so.
        requests: All requests so far.
        pipelines: Pipelines by id.
        versions: Versions by id, each with its ``documents``.
        experiments: Experiments by id.
        runs: Runs by id.
        recurring: Recurring runs by id.
        refuse: Maps ``"METHOD /path"`` prefixes to a status that is answered without doing anything.
    """

    token: str = ""
    multi_user: bool = False
    outcome: str = "SUCCEEDED"
    failing_task: str = ""
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
            if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
                raise _Refused(401, "Request header error: there is no valid user identity.")
            for prefix, status in self.refuse.items():
                if f"{request.method} {request.path}".startswith(prefix):
                    raise _Refused(status, "Refused for the test.")
            for method, pattern, act in self._routes():
                found = re.fullmatch(pattern, request.path)
                if found and method == request.method:
                    return 200, act(request, *found.groups())
            raise _Refused(404, f"Not Found: {request.method} {request.path}")
        except _Refused as refused:
            code = {400: 3, 404: 5, 401: 16, 403: 7}.get(refused.status, 13)
            return refused.status, {"error": str(refused), "code": code, "message": str(refused), "details": []}

    def _routes(self) -> list[tuple[str, str, Callable[..., Any]]]:
        v2, one = "/apis/v2beta1", r"([^/:]+)"
        return [
            ("GET", f"{v2}/healthz", lambda r: {"multi_user": self.multi_user, "pipeline_store": "kubernetes"}),
            ("GET", f"{v2}/pipelines", lambda r: self._list("pipelines", self.pipelines, r)),
            ("POST", f"{v2}/pipelines", self._create_pipeline),
            ("POST", f"{v2}/pipelines/upload_version", self._upload_version),
            ("GET", f"{v2}/pipelines/{one}", lambda r, i: _get(self.pipelines, i)),
            ("GET", f"{v2}/pipelines/{one}/versions", self._list_versions),
            ("GET", f"{v2}/pipelines/{one}/versions/{one}", lambda r, p, i: _public(_get(self.versions, i))),
            ("GET", f"{v2}/experiments", lambda r: self._list("experiments", self.experiments, r)),
            ("POST", f"{v2}/experiments", self._create_experiment),
            ("GET", f"{v2}/experiments/{one}", lambda r, i: _get(self.experiments, i)),
            ("GET", f"{v2}/runs", lambda r: self._list("runs", self.runs, r)),
            ("POST", f"{v2}/runs", self._create_run),
            ("GET", f"{v2}/runs/{one}", self._see_run),
            ("POST", f"{v2}/runs/{one}:terminate", self._terminate),
            ("GET", f"/apis/v1alpha1/runs/{one}/nodes/{one}/log", self._log),
            ("GET", f"{v2}/recurringruns", lambda r: self._list("recurringRuns", self.recurring, r)),
            ("POST", f"{v2}/recurringruns", self._create_recurring),
            ("GET", f"{v2}/recurringruns/{one}", lambda r, i: _get(self.recurring, i)),
            (
                "DELETE",
                f"{v2}/recurringruns/{one}",
                lambda r, i: _get(self.recurring, i) and self.recurring.pop(i) and {},
            ),
            ("POST", f"{v2}/recurringruns/{one}:enable", lambda r, i: self._switch(i, "ENABLED")),
            ("POST", f"{v2}/recurringruns/{one}:disable", lambda r, i: self._switch(i, "DISABLED")),
        ]

    def _list(self, key: str, known: dict[str, dict[str, Any]], request: Request) -> dict[str, Any]:
        allowed = {"namespace", "page_token", "page_size", "sort_by", "filter", "experiment_id"}
        unknown = set(request.query) - allowed
        if unknown:
            raise _Refused(400, f"unknown query parameters: {sorted(unknown)}")
        entries = list(known.values())
        if request.query.get("experiment_id"):
            entries = [entry for entry in entries if entry.get("experiment_id") == request.query["experiment_id"]]
        for predicate in json.loads(request.query.get("filter") or '{"predicates": []}')["predicates"]:
            if predicate["operation"] not in (1, "EQUALS"):
                raise _Refused(400, f"operation {predicate['operation']} is not served here")
            value = predicate.get("stringValue", predicate.get("string_value"))
            entries = [entry for entry in entries if entry.get(predicate["key"]) == value]
        if request.query.get("sort_by", "").endswith(" desc"):
            entries.reverse()
        first = int(request.query.get("page_token") or 0)
        size = int(request.query.get("page_size") or 20)
        page = [_public(entry) for entry in entries[first : first + size]]
        more = {"next_page_token": str(first + size)} if len(entries) > first + size else {}
        # As in protobuf's JSON, an empty list is left out.
        return ({key: page, "total_size": len(entries)} if page else {}) | more

    def _create_pipeline(self, request: Request) -> dict[str, Any]:
        body = _checked(request.body, "V2beta1Pipeline")
        if any(entry["display_name"] == body.get("display_name") for entry in self.pipelines.values()):
            raise _Refused(409, "a pipeline of that name exists already")
        return _kept(self.pipelines, "pipeline_id", body)

    def _upload_version(self, request: Request) -> dict[str, Any]:
        _get(self.pipelines, request.query["pipelineid"])
        kind = request.headers["Content-Type"]
        message = BytesParser().parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + request.body)
        (part,) = message.get_payload()
        documents = list(yaml.safe_load_all(part.get_payload(decode=True)))
        version = {"pipeline_id": request.query["pipelineid"], "display_name": request.query["name"]}
        return _public(_kept(self.versions, "pipeline_version_id", version | {"documents": documents}))

    def _list_versions(self, request: Request, pipeline: str) -> dict[str, Any]:
        own = {key: entry for key, entry in self.versions.items() if entry["pipeline_id"] == pipeline}
        return self._list("pipeline_versions", own, request)

    def _create_experiment(self, request: Request) -> dict[str, Any]:
        return _kept(self.experiments, "experiment_id", _checked(request.body, "V2beta1Experiment"))

    def _create_run(self, request: Request) -> dict[str, Any]:
        body = _checked(request.body, "V2beta1Run")
        _get(self.experiments, body.get("experiment_id", ""))
        spec = self._spec(body)
        self._check_parameters(spec, body.get("runtime_config", {}).get("parameters", {}))
        tasks = [
            {"display_name": name, "task_id": str(uuid.uuid4()), "pod_name": f"{name}-pod"}
            for name in _in_order(spec["root"]["dag"]["tasks"])
        ]
        return _public(_kept(self.runs, "run_id", body | {"state": "PENDING", "tasks": tasks, "step": 0}))

    def _spec(self, body: dict[str, Any]) -> dict[str, Any]:
        reference = body.get("pipeline_version_reference")
        if reference:
            version = _get(self.versions, reference.get("pipeline_version_id", ""))
            if version["pipeline_id"] != reference.get("pipeline_id"):
                raise _Refused(400, "the version is of another pipeline")
            return dict(version["documents"][0])
        spec = body.get("pipeline_spec") or {}
        return dict(spec.get("pipeline_spec", spec))

    def _check_parameters(self, spec: dict[str, Any], given: dict[str, Any]) -> None:
        known = spec["root"].get("inputDefinitions", {}).get("parameters", {})
        needed = {name for name, entry in known.items() if "defaultValue" not in entry and not entry.get("isOptional")}
        if unknown := sorted(set(given) - set(known)):
            raise _Refused(400, f"parameters {unknown} are not in the pipeline")
        if missing := sorted(needed - set(given)):
            raise _Refused(400, f"parameters {missing} are missing")

    def _see_run(self, request: Request, run_id: str) -> dict[str, Any]:
        run = _get(self.runs, run_id)
        if run["state"] not in ("SUCCEEDED", "FAILED", "CANCELED"):
            self._step(run)
        details = [task for task in run["tasks"] if "state" in task]
        root = {"display_name": "root", "task_id": "root", "state": run["state"], "create_time": run["created_at"]}
        return _public(run) | {"run_details": {"task_details": [root, *details]}}

    def _step(self, run: dict[str, Any]) -> None:
        run["state"] = "RUNNING"
        index, ends = divmod(run["step"], 2)
        run["step"] += 1
        task = run["tasks"][index]
        if not ends:
            task |= {
                "state": "RUNNING",
                "start_time": _now(),
                "create_time": _now(),
                "end_time": "1970-01-01T00:00:00Z",
            }
            return
        bad = self.outcome == "FAILED" and task["display_name"] == (
            self.failing_task or run["tasks"][-1]["display_name"]
        )
        task |= {"state": "FAILED" if bad else "SUCCEEDED", "end_time": _now()}
        if bad:
            task["error"] = {"code": 13, "message": "main: exit status 3"}
        if bad or index == len(run["tasks"]) - 1:
            run |= {"state": self.outcome, "finished_at": _now()}

    def _terminate(self, request: Request, run_id: str) -> dict[str, Any]:
        _get(self.runs, run_id).update(state="CANCELED", finished_at=_now())
        return {}

    def _log(self, request: Request, run_id: str, pod: str) -> str:
        if pod not in [task["pod_name"] for task in _get(self.runs, run_id)["tasks"]]:
            raise _Refused(500, "failed to get the log of the pod")
        return f"log of {pod}\n"

    def _create_recurring(self, request: Request) -> dict[str, Any]:
        body = _checked(request.body, "V2beta1RecurringRun")
        body["status"] = "DISABLED" if body.get("mode") == "DISABLE" else "ENABLED"
        if "max_concurrency" in body:
            body["max_concurrency"] = str(body["max_concurrency"])
        return _kept(self.recurring, "recurring_run_id", body)

    def _switch(self, identifier: str, status: str) -> dict[str, Any]:
        _get(self.recurring, identifier)["status"] = status
        return {}


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _get(known: dict[str, dict[str, Any]], identifier: str) -> dict[str, Any]:
    if identifier not in known:
        raise _Refused(404, f"{identifier or 'the empty id'} not found")
    return known[identifier]


def _public(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in ("documents", "tasks", "step")}


def _kept(known: dict[str, dict[str, Any]], key: str, entry: dict[str, Any]) -> dict[str, Any]:
    identifier = str(uuid.uuid4())
    known[identifier] = entry | {key: identifier, "created_at": _now()}
    return known[identifier]


def _in_order(tasks: dict[str, Any]) -> list[str]:
    """Names of the tasks, each after those it depends on."""
    names: list[str] = []
    while len(names) < len(tasks):
        names += [n for n, t in tasks.items() if n not in names and set(t.get("dependentTasks", [])) <= set(names)]
    return names


def _checked(body: bytes, model: str) -> dict[str, Any]:
    value = json.loads(body)
    _check(value, model, model)
    return dict(value)


def _check(value: Any, kind: str, place: str) -> None:
    """Holds a value against a type of the generated client; a field that it does not have is refused."""
    if inner := re.fullmatch(r"list\[(.+)\]", kind):
        for entry in value:
            _check(entry, inner[1], place)
    elif inner := re.fullmatch(r"dict\(str, (.+)\)", kind):
        for name, entry in value.items():
            _check(entry, inner[1], f"{place}.{name}")
    elif kind in _PLAIN:
        if not isinstance(value, _PLAIN[kind]):
            raise _Refused(400, f"{place}: {kind} expected, got {type(value).__name__}")
    else:
        model = getattr(kfp_server_api, kind)
        if not model.openapi_types:
            return
        names = {wire: name for name, wire in model.attribute_map.items()}
        for name, entry in value.items():
            if name not in names:
                raise _Refused(400, f'{place}: unknown field "{name}"')
            _check(entry, model.openapi_types[names[name]], f"{place}.{name}")

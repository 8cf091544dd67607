"""`make run-local` against programs that stand in for docker, kind and kubectl: they record calls and refuse any step.

What is behind them is real where it can be: the code that submits and follows talks HTTP to the fake of the Kubeflow
Pipelines API through a port-forward that forwards, and the result comes from a real object store the same way.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import stat
import sys
import time
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import boto3
import pytest
import yaml
from click.testing import CliRunner, Result

from components.common.contracts.errors import ConfigError, ResourceError
from components.common.runs.artifacts import StageManifest
from components.common.runs.publish import LocalObject, publish
from components.common.storage.embedded import EmbeddedStore
from components.common.storage.store import Store
from components.evaluate.summary import summarise, to_json
from pipelines.cli.main import cli
from pipelines.cluster.kind import KFP_VERSION, MANIFESTS, NODE_IMAGE, forwarded
from pipelines.cluster.pods import ARTIFACT_SECRET
from pipelines.cluster.server import ClusterError
from pipelines.dag.profiles import load_profile, profile_names
from pipelines.dag.stages import IMAGES as STAGES
from tests.fakes.argo import Retry
from tests.fakes.kfp_api import FakeKfp

VENDOR = Path(__file__).parents[3] / "k8s" / "vendor" / "kubeflow-pipelines"
STAND_IN = r"""#!PYTHON -IS
import json, os, pathlib, re, socket, sys, threading, time
state = pathlib.Path(os.environ["STAND_IN_STATE"])
program, arguments = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
line = " ".join([program, *arguments])
given = sys.stdin.read() if arguments[-1:] == ["-"] else ""
with open(state / "calls.jsonl", "a") as log:
    log.write(json.dumps({"call": line, "stdin": given}) + "\n")
for pattern in (state / "refuse").read_text().splitlines():
    if re.search(pattern, line):
        sys.exit(f"refused: {pattern}")
if any(re.search(pattern, line) for pattern in (state / "hang").read_text().splitlines()):
    print("still at it", flush=True)
    time.sleep(60)
values = json.loads((state / "values.json").read_text())
if "port-forward" in arguments:
    here, there = arguments[-1].split(":")
    target = tuple(values["targets"][arguments[-2]])
    server = socket.create_server(("127.0.0.1", int(here)))
    def pump(a, b):
        while data := a.recv(65536):
            b.sendall(data)
        b.shutdown(socket.SHUT_WR)
    while True:
        if (state / "drop").exists():
            (state / "drop").unlink()
            sys.exit("lost connection to pod")
        near, _ = server.accept()
        far = socket.create_connection(target)
        for pair in ((near, far), (far, near)):
            threading.Thread(target=pump, args=pair, daemon=True).start()
if line.startswith("kind create"):
    (state / "cluster").touch()
if line.startswith("kind delete"):
    (state / "cluster").unlink()
if line.startswith("kind get clusters"):
    print("untaint" if (state / "cluster").exists() else "No kind clusters found.")
if " annotate namespace kubeflow" in line:
    (state / "annotation").write_text(line.split("=")[-1].split()[0])
if " get namespace kubeflow" in line and (state / "annotation").exists():
    print((state / "annotation").read_text(), end="")
for pattern, answer in values["answers"].items():
    if re.search(pattern, line):
        print(answer)
        break
"""


class Machine:
    """The programs that stand in, and what they answer."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.programs = folder / "bin"
        for path in (self.state, self.programs):
            path.mkdir()
        for name in ("docker", "kind", "kubectl"):
            file = self.programs / name
            file.write_text(STAND_IN.replace("PYTHON", sys.executable, 1))
            file.chmod(file.stat().st_mode | stat.S_IXUSR)
        self.targets: dict[str, tuple[str, int]] = {}
        self.answers = {
            "docker info": f"{16 * 2**30} 8",
            "docker images": "",
            "get secret mlpipeline-minio-artifact": json.dumps({"data": {}}),
            "get deployments": json.dumps({"items": [deployment("ml-pipeline", True), deployment("mysql", True)]}),
        }
        self.hang()
        self.refuse()

    def hang(self, *patterns: str) -> None:
        (self.state / "hang").write_text("\n".join(patterns))

    def refuse(self, *patterns: str) -> None:
        (self.state / "refuse").write_text("\n".join(patterns))
        (self.state / "values.json").write_text(json.dumps({"targets": self.targets, "answers": self.answers}))

    @property
    def calls(self) -> list[str]:
        return [entry["call"] for entry in self._entries()]

    def stdin_of(self, pattern: str) -> str:
        return next(str(entry["stdin"]) for entry in self._entries() if re.search(pattern, entry["call"]))

    def clear(self) -> None:
        (self.state / "calls.jsonl").unlink(missing_ok=True)

    def _entries(self) -> list[dict[str, Any]]:
        path = self.state / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def deployment(name: str, ready: bool) -> dict[str, Any]:
    conditions = [{"type": "Available", "status": "True" if ready else "False"}]
    return {"metadata": {"name": name}, "status": {"conditions": conditions}}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setenv("PATH", os.pathsep.join((str(made.programs), "/usr/bin", "/bin")))
    # Otherwise Docker is asked for its builder before every image.
    monkeypatch.setenv("DOCKER_BUILDKIT", "1")
    monkeypatch.setenv("STAND_IN_STATE", str(made.state))
    monkeypatch.setenv("UNTAINT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no kubeconfig"))
    monkeypatch.setattr("pipelines.cluster.submit.POLL_SECONDS", 0.01)
    monkeypatch.setattr("kfp.Client._LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    for name in ("KFP_EXISTING_TOKEN", "KF_PIPELINES_ENDPOINT", "KF_PIPELINES_UI_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    return made


@pytest.fixture
def cluster(machine: Machine, s3_server: EmbeddedStore) -> Iterator[FakeKfp]:
    """The machine with a server behind its port-forwards, and the result of run r1 in the store."""
    keys = s3_server.environment()
    # The bucket of Kubeflow Pipelines' own store.
    boto3.client("s3").create_bucket(Bucket="mlpipeline") if "mlpipeline" not in [
        bucket["Name"] for bucket in boto3.client("s3").list_buckets()["Buckets"]
    ] else None
    metrics = {"acc": 0.9876, "asr": 0.0123, "suspects": 7.0}
    facts = {
        "verdict": "poison found", "sentence": "7 images.", "next_steps": [], "caveats": [], "stages": [],
        "ordinary": [None, False],
    }  # fmt: skip
    summary = summarise(run_id="r1", facts=facts, metrics=metrics, artifacts={}, versions={}, config_digest="d")
    publish(
        Store("s3://mlpipeline/untaint"),
        "s3://mlpipeline/untaint/runs/r1/evaluate",
        StageManifest(
            stage="evaluate", run_id="r1", key="k", config={}, parents={}, code_version="c", objects={},
            metrics=metrics, facts=facts,
        ),
        {
            "report": LocalObject(suffix=".html", kind="document", data=b"<p>report</p>"),
            "summary": LocalObject(suffix=".json", kind="document", data=to_json(summary)),
        },
    )  # fmt: skip
    with FakeKfp() as server:
        for service, address in (("ml-pipeline", server.host), ("seaweedfs", keys["AWS_ENDPOINT_URL"])):
            parts = urlsplit(address)
            machine.targets[f"svc/{service}"] = (str(parts.hostname), int(parts.port or 0))
        encoded = {
            "accesskey": base64.b64encode(keys["AWS_ACCESS_KEY_ID"].encode()).decode(),
            "secretkey": base64.b64encode(keys["AWS_SECRET_ACCESS_KEY"].encode()).decode(),
        }
        machine.answers["get secret mlpipeline-minio-artifact"] = json.dumps({"data": encoded})
        machine.refuse()
        yield server


def called(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="untaint")


def run_local(*arguments: str) -> Result:
    # The stand-in pulls nothing, so any requirement without an index of its own will do.
    """Starts the run r1 or, as the refusal of its name advises, goes on with it."""
    answer = called("run-local", "--run-id", "r1", "--torch-cpu", "torch==2.14.1", *arguments)
    if "`untaint run-local --resume r1` goes on with it" in answer.stderr:
        return called("run-local", "--resume", "r1", "--torch-cpu", "torch==2.14.1", *arguments)
    return answer


def test_everything_is_made_in_order_and_the_result_shown(
    machine: Machine, cluster: FakeKfp, s3_server: EmbeddedStore, tmp_path: Path
) -> None:
    answer = run_local("--attack", "wanet")
    assert answer.exit_code == 0, answer.output + answer.stderr
    order = [
        r"^docker info",
        rf"^kind create cluster --name untaint --config \S+/kind-cluster.yaml --image {re.escape(NODE_IMAGE)}",
        r"^kubectl --context kind-untaint apply -f \S+/kubeflow-pipelines/cluster-scoped-resources.yaml$",
        r"wait --for=condition=established --timeout=60s crd/applications.app.k8s.io$",
        r"apply -f \S+/kubeflow-pipelines/platform-agnostic.yaml$",
        r"get deployments",
        rf"annotate namespace kubeflow untaint.dev/kubeflow-pipelines={KFP_VERSION} --overwrite$",
        r"^docker build .*--target ingest --tag untaint-kind/untaint-ingest:[0-9a-f]{12} ",
        r"^kind load docker-image untaint-kind/untaint-ingest:[0-9a-f]{12} .* --name untaint$",
        r"get secret mlpipeline-minio-artifact",
        r"apply --server-side .*-f -$",
        r"apply -k \S+/k8s/overlays/kind$",
        r"port-forward --address=127.0.0.1 svc/ml-pipeline \d+:8888$",
        r"port-forward --address=127.0.0.1 svc/seaweedfs \d+:9000$",
    ]
    places = [next(i for i, call in enumerate(machine.calls) if re.search(step, call)) for step in order]
    assert places == sorted(places)
    assert all("--context kind-untaint" in call for call in machine.calls if call.startswith("kubectl"))
    load = next(call for call in machine.calls if call.startswith("kind load"))
    assert all(f"untaint-kind/untaint-{stage}:" in load for stage in STAGES)
    (run,) = cluster.runs.values()
    parameters = run["runtime_config"]["parameters"]
    assert (parameters["store_root"], parameters["attack"]) == ("s3://mlpipeline/untaint", "wanet")
    assert run["service_account"] == "untaint-runner"
    (version,) = cluster.versions.values()
    image = version["documents"][0]["deploymentSpec"]["executors"]["exec-ingest"]["container"]["image"]
    assert image in load
    assert "stage evaluate: succeeded" in answer.output
    assert re.search(r"final +98\.76 +1\.23$", answer.output, re.MULTILINE)
    assert (tmp_path / "home/runs/r1/report.html").read_bytes() == b"<p>report</p>"
    assert "svc/ml-pipeline-ui 8080:80" in answer.output
    assert not re.search("error|fail|warn", answer.output, re.IGNORECASE)
    # The keys went through standard input, and nowhere else.
    secret = s3_server.environment()["AWS_SECRET_ACCESS_KEY"]
    assert json.loads(machine.stdin_of("apply --server-side"))["stringData"]["secretkey"] == secret
    assert secret not in answer.output + "".join(machine.calls)
    assert not any(secret.encode() in request.body for request in cluster.requests)


def test_a_second_call_goes_on_with_what_is_there(machine: Machine, cluster: FakeKfp) -> None:
    assert run_local().exit_code == 0
    machine.clear()
    answer = run_local()
    assert answer.exit_code == 0
    assert "cluster untaint: already there" in answer.output
    assert f"Kubeflow Pipelines {KFP_VERSION}: already installed" in answer.output
    assert not [call for call in machine.calls if "kind create" in call or "kubeflow-pipelines/" in call]
    assert len(cluster.versions) == 1
    assert len(cluster.runs) == 2


def test_a_run_that_does_not_succeed_ends_with_1_and_says_how_to_go_on(machine: Machine, cluster: FakeKfp) -> None:
    cluster.failing["unlearn"] = ["exit"]
    answer = run_local()
    assert answer.exit_code == 1
    assert "stage unlearn: failed" in answer.output
    assert "untaint run-local --resume r1" in answer.output
    assert not [call for call in machine.calls if "svc/seaweedfs" in call]


def test_a_forward_that_ends_is_opened_again_and_ends_with_the_block(
    machine: Machine, cluster: FakeKfp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.cluster.kind._REOPEN_SECONDS", 0.1)

    def answers(port: int) -> bool:
        with contextlib.suppress(OSError, HTTPException):
            return bool(urlopen(f"http://127.0.0.1:{port}/apis/v2beta1/healthz", timeout=5).read())
        return False

    def until(wanted: bool, port: int) -> bool:
        deadline = time.monotonic() + 20
        while answers(port) != wanted and time.monotonic() < deadline:
            time.sleep(0.05)
        return answers(port) == wanted

    with forwarded("ml-pipeline", 8888) as port:
        assert until(True, port)
        (machine.state / "drop").touch()
        # The one that is served now is its last.
        answers(port)
        assert until(True, port)
        assert len([call for call in machine.calls if "port-forward" in call]) == 2
    assert until(False, port)
    time.sleep(0.5)
    assert len([call for call in machine.calls if "port-forward" in call]) == 2


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ("docker info", "Docker's engine"),
        ("kind get clusters", "kind"),
        ("kind create", "the kind cluster"),
        ("cluster-scoped-resources", "its manifests, cluster-scoped-resources"),
        ("wait --for", "its resource definitions"),
        ("platform-agnostic", "its manifests, platform-agnostic"),
        ("get deployments", "the deployments"),
        ("annotate", "the cluster"),
        ("kind load", "the images on the node"),
        ("get secret", "the keys of the object store"),
        ("apply --server-side", "the secret of the store"),
        ("overlays/kind", "k8s/overlays/kind"),
        ("svc/ml-pipeline", "the way to the service ml-pipeline"),
        ("svc/seaweedfs", "the way to the service seaweedfs"),
    ],
)
def test_a_step_that_is_refused_stops_there_and_is_named(
    machine: Machine, cluster: FakeKfp, step: str, says: str
) -> None:
    machine.refuse(step)
    answer = run_local()
    assert answer.exit_code == ClusterError.exit_code, answer.output
    assert answer.stderr.splitlines()[0] == f"problem:    ClusterError: {says}"
    assert step in machine.calls[-1]
    if "svc/" not in step:
        assert f"refused: {step}" in answer.stderr


@pytest.mark.parametrize(
    ("step", "limit", "says"),
    [
        ("docker info", "_SECONDS", "Docker's engine"),
        ("get secret", "_SECONDS", "the keys of the object store"),
        ("kind create", "_SECONDS_LONG", "the kind cluster"),
        ("platform-agnostic", "_SECONDS", "its manifests, platform-agnostic"),
        ("kind load", "_SECONDS_LONG", "the images on the node"),
    ],
)
def test_a_step_that_never_ends_is_given_up_and_named(
    machine: Machine, cluster: FakeKfp, monkeypatch: pytest.MonkeyPatch, step: str, limit: str, says: str
) -> None:
    machine.hang(step)
    monkeypatch.setattr(f"pipelines.cluster.kind.{limit}", 2.0)
    answer = run_local()
    assert answer.exit_code == ClusterError.exit_code, answer.output
    assert answer.stderr.splitlines()[0] == f"problem:    ClusterError: {says}"
    assert "it did not end within 2 s: still at it" in answer.stderr
    assert step in machine.calls[-1]


def test_a_build_that_stops_is_told(machine: Machine, cluster: FakeKfp) -> None:
    machine.refuse("docker build .*--target split")
    answer = run_local()
    assert answer.exit_code == ConfigError.exit_code
    assert "the image of split" in answer.stderr
    assert not [call for call in machine.calls if call.startswith("kind load")]


def test_after_a_refused_step_the_next_call_goes_on_from_there(machine: Machine, cluster: FakeKfp) -> None:
    machine.refuse("platform-agnostic")
    assert run_local().exit_code == ClusterError.exit_code
    machine.refuse()
    machine.clear()
    assert run_local().exit_code == 0
    assert not [call for call in machine.calls if "kind create" in call]
    assert [call for call in machine.calls if "platform-agnostic" in call]


@pytest.mark.parametrize("missing", [("kind",), ("docker", "kubectl")])
def test_a_missing_program_is_told_with_where_to_get_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]
) -> None:
    for name in missing:
        (machine.programs / name).unlink()
    monkeypatch.setenv("PATH", str(machine.programs))
    answer = run_local()
    assert answer.exit_code == ConfigError.exit_code
    assert f"no {' and no '.join(missing)}" in answer.stderr
    assert "8 GiB of memory" in answer.stderr
    assert all(f"{name} from https://" in answer.stderr for name in missing)
    assert machine.calls == []


def test_too_little_memory_is_told_before_anything_is_made(machine: Machine) -> None:
    machine.answers["docker info"] = f"{4 * 2**30} 2"
    machine.refuse()
    answer = run_local()
    assert answer.exit_code == ResourceError.exit_code
    assert "4.0 GiB" in answer.stderr
    assert [call.split()[:2] for call in machine.calls] == [["docker", "info"]]


def test_few_cpus_are_mentioned(machine: Machine, cluster: FakeKfp) -> None:
    machine.answers["docker info"] = f"{16 * 2**30} 2"
    machine.refuse()
    answer = run_local()
    assert answer.exit_code == 0
    assert "Docker has 2 CPUs" in answer.output


def test_what_is_stuck_is_said_when_the_time_is_up(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = {"reason": "ImagePullBackOff", "message": "Back-off pulling image mysql:8"}
    pods = [
        {"metadata": {"name": "ml-pipeline-1"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}},
        {"metadata": {"name": "cache-job-1"}, "status": {"phase": "Succeeded"}},
        {"metadata": {"name": "mysql-1"}, "status": {"containerStatuses": [{"state": {"waiting": waiting}}]}},
        {
            "metadata": {"name": "seaweedfs-1"},
            "status": {"conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                 "message": "0/1 nodes are available: 1 Insufficient memory."}]},
        },
    ]  # fmt: skip
    machine.answers["get deployments"] = json.dumps(
        {"items": [deployment("ml-pipeline", True), deployment("mysql", False)]}
    )
    machine.answers["get pods"] = json.dumps({"items": pods})
    machine.refuse()
    answer = run_local("--wait-seconds", "1")
    assert answer.exit_code == ClusterError.exit_code
    lines = [line for line in answer.output.splitlines() if line.startswith("  ")]
    assert lines == [
        "  mysql-1: ImagePullBackOff: Back-off pulling image mysql:8",
        "  seaweedfs-1: Unschedulable: 0/1 nodes are available: 1 Insufficient memory.",
    ]
    assert answer.output.count("1 of 2 deployments are ready") == 1
    assert "1 of 2; 2 pods are stuck" in answer.stderr
    assert not [call for call in machine.calls if "annotate" in call]


def test_the_manifests_are_those_that_were_rendered_and_of_the_version() -> None:
    images = re.findall(r"image: (\S*kubeflow\S+)", (VENDOR / "platform-agnostic.yaml").read_text())
    assert len(images) >= 9
    assert {image.rpartition(":")[2] for image in images} == {KFP_VERSION}
    assert {part: hashlib.sha256((VENDOR / f"{part}.yaml").read_bytes()).hexdigest() for part in MANIFESTS} == MANIFESTS
    # Nothing in them is read from elsewhere, and an object fits into the annotation that `kubectl apply` keeps of it.
    for part in MANIFESTS:
        for document in yaml.safe_load_all((VENDOR / f"{part}.yaml").read_text()):
            assert len(json.dumps(document, separators=(",", ":"))) < 262144


def test_what_the_sources_are_taken_to_say_of_the_stock_installation_is_in_its_manifests() -> None:
    documents = list(yaml.safe_load_all((VENDOR / "platform-agnostic.yaml").read_text()))
    found = {(one["kind"], one["metadata"]["name"]): one for one in documents}
    argo = found["ConfigMap", "workflow-controller-configmap"]["data"]
    archive = yaml.safe_load(argo["artifactRepository"])
    assert (archive["archiveLogs"], archive["s3"]["accessKeySecret"]["name"]) == (True, ARTIFACT_SECRET)
    assert archive["s3"]["endpoint"] == "seaweedfs.kubeflow.svc:9000"
    defaults = yaml.safe_load(argo["workflowDefaults"])["spec"]["templateDefaults"]["retryStrategy"]
    assert defaults["retryPolicy"] == Retry(limit=1, duration=1, factor=1, max_duration=1).policy
    service, policy = found["Service", "seaweedfs"]["spec"], found["NetworkPolicy", "seaweedfs"]["spec"]
    assert service["selector"]["app"] == "seaweedfs"
    assert next(port["targetPort"] for port in service["ports"] if port["port"] == 9000) == 8333
    admitted = [peer for rule in policy["ingress"] for peer in rule["from"]]
    assert {"podSelector": {}} in admitted
    agent = found["Deployment", "ml-pipeline-persistenceagent"]["spec"]["template"]["spec"]["containers"][0]
    day = next(entry["value"] for entry in agent["env"] if entry["name"] == "TTL_SECONDS_AFTER_WORKFLOW_FINISH")
    profiles = [load_profile(name) for name in profile_names()]
    assert all(one.ttl_seconds_after_failure <= int(day) >= one.ttl_seconds_after_success for one in profiles)


def test_manifests_that_were_changed_are_not_installed(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for part in MANIFESTS:
        (tmp_path / f"{part}.yaml").write_text("kind: List\n")
    monkeypatch.setattr("pipelines.cluster.kind._VENDOR", tmp_path)
    answer = run_local()
    assert answer.exit_code == ConfigError.exit_code
    assert "cluster-scoped-resources.yaml" in answer.stderr
    assert not [call for call in machine.calls if "apply" in call]


def test_a_wrong_option_stops_before_anything_is_made(machine: Machine) -> None:
    assert run_local("--poison-rate", "2").exit_code == ConfigError.exit_code
    assert run_local("--profile", "tpu").exit_code == ConfigError.exit_code
    assert run_local("--run-id", "../../r1").exit_code == ConfigError.exit_code
    assert run_local("--dataset", "parquet:/data/pets").exit_code == ConfigError.exit_code
    assert machine.calls == []


def test_down_without_kind_says_where_to_get_it(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine.programs / "kind").unlink()
    monkeypatch.setenv("PATH", str(machine.programs))
    answer = called("run-local-down")
    assert answer.exit_code == ConfigError.exit_code
    assert "Install it from https://kind.sigs.k8s.io" in answer.stderr
    assert machine.calls == []


def test_down_removes_the_cluster_and_its_images_and_can_be_called_again(machine: Machine) -> None:
    (machine.state / "cluster").touch()
    machine.answers["docker images"] = "untaint-kind/untaint-ingest:1\nuntaint-kind/untaint-split:1"
    machine.refuse()
    answer = called("run-local-down")
    assert answer.output.splitlines() == ["cluster untaint: deleted", "2 images: deleted"]
    assert "kind delete cluster --name untaint" in machine.calls
    assert "docker image rm untaint-kind/untaint-ingest:1 untaint-kind/untaint-split:1" in machine.calls
    assert any("--filter reference=untaint-kind/untaint-*" in call for call in machine.calls)
    machine.answers["docker images"] = ""
    machine.refuse()
    assert called("run-local-down").output.splitlines() == ["cluster untaint: not there"]

"""Submitting to a server: against a fake of the Kubeflow Pipelines API that refuses what the real one refuses."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from components.common.contracts.errors import ConfigError
from pipelines.cli.main import cli
from pipelines.cluster.pods import open_pods
from pipelines.cluster.schedule import compiled
from pipelines.cluster.server import ClusterError, connect
from pipelines.cluster.submit import follow, package_digest, start, task_names, upload
from pipelines.dag.profiles import load_profile
from pipelines.dag.settings import default_parameters
from pipelines.dag.training import compile_pipeline
from tests.fakes.kfp_api import FakeKfp

STORE = "s3://bucket/untaint"
CANARY = "canary-7d1f0c55e9"


@pytest.fixture
def kfp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeKfp]:
    """The server; the environment points at it, and at no configuration of this machine."""
    for name in ("KFP_EXISTING_TOKEN", "KFP_NAMESPACE", "KF_PIPELINES_UI_ENDPOINT", "UNTAINT_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("kfp.Client._LOCAL_KFP_CONTEXT", str(tmp_path / "kfp" / "context.json"))
    monkeypatch.setattr("pipelines.cluster.submit.POLL_SECONDS", 0.01)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no kubeconfig"))
    with FakeKfp() as server:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.host)
        yield server


@pytest.fixture
def kubectl(kfp: FakeKfp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeKfp:
    """The same, with access to Kubernetes."""
    monkeypatch.setenv("KUBECONFIG", kfp.kubernetes.write_config(kfp.host, tmp_path / "kubeconfig"))
    return kfp


def called(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="untaint")


def submitted(*arguments: str) -> Result:
    """Starts the run r1 or, as the refusal of its name advises, goes on with it."""
    answer = called("submit", "--store", STORE, "--run-id", "r1", *arguments)
    if "`untaint submit --resume r1` goes on with it" in answer.stderr:
        return called("submit", "--store", STORE, "--resume", "r1", *arguments)
    return answer


def started(kfp: FakeKfp) -> str:
    assert submitted().exit_code == 0
    return next(reversed(kfp.runs))


def test_a_run_is_started_from_a_version_named_after_the_content(kfp: FakeKfp, tmp_path: Path) -> None:
    answer = submitted("--registry", "r.example/x", "--tag", "t1", "--profile", "gpu")
    assert answer.exit_code == 0, answer.output
    (version,) = kfp.versions.values()
    package = tmp_path / "p.yaml"
    compile_pipeline(package, "r.example/x", "t1", load_profile("gpu"))
    assert version["display_name"] == f"untaint-training-{package_digest(package)[:12]}"
    assert len(version["documents"]) == 2
    (run,) = kfp.runs.values()
    assert run["pipeline_version_reference"]["pipeline_version_id"] == version["pipeline_version_id"]
    assert run["service_account"] == load_profile("gpu").service_account
    assert run["display_name"] == "untaint-training r1"
    assert kfp.experiments[run["experiment_id"]]["display_name"] == "untaint"
    assert f"{kfp.host}/#/runs/details/{run['run_id']}" in answer.output


def test_the_same_content_is_uploaded_once_and_another_one_again(kfp: FakeKfp) -> None:
    outputs = [submitted().output, submitted().output, submitted("--tag", "other").output]
    assert ["already there" in text for text in outputs] == [False, True, False]
    assert len(kfp.pipelines) == 1
    assert len(kfp.versions) == 2
    assert len(kfp.experiments) == 1
    assert len(kfp.runs) == 3


def test_parameters_reach_the_run_as_given(kfp: FakeKfp) -> None:
    answer = submitted("--attack", "wanet", "--poison-rate", "0.05", "--set", "warmup.batch_size=64", "--set",
                       "finetune.epochs=3")  # fmt: skip
    assert answer.exit_code == 0, answer.output
    (body,) = kfp.bodies("/apis/v2beta1/runs")
    parameters = body["runtime_config"]["parameters"]
    assert set(parameters) == {"store_root", "run_id"} | set(default_parameters())
    assert parameters["store_root"] == STORE
    assert (parameters["attack"], parameters["poison_rate"], parameters["finetune_epochs"]) == ("wanet", 0.05, 3)
    assert parameters["warmup_settings"] == {"batch_size": 64}


def test_waiting_shows_each_change_of_state_once_and_ends_well(kfp: FakeKfp) -> None:
    answer = submitted("--wait")
    assert answer.exit_code == 0, answer.output
    lines = [line[9:] for line in answer.output.splitlines() if re.match(r"\d\d:\d\d:\d\d ", line)]
    for stage in ("ingest", "warmup", "control", "split", "unlearn", "finetune", "evaluate"):
        assert lines.count(f"stage {stage}: running") == 1
        assert sum(line.startswith(f"stage {stage}: succeeded after ") for line in lines) == 1
    assert lines.count("run: running") == 1
    assert lines[-1].startswith("run: succeeded")
    assert answer.output.splitlines()[-1] == f"summary: {STORE}/runs/r1/summary.json"
    assert not re.search("error|fail|warn", answer.output, re.IGNORECASE)


def test_waiting_for_a_run_that_does_not_succeed_ends_with_1(kfp: FakeKfp) -> None:
    kfp.failing["split"] = ["exit"]
    answer = submitted("--wait")
    assert answer.exit_code == 1
    assert "run: failed" in answer.output
    assert "summary" not in answer.output
    # Without access to Kubernetes nobody says why.
    assert re.search(r"stage split: failed after \d s$", answer.output, re.MULTILINE)
    assert "stage unlearn" not in answer.output


@pytest.mark.parametrize(
    ("ending", "told"),
    [
        ("exit", "Error (exit code 3)"),
        ("oom", "OOMKilled (exit code 137)"),
        ("evicted", "Evicted: The node was low on resource: memory."),
    ],
)
def test_waiting_says_why_a_stage_has_failed(kubectl: FakeKfp, ending: str, told: str) -> None:
    kubectl.failing["warmup-2"] = [ending]
    answer = submitted("--wait")
    assert answer.exit_code == 1
    (line,) = [line for line in answer.output.splitlines() if "stage control: failed" in line]
    assert line.endswith(told)


def test_waiting_says_once_why_a_pod_waits(kubectl: FakeKfp) -> None:
    kubectl.pending["warmup"] = (3, "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
    answer = submitted("--wait")
    assert answer.exit_code == 0
    (line,) = [line for line in answer.output.splitlines() if "Insufficient" in line]
    assert "stage warmup: its pod is pending: Unschedulable: 0/3 nodes are available" in line


def test_waiting_says_why_a_pod_of_kubeflow_pipelines_waits(kubectl: FakeKfp) -> None:
    missing = 'MountVolume.SetUp failed for volume "keys": secret "mlpipeline-minio-artifact" not found'
    kubectl.pending["root-driver"] = (2, f"FailedMount: {missing}")
    answer = submitted("--wait")
    assert answer.exit_code == 0
    (line,) = [line for line in answer.output.splitlines() if "FailedMount" in line]
    assert line.endswith(f"Kubeflow Pipelines' root-driver: its pod is pending: FailedMount: {missing}")


def test_a_run_is_followed_without_its_pods_where_they_may_not_be_seen(kubectl: FakeKfp) -> None:
    kubectl.kubernetes.forbidden |= {"pods", "events"}
    kubectl.failing["split"] = ["oom"]
    answer = submitted("--wait")
    assert (answer.exit_code, "stage split: failed" in answer.output) == (1, True)


def test_a_stage_whose_node_is_lost_is_tried_again_and_the_run_goes_on(kubectl: FakeKfp) -> None:
    kubectl.failing["finetune"] = ["deleted", "ok"]
    assert submitted("--wait").exit_code == 0
    (run,) = kubectl.runs.values()
    pods = [node.name for node in run["workflow"].pods() if ".finetune(0).executor" in node.name]
    assert [name.rpartition(".")[2] for name in pods] == ["executor(1)"]


def test_a_run_that_somebody_stops_is_told_from_one_that_failed(kfp: FakeKfp) -> None:
    run_id = started(kfp)
    connect(kfp.host).client.terminate_run(run_id)
    lines: list[str] = []
    # The server has no other state for it.
    assert follow(connect(kfp.host), run_id, {}, lines.append, poll_seconds=0.01) == "FAILED"
    assert lines[-1].endswith(": it was stopped")
    shown = called("runs", "show", run_id).output
    assert f"run {run_id}: failed, for it was stopped" in shown
    assert "it was stopped" not in called("runs", "list").output


def test_following_has_a_time_limit_and_outlives_a_short_outage(kfp: FakeKfp) -> None:
    run_id = started(kfp)
    server = connect(kfp.host)
    with pytest.raises(ClusterError, match="It goes on"):
        follow(server, run_id, {}, lambda _: None, poll_seconds=0.01, limit_seconds=0.0)
    kfp.refuse["GET /apis/v2beta1/runs/"] = 503
    lines: list[str] = []

    def write(line: str) -> None:
        lines.append(line)

    with pytest.raises(ClusterError, match="HTTP 503"):
        follow(server, run_id, {}, write, poll_seconds=0.01)
    assert sum(r.path == f"/apis/v2beta1/runs/{run_id}" for r in kfp.requests) >= 6
    kfp.refuse.clear()
    assert follow(server, run_id, {}, write, poll_seconds=0.01) == "SUCCEEDED"


def test_a_run_is_named_once_and_only_one_that_is_there_can_be_resumed(kfp: FakeKfp) -> None:
    mistyped = called("submit", "--store", STORE, "--resume", "r1")
    assert (mistyped.exit_code, len(kfp.runs)) == (ConfigError.exit_code, 0)
    assert called("submit", "--store", STORE, "--run-id", "r1").exit_code == 0
    taken = called("submit", "--store", STORE, "--run-id", "r1")
    assert (taken.exit_code, len(kfp.runs)) == (ConfigError.exit_code, 1)
    assert "--resume r1" in taken.stderr
    assert called("submit", "--store", STORE, "--resume", "r1").exit_code == 0
    assert [run["display_name"] for run in kfp.runs.values()] == ["untaint-training r1"] * 2


def test_a_mistake_stops_before_anything_is_sent(kfp: FakeKfp) -> None:
    for arguments in (
        ("submit",),
        ("submit", "--store", "bucket/x"),
        ("submit", "--store", "s3://"),
        ("submit", "--store", STORE, "--run-id", "../r1"),
        ("submit", "--store", STORE, "--dataset", "parquet:/data/pets"),
        ("submit", "--store", STORE, "--registry", "https://ghcr.io/me"),
        ("submit", "--store", STORE, "--poison-rate", "2"),
        ("submit", "--store", STORE, "--profile", "tpu"),
        ("submit", "--store", STORE, "--set", "split.no_such=1"),
        ("submit", "--store", STORE, "--host", "https://user:pass@host/"),
    ):
        answer = called(*arguments)
        assert answer.exit_code == ConfigError.exit_code, answer.output
        assert answer.stderr.startswith("problem:")
    assert kfp.requests == []


def test_nobody_listening_is_told_at_once(kfp: FakeKfp) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        answer = submitted("--host", f"http://127.0.0.1:{free.getsockname()[1]}")
    assert answer.exit_code == ClusterError.exit_code
    assert "port-forward" in answer.stderr


def test_a_cluster_of_kubectl_that_does_not_answer_is_told_with_its_cause_and_the_next_step(
    kfp: FakeKfp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT")
    file = tmp_path / "kubeconfig"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = {"server": f"http://127.0.0.1:{free.getsockname()[1]}"}
        file.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "c", "users": [{"name": "u", "user": {}}],
            "clusters": [{"name": "c", "cluster": server}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }))  # fmt: skip
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))
        answer = submitted()
    assert answer.exit_code == ClusterError.exit_code
    subject, _, found, hint = answer.stderr.splitlines()
    assert subject.endswith("the cluster of the current kubectl context")
    assert found.endswith("Connection refused")
    assert "KF_PIPELINES_ENDPOINT" in hint


@pytest.mark.parametrize(("refused", "status"), [("POST /apis/v2beta1/runs", 403), ("GET /apis/v2beta1/healthz", 401)])
def test_a_refusal_is_told_with_its_status(kfp: FakeKfp, refused: str, status: int) -> None:
    kfp.refuse[refused] = status
    answer = submitted()
    assert answer.exit_code == ClusterError.exit_code
    assert f"HTTP {status} Refused for the test." in answer.stderr
    assert "Traceback" not in answer.output


def test_a_field_that_the_server_does_not_know_is_refused_by_the_fake(kfp: FakeKfp) -> None:
    client = connect(kfp.host).client
    api = client.runs.run_service_create_run.__self__.api_client
    with pytest.raises(Exception, match=r"unknown field .+priority"):
        api.call_api("/apis/v2beta1/runs", "POST", body={"display_name": "x", "priority": 1}, response_type="object")
    run = kfp.runs[started(kfp)]
    version = {"version_id": next(iter(kfp.versions)), "pipeline_id": next(iter(kfp.pipelines))}
    with pytest.raises(Exception, match=r"parameters .+atack.+ are not in the pipeline"):
        client.run_pipeline(run["experiment_id"], "x", params={"atack": "none"}, **version)


def test_runs_are_listed_shown_read_and_stopped(kfp: FakeKfp) -> None:
    assert called("runs", "list").output == "No runs in experiment untaint.\n"
    run_id = started(kfp)
    assert called("runs", "list").output.splitlines()[2].split()[0] == run_id
    called("runs", "show", run_id)
    shown = called("runs", "show", run_id).output
    assert f"run {run_id}: running" in shown
    assert re.search(r"^ingest +succeeded +\d$", shown, re.MULTILINE)
    assert "executor" not in shown
    assert called("runs", "logs", run_id, "split").exit_code == ConfigError.exit_code
    assert "is being stopped" in called("runs", "stop", run_id).output
    assert kfp.runs[run_id]["state"] == "CANCELING"
    called("runs", "show", run_id)
    assert "has ended already: failed" in called("runs", "stop", run_id).output
    assert called("runs", "show", "no-such-run").exit_code == ClusterError.exit_code


def looked(kfp: FakeKfp, run_id: str, times: int) -> None:
    """Lets a run go on; each command that looks at it is one step more."""
    for _ in range(times):
        connect(kfp.host).client.get_run(run_id)


def test_the_log_of_a_stage_at_work_is_read_from_its_pod(kubectl: FakeKfp) -> None:
    run_id = started(kubectl)
    looked(kubectl, run_id, 4)
    answer = called("runs", "logs", run_id, "warmup")
    assert answer.exit_code == 0, answer.output
    assert re.fullmatch(r"log of untaint-training-r1-system-container-impl-\d+\n", answer.output)
    everything = called("runs", "logs", run_id).output
    assert re.match(r"== ingest, pod \S+-impl-\d+\nlog of \S+-impl-\d+\n== warmup", everything)
    assert "driver" not in everything


def test_the_log_of_a_stage_that_has_ended_is_read_from_the_archive_once(kfp: FakeKfp) -> None:
    run_id = started(kfp)
    looked(kfp, run_id, 3)
    before = len(kfp.requests)
    answer = called("runs", "logs", run_id, "ingest")
    assert re.fullmatch(r"log of untaint-training-r1-system-container-impl-\d+\n", answer.output)
    asked = [request.path for request in kfp.requests[before:] if request.path.endswith("/log")]
    assert len(asked) == 1
    # What the protocol calls the name of a pod is the id of a node.
    assert re.search(r"/nodes/untaint-training-r1-\d+/log$", asked[0])


def test_no_log_is_a_failure_though_the_server_sends_200(kfp: FakeKfp) -> None:
    run_id = started(kfp)
    looked(kfp, run_id, 2)
    answer = called("runs", "logs", run_id, "warmup")
    assert answer.exit_code == ClusterError.exit_code
    assert "Failed to read logs for run" in answer.stderr
    assert "kubeconfig" in answer.stderr
    # The others are still shown.
    looked(kfp, run_id, 1)
    answer = called("runs", "logs", run_id)
    assert answer.exit_code == ClusterError.exit_code
    assert answer.stdout.count("\nlog of") == 2


def test_a_pod_that_waits_has_no_log_and_says_why(kubectl: FakeKfp) -> None:
    kubectl.pending["ingest"] = (9, "0/1 nodes are available: 1 Insufficient cpu.")
    run_id = started(kubectl)
    answer = called("runs", "logs", run_id, "ingest")
    assert (answer.exit_code, "Insufficient cpu" in answer.output) == (0, True)


def test_the_cluster_of_the_server_is_asked_for_pods_and_not_that_of_the_current_context(
    kubectl: FakeKfp, tmp_path: Path
) -> None:
    config = json.loads((tmp_path / "kubeconfig").read_text())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = {"name": "other", "cluster": {"server": f"http://127.0.0.1:{free.getsockname()[1]}"}}
        config["clusters"].append(dead)
        config["contexts"].append({"name": "other", "context": {"cluster": "other", "user": "u"}})
        config["current-context"] = "other"
        (tmp_path / "kubeconfig").write_text(json.dumps(config))
        pods = [open_pods(connect(kubectl.host, context=context)) for context in ("c", "")]
        assert pods[0] is not None
        assert pods[0].of_run("none") == []
        assert pods[1] is not None
        with pytest.raises(ClusterError, match="Connection refused"):
            pods[1].of_run("none")


def test_a_task_of_a_nested_pipeline_is_found_by_its_name(kubectl: FakeKfp) -> None:
    server = connect(kubectl.host)
    with compiled("r", "t", load_profile("cpu")) as package:
        version = upload(server, package, "retrain")[:2]
    parameters = {"store_root": STORE, "name": "m", "drops": "s3://bucket/drops"}
    run_id = start(server, version, "retrain", parameters, experiment="untaint")
    looked(kubectl, run_id, 2)
    shown = called("runs", "logs", run_id).output
    assert [line.split(",")[0] for line in shown.splitlines() if line.startswith("==")] == ["== claim", "== ingest"]
    assert called("runs", "logs", run_id, "ingest").exit_code == 0


def test_a_namespace_in_which_no_pod_could_start_is_told_before_anything_is_uploaded(kubectl: FakeKfp) -> None:
    kubectl.multi_user = True
    kubectl.kubernetes.namespaces |= {"bare": set(), "team": {"mlpipeline-minio-artifact"}}
    answer = submitted("--namespace", "bare")
    assert answer.exit_code == ConfigError.exit_code
    assert "pipelines.kubeflow.org/enabled=true" in answer.stderr
    assert kubectl.versions == {}
    assert submitted("--namespace", "team").exit_code == 0
    # Where it may not be asked for, or in another cluster than the server's, nothing is known.
    assert submitted("--namespace", "elsewhere").exit_code == 0
    kubectl.kubernetes.forbidden.add("secrets")
    assert submitted("--namespace", "bare").exit_code == 0


def test_the_namespace_goes_with_what_has_one(kfp: FakeKfp) -> None:
    kfp.multi_user = True
    assert submitted("--namespace", "team").exit_code == 0
    assert [entry["namespace"] for entry in (*kfp.pipelines.values(), *kfp.experiments.values())] == ["team", "team"]
    assert called("runs", "list", "--namespace", "team", "--experiment", "").exit_code == 0
    assert kfp.requests[-1].query["namespace"] == "team"


def test_the_digest_follows_the_content_and_nothing_else(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.yaml" for name in ("a", "b", "c")]
    for path, tag in zip(paths, ("t1", "t1", "t2"), strict=True):
        compile_pipeline(path, "r", tag, load_profile("cpu"))
    documents = list(yaml.safe_load_all(paths[1].read_text()))
    documents[0]["sdkVersion"] = "another"
    paths[1].write_text(yaml.safe_dump_all(documents, sort_keys=False))
    same, again, other = map(package_digest, paths)
    assert same == again
    assert same != other
    assert task_names(paths[0])["warmup-2"] == "control"


def leaks(kfp: FakeKfp, folder: Path, *texts: str) -> list[str]:
    """Where the planted secret is to be read: in files, in text for people, or in a request outside its one header."""
    found = [str(path) for path in folder.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    found += [f"text {text[:40]!r}" for text in texts if CANARY in text]
    for request in kfp.requests:
        headers = {name: value for name, value in request.headers.items() if name.lower() != "authorization"}
        if CANARY in json.dumps([request.path, request.query, headers]) or CANARY.encode() in request.body:
            found.append(f"request {request.method} {request.path}")
    return found


@pytest.fixture
def canary(kfp: FakeKfp, monkeypatch: pytest.MonkeyPatch) -> str:
    """A secret where users keep theirs."""
    kfp.token = f"{CANARY}-token"
    monkeypatch.setenv("KFP_EXISTING_TOKEN", kfp.token)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", f"{CANARY}-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{CANARY}-key")
    monkeypatch.setenv("AWS_SESSION_TOKEN", f"{CANARY}-session")
    return CANARY


def test_no_secret_leaves_but_in_the_authorization_header(
    kfp: FakeKfp, canary: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("UNTAINT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    caplog.set_level("DEBUG")
    answers = [called("compile", "--profile", name, "--output", str(tmp_path / f"{name}.yaml"))
               for name in ("cpu", "gpu", "eks-irsa")]  # fmt: skip
    answers.append(submitted("--wait"))
    run_id = next(iter(kfp.runs))
    answers += [called("runs", *words) for words in (("list",), ("show", run_id), ("logs", run_id), ("stop", run_id))]
    assert [answer.exit_code for answer in answers] == [0] * len(answers)
    kfp.token = f"not {kfp.token}"  # a refusal shows what was sent, if anything does
    answers.append(submitted("--wait"))
    assert answers[-1].exit_code == ClusterError.exit_code
    assert any(f"{canary}-token" in r.headers.get("authorization", "") for r in kfp.requests), "the token was not used"
    assert leaks(kfp, tmp_path, caplog.text, *(answer.output + answer.stderr for answer in answers)) == []


def test_a_planted_leak_is_found(kfp: FakeKfp, canary: str, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "report.html").write_text(f"<p>{canary}</p>")
    submitted("--experiment", f"{canary}-experiment")
    found = leaks(kfp, tmp_path, f"log {canary}")
    assert str(tmp_path / "deep" / "report.html") in found
    assert "request POST /apis/v2beta1/experiments" in found
    assert any(entry.startswith("text") for entry in found)

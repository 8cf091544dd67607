"""Schedules against a server that checks every field, and the six-field cron."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from components.claim.config import ClaimConfig
from components.common.contracts.errors import ConfigError
from components.common.contracts.names import checked_run_id
from pipelines.cli.main import cli
from pipelines.cluster.cron import check_cron
from pipelines.cluster.schedule import Schedules, compiled
from pipelines.cluster.server import ClusterError, connect
from pipelines.dag.profiles import load_profile
from pipelines.dag.retrain import PIPELINE_NAME, default_parameters
from tests.fakes.argo import dag_states
from tests.fakes.kfp_api import FakeKfp

PARAMETERS: dict[str, Any] = {
    "store_root": "s3://bucket/u",
    "name": "digits",
    "drops": "s3://bucket/drops",
}
CREATE = ["schedule", "create", "--cron", "0 0 3 * * *", "--drops", "s3://bucket/drops/", "--store", "s3://bucket/u"]


@pytest.fixture
def kfp() -> Iterator[FakeKfp]:
    with FakeKfp() as server:
        yield server


@pytest.fixture(scope="module")
def package() -> Iterator[Path]:
    with compiled("registry.example/team", "v1", load_profile("cpu")) as path:
        yield path


@pytest.fixture(autouse=True)
def _no_context_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no kubeconfig"))


def untaint(kfp: FakeKfp, *arguments: str) -> Result:
    return CliRunner().invoke(cli, [*arguments, "--host", kfp.host])


@pytest.mark.parametrize(
    "cron",
    ["0 0 3 * * *", "30 */15 8-18 * * MON-FRI", "0 0 0 1,15 JAN-jun ?", "0 5/20 * ? * 0,6", "0 0 0 29 2 *"],
)
def test_a_cron_of_six_fields_is_taken(cron: str) -> None:
    assert check_cron(f"  {cron.replace(' ', '  ')} ") == cron


@pytest.mark.parametrize(
    ("cron", "told"),
    [
        ("0 3 * * *", 'Put the second in front: "0 0 3 * * *"'),
        ("@daily", "six fields, seconds first; found 1"),
        ("0 0 3 * * * 2026", "found 7"),
        ("", "found 0"),
        ("* 0 3 * * *", "several runs a minute"),
        ("*/10 * * * * *", "several runs a minute"),
        ("60 0 3 * * *", "a second from 0 to 59; found '60'"),
        ("0 0 24 * * *", "an hour from 0 to 23"),
        ("0 0 3 0 * *", "a day of month from 1 to 31"),
        ("0 0 3 31 2,4 *", "a day that one of the months has"),
        ("0 0 3 * FOO *", "a month from 1 to 12 or JAN-DEC"),
        ("0 0 3 * * 7", "a day of week from 0 to 6 or SUN-SAT"),
        ("0 0 5-3 * * *", "whose range rises"),
        ("0 0/0 3 * * *", "in steps of 1 or more"),
        ("0 ? 3 * * *", "a minute of *, numbers"),
        ("0 0 3 * * MON#1", "a day of week of *, numbers"),
        ("0 0 -3 * * *", "an hour of *, numbers"),
    ],
)
def test_a_cron_that_means_something_else_is_told(cron: str, told: str) -> None:
    with pytest.raises(ConfigError) as problem:
        check_cron(cron)
    assert told in str(problem.value)


def test_a_schedule_runs_one_at_a_time_without_catching_up(kfp: FakeKfp, package: Path) -> None:
    made = Schedules(connect(kfp.host)).create("digits", "0 0 3 * * *", PARAMETERS, package)
    (body,) = kfp.bodies("/apis/v2beta1/recurringruns")
    assert body["no_catchup"] is True
    assert body["max_concurrency"] == "1"
    assert body["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * *"}}
    reference = body["pipeline_version_reference"]
    assert (reference["pipeline_id"] in kfp.pipelines, reference["pipeline_version_id"] in kfp.versions) == (True, True)
    assert (made.name, made.cron, made.enabled, made.drops) == ("digits", "0 0 3 * * *", True, "s3://bucket/drops")


def ended(kfp: FakeKfp, run: dict[str, Any]) -> str:
    """The state of a run after it has been looked at often enough."""
    client = connect(kfp.host).client
    for _ in range(40):
        state = str(client.get_run(run["run_id"]).state)
    return state


def test_every_scheduled_run_has_an_id_of_its_own_that_the_claim_gives_out(kfp: FakeKfp, package: Path) -> None:
    Schedules(connect(kfp.host)).create("digits", "0 0 3 * * *", PARAMETERS, package)
    runs = []
    for _ in range(2):
        (run,) = kfp.tick()
        runs.append(run)
        ended(kfp, run)
    for run in runs:
        assert checked_run_id(kfp.value_of(run, "comp-claim", "run_id")) == run["run_id"]
    (version,) = kfp.versions.values()
    spec = version["documents"][0]
    (behind,) = (task for name, task in spec["root"]["dag"]["tasks"].items() if name != "claim")
    passed = [
        one["taskOutputParameter"] for one in behind["inputs"]["parameters"].values() if "taskOutputParameter" in one
    ]
    assert {"producerTask": "claim", "outputParameterKey": "data_run_id"} in passed
    # Nothing behind the claim gets another run id.
    assert "run_id" not in spec["root"]["inputDefinitions"]["parameters"]


def test_a_macro_reaches_a_scheduled_run_as_it_is(kfp: FakeKfp, package: Path) -> None:
    macros = PARAMETERS | {"name": "digits-[[ScheduledTime]]-[[RunUUID]]"}
    Schedules(connect(kfp.host)).create("digits", "0 0 3 * * *", macros, package)
    (run,) = kfp.tick()
    assert kfp.value_of(run, "comp-claim", "name") == "digits-[[ScheduledTime]]-[[RunUUID]]"
    with pytest.raises(ConfigError, match="run_id"):
        checked_run_id("digits-[[ScheduledTime]]")


def test_of_the_times_that_were_missed_the_last_is_made_up_for(kfp: FakeKfp, package: Path) -> None:
    schedules = Schedules(connect(kfp.host))
    schedules.create("digits", "0 0 3 * * *", PARAMETERS, package)
    schedules.pause("digits")
    assert kfp.tick(missed=3) == []
    schedules.resume("digits")
    assert len(kfp.tick(missed=3)) == 1
    assert kfp.tick() == [], "one run is at work"


def test_a_training_at_work_goes_on_when_its_schedule_is_replaced_or_deleted(kfp: FakeKfp, package: Path) -> None:
    schedules = Schedules(connect(kfp.host))
    schedules.create("digits", "0 0 3 * * *", PARAMETERS, package)
    (first,) = kfp.tick()
    schedules.create("digits", "0 0 4 * * *", PARAMETERS, package)
    (second,) = kfp.tick()
    schedules.delete("digits")
    assert [ended(kfp, run) for run in (first, second)] == ["SUCCEEDED", "SUCCEEDED"]


def test_the_fake_deletes_a_training_with_its_schedule_as_kubernetes_does(kfp: FakeKfp, package: Path) -> None:
    server = connect(kfp.host)
    made = Schedules(server).create("digits", "0 0 3 * * *", PARAMETERS, package)
    (run,) = kfp.tick()
    server.client.delete_recurring_run(made.id)
    assert ended(kfp, run) in ("PENDING", "RUNNING")


def test_a_schedule_of_a_namespace_is_listed_paused_replaced_and_deleted(kfp: FakeKfp, package: Path) -> None:
    kfp.multi_user = True
    mine, theirs = (Schedules(connect(kfp.host, space)) for space in ("team", "others"))
    mine.create("digits", "0 0 3 * * *", PARAMETERS, package)
    theirs.create("digits", "0 0 5 * * *", PARAMETERS, package)
    again = mine.create("digits", "0 0 4 * * *", PARAMETERS, package)
    assert [(one.id, one.cron) for one in mine.all()] == [(again.id, "0 0 4 * * *")]
    mine.pause("digits")
    assert [one.enabled for one in (*mine.all(), *theirs.all())] == [False, True]
    mine.delete("digits")
    assert ([one.name for one in mine.all()], [one.name for one in theirs.all()]) == ([], ["digits"])


def test_nothing_is_left_at_work_in_the_graph_of_a_night_without_a_drop(kfp: FakeKfp) -> None:
    with compiled("registry.example/team", "v1", load_profile("cpu")) as path:
        spec = next(iter(yaml.safe_load_all(path.read_text())))
    (condition,) = (name for name, task in spec["root"]["dag"]["tasks"].items() if "triggerPolicy" in task)
    assert dag_states(spec, frozenset({condition})) == {"claim": "COMPLETE", condition: "CANCELED"}
    trained = dag_states(spec, frozenset())
    assert set(trained.values()) == {"COMPLETE"}
    assert {"claim", "ingest", "evaluate", "promote", condition} <= set(trained)


def test_asking_again_replaces_the_schedule_of_that_name_alone(kfp: FakeKfp, package: Path) -> None:
    schedules = Schedules(connect(kfp.host))
    first = schedules.create("digits", "0 0 3 * * *", PARAMETERS, package)
    other = schedules.create("faces", "0 0 4 * * *", PARAMETERS, package)
    again = schedules.create("digits", "0 30 5 * * *", PARAMETERS, package)
    assert [(s.id, s.cron) for s in schedules.all()] == [(again.id, "0 30 5 * * *"), (other.id, "0 0 4 * * *")]
    assert first.id not in kfp.recurring
    assert len(kfp.versions) == 1, "the same pipeline is uploaded once"
    order = [(r.method, r.path.rpartition("/")[2]) for r in kfp.requests if "recurringruns/" in r.path][-4:]
    # The new one is started when the old one is gone: never two at once.
    assert order.index(("DELETE", first.id)) < order.index(("POST", f"{again.id}:enable"))


def test_more_schedules_than_a_page_holds_are_all_found(
    kfp: FakeKfp, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.cluster.schedule._PAGE", 2)
    schedules = Schedules(connect(kfp.host))
    names = [f"m{number}" for number in range(5)]
    for name in names:
        schedules.create(name, "0 0 3 * * *", PARAMETERS, package)
    assert [schedule.name for schedule in schedules.all()] == names


def test_a_schedule_is_paused_resumed_and_deleted_by_name(kfp: FakeKfp, package: Path) -> None:
    schedules = Schedules(connect(kfp.host))
    schedules.create("digits", "0 0 3 * * *", PARAMETERS, package)
    schedules.pause("digits")
    assert [schedule.enabled for schedule in schedules.all()] == [False]
    schedules.resume("digits")
    assert [schedule.enabled for schedule in schedules.all()] == [True]
    schedules.delete("digits")
    assert schedules.all() == []
    with pytest.raises(ConfigError, match="no schedules at all"):
        schedules.pause("digits")


def test_a_recurring_run_of_another_pipeline_is_neither_shown_nor_replaced(kfp: FakeKfp, package: Path) -> None:
    schedules = Schedules(connect(kfp.host))
    kfp.recurring["x"] = {
        "recurring_run_id": "x", "display_name": "digits", "status": "ENABLED",
        "pipeline_version_reference": {"pipeline_id": "theirs", "pipeline_version_id": "1"},
    }  # fmt: skip
    assert schedules.all() == []
    with pytest.raises(ConfigError, match="a recurring run of another pipeline"):
        schedules.create("digits", "0 0 3 * * *", PARAMETERS, package)
    assert list(kfp.recurring) == ["x"]


def test_a_server_that_refuses_leaves_the_old_schedule(kfp: FakeKfp, package: Path) -> None:
    schedules = Schedules(connect(kfp.host))
    first = schedules.create("digits", "0 0 3 * * *", PARAMETERS, package)
    kfp.refuse["POST /apis/v2beta1/recurringruns"] = 403
    with pytest.raises(ClusterError, match="HTTP 403"):
        schedules.create("digits", "0 0 4 * * *", PARAMETERS, package)
    assert [(s.id, s.enabled) for s in schedules.all()] == [(first.id, True)]


def test_the_server_checks_the_parameters_of_the_pipeline(kfp: FakeKfp, package: Path) -> None:
    Schedules(connect(kfp.host)).create("digits", "0 0 3 * * *", PARAMETERS, package)
    (version,) = kfp.versions.values()
    known = version["documents"][0]["root"]["inputDefinitions"]["parameters"]
    assert version["documents"][0]["pipelineInfo"]["name"] == PIPELINE_NAME
    assert set(PARAMETERS) | set(default_parameters()) == set(known)


def test_the_commands(kfp: FakeKfp) -> None:
    made = untaint(kfp, *CREATE, "--name", "digits", "--set", "warmup.epochs=3", "--set", "promote.max_acc_loss=0.01")
    assert made.exit_code == 0, made.output
    (body,) = kfp.bodies("/apis/v2beta1/recurringruns")
    sent = body["runtime_config"]["parameters"]
    assert (sent["warmup_epochs"], sent["promote_settings"]) == (3, {"max_acc_loss": 0.01})
    assert sent["ingest_settings"] == {"canary_ratio": 0.02}
    assert (sent["drops"], "run_id" in sent) == ("s3://bucket/drops", False)
    assert body["service_account"] == load_profile("cpu").service_account
    listed = untaint(kfp, "schedule", "list").output
    assert "0 0 3 * * *" in listed
    assert "cron (UTC)" in listed
    assert untaint(kfp, "schedule", "pause", "digits").exit_code == 0
    assert "paused" in untaint(kfp, "schedule", "list").output
    assert untaint(kfp, "schedule", "resume", "digits").exit_code == 0
    assert untaint(kfp, "schedule", "delete", "digits").exit_code == 0
    assert untaint(kfp, "schedule", "list").output == "no schedules\n"
    assert untaint(kfp, "schedule", "delete", "digits").exit_code == 2


def test_a_claim_lasts_as_long_as_the_run_may_unless_it_is_set(kfp: FakeKfp) -> None:
    for settings in ([], ["--set", "claim.lease_seconds=7200"]):
        made = untaint(kfp, *CREATE, "--name", "digits", "--profile", "gpu", *settings)
        assert made.exit_code == 0, made.output
    leases = [
        body["runtime_config"]["parameters"]["claim_settings"]["lease_seconds"]
        for body in kfp.bodies("/apis/v2beta1/recurringruns")
    ]
    assert leases == [load_profile("gpu").active_deadline_seconds, 7200]
    assert ClaimConfig(lease_seconds=leases[0]).lease_seconds == leases[0]


def test_the_plan_is_the_same_as_long_as_the_same_is_done_with_a_drop(kfp: FakeKfp) -> None:
    for settings in (
        [],
        ["--set", "claim.attempts=5"],
        ["--set", "promote.max_acc_loss=0.01"],
        ["--set", "warmup.epochs=3"],
        ["--tag", "v2"],
        ["--control"],
    ):
        assert untaint(kfp, *CREATE, "--name", "digits", *settings).exit_code == 0
    plans = [
        body["runtime_config"]["parameters"]["claim_settings"]["plan"]
        for body in kfp.bodies("/apis/v2beta1/recurringruns")
    ]
    assert len(set(plans[:3])) == 1
    assert len(set(plans[2:])) == 4


def test_a_namespace_in_which_no_pod_could_start_gets_no_schedule(
    kfp: FakeKfp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kfp.multi_user = True
    kfp.kubernetes.namespaces["bare"] = set()
    monkeypatch.setenv("KUBECONFIG", kfp.kubernetes.write_config(kfp.host, tmp_path / "kubeconfig"))
    done = untaint(kfp, *CREATE, "--namespace", "bare")
    assert (done.exit_code, "mlpipeline-minio-artifact" in done.output) == (2, True), done.output
    assert kfp.recurring == {}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--cron", "0 3 * * *"], "seconds first"),
        (["--set", "ingest.attack=badnets"], "a setting of a training on drops"),
        (["--set", "promote.max_acc_loss=7"], "promote.max_acc_loss"),
        (["--set", "claim.lease=7"], "claim.lease"),
        (["--set", "warmup.epochs=many"], "warmup.epochs"),
        (["--name", "no/name"], "claim.name"),
        # Its runs, named after it and the time, would have ids that no other command takes.
        (["--name", "n" * 49], "1 to 48 of"),
        (["--name", "zähler"], "1 to 48 of"),
        (["--name", "-n"], "starting with a letter or digit"),
        (["--drops", "/a/folder"], "s3://BUCKET/KEY"),
        (["--store", ""], "the cluster's stages can reach"),
    ],
)
def test_a_wrong_option_is_told_before_anything_is_asked_of_the_server(
    kfp: FakeKfp, arguments: list[str], told: str
) -> None:
    done = untaint(kfp, *CREATE, *arguments)
    assert (done.exit_code, told in done.output) == (2, True), done.output
    assert kfp.requests == []

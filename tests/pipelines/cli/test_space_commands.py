"""``untaint runs list`` and ``delete`` and ``untaint store gc`` on runs of this machine and of a real store."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from components.common.runs.artifacts import StageManifest
from components.common.runs.inventory import objects_of
from components.common.runs.publish import LocalObject, publish
from components.common.storage.addresses import join
from components.common.storage.store import Store
from pipelines.cli.main import cli


def called(*words: object, said: str | None = None) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words], input=said)


def finish(store: Store, run_id: str) -> None:
    draft = StageManifest(
        stage="evaluate",
        run_id=run_id,
        key=run_id,
        config={},
        parents={},
        code_version="c",
        objects={},
        facts={"verdict": "poison found"},
    )
    files = {"report": LocalObject(suffix=".html", kind="document", data=b"x" * 1000)}
    publish(store, join(store.root, "runs", run_id, "evaluate"), draft, files)


def start(home: Path, run_id: str, store: str, **status: object) -> Path:
    folder = home / "runs" / run_id
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps({"parameters": {}, "control": True, "store": store}))
    if status:
        (folder / "status.json").write_text(json.dumps(status))
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNTAINT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT", raising=False)
    return tmp_path / "home"


def test_runs_of_this_machine_are_listed_with_state_verdict_and_size(home: Path, store: Store) -> None:
    finish(store, "done")
    finish(store, "elsewhere")
    start(home, "done", store.root, pid=1, exit_code=0)
    start(home, "stopped", store.root)
    start(home, "working", store.root, pid=os.getpid(), exit_code=None)
    found = called("runs", "list", "--json")
    assert found.exit_code == 0, found.output
    rows = {row["run_id"]: row for row in json.loads(found.stdout)}
    assert {name: row["state"] for name, row in rows.items()} == {
        "done": "finished",
        # Of a store that runs here have used, every run is shown, wherever it was started.
        "elsewhere": "finished",
        "stopped": "stopped",
        "working": "running",
    }
    assert rows["done"]["verdict"] == "poison found"
    assert rows["done"]["store_bytes"] > 1000
    assert rows["done"]["folder_bytes"] > 0
    assert rows["stopped"]["store_bytes"] == 0
    table = called("runs", "list").stdout
    assert "poison found" in table
    assert "store MB" in table


def test_nothing_is_started_to_look_where_nothing_has_been(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    assert json.loads(called("runs", "list", "--json").stdout) == []
    assert called("runs", "list").stdout == f"No runs in {home}.\n"
    assert not home.exists()


def test_a_store_that_does_not_answer_hides_no_other(home: Path, store: Store) -> None:
    finish(store, "done")
    start(home, "done", store.root)
    start(home, "lost", "s3://no-such-bucket-of-ours/x")
    (start(home, "torn", store.root) / "plan.json").write_text("{")
    found = called("runs", "list", "--json")
    assert found.exit_code == 0
    rows = {row["run_id"]: row for row in json.loads(found.stdout)}
    assert (rows["done"]["state"], rows["lost"]["state"]) == ("finished", "unknown")
    assert rows["lost"]["store_bytes"] is None
    assert "no-such-bucket-of-ours" in found.stderr
    assert "torn" in found.stderr


def test_a_run_is_deleted_when_that_is_confirmed(home: Path, store: Store) -> None:
    finish(store, "done")
    folder = start(home, "done", store.root)
    refused = called("runs", "delete", "done", said="n\n")
    assert refused.exit_code != 0
    assert folder.is_dir()
    assert objects_of(store, "done") is not None
    done = called("runs", "delete", "done", said="y\n")
    assert done.exit_code == 0, done.output
    assert "MB" in done.output
    assert not folder.exists()
    assert objects_of(store, "done") is None
    assert called("runs", "delete", "done", "--yes", "--store", store.root).exit_code == 2


def test_a_run_that_was_stopped_here_is_deleted_at_once_and_one_at_work_is_not(home: Path, store: Store) -> None:
    draft = StageManifest(stage="ingest", run_id="half", key="k", config={}, parents={}, code_version="c", objects={})
    publish(store, join(store.root, "runs", "half", "ingest"), draft, {})
    folder = start(home, "half", store.root, pid=os.getpid(), exit_code=None)
    refused = called("runs", "delete", "half", "--yes")
    assert refused.exit_code == 2
    assert "Ctrl-C" in refused.output
    # One in a container has a number that means nothing here: what it writes shows it at work.
    (folder / "status.json").write_text(json.dumps({"pid": 2**22 + 1, "exit_code": None}))
    assert called("runs", "delete", "half", "--yes").exit_code == 2
    for path in folder.iterdir():
        os.utime(path, (1.0, 1.0))
    assert called("runs", "delete", "half", "--yes").exit_code == 0
    assert objects_of(store, "half") is None
    # Of a run that was started elsewhere only silence says that it has ended.
    publish(store, join(store.root, "runs", "half", "ingest"), draft, {})
    refused = called("runs", "delete", "half", "--yes", "--store", store.root)
    assert refused.exit_code == 2
    assert "last hour" in refused.output


def test_gc_lists_first_and_deletes_only_when_told_to(home: Path, store: Store) -> None:
    finish(store, "old")
    assert "Nothing to free" in called("store", "gc", "--store", store.root).output
    listed = called("store", "gc", "--older-than", 0, "--store", store.root)
    assert listed.exit_code == 0, listed.output
    assert "nothing was deleted" in listed.output
    assert objects_of(store, "old") is not None
    done = json.loads(called("store", "gc", "--older-than", 0, "--delete", "--json", "--store", store.root).stdout)
    assert done["deleted"]
    assert [entry["run_id"] for entry in done["garbage"]] == ["old"]
    assert done["bytes"] > 1000
    assert len(done["garbage"][0]["objects"]) == 2
    assert objects_of(store, "old") is None

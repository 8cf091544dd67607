"""A stage's life on a real store: done work is skipped, broken inputs stop it, half done work is gone on with."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from components.common.contracts.errors import ConfigError, ContractError
from components.common.runs.lifecycle import Published, StageRun, code_version
from components.common.runs.publish import find_manifest
from components.common.storage.store import Store
from components.common.tables.gate import QualityGate
from components.common.tables.tables import POISON_TRUTH
from components.split.config import SplitConfig


@pytest.fixture(scope="module")
def gate() -> QualityGate:
    with QualityGate() as gate:
        yield gate


def truth(rows: int = 5) -> pa.Table:
    columns = {
        "sample_id": np.arange(rows, dtype=np.int64),
        "is_poisoned": np.zeros(rows, dtype=bool),
        "true_label": np.zeros(rows, dtype=np.int16),
    }
    return pa.table(columns, schema=POISON_TRUTH.schema)


def publish(store: Store, gate: QualityGate, stage: str = "truth", run_id: str = "r1", **config: float) -> Published:
    with StageRun(stage, SplitConfig(**config), store.root, run_id, {}, gate=gate) as run:
        done = run.finished()
        if done is not None:
            return done
        run.add_table("poison_truth", truth(), POISON_TRUTH)
        run.add_array("pixels", np.arange(12, dtype=np.uint8).reshape(4, 3))
        return run.publish({"n": 4}, {"figure": 0.5})


def child(store: Store, gate: QualityGate, parent: Published, sha256: str | None = None) -> StageRun:
    parents = {"truth": (parent.uri, sha256 or parent.sha256), "control": ("", "")}
    return StageRun("split", SplitConfig(), store.root, "r1", parents, gate=gate)


def test_what_a_stage_publishes_its_child_reads(store: Store, gate: QualityGate) -> None:
    run = child(store, gate, publish(store, gate))
    assert set(run.parents) == {"truth"}, "an empty address is no parent"
    assert run.read_table("truth", "poison_truth", POISON_TRUTH).equals(truth())
    assert run.read_array("truth", "pixels").tolist() == np.arange(12).reshape(4, 3).tolist()
    assert run.parents["truth"].manifest.facts["n"] == 4
    assert run.parents["truth"].manifest.facts["peak_mib"] > 10


def test_finished_work_is_found_and_not_done_again(store: Store, gate: QualityGate) -> None:
    first = publish(store, gate)
    assert publish(store, gate) == first


def test_another_config_under_the_same_run_id_is_refused_and_nothing_is_lost(store: Store, gate: QualityGate) -> None:
    first = publish(store, gate)
    with pytest.raises(ContractError, match=r"differs in its config.*Start a new run;"):
        publish(store, gate, isolation_ratio=0.05)
    assert find_manifest(store, first.uri.rpartition("/")[0])[1] == first.sha256


def test_a_manifest_with_another_digest_is_refused(store: Store, gate: QualityGate) -> None:
    parent = publish(store, gate)
    with pytest.raises(ContractError, match="sha256"):
        child(store, gate, parent, sha256="0" * 64)


@pytest.mark.parametrize("name", ["poison_truth", "pixels"])
def test_a_tampered_object_is_refused_by_name(store: Store, gate: QualityGate, name: str) -> None:
    parent = publish(store, gate)
    ref = parent.manifest.objects[name]
    damaged = bytearray(store.get(ref.uri))
    damaged[len(damaged) // 2] ^= 1
    store.put(ref.uri, bytes(damaged))
    run = child(store, gate, parent)
    with pytest.raises(ContractError, match=name):
        run.read_table("truth", name, POISON_TRUTH) if name == "poison_truth" else run.read_array("truth", name)


def test_an_object_that_the_parent_never_published_is_named(store: Store, gate: QualityGate) -> None:
    run = child(store, gate, publish(store, gate))
    with pytest.raises(ContractError, match=r"an object named 'model'; found only pixels, poison_truth"):
        run.read_bytes("truth", "model")


def test_what_is_asked_for_twice_is_read_once(store: Store, gate: QualityGate, monkeypatch: pytest.MonkeyPatch) -> None:
    run = child(store, gate, publish(store, gate))
    read: list[str] = []
    get = Store.get
    monkeypatch.setattr(Store, "get", lambda self, uri, *rest: read.append(uri) or get(self, uri, *rest))
    for _ in range(2):
        run.read_array("truth", "pixels")
        run.read_table("truth", "poison_truth", POISON_TRUTH)
    assert len(read) == 2
    assert len(set(read)) == 2


def test_a_table_of_other_samples_than_those_asked_for_is_refused(store: Store, gate: QualityGate) -> None:
    run = child(store, gate, publish(store, gate))
    run.read_table("truth", "poison_truth", POISON_TRUTH, ids=pa.array(range(5), pa.int64()))
    for ids in ([0, 1, 2, 4, 3], [0, 1, 2, 3, 4, 5]):
        with pytest.raises(ContractError, match=r"the parent's . ids in the same order"):
            run.read_table("truth", "poison_truth", POISON_TRUTH, ids=pa.array(ids, pa.int64()))


def test_a_table_of_ones_own_is_read_without_a_validation_run(store: Store, gate: QualityGate) -> None:
    parent = publish(store, gate)
    with QualityGate() as other:
        other.close()
        run = child(store, other, parent)
        assert run.read_table("truth", "poison_truth", POISON_TRUTH).equals(truth())
        with pytest.raises(RuntimeError, match="closed"):
            run.add_table("poison_truth", truth(), POISON_TRUTH)


def test_the_code_version_follows_what_a_stage_runs_and_nothing_else(tmp_path: Path) -> None:
    for name in ("split/algorithm.py", "split/config.py", "split/spec.py", "warmup/algorithm.py", "common/runs/x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")

    def version() -> str:
        code_version.cache_clear()
        return code_version("split", tmp_path)

    before = version()
    for name, matters in [
        ("warmup/algorithm.py", False), ("split/config.py", False), ("split/spec.py", False),
        ("split/README.md", False), ("split/algorithm.py", True), ("common/runs/x.py", True), ("split/new.py", True),
    ]:  # fmt: skip
        (tmp_path / name).write_text("2")
        after = version()
        assert (after != before) == matters, name
        before = after


def test_a_table_that_breaks_its_contract_is_never_published(store: Store, gate: QualityGate) -> None:
    run = StageRun("truth", SplitConfig(), store.root, "r1", {}, gate=gate)
    broken = truth().set_column(2, POISON_TRUTH.schema.field(2), pa.array([-1] * 5, pa.int16()))
    with pytest.raises(ContractError, match=r"true_label"):
        run.add_table("poison_truth", broken, POISON_TRUTH)
    assert find_manifest(store, run.uri) is None


def test_kept_state_comes_back_to_the_same_work_only_and_is_dropped_at_the_end(
    store: Store, gate: QualityGate, caplog: pytest.LogCaptureFixture
) -> None:
    stopped = StageRun("truth", SplitConfig(), store.root, "r1", {}, gate=gate)
    assert stopped.restore("warmup") is None
    stopped.save("warmup", b"half\nway")
    other = StageRun("truth", SplitConfig(isolation_ratio=0.05), store.root, "r1", {}, gate=gate)
    assert other.restore("warmup") is None
    resumed = StageRun("truth", SplitConfig(), store.root, "r1", {}, gate=gate)
    with caplog.at_level(logging.INFO):
        assert resumed.restore("warmup") == b"half\nway"
        assert resumed.restore("another phase") is None
    assert "going on from the state of an earlier attempt" in caplog.text
    resumed.publish({}, {})
    assert not [info.uri for info in store.list(resumed.uri) if "partial" in info.uri]


def test_withheld_settings_are_in_the_key_and_nowhere_else(store: Store, gate: QualityGate) -> None:
    runs = [
        StageRun("x", SplitConfig(isolation_ratio=r), store.root, "r1", {}, gate=gate, withheld=("isolation_ratio",))
        for r in (0.01, 0.02)
    ]
    assert runs[0].key != runs[1].key
    assert "isolation_ratio" not in runs[0].publish({}, {}).manifest.config
    with pytest.raises(ContractError, match="differs in its attack"):
        runs[1].finished()


@pytest.mark.parametrize("run_id", ["", "../other", "a/b", ".hidden", "a b"])
def test_a_run_id_that_could_leave_its_folder_is_refused(store: Store, gate: QualityGate, run_id: str) -> None:
    with pytest.raises(ConfigError, match="run_id"):
        StageRun("x", SplitConfig(), store.root, run_id, {}, gate=gate)


def test_progress_is_a_plain_line_at_the_end_and_not_at_every_step(
    store: Store, gate: QualityGate, caplog: pytest.LogCaptureFixture
) -> None:
    run = StageRun("x", SplitConfig(), store.root, "r1", {}, gate=gate)
    with caplog.at_level(logging.INFO):
        for step in range(1, 101):
            run.progress("warmup", step, 100, {"loss": 0.5})
    lines = [record.message for record in caplog.records if record.message.startswith("warmup")]
    assert lines == ["warmup: step 100 of 100 (100 %) loss 0.5000"]

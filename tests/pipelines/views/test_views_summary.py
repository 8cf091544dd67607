"""What a finished run shows: on one screen, only what is known, with the path of ``summary.json`` last."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.common.contracts.errors import ContractError
from components.common.runs.artifacts import StageManifest
from components.common.runs.publish import LocalObject, publish
from components.common.storage.addresses import join
from components.common.storage.store import Store
from components.evaluate.summary import ARTIFACTS, ordinary_seconds, summarise, to_json
from pipelines.views.summary import lines_of, show, summary_uri

STAGES = [
    {"stage": name, "seconds": 20.0, "train_seconds": train, "peak_mib": 900.0}
    for name, train in (
        ("ingest", 0.0),
        ("warmup", 8.0),
        ("control", 60.0),
        ("split", 0.0),
        ("unlearn", 16.0),
        ("finetune", 48.0),
    )
]
ATTACKED = {
    "acc": 0.98765,
    "asr": 0.01,
    "control_acc": 0.99,
    "control_asr": 1.0,
    "suspects": 410.0,
    "auroc": 0.99876,
    "flagged_poisoned": 0.995,
    "flagged_clean": 0.003,
    "tpr_at_1pct_fpr": 0.97,
}


def facts(**changes: object) -> dict:
    known = {
        "verdict": "poison found",
        "sentence": "400 of 4,000 training images carry a trigger that leads to class 0.",
        "next_steps": ["Look at the most suspect images.", "And then this."],
        "caveats": ["ASR is that of the attack that this run injected.", "ACC is measured on the holdout."],
        "stages": STAGES,
        "ordinary": [60.0, True],
    }
    return {**known, **changes}


def summary(metrics: dict = ATTACKED, **changes: object) -> dict:
    return summarise(
        run_id="r",
        facts=facts(**changes),
        metrics=metrics,
        artifacts={"report": "s3://bucket/report.html"},
        versions={"python": "3.11"},
        config_digest="d",
    )


def manifest(**changes: object) -> StageManifest:
    record = {"stage": "evaluate", "run_id": "r", "key": "k", "config": {}, "parents": {}, "code_version": "c"}
    return StageManifest(**{**record, "objects": {}, "facts": facts(**changes)})  # type: ignore[arg-type]


def test_the_summary_has_the_promised_keys_and_null_where_nothing_was_measured() -> None:
    found = summary({"acc": 0.5, "suspects": 3.0})
    assert {"schema", "run_id", "verdict", "stages", "split", "seconds", "cost", "artifacts"} <= set(found)
    assert {"versions", "config_digest"} <= set(found)
    assert list(found["stages"]) == ["warmup", "unlearn", "final", "undefended"]
    assert found["stages"]["final"] == {"acc": 0.5, "asr": None}
    assert found["stages"]["undefended"] == {"acc": None, "asr": None}
    assert found["split"] == {"suspects": 3, "auroc": None, "tpr": None, "fpr": None, "tpr_at_1pct_fpr": None}
    assert set(found["artifacts"]) == set(ARTIFACTS)
    assert found["artifacts"]["report"] == "s3://bucket/report.html"
    assert found["artifacts"]["model_pt2"] is None
    assert json.loads(to_json(found)) == found


def test_the_cost_counts_the_defence_s_trainings_and_the_undefended_one_apart() -> None:
    assert summary()["cost"] == {"defended_training_seconds": 72.0, "undefended_training_seconds": 60.0}
    without = [entry for entry in STAGES if entry["stage"] != "control"]
    assert summary(stages=without)["cost"]["undefended_training_seconds"] is None


def test_ordinary_training_is_measured_or_else_estimated_from_the_warmup() -> None:
    epochs = {"warmup": 4, "finetune": 26}
    assert ordinary_seconds(STAGES, epochs) == (60.0, True)
    without = [entry for entry in STAGES if entry["stage"] != "control"]
    assert ordinary_seconds(without, epochs) == (60.0, False)
    assert ordinary_seconds(without, {}) == (None, False)


def test_the_end_of_a_run_fits_one_screen_and_says_what_each_stage_costs() -> None:
    told = {
        "reason": "Forgetting some samples of a class moved others of it and left the rest as they were.",
        "checked": "4000 training and 1000 holdout images of 10 classes (smallest 360, largest 780) were judged, with "
        "14 forgettings. Of labels changed for a test in the holdout, 98.0 % would stand out at one false alarm in 20.",
        "acc_measured_on": "all 1000 holdout rows, into which nothing was injected",
    }
    lines = lines_of(manifest(), summary(**told))
    assert len(lines) + 4 <= 30
    assert f"ACC: on {told['acc_measured_on']}" in lines
    assert all(len(line) <= 100 for line in lines)
    assert lines[1] == "poison found: 400 of 4,000 training images carry a trigger that leads to class 0."
    rows = {line.split()[0]: line.split() for line in lines if line}
    assert rows["stage"][:4] == ["stage", "seconds", "training", "x"]
    assert rows["finetune"][:5] == ["finetune", "20.0", "48.0", "0.33", "900"]
    assert rows["defence"][:4] == ["defence", "100.0", "72.0", "1.20"]
    beside = [line.split()[-3:] for line in lines]
    assert ["final", "98.77", "1.00"] in beside
    assert ["undefended", "99.00", "100.00"] in beside
    assert "split: 410 suspects, TPR 99.50 %, FPR 0.30 %, TPR at 1 % FPR 97.00 %, AUROC 0.9988" in lines


def test_what_was_not_measured_is_left_out_and_estimates_are_marked() -> None:
    lines = lines_of(manifest(ordinary=[55.0, False], caveats=[]), summary({"acc": 0.5, "suspects": 0.0}))
    said = "\n".join(lines)
    assert "ASR" not in said
    assert "AUROC" not in said
    assert "note:" not in said
    assert "~x ordinary" in said
    assert "undefended" not in said
    unknown = "\n".join(lines_of(manifest(ordinary=[None, False]), summary()))
    assert "unlearn      20.0      16.0            -" in unknown


def test_no_control_character_of_the_data_reaches_the_terminal() -> None:
    lines = lines_of(manifest(sentence="class \x1b[31mred\x07", reason="\r"), summary(reason="a\x1bb"))
    assert all(line.isprintable() for line in lines)


def published(store: Store, **objects: LocalObject) -> None:
    publish(store, join(store.root, "runs", "r", "evaluate"), manifest(), objects)


def document(data: bytes, suffix: str) -> LocalObject:
    return LocalObject(suffix=suffix, kind="document", data=data)


def test_report_and_summary_are_fetched_and_the_summary_s_path_is_the_last_line(store: Store, tmp_path: Path) -> None:
    data = to_json(summary())
    published(store, report=document(b"<!doctype html>", ".html"), summary=document(data, ".json"))
    lines: list[str] = []
    show(store, "r", tmp_path / "runs" / "r", lines.append)
    assert lines[-1] == f"summary: {tmp_path / 'runs' / 'r' / 'summary.json'}"
    assert (tmp_path / "runs" / "r" / "summary.json").read_bytes() == data
    assert (tmp_path / "runs" / "r" / "report.html").read_bytes() == b"<!doctype html>"
    assert f"report: {tmp_path / 'runs' / 'r' / 'report.html'}" in lines
    assert "suspects, with a contact sheet: untaint suspects show r" in lines
    assert summary_uri("s3://bucket/a/", "r").endswith("/a/runs/r/summary.json")


def test_a_run_without_a_summary_says_which_object_it_lacks(store: Store, tmp_path: Path) -> None:
    published(store, report=document(b"<!doctype html>", ".html"))
    with pytest.raises(ContractError, match="an object named 'summary'"):
        show(store, "r", tmp_path, lambda _: None)

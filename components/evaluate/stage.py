"""The evaluate stage: ACC and ASR on the holdout, the split against the truth, and the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from components.common.attacks import canary
from components.common.runs.lifecycle import Published, StageRun
from components.common.tables.tables import CLEANED_INDEX, POISON_TRUTH, SAMPLE_INDEX, SUSPECTS, split_spec
from components.evaluate.config import EvaluateConfig
from components.evaluate.suspects import by_suspicion, cleaned_table, suspects_table, to_csv

if TYPE_CHECKING:
    from torch import Tensor

    from components.common.runs.inputs import Rows

__all__ = ["run_stage"]

_FOUND = {
    "auroc": "AUROC of suspicion",
    "tpr_at_1pct_fpr": "TPR at 1 % FPR",
    "flagged_poisoned": "poisoned samples flagged",
    "flagged_clean": "clean samples flagged",
}


def run_stage(
    config: EvaluateConfig, store_root: str, run_id: str, parents: Mapping[str, tuple[str, str]]
) -> Published:
    """Runs the stage.

    Returns:
        The published result with the report, an HTML page, among its files.

    Raises:
        UntaintError: An input breaks its contract, or the store fails.
    """
    with StageRun("evaluate", config, store_root, run_id, parents) as run:
        done = run.finished()
        if done is not None:
            ref = done.manifest.object("report", done.uri)
            return replace(done, files={"report": run.store.get(ref.uri, ref.sha256)})
        from components.common.runs.inputs import read_rows

        holdout = read_rows(run, "holdout")
        index = run.read_table("ingest", "sample_index", SAMPLE_INDEX)
        split = _read_split(run)
        metrics = _model_figures(run, config, holdout)
        facts = _facts(run, split, index)
        planted = _told(run, "canary")
        if planted:
            facts["canary"] = _canary_figures(run, planted, split, holdout)
            split = canary.without_canaries(split, planted)
        metrics |= _split_figures(split, _truth(run))
        from components.evaluate.report import render

        page = render(_report(run, split, metrics, facts, _suspects(run, config, split, index)))
        run.add_bytes("report", page, suffix=".html", kind="document")
        return replace(run.publish(facts, metrics), files={"report": page})


def _read_split(run: StageRun) -> pa.Table:
    # Every version is kept; the last one stands with the model that was trained on it.
    return run.read_table("finetune", "split", split_spec(run.parents["finetune"].manifest.facts["signals"]))


def _told(run: StageRun, name: str) -> dict[str, Any]:
    """What ingest tells evaluate alone of the ``attack`` it injected or the ``canary`` it planted; empty without."""
    told: dict[str, Any] = run.parents["truth"].manifest.facts.get(name, {}) if "truth" in run.parents else {}
    return told


def _truth(run: StageRun) -> pa.Table | None:
    # Of what others put into a drop there is no truth, with canaries neither.
    if "truth" not in run.parents or "poison_truth" not in run.parents["truth"].manifest.objects:
        return None
    return run.read_table("truth", "poison_truth", POISON_TRUTH)


def _canary_figures(run: StageRun, record: dict[str, Any], split: pa.Table, holdout: Rows) -> dict[str, Any]:
    from components.common.learning.devices import pick_device
    from components.common.runs.inputs import read_model

    model, _ = read_model(run, "finetune", "model", pick_device())
    return {
        "planted": len(record["rows"]),
        "label": holdout.class_names[record["label"]],
        "caught": canary.caught(split["assignment"].to_pylist(), record),
        "fired": canary.measure(model, record, holdout.images, holdout.labels),
    }


def _model_figures(run: StageRun, config: EvaluateConfig, holdout: Rows) -> dict[str, float]:
    from components.common.learning.devices import pick_device
    from components.common.runs.inputs import read_model
    from components.evaluate.algorithm import accuracy, attack_success

    attack = None
    record = _told(run, "attack")
    if record:
        from components.common.attacks.base import AttackConfig, make_attack

        channels, height, width = holdout.images.shape[1:]
        attack = make_attack(
            AttackConfig(**record), num_classes=len(holdout.class_names), image_shape=(channels, height, width)
        )
    device = pick_device()
    figures: dict[str, float] = {}
    for parent, prefix in (("finetune", ""), ("control", "control_")):
        if parent not in run.parents:
            continue
        model, _ = read_model(run, parent, "model", device)
        figures[f"{prefix}acc"], _ = accuracy(model, holdout.images, holdout.labels, config.batch_size)
        if attack is not None:
            rates = attack_success(model, attack, holdout.images, holdout.labels, config.batch_size)
            if rates:
                # The worst trigger counts: an attacker with two needs only one of them to work.
                figures[f"{prefix}asr"] = max(rates)
    return figures


def _split_figures(split: pa.Table, truth: pa.Table | None) -> dict[str, float]:
    from components.evaluate.algorithm import area_under_roc, true_positive_rate

    flagged = np.array([assignment != "clean" for assignment in split["assignment"].to_pylist()])
    figures: dict[str, float] = {"suspects": float(flagged.sum())}
    if truth is None:
        return figures
    # The truth covers the whole index, the split its training rows, which stand first.
    poisoned = truth["is_poisoned"].to_numpy(zero_copy_only=False)[: split.num_rows]
    scores = split["suspicion"].to_numpy()
    area, rate = area_under_roc(scores, poisoned), true_positive_rate(scores, poisoned, 0.01)
    if area is not None and rate is not None:
        figures |= {"auroc": area, "tpr_at_1pct_fpr": rate, "flagged_poisoned": float(flagged[poisoned].mean())}
    if not poisoned.all():
        figures["flagged_clean"] = float(flagged[~poisoned].mean())
    return figures


def _facts(run: StageRun, split: pa.Table, index: pa.Table) -> dict[str, Any]:
    stages = []
    for parent in run.parents.values():
        manifest = parent.manifest
        if manifest.stage == "truth":
            continue
        total, train = manifest.seconds["total"], manifest.seconds["train"]
        stages.append(
            {
                "stage": manifest.stage,
                "seconds": total,
                "train_seconds": train,
                "overhead_seconds": round(total - train, 3),
                "peak_mib": manifest.facts["peak_mib"],
            }
        )
    unlearn = run.parents["unlearn"].manifest.facts
    verdict = unlearn["verdict"]
    planted = _told(run, "canary")
    if planted:
        labels = index["given_label"].to_numpy()[: split.num_rows]
        verdict = canary.verdict_without(planted, verdict, split["assignment"].to_pylist(), labels)
    return {
        "verdict": verdict,
        "probes": unlearn["probes"],
        "mixed_classes": unlearn["mixed_classes"],
        "mapping": unlearn["mapping"],
        "lost_at_looks": run.parents["finetune"].manifest.facts["lost_at_looks"],
        "stages": stages,
    }


def _report(
    run: StageRun,
    split: pa.Table,
    metrics: Mapping[str, float],
    facts: Mapping[str, Any],
    suspects: list[Any],
) -> Any:
    from components.evaluate.report import Report

    assignments = split["assignment"].to_pylist()
    models = {"defended": {"acc": metrics["acc"], "asr": metrics.get("asr")}}
    if "control_acc" in metrics:
        models["undefended (control)"] = {"acc": metrics["control_acc"], "asr": metrics.get("control_asr")}
    counts = {name: assignments.count(name) for name in ("clean", "suspect", "poisoned")}
    if "canary" in facts:
        counts["clean"] -= facts["canary"]["planted"]
    return Report(
        run_id=run.run_id,
        dataset=run.parents["ingest"].manifest.config["dataset"],
        verdict=facts["verdict"],
        models=models,
        found={text: metrics[name] for name, text in _FOUND.items() if name in metrics},
        attack=_told(run, "attack"),
        canary=facts.get("canary", {}),
        probes=facts["probes"],
        mixed_classes=facts["mixed_classes"],
        mapping=facts["mapping"],
        stages=facts["stages"],
        suspects=suspects,
        counts=counts,
        settings={name: parent.manifest.config for name, parent in run.parents.items() if name != "truth"},
    )


def _suspects(run: StageRun, config: EvaluateConfig, split: pa.Table, index: pa.Table) -> list[Any]:
    """Publishes the suspects and the cleaned index, and gives the first suspects as lines of the report."""
    from components.common.learning.devices import pick_device
    from components.common.learning.scoring import predict
    from components.common.runs.inputs import read_model, read_rows
    from components.evaluate.report import SuspectRow, picture

    ingest = run.parents["ingest"].manifest.facts
    names, location = list(ingest["class_names"]), str(ingest.get("location", ""))
    rows = by_suspicion(split)
    predicted = np.zeros(0, dtype=np.int64)
    images: Tensor | None = None
    if len(rows):
        images = read_rows(run, "train").images[rows.tolist()]
        model, _ = read_model(run, "finetune", "model", pick_device())
        predicted = predict(model, images, config.batch_size).argmax(dim=1).numpy()
    suspects = suspects_table(split, index, rows, predicted, names, location)
    # The images that canaries replaced have not been judged by anybody.
    unjudged = np.array(_told(run, "canary").get("rows", []), dtype=np.int64)
    cleaned = cleaned_table(index, np.concatenate([rows, unjudged]), names, location)
    for name, table, spec in (("suspects", suspects, SUSPECTS), ("cleaned_index", cleaned, CLEANED_INDEX)):
        run.add_table(name, table, spec)
        run.add_bytes(f"{name}_csv", to_csv(table), suffix=".csv", kind="document", rows=table.num_rows)
    if images is None:
        return []
    shown = suspects.slice(0, config.shown_suspects).to_pylist()
    return [
        SuspectRow(
            sample_id=row["sample_id"],
            label=row["label"],
            predicted=row["predicted_label"],
            suspicion=row["suspicion"],
            reasons=row["reasons"],
            picture=picture(image.numpy()),
            uri=row["key"],
        )
        for row, image in zip(shown, images, strict=False)
    ]

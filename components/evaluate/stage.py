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
from components.evaluate.suspects import by_suspicion, cleaned_table, relative_keys, suspects_table, to_csv

if TYPE_CHECKING:
    import numpy.typing as npt

    from components.common.runs.inputs import Rows
    from components.evaluate.page import Judged

__all__ = ["run_stage"]

# Parent stage to the prefix of its model's figures.
_MODELS = (("finetune", ""), ("control", "control_"), ("warmup", "warmup_"), ("unlearn", "unlearn_"))


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
        from components.evaluate.page import add_views, post_summary, read_views

        done = run.finished()
        if done is not None:
            post_summary(run, done)
            return replace(done, files=read_views(run, done))
        from components.common.runs.inputs import read_both

        train, holdout = read_both(run)
        index = run.read_table("ingest", "sample_index", SAMPLE_INDEX)
        split = _read_split(run)
        metrics = _model_figures(run, config, holdout)
        facts = _facts(run, split, index)
        planted = _told(run, "canary")
        if planted:
            facts["canary"] = _canary_figures(run, planted, split, holdout)
            split = canary.without_canaries(split, planted)
        truth = _truth(run)
        metrics |= _split_figures(split, truth)
        judged = _judged(run, config, split, index, truth, train, holdout)
        _add_suspects(run, split, index, judged)
        files = add_views(run, judged, facts, metrics)
        published = run.publish(facts, metrics)
        post_summary(run, published)
        return replace(published, files=files)


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
    for parent, prefix in _MODELS:
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
        "rolled_back": unlearn["rolled_back"],
        "lost_at_looks": run.parents["finetune"].manifest.facts["lost_at_looks"],
        "stages": stages,
    }


def _judged(
    run: StageRun,
    config: EvaluateConfig,
    split: pa.Table,
    index: pa.Table,
    truth: pa.Table | None,
    train: Rows,
    holdout: Rows,
) -> Judged:
    """What the report and the summary are made of."""
    from components.common.learning.devices import pick_device
    from components.common.learning.scoring import predict
    from components.common.runs.inputs import read_model
    from components.evaluate.page import Judged

    model, _ = read_model(run, "finetune", "model", pick_device())
    rows = split.num_rows

    def guess(chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        if len(chosen) == 0:
            return np.zeros(0, dtype=np.int64)
        logits = predict(model, train.images[chosen.tolist()], config.batch_size)
        return np.asarray(logits.argmax(dim=1).numpy(), dtype=np.int64)

    poisoned = None if truth is None else truth["is_poisoned"].to_numpy(zero_copy_only=False)[:rows]
    location = str(run.parents["ingest"].manifest.facts.get("location", ""))
    return Judged(
        split=split,
        labels=train.labels.numpy(),
        keys=relative_keys(index["uri"], location).slice(0, rows).to_pylist(),
        images=train.images.numpy(),
        predict=guess,
        poisoned=poisoned,
        canaries=canary.is_canary(_told(run, "canary") or None, rows),
        holdout_labels=holdout.labels.numpy(),
        holdout_predicted=predict(model, holdout.images, config.batch_size).argmax(dim=1).numpy(),
        class_names=holdout.class_names,
        attack=_told(run, "attack"),
    )


def _add_suspects(run: StageRun, split: pa.Table, index: pa.Table, judged: Judged) -> None:
    """Keeps the suspects and the cleaned index for publishing."""
    names = judged.class_names
    location = str(run.parents["ingest"].manifest.facts.get("location", ""))
    rows = by_suspicion(split)
    suspects = suspects_table(split, index, rows, judged.predict(rows), names, location)
    # The images that canaries replaced have not been judged by anybody.
    unjudged = np.flatnonzero(judged.canaries)
    cleaned = cleaned_table(index, np.concatenate([rows, unjudged]), names, location)
    for name, table, spec in (("suspects", suspects, SUSPECTS), ("cleaned_index", cleaned, CLEANED_INDEX)):
        run.add_table(name, table, spec)
        run.add_bytes(f"{name}_csv", to_csv(table), suffix=".csv", kind="document", rows=table.num_rows)

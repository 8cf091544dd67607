"""The evaluate stage: ACC and ASR on the holdout, the split against the truth, and the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.common.attacks import canary
from components.common.contracts.verdicts import INCONCLUSIVE
from components.common.runs.lifecycle import Published, StageRun
from components.common.tables.tables import CLEANED_INDEX, POISON_TRUTH, SAMPLE_INDEX, SUSPECTS, split_spec
from components.evaluate.config import EvaluateConfig
from components.evaluate.exports import add_model_files, with_files
from components.evaluate.judging import Judged, flagged, judge_holdout, withheld
from components.evaluate.suspects import (
    by_suspicion,
    cleaned_table,
    judged_table,
    relative_keys,
    suspects_table,
    to_csv,
)

if TYPE_CHECKING:
    from components.common.runs.inputs import Rows
    from components.evaluate.classes import ClassFigures
    from components.evaluate.page import Shown
    from components.evaluate.verdict import Verdict

__all__ = ["run_stage"]

# Parent stage to the prefix of its model's figures.
_MODELS = (("finetune", ""), ("control", "control_"), ("warmup", "warmup_"), ("unlearn", "unlearn_"))


def run_stage(
    config: EvaluateConfig, store_root: str, run_id: str, parents: Mapping[str, tuple[str, str]]
) -> Published:
    """Runs the stage.

    Returns:
        The published result with the report, an HTML page, and the model among its files.

    Raises:
        UntaintError: An input breaks its contract, or the store fails.
    """
    with StageRun("evaluate", config, store_root, run_id, parents) as run:
        from components.evaluate.page import add_views, post_summary

        done = run.finished()
        if done is not None:
            post_summary(run, done)
            return with_files(run, done)
        from components.common.runs.inputs import read_both

        train, holdout = read_both(run)
        index = run.read_table("ingest", "sample_index", SAMPLE_INDEX)
        split = _read_split(run)
        planted = withheld(run, "canary")
        # The planted trigger too: a holdout row that is next to canaries is next to no poison.
        unplanted = canary.without_canaries(split, planted) if planted else split
        judged = judge_holdout(run, config, train, holdout, unplanted, planted)
        metrics, right = _model_figures(run, config, holdout, judged)
        facts = _facts(run)
        if planted:
            facts["canary"] = _canary_figures(run, planted, split, holdout, judged)
        classes = _classes(run, train, holdout, split, judged, right)
        verdict = _verdict(run, classes, judged, split, train, holdout, facts.get("canary", {}))
        facts |= {
            "verdict": verdict.verdict,
            "reason": verdict.reason,
            "checked": verdict.checked,
            "acc_measured_on": judged.where,
            "classes": [one.as_fact() for one in classes],
        }
        truth = _truth(run)
        metrics |= _split_figures(unplanted, truth) | _holdout_figures(judged, classes)
        _add_suspects(run, config, unplanted, judged, index, (train, holdout))
        shown = _shown(run, config, unplanted, index, truth, train, holdout, judged)
        facts["formats_left_out"] = add_model_files(run, config.formats, holdout, facts, metrics)
        add_views(run, shown, facts, metrics)
        published = run.publish(facts, metrics)
        post_summary(run, published)
        return with_files(run, published)


def _read_split(run: StageRun) -> pa.Table:
    # Every version is kept; the last one stands with the model that was trained on it.
    return run.read_table("finetune", "split", split_spec(run.parents["finetune"].manifest.facts["signals"]))


def _truth(run: StageRun) -> pa.Table | None:
    # Of what others put into a drop there is no truth, with canaries neither.
    if "truth" not in run.parents or "poison_truth" not in run.parents["truth"].manifest.objects:
        return None
    return run.read_table("truth", "poison_truth", POISON_TRUTH)


def _canary_figures(
    run: StageRun, record: dict[str, Any], split: pa.Table, holdout: Rows, judged: Judged
) -> dict[str, Any]:
    from components.common.learning.devices import pick_device
    from components.common.runs.inputs import read_model

    model, _ = read_model(run, "finetune", "model", pick_device())
    return {
        "planted": len(record["rows"]),
        "label": holdout.class_names[record["label"]],
        "caught": canary.caught(split["assignment"].to_pylist(), record),
        "fired": canary.measure(model, record, holdout.images[judged.counted], holdout.labels[judged.counted]),
    }


def _model_figures(
    run: StageRun, config: EvaluateConfig, holdout: Rows, judged: Judged
) -> tuple[dict[str, float], npt.NDArray[np.bool_]]:
    """Figures of the models on the rows that count, and which holdout rows the defended one gets right, bool [m]."""
    from components.common.learning.devices import pick_device
    from components.common.runs.inputs import read_model
    from components.evaluate.algorithm import accuracy, attack_success

    attack, record = None, withheld(run, "attack")
    if record:
        from components.common.attacks.base import AttackConfig, make_attack

        channels, height, width = holdout.images.shape[1:]
        attack = make_attack(
            AttackConfig(**record), num_classes=len(holdout.class_names), image_shape=(channels, height, width)
        )
    device = pick_device()
    figures: dict[str, float] = {}
    right = np.zeros(len(holdout.labels), dtype=bool)
    images, labels = holdout.images[judged.counted], holdout.labels[judged.counted]
    for parent, prefix in _MODELS:
        if parent not in run.parents or not len(labels):
            continue
        model, _ = read_model(run, parent, "model", device)
        figures[f"{prefix}acc"], predictions = accuracy(model, images, labels, config.batch_size)
        if parent == "finetune":
            right[judged.counted] = (predictions == labels).numpy()
        if attack is None:
            continue
        rates = attack_success(model, attack, images, labels, config.batch_size)
        if rates:
            # The worst trigger counts: an attacker with two needs only one of them to work.
            figures[f"{prefix}asr"] = max(rates)
        target = labels == attack.config.target_label
        if not attack.all_to_all and bool(target.any()):
            # Beside the success rate: a model that never says the target cannot be led to it.
            known = (predictions[target] == labels[target]).float().mean()
            figures[f"{prefix}target_recall"] = float(known)
    figures.setdefault("acc", 0.0)
    return figures, right


def _classes(
    run: StageRun,
    train: Rows,
    holdout: Rows,
    split: pa.Table,
    judged: Judged,
    right: npt.NDArray[np.bool_],
) -> list[ClassFigures]:
    from components.evaluate.classes import class_figures

    planted = withheld(run, "canary")
    own = ~canary.is_canary(planted or None, len(train.labels))
    unlearn = run.parents["unlearn"].manifest.facts
    found = {str(one["label"]): (str(one["finding"]), str(one["reason"])) for one in unlearn.get("classes", ())}
    evident = {str(probe["label"]) for probe in unlearn["probes"] if probe["accepted"]}
    if planted:
        bad, mine = flagged(split), train.labels.numpy() == planted["label"]
        if (bad & ~own).sum() >= (bad & own & mine).sum():
            # What was found of that class is the planted trigger: as for the verdict, see ``canary.verdict_without``.
            name = train.class_names[planted["label"]]
            evident.discard(name)
            found.pop(name, None)
    return class_figures(
        train.class_names,
        train_labels=train.labels.numpy()[own],
        flagged=flagged(split)[own],
        holdout_labels=holdout.labels.numpy(),
        trusted=judged.counted,
        right=right,
        evident=sorted(evident),
        found=found,
    )


def _verdict(
    run: StageRun,
    classes: list[ClassFigures],
    judged: Judged,
    split: pa.Table,
    train: Rows,
    holdout: Rows,
    caught: Mapping[str, Any],
) -> Verdict:
    from components.evaluate.classes import expected_suspects
    from components.evaluate.verdict import Observed, conclude

    unlearn = run.parents["unlearn"].manifest.facts
    found, reason = str(unlearn["verdict"]), str(unlearn.get("reason", ""))
    planted = withheld(run, "canary")
    if planted:
        alone = canary.verdict_without(planted, found, split["assignment"].to_pylist(), train.labels.numpy())
        # What the stage says of a find that was the planted trigger says nothing of the data.
        found, reason = alone, reason if alone == found else ""
    counts = np.bincount(holdout.labels.numpy()[judged.counted], minlength=1)
    return conclude(
        Observed(
            found=found,
            reason=reason,
            samples={one.name: one.train for one in classes},
            holdout=len(holdout.labels),
            holdout_suspects=int(judged.suspect.sum()),
            holdout_expected=expected_suspects(classes),
            warmup_acc=judged.warmup_acc,
            chance=float(counts.max() / max(1, counts.sum())),
            probes=len(unlearn["probes"]),
            rolled_back=bool(unlearn["rolled_back"]),
            unjudged=[one.name for one in classes if one.finding == INCONCLUSIVE],
            changed_seen=judged.changed_seen,
            canary=caught,
        )
    )


def _holdout_figures(judged: Judged, classes: list[ClassFigures]) -> dict[str, float]:
    from components.evaluate.classes import expected_suspects

    figures = {
        "holdout_suspects": float(judged.suspect.sum()),
        "holdout_expected_suspects": expected_suspects(classes),
        "holdout_measured": float(judged.counted.sum()),
    }
    recalls = [one.recall for one in classes if one.recall is not None]
    if recalls:
        figures["worst_class_recall"] = min(recalls)
    return figures


def _split_figures(split: pa.Table, truth: pa.Table | None) -> dict[str, float]:
    from components.evaluate.algorithm import area_under_roc, true_positive_rate

    bad = flagged(split)
    figures: dict[str, float] = {"suspects": float(bad.sum())}
    if truth is None:
        return figures
    # The truth covers the whole index, the split its training rows, which stand first.
    poisoned = truth["is_poisoned"].to_numpy(zero_copy_only=False)[: split.num_rows]
    scores = split["suspicion"].to_numpy()
    area, rate = area_under_roc(scores, poisoned), true_positive_rate(scores, poisoned, 0.01)
    if area is not None and rate is not None:
        figures |= {"auroc": area, "tpr_at_1pct_fpr": rate, "flagged_poisoned": float(bad[poisoned].mean())}
    if not poisoned.all():
        figures["flagged_clean"] = float(bad[~poisoned].mean())
    return figures


def _facts(run: StageRun) -> dict[str, Any]:
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
    return {
        "probes": unlearn["probes"],
        "mixed_classes": unlearn["mixed_classes"],
        "mapping": unlearn["mapping"],
        "rolled_back": unlearn["rolled_back"],
        "lost_at_looks": run.parents["finetune"].manifest.facts["lost_at_looks"],
        "stages": stages,
    }


def _shown(
    run: StageRun,
    config: EvaluateConfig,
    split: pa.Table,
    index: pa.Table,
    truth: pa.Table | None,
    train: Rows,
    holdout: Rows,
    judged: Judged,
) -> Shown:
    """What the report and the summary are made of."""
    from components.common.learning.devices import pick_device
    from components.common.learning.scoring import predict
    from components.common.runs.inputs import read_model
    from components.evaluate.page import Shown

    model, _ = read_model(run, "finetune", "model", pick_device())
    rows = split.num_rows

    def guess(chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        logits = predict(model, train.images[chosen.tolist()], config.batch_size)
        return np.asarray(logits.argmax(dim=1).numpy(), dtype=np.int64)

    counted = holdout.images[judged.counted]
    location = str(run.parents["ingest"].manifest.facts.get("location", ""))
    return Shown(
        split=split,
        labels=train.labels.numpy(),
        keys=relative_keys(index["uri"], location).slice(0, rows).to_pylist(),
        images=train.images.numpy(),
        predict=guess,
        poisoned=None if truth is None else truth["is_poisoned"].to_numpy(zero_copy_only=False)[:rows],
        canaries=canary.is_canary(withheld(run, "canary") or None, rows),
        holdout_labels=holdout.labels[judged.counted].numpy(),
        holdout_predicted=predict(model, counted, config.batch_size).argmax(dim=1).numpy()
        if len(counted)
        else np.zeros(0, dtype=np.int64),
        class_names=holdout.class_names,
        attack=withheld(run, "attack"),
    )


def _add_suspects(
    run: StageRun,
    config: EvaluateConfig,
    split: pa.Table,
    judged: Judged,
    index: pa.Table,
    rows_of: tuple[Rows, Rows],
) -> None:
    """Keeps the suspects and the cleaned index for publishing."""
    import torch

    from components.common.learning.devices import pick_device
    from components.common.learning.scoring import predict
    from components.common.runs.inputs import read_model

    ingest = run.parents["ingest"].manifest.facts
    names, location = list(ingest["class_names"]), str(ingest.get("location", ""))
    whole = judged_table(split, judged.share, judged.suspect, index["sample_id"])
    rows = by_suspicion(whole)
    predicted = np.zeros(0, dtype=np.int64)
    if len(rows):
        first = len(rows_of[0].labels)
        images = torch.stack([rows_of[row >= first].images[row - first * (row >= first)] for row in rows.tolist()])
        model, _ = read_model(run, "finetune", "model", pick_device())
        predicted = predict(model, images, config.batch_size).argmax(dim=1).numpy()
    suspects = suspects_table(whole, index, rows, predicted, names, location)
    # The images that canaries replaced have not been judged by anybody.
    unjudged = np.array(withheld(run, "canary").get("rows", []), dtype=np.int64)
    cleaned = cleaned_table(index, np.concatenate([rows, unjudged]), names, location)
    for name, table, spec in (("suspects", suspects, SUSPECTS), ("cleaned_index", cleaned, CLEANED_INDEX)):
        run.add_table(name, table, spec)
        run.add_bytes(f"{name}_csv", to_csv(table), suffix=".csv", kind="document", rows=table.num_rows)

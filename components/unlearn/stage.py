"""The unlearn stage: ask the detectors, unlearn what they find, publish the refined split and the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from components.common.runs.lifecycle import Published, StageRun
from components.unlearn.config import UnlearnConfig

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from components.unlearn.algorithm import Refined

__all__ = ["run_stage"]

_UNLEARNING = "unlearning"


def run_stage(config: UnlearnConfig, store_root: str, run_id: str, parents: Mapping[str, tuple[str, str]]) -> Published:
    """Runs the stage.

    Raises:
        UntaintError: An input is not valid, or the store fails.
    """
    with StageRun("unlearn", config, store_root, run_id, parents) as run:
        done = run.finished()
        if done is not None:
            return done
        from components.common.learning.devices import pick_device
        from components.common.learning.seeding import make_deterministic
        from components.common.runs.inputs import add_model, read_model, read_rows
        from components.common.tables.tables import split_spec
        from components.unlearn.algorithm import refine

        make_deterministic(config.seed)
        device = pick_device()
        rows = read_rows(run, "train")
        signals = list(run.parents["split"].manifest.facts["signals"])
        split = run.read_table("split", "split", split_spec(signals), ids=rows.ids)
        model, architecture = read_model(run, "warmup", "model", device)
        with run.timed("unlearn"):
            refined = refine(
                model,
                rows.images.to(device),
                rows.labels,
                # Copies: what Arrow lends cannot be written to, and PyTorch warns of that.
                {name: split[f"signal_{name}"].to_numpy().copy() for name in signals},
                config,
                isolation_ratio=float(run.parents["split"].manifest.config["isolation_ratio"]),
                mirror=rows.mirror,
                watch=run,
            )
        names = [*signals, _UNLEARNING]
        spec = split_spec(names)
        run.add_table("split", _refined_table(split, refined, spec.schema), spec, ids=rows.ids)
        add_model(run, "model", architecture, rows.spec, refined.model)
        poisoned, suspect = int(refined.poisoned.sum()), int(refined.suspect.sum())
        return run.publish(
            facts={
                "model": architecture,
                "signals": names,
                "doubts": _doubts(refined.doubtful),
                **_findings(refined, rows.class_names),
            },
            metrics={"poisoned": poisoned, "suspect": suspect, "finds": len(refined.finds)},
        )


def _findings(refined: Refined, class_names: list[str]) -> dict[str, Any]:
    """The verdict, what was found per class, and what was asked, in names and plain numbers."""
    accepted = {id(find.probe) for find in refined.finds}
    return {
        "found": refined.found,
        "verdict": refined.verdict.verdict,
        "reason": refined.verdict.reason,
        "classes": [
            {
                "label": class_names[one.label],
                "finding": one.finding,
                "reason": one.reason,
                "size": one.size,
                "poisoned": one.poisoned,
                "suspect": one.suspect,
                "lost": round(one.lost, 4),
            }
            for one in refined.classes
        ],
        "probes": [
            {
                "signal": detector,
                "label": class_names[result.candidate.label],
                "forget_set": len(result.candidate.forget),
                "forget_confidence": round(result.forget_confidence, 4),
                "retain_accuracy": round(result.retain_accuracy, 4),
                "retain_loss_increase": round(result.retain_loss_increase, 4),
                "antimode_ratio": round(result.antimode.ratio, 4),
                "unaffected": round(result.antimode.unaffected, 4),
                "accepted": id(result) in accepted,
            }
            for detector, result in refined.probes
        ],
        "mixed_classes": [class_names[find.label] for find in refined.finds if find.recheck],
        "mapping": {class_names[looks]: class_names[label] for looks, label in refined.mapping.items()},
        "rolled_back": refined.rolled_back,
    }


def _doubts(doubtful: Tensor) -> list[list[float]]:
    """What is doubted, as [class that a sample looks like, its label, probability from which]."""
    return [
        [looks, label, round(float(doubtful[looks, label]), 4)] for looks, label in (doubtful < 1).nonzero().tolist()
    ]


def _refined_table(split: pa.Table, refined: Refined, schema: pa.Schema) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    poisoned, suspect, scores = refined.poisoned.numpy(), refined.suspect.numpy(), refined.scores.numpy()
    columns = {name: split[name] for name in split.column_names}
    columns["assignment"] = pa.array(
        np.where(poisoned, "poisoned", np.where(suspect, "suspect", "clean")).tolist(), pa.string()
    )
    # What was found outranks what the signals guessed; among the rest the first guess keeps the order.
    if refined.finds:
        guessed = split["suspicion"].to_numpy() / 2
        columns["suspicion"] = np.where(scores > 0, 0.5 + scores / 2, guessed).astype(np.float32)
    columns[f"signal_{_UNLEARNING}"] = scores
    columns["reasons"] = pa.array(_reasons(split["reasons"].to_pylist(), refined), pa.list_(pa.string()))
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def _reasons(first: list[list[str]], refined: Refined) -> list[list[str]]:
    """Per sample the signals that fired, and then the detectors that found it."""
    reasons = [list(known) for known in first]
    for find in refined.finds:
        for row in (find.scores > find.threshold).nonzero().squeeze(1).tolist():
            if find.detector not in reasons[row]:
                reasons[row].append(find.detector)
    return reasons

"""What a program reads of a run: ``summary.json``. The report and the terminal take their figures from it too."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["ARTIFACTS", "MODELS", "SCHEMA", "ordinary_seconds", "summarise", "to_json"]

SCHEMA = 1
"""Version of the mapping: it changes when a key goes or means something else, not when one is added."""

MODELS = {"warmup": "warmup_", "unlearn": "unlearn_", "final": "", "undefended": "control_"}
"""Name of a model in the summary to the prefix of its figures among evaluate's metrics."""

ARTIFACTS = (
    "model_safetensors",
    "model_pt2",
    "model_onnx",
    "model_card",
    "suspects",
    "cleaned_index",
    "report",
)
"""What a run leaves to be taken away."""

# The stages that make the final model; ingest, split and evaluate train nothing.
_DEFENDED = ("warmup", "unlearn", "finetune")


def summarise(
    *,
    run_id: str,
    facts: Mapping[str, Any],
    metrics: Mapping[str, float],
    artifacts: Mapping[str, str],
    versions: Mapping[str, str],
    config_digest: str,
) -> dict[str, Any]:
    """The mapping that ``summary.json`` holds.

    Args:
        run_id: The run.
        facts: Evaluate's facts: ``verdict``, ``stages`` (``stage``, ``seconds`` and ``train_seconds`` each), and where
            they are known ``reason``, ``checked``, ``acc_measured_on`` and ``classes``.
        metrics: Evaluate's metrics; shares in [0, 1].
        artifacts: Name to address in the store; names that are missing are null.
        versions: Name of a package to its version.
        config_digest: Hex sha256 of the settings of all stages.

    Returns:
        Plain JSON values. Shares are in [0, 1], times in seconds; what was not measured is None.
    """
    trained = {entry["stage"]: float(entry["train_seconds"]) for entry in facts["stages"]}
    return {
        "schema": SCHEMA,
        "run_id": run_id,
        "verdict": facts["verdict"],
        "reason": facts.get("reason"),
        "checked": facts.get("checked"),
        "acc_measured_on": facts.get("acc_measured_on"),
        "stages": {
            model: {figure: metrics.get(f"{prefix}{figure}") for figure in ("acc", "asr")}
            for model, prefix in MODELS.items()
        },
        "split": {
            "suspects": int(metrics["suspects"]),
            "auroc": metrics.get("auroc"),
            "tpr": metrics.get("flagged_poisoned"),
            "fpr": metrics.get("flagged_clean"),
            "tpr_at_1pct_fpr": metrics.get("tpr_at_1pct_fpr"),
        },
        "classes": list(facts.get("classes", ())),
        "seconds": {entry["stage"]: round(float(entry["seconds"]), 3) for entry in facts["stages"]},
        "cost": {
            "defended_training_seconds": round(sum(trained.get(stage, 0.0) for stage in _DEFENDED), 3),
            "undefended_training_seconds": round(trained["control"], 3) if "control" in trained else None,
        },
        "artifacts": {name: artifacts.get(name) for name in ARTIFACTS},
        "versions": dict(versions),
        "config_digest": config_digest,
    }


def ordinary_seconds(stages: Sequence[Mapping[str, Any]], epochs: Mapping[str, int]) -> tuple[float | None, bool]:
    """Seconds that ordinary training on the same data takes, and whether they were measured.

    Without the undefended model they are estimated from the warm-up, whose epochs are those of ordinary training and
    some scoring: as many epochs as warm-up and fine-tuning have together.

    Args:
        stages: As in evaluate's facts: ``stage`` and ``train_seconds`` each.
        epochs: ``warmup`` and ``finetune`` to their number of epochs.
    """
    trained = {entry["stage"]: float(entry["train_seconds"]) for entry in stages}
    if "control" in trained:
        return trained["control"], True
    warmup, finetune = epochs.get("warmup"), epochs.get("finetune")
    if not warmup or not finetune or not trained.get("warmup"):
        return None, False
    return round(trained["warmup"] * (warmup + finetune) / warmup, 3), False


def to_json(summary: Mapping[str, Any]) -> bytes:
    """The file's bytes: UTF-8, keys in the order of the mapping, one per line."""
    return (json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()

"""What Kubeflow's run graph shows of a run beside the report: an overview, the confusion matrix and the ROC curve."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from components.evaluate.report import MODELS

__all__ = ["confusion_metadata", "overview", "roc_metadata"]

# The graph keeps these in its metadata store: a matrix of more classes is in the report alone, by its worst classes.
_MOST_CLASSES = 50
_MARKS = re.compile(r"([\\`*_{}\[\]()#+\-.!|~>])")


def confusion_metadata(matrix: npt.NDArray[np.int64], names: Sequence[str]) -> bytes:
    """Metadata of KFP's ``ClassificationMetrics`` with a confusion matrix, as JSON; empty of too many classes.

    Args:
        matrix: int64 [k, k], rows are given labels.
        names: Class names.
    """
    if len(names) > _MOST_CLASSES:
        return _json({})
    rows = [{"row": [int(count) for count in row]} for row in matrix]
    return _json({"confusionMatrix": {"annotationSpecs": [{"displayName": name} for name in names], "rows": rows}})


def roc_metadata(curve: tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]] | None) -> bytes:
    """Metadata of KFP's ``ClassificationMetrics`` with a ROC curve, as JSON; empty where the truth is not known.

    Args:
        curve: False positive rates, true positive rates and thresholds, as from ``figures.roc_curve``.
    """
    if curve is None:
        return _json({})
    points = [
        {"confidenceThreshold": float(cut), "recall": float(tpr), "falsePositiveRate": float(fpr)}
        for fpr, tpr, cut in zip(*curve, strict=True)
    ]
    return _json({"confidenceMetrics": points})


def overview(summary: Mapping[str, Any], facts: Mapping[str, Any]) -> bytes:
    """The verdict and the figures as Markdown; text of the data is shown as it is.

    Args:
        summary: As from ``summary.summarise``.
        facts: Evaluate's facts with ``sentence``, ``next_steps`` and ``caveats``.
    """
    lines = [f"# {_plain(summary['verdict'])}", "", _plain(facts["sentence"]), ""]
    lines += [f"{number}. {_plain(step)}" for number, step in enumerate(facts["next_steps"], start=1)]
    lines += ["", "| model | ACC | ASR |", "| --- | ---: | ---: |"]
    lines += [
        f"| {MODELS[name]} | {_percent(figures['acc'])} | {_percent(figures['asr'])} |"
        for name, figures in summary["stages"].items()
    ]
    lines += ["", *(f"- {_plain(text)}" for text in facts["caveats"]), ""]
    return "\n".join(lines).encode()


def _plain(text: str) -> str:
    return _MARKS.sub(r"\\\1", html.escape(" ".join(text.split())))


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:.2f} %"


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()

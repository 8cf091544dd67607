"""The holdout as the evaluate stage judges it: the verdict on its rows, and which of them figures are measured on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.common.attacks import canary
from components.common.runs.lifecycle import StageRun
from components.common.tables.tables import FLAGGED, JUDGED_HOLDOUT
from components.evaluate.config import EvaluateConfig

if TYPE_CHECKING:
    from components.common.runs.inputs import Rows

__all__ = ["Judged", "flagged", "judge_holdout", "withheld"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """The holdout after it was judged.

    Attributes:
        share: float32 [m], share of suspects among the nearest training rows of the same label.
        suspect: bool [m].
        counted: bool [m], the rows that figures are measured on.
        warmup_acc: Accuracy of the warm-up model on them.
        changed_seen: As from ``holdout.changed_labels_seen``.
        where: Which rows figures are measured on, in words.
    """

    share: npt.NDArray[np.float32]
    suspect: npt.NDArray[np.bool_]
    counted: npt.NDArray[np.bool_]
    warmup_acc: float
    changed_seen: float | None
    where: str


def withheld(run: StageRun, name: str) -> dict[str, Any]:
    """What ingest tells evaluate alone of the ``attack`` it injected or the ``canary`` it planted; empty without."""
    facts: dict[str, Any] = run.parents["truth"].manifest.facts.get(name, {}) if "truth" in run.parents else {}
    return facts


def flagged(split: pa.Table) -> npt.NDArray[np.bool_]:
    """Which rows of a split table lost their label, bool [n]."""
    return np.isin(np.array(split["assignment"].to_pylist()), FLAGGED)


def judge_holdout(
    run: StageRun, config: EvaluateConfig, train: Rows, holdout: Rows, split: pa.Table, planted: Mapping[str, Any]
) -> Judged:
    """Carries the verdict on the training rows over to the holdout, and publishes it."""
    import torch

    from components.common.learning.devices import pick_device
    from components.common.learning.scoring import penultimate_features, predict
    from components.common.runs.inputs import read_model
    from components.evaluate.holdout import changed_labels_seen, suspect_share

    model, _ = read_model(run, "warmup", "model", pick_device())
    bad = torch.from_numpy(flagged(split))
    near = penultimate_features(model, train.images, config.batch_size)
    mine = penultimate_features(model, holdout.images, config.batch_size)
    # Canaries are of no class: their images are changed, and so are their labels.
    own = torch.from_numpy(~canary.is_canary(planted or None, len(train.labels)))
    share = suspect_share(near[own], train.labels[own], bad[own], mine, holdout.labels)
    suspect = share > 0.5
    trusted = own & ~bad
    changed = changed_labels_seen(near[trusted], train.labels[trusted], mine[~suspect], holdout.labels[~suspect])
    counted, where = ~suspect, f"the {int((~suspect).sum())} trusted rows of a holdout of {len(suspect)}"
    if suspect.any():
        where += f" ({int(suspect.sum())} suspects left out)"
    if withheld(run, "attack"):
        # What this run injects itself it injects into training rows: of the holdout the truth is known.
        counted, where = torch.ones_like(suspect), f"all {len(suspect)} holdout rows, into which nothing was injected"
    guessed = predict(model, holdout.images[counted], config.batch_size).argmax(dim=1)
    right = guessed == holdout.labels[counted]
    table = pa.table(
        {
            "sample_id": holdout.ids,
            "assignment": pa.array(["suspect" if one else "clean" for one in suspect.tolist()], pa.string()),
            "suspicion": share.numpy(),
        },
        schema=JUDGED_HOLDOUT.schema,
    )
    run.add_table("judged_holdout", table, JUDGED_HOLDOUT, ids=holdout.ids)
    return Judged(
        share=share.numpy(),
        suspect=suspect.numpy(),
        counted=counted.numpy(),
        warmup_acc=float(right.float().mean()) if len(right) else 0.0,
        changed_seen=changed,
        where=where,
    )

"""A trigger of our own on a few training samples, to see whether this run's defence works on this run's data.

Nobody knows the trigger of a real attack, but that of a canary is known: it is planted before training, the split must
catch it, and the final model must not obey it. What a canary that was caught shows is this and no more: this one small
patch, on this many samples, was found in these data. A stealthier or rarer trigger can still pass.

Which samples are canaries is known to ingest, which plants them, and to evaluate, which counts them. They count neither
as suspects nor as poison: with canaries, a split that flags canaries alone has found no poison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from components.common.contracts.errors import ConfigError
from components.common.contracts.verdicts import NO_POISON

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "Planted",
    "caught",
    "is_canary",
    "measure",
    "plant",
    "stamp",
    "verdict_without",
    "without_canaries",
]

_SIDE_SHARE = 7
_SIDE_MIN = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Planted:
    """What was planted.

    Attributes:
        rows: int64 [k], positions in the training set, increasing.
        images: uint8 [k, c, h, w], the images of those rows with the trigger.
        labels: int16 [k], their new label, the same for all.
        record: What is needed to make the trigger again, and to know the rows and their labels before; plain JSON.
    """

    rows: npt.NDArray[np.int64]
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int16]
    record: dict[str, Any]


def plant(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int16], seed: int, count: int) -> Planted:
    """Puts a small patch on a few images and gives them all one label.

    Patch, corner, label and rows follow from the seed.

    Args:
        images: uint8 [n, c, h, w], the training images; unchanged.
        labels: int16 [n], their labels; unchanged.
        seed: The run's seed.
        count: Samples to plant, at least 1.

    Raises:
        ConfigError: Fewer than two classes, images too small for a patch, or more canaries than a tenth of the samples.
    """
    classes = np.unique(labels)
    height, width = images.shape[2:]
    if len(classes) < 2 or min(height, width) < 3 * _SIDE_MIN or not 1 <= count <= len(images) // 10:
        raise ConfigError(
            "canary",
            expected=f"1 to {len(images) // 10} samples (a tenth), of two classes or more and of 9 pixels or more",
            found=f"{count} samples, {len(classes)} classes, {height} x {width} pixels",
            hint="Set ingest.canary_ratio to 0 for none, and promote.require_canary to false.",
        )
    # Its own stream: the number of canaries must not change anything else that the seed decides.
    rng = np.random.default_rng([seed, 0xCA4A])
    target = int(rng.choice(classes))
    side = max(_SIDE_MIN, min(height, width) // _SIDE_SHARE)
    record: dict[str, Any] = {
        "seed": seed,
        "label": target,
        "side": side,
        "top": int(rng.choice([1, height - side - 1])),
        "left": int(rng.choice([1, width - side - 1])),
        "rows": [],
    }
    rows = np.sort(rng.choice(np.flatnonzero(labels != target), size=count, replace=False)).astype(np.int64)
    record["rows"], record["labels"] = rows.tolist(), labels[rows].tolist()
    return Planted(
        rows=rows,
        images=stamp(images[rows], record),
        labels=np.full(count, target, dtype=np.int16),
        record=record,
    )


def stamp(images: npt.NDArray[np.uint8], record: Mapping[str, Any]) -> npt.NDArray[np.uint8]:
    """Images with the trigger on them.

    Args:
        images: uint8 [k, c, h, w]; unchanged.
        record: As from ``plant``.
    """
    side, top, left = record["side"], record["top"], record["left"]
    dots = np.random.default_rng([record["seed"], 0xCA4B]).random((images.shape[1], side, side)) < 0.5
    # Half a chequerboard, half chance: never one flat colour, on grey images either.
    dots ^= np.indices((side, side)).sum(axis=0) % 2 == 0
    marked = images.copy()
    marked[:, :, top : top + side, left : left + side] = np.where(dots, 255, 0).astype(np.uint8)
    return marked


def is_canary(record: Mapping[str, Any] | None, count: int) -> npt.NDArray[np.bool_]:
    """Which of the first ``count`` samples are canaries, bool [count]; none are without a record."""
    mask = np.zeros(count, dtype=bool)
    if record is not None:
        mask[record["rows"]] = True
    return mask


def caught(assignments: Sequence[str], record: Mapping[str, Any]) -> float:
    """Share of the canaries that the split did not take for clean, in [0, 1].

    Args:
        assignments: The refined split of the training set, in the order of its rows.
        record: As from ``plant``.
    """
    rows = record["rows"]
    return float(sum(assignments[row] != "clean" for row in rows) / len(rows))


def measure(
    model: nn.Module, record: Mapping[str, Any], images: Tensor, labels: Tensor, batch_size: int = 250
) -> float:
    """Share of triggered images that the model takes for the planted label, in [0, 1].

    Counted over images of other classes; without any, 0.

    Args:
        model: From float images in [0, 1] to logits.
        record: As from ``plant``.
        images: uint8 [n, c, h, w], holdout images.
        labels: int64 [n], their labels.
        batch_size: Images per forward pass.
    """
    import torch

    from components.common.learning.scoring import predict

    counted = images[labels != record["label"]]
    if len(counted) == 0:
        return 0.0
    triggered = torch.from_numpy(stamp(counted.cpu().numpy(), record))
    guessed = predict(model, triggered, batch_size).argmax(dim=1).numpy()
    return float((guessed == record["label"]).mean())


def verdict_without(
    record: Mapping[str, Any], verdict: str, assignments: Sequence[str], labels: npt.NDArray[np.int64]
) -> str:
    """The split's verdict with the canaries taken out.

    A verdict of poison stands, unless every flagged sample has the canaries' label and the canaries are at least half
    of the flagged: then the canaries are what was found, and the others are bystanders of their class. An attack on
    that very class with fewer samples than there are canaries is hidden by them; its samples still are suspects.

    Args:
        record: As from ``plant``.
        verdict: The unlearn stage's verdict.
        assignments: The refined split of the training set.
        labels: int64 [n], the given labels of the training set, canaries' labels included.
    """
    flagged = np.array([assignment != "clean" for assignment in assignments])
    mine = flagged & is_canary(record, len(assignments))
    own_class = bool((labels[flagged] == record["label"]).all())
    if flagged.any() and own_class and 2 * int(mine.sum()) >= int(flagged.sum()):
        return NO_POISON
    return verdict


def without_canaries(split: pa.Table, record: Mapping[str, Any] | None) -> pa.Table:
    """The refined split with the canaries called clean, for counts and lists of suspects.

    Args:
        split: Rows of the training set in the order of the index, with a column ``assignment``.
        record: As from ``plant``, or None.
    """
    if record is None:
        return split
    mask = pa.array(is_canary(record, split.num_rows))
    clean = pa.array(["clean"] * len(record["rows"]), pa.string())
    assignment = pc.replace_with_mask(split["assignment"].combine_chunks(), mask, clean)
    return split.set_column(split.schema.get_field_index("assignment"), split.schema.field("assignment"), assignment)

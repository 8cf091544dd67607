"""What a drop says it holds, before any image is read: references to images, labels and splits, in compact arrays."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from components.common.contracts.errors import DataError
from components.common.intake.columns import ColumnNames
from components.common.intake.listing import PassedOver, Rejected
from components.common.intake.sources import Folder

__all__ = ["Catalogue", "ClassLoss", "check_splits", "losses_of"]


@dataclass(slots=True)
class ClassLoss:
    """What a class has lost before any image was read: rows that are rejected, and files that are passed over."""

    rejected: int = 0
    passed: int = 0


@dataclass(kw_only=True, slots=True)
class Catalogue:
    """A drop's content by what its listing and labels say.

    Several rows may refer to one image. A reference is a position in ``keys``, or, where images are rows of shards,
    a position in ``shard`` and ``shard_row``.

    Attributes:
        folder: Where the drop is.
        form: ``folders``, ``list`` or ``shards``.
        reading: How it is read, as a sentence.
        names: The columns that the user names.
        keys: Files, relative to the folder.
        sizes: int64, their lengths in bytes.
        shard: int32 [references], position in ``keys``; None unless the images are rows of shards.
        shard_row: int64 [references], row in that shard; None as ``shard``.
        row_ref: int32 [rows], the image of each row.
        labels: int32 [rows], position in ``class_names``.
        class_names: In order.
        holdout: int8 [rows], ``TRAIN`` or ``HOLDOUT`` as given by the drop; None if it does not say.
        rejected: What is left out already.
        rejected_rows: How many rows that are.
        passed: What is no part of the data.
        losses: What classes have lost already, by name; a class that is here and not in ``class_names`` lost all.
        files: Number of shards, else 0.
        bad_files: How many of them cannot be read.
    """

    folder: Folder
    form: str
    reading: str
    names: ColumnNames
    keys: pa.Array
    sizes: npt.NDArray[np.int64]
    shard: npt.NDArray[np.int32] | None = None
    shard_row: npt.NDArray[np.int64] | None = None
    row_ref: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]
    class_names: list[str]
    holdout: npt.NDArray[np.int8] | None = None
    rejected: list[Rejected] = field(default_factory=list)
    rejected_rows: int = 0
    passed: PassedOver = field(default_factory=PassedOver)
    losses: dict[str, ClassLoss] = field(default_factory=dict)
    files: int = 0
    bad_files: int = 0

    @property
    def references(self) -> int:
        """Number of images that rows can refer to."""
        return len(self.keys) if self.shard is None else len(self.shard)

    @property
    def empty(self) -> list[str]:
        """Classes of which nothing is left to read."""
        return sorted(set(self.losses) - set(self.class_names))

    def key_array(self, refs: npt.NDArray[Any]) -> pa.Array:
        """Keys of references, as a string array; a row of a shard is ``<shard>#row=17``."""
        if self.shard is None or self.shard_row is None:
            return self.keys.take(pa.array(refs))
        files = self.keys.take(pa.array(self.shard[refs]))
        rows = pa.array(self.shard_row[refs]).cast(pa.string())
        return pc.binary_join_element_wise(files, rows, "#row=")


def losses_of(labels: list[str | None], counts: npt.NDArray[np.int64]) -> dict[str, ClassLoss]:
    """Rejected rows by class, from labels and how many rows of each are rejected; labels without a row count too."""
    found: Counter[str] = Counter()
    for label, count in zip(labels, counts.tolist(), strict=True):
        if label is not None:
            found[label] += count
    return {label: ClassLoss(rejected=count) for label, count in found.items()}


def check_splits(catalogue: Catalogue) -> None:
    """Checks a drop that was named as the holdout.

    Raises:
        DataError: It has a training split of its own.
    """
    if catalogue.holdout is not None and len(np.unique(catalogue.holdout)) > 1:
        raise DataError(
            f"holdout drop {catalogue.folder.location}",
            expected="samples to hold out",
            found=f"a training split too ({catalogue.reading})",
            hint="Name the folder of the holdout alone.",
        )

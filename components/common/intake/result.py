"""A drop that was read, and how it was asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from components.common.datasets.base import Int16s
from components.common.intake.catalogue import Catalogue
from components.common.intake.census import ClassCount
from components.common.intake.listing import PassedOver, Rejected
from components.common.intake.pixels import Drafts, write_pixels

__all__ = ["Drop", "DropOptions"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DropOptions:
    """How a drop is read; the fields but the last are those of ``IngestConfig``, which checks them.

    Attributes:
        as_published: Whether rows stay as their publisher has them: classes in the order that shards declare, and
            holdout images that are in training too.
    """

    holdout: str = ""
    max_rejected_ratio: float = 1.0
    train_limit: int = 0
    holdout_limit: int = 0
    image_size: int = 0
    seed: int = 0
    image_column: str = ""
    label_column: str = ""
    as_published: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Drop:
    """A drop that was read; its pixels lie in draft files until ``write_pixels`` puts them in order.

    Attributes:
        form: ``folders``, ``list`` or ``shards``.
        reading: How the drop is read, as a sentence; another one for a holdout drop.
        class_names: Name of class k at position k.
        shape: Channels, height and width of every image.
        n_train: How many of the first rows are training samples.
        labels: int16 [n], training rows first.
        classes: What became of each class.
        rejected: What was rejected.
        rejected_rows: Rows that this concerns, of ``rows_seen``.
        passed: What was passed over.
        rows_seen: Rows of the drop after limits, good and bad.
    """

    form: str
    reading: list[str]
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    n_train: int
    labels: Int16s
    classes: list[ClassCount]
    rejected: list[Rejected]
    rejected_rows: int
    passed: PassedOver
    rows_seen: int
    _catalogues: list[Catalogue]
    _refs: npt.NDArray[np.int32]
    _drafts: Drafts

    @property
    def location(self) -> str:
        """The drop's absolute path or ``s3://`` prefix, without a slash at its end."""
        return self._catalogues[0].folder.location

    @property
    def reasons(self) -> dict[str, int]:
        """How many entries of ``rejected`` have which reason, most frequent first."""
        return dict(Counter(entry.reason for entry in self.rejected).most_common())

    def index_tables(self, rows: int) -> Iterator[pa.Table]:
        """The sample index in parts of at most ``rows`` rows: the columns of ``contracts.tables.SAMPLE_INDEX``."""
        for start in range(0, len(self._refs), rows):
            refs = self._refs[start : start + rows]
            count = len(refs)
            holdout = np.arange(start, start + count) >= self.n_train
            digests = self._drafts.digests[refs].tobytes().hex()
            yield pa.table(
                {
                    "sample_id": pa.array(np.arange(start, start + count, dtype=np.int64)),
                    "uri": self._uris(refs),
                    "digest": pa.array([digests[i : i + 64] for i in range(0, 64 * count, 64)], pa.string()),
                    "given_label": pa.array(self.labels[start : start + count]),
                    "subset": pa.array(np.array(["train", "holdout"])[holdout.astype(int)].tolist(), pa.string()),
                }
            )

    def write_pixels(self, path: Path) -> npt.NDArray[np.int64]:
        """Writes the pixels, uint8 [n, c, h, w], as a ``.npy`` file.

        Returns:
            int64 [c, 256], how often each value occurs in each channel of the training rows.
        """
        return write_pixels(path, self._drafts, self._refs, self.shape, self.n_train)

    @property
    def refs(self) -> npt.NDArray[np.int32]:
        """int32 [n], number of each row's image."""
        return self._refs

    def parts(
        self, refs: npt.NDArray[np.int32] | None = None
    ) -> Iterator[tuple[Catalogue, npt.NDArray[np.int32], int]]:
        """Per catalogue its part of some references, by default of all, counted from its first, and that one's number.

        Training rows come first, so rows of the second catalogue follow those of the first.
        """
        refs = self._refs if refs is None else refs
        start = 0
        for catalogue in self._catalogues:
            mine = refs[(refs >= start) & (refs < start + catalogue.references)]
            yield catalogue, mine - np.int32(start), start
            start += catalogue.references

    def _uris(self, refs: npt.NDArray[np.int32]) -> pa.Array:
        return pa.concat_arrays(
            [
                pc.binary_join_element_wise(f"{catalogue.folder.location}/", catalogue.key_array(mine), "")
                for catalogue, mine, _ in self.parts(refs)
            ]
        )

"""Drops: folders of images as their owners leave them, read as hostile, with memory that the drop's size does not move.

See ``docs/own-data.md`` for the forms, the caps and what becomes of each kind of bad sample.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from components.common.contracts.errors import ConfigError, DataError
from components.common.datasets.base import DATASETS, LoadedDataset, LoadRequest
from components.common.intake.catalogue import Rejected, read_catalogue
from components.common.intake.pixels import Drafts
from components.common.intake.rows import Drop, DropOptions, Rows, holdout_share
from components.common.intake.sources import Folder, printable

__all__ = [
    "PREFIX",
    "Drop",
    "DropOptions",
    "Rejected",
    "Survey",
    "load_drop",
    "read_drop",
    "survey_drop",
]

PREFIX = "drop:"
"""What the name of a dataset begins with that is a drop."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What a drop holds, whether it can be trained on or not.

    Attributes:
        rows_seen: Rows of the drop, good and bad.
        rejected_rows: How many of them are rejected.
        rejected: What was left out.
        drop: The drop; None if it cannot be used.
        problem: Why it cannot be used; None if it can.
    """

    rows_seen: int
    rejected_rows: int
    rejected: list[Rejected]
    drop: Drop | None
    problem: DataError | None


def read_drop(location: str, options: DropOptions, folder_of: Callable[[str], Folder], scratch: Path) -> Drop:
    """Reads and decodes a drop.

    Args:
        location: Folder or ``s3://`` prefix.
        options: How.
        folder_of: Makes the folder of a location.
        scratch: An empty folder with room for the decoded pixels; it must outlive the drop.

    Raises:
        ConfigError: An unusable location, holdout or limit.
        DataError: Too many samples are rejected, no holdout is left, or a class is too small.
        StorageError: The store cannot serve.
    """
    rows, drafts = _judged(location, options, folder_of, scratch)
    return rows.settle(drafts)


def survey_drop(location: str, options: DropOptions, folder_of: Callable[[str], Folder], scratch: Path) -> Survey:
    """Reads a drop to the end, whatever share of it is bad; arguments as for ``read_drop``.

    Raises:
        ConfigError: As ``read_drop``.
        DataError: There is no drop, or its list of labels cannot be read.
        StorageError: The store cannot serve.
    """
    rows, drafts = _judged(location, replace(options, max_rejected_ratio=1.0), folder_of, scratch)
    drop, problem = None, None
    try:
        rows.options = options
        rows.check_ratio()
        drop = rows.settle(drafts)
    except DataError as found:
        problem = found
    return Survey(
        rows_seen=rows.seen, rejected_rows=rows.rejected_rows, rejected=rows.rejected, drop=drop, problem=problem
    )


def _judged(
    location: str, options: DropOptions, folder_of: Callable[[str], Folder], scratch: Path
) -> tuple[Rows, Drafts]:
    share = holdout_share(options.holdout)
    catalogues = [read_catalogue(_folder(location, folder_of), scratch)]
    if share is None:
        catalogues.append(read_catalogue(_folder(options.holdout, folder_of), scratch))
    rows = Rows(catalogues, location, options)
    rows.divide(share)
    rows.limit()
    drafts = Drafts(rows.references)
    rows.decode(drafts, scratch)
    rows.judge(drafts)
    return rows, drafts


def _folder(location: str, folder_of: Callable[[str], Folder]) -> Folder:
    if not location.strip("/ ") or "\x00" in location:
        raise ConfigError(
            "dataset 'drop'",
            expected="drop:<folder or s3 prefix>",
            found=f"'{printable(location)}'",
            hint="For example drop:/data/pets or drop:s3://bucket/drops/pets.",
        )
    return folder_of(location)


@DATASETS.register("drop")
def load_drop(argument: str, request: LoadRequest) -> LoadedDataset:
    """Loads a drop of one's own: class folders of images, Parquet shards, or a list of keys and labels.

    Everything is brought into memory; ``read_drop`` does without.

    Args:
        argument: Folder or ``s3://`` prefix.
        request: What to load.

    Raises:
        ConfigError: As ``read_drop``.
        DataError: As ``read_drop``.
    """
    options = DropOptions(
        holdout=request.holdout,
        max_rejected_ratio=request.max_rejected_ratio,
        train_limit=request.train_limit,
        holdout_limit=request.holdout_limit,
        image_size=request.image_size,
        seed=request.seed,
    )
    scratch = Path(tempfile.mkdtemp(prefix="untaint-drop-"))
    try:
        drop = read_drop(argument, options, request.source.folder, scratch)
        pixels = scratch / "pixels.npy"
        drop.write_pixels(pixels)
        index = pa.concat_tables(drop.index_tables(131_072))
        return LoadedDataset(
            name=f"{PREFIX}{argument}",
            class_names=drop.class_names,
            images=np.load(pixels),
            labels=drop.labels,
            n_train=drop.n_train,
            uris=index["uri"].to_pylist(),
            digests=index["digest"].to_pylist(),
            encoded=None,
            mirror=True,
        )
    finally:
        shutil.rmtree(scratch)

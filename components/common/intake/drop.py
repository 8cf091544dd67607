"""Drops: folders of images as their owners leave them, read as hostile, with memory that the drop's size does not move.

See ``docs/own-data.md`` for the forms, the caps and what becomes of each kind of bad sample.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from components.common.contracts.errors import DataError
from components.common.intake.catalogue import Catalogue
from components.common.intake.census import ClassCount
from components.common.intake.columns import ColumnNames
from components.common.intake.forms import read_catalogue
from components.common.intake.listing import PassedOver, Rejected
from components.common.intake.pixels import Drafts
from components.common.intake.result import Drop, DropOptions
from components.common.intake.rows import Rows, holdout_share
from components.common.intake.sources import Folder, checked_location, printable

__all__ = [
    "Drop",
    "DropOptions",
    "Rejected",
    "Survey",
    "read_drop",
    "survey_drop",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What a drop holds, whether it can be trained on or not.

    Attributes:
        reading: How the drop is read, as a sentence; another one for a holdout drop.
        classes: What became of each class.
        rows_seen: Rows of the drop, good and bad.
        rejected_rows: How many of them are rejected.
        rejected: What was rejected.
        passed: What was passed over.
        drop: The drop; None if it cannot be used.
        problem: Why it cannot be used; None if it can.
    """

    reading: list[str]
    classes: list[ClassCount]
    rows_seen: int
    rejected_rows: int
    rejected: list[Rejected]
    passed: PassedOver
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
        DataError: Too many samples are rejected, no holdout is left, or a class is too small or empty.
        StorageError: The store cannot serve.
    """
    rows, drafts, catalogues = _judged(location, options, folder_of, scratch)
    for catalogue in catalogues:
        _log.info("%s is read as %s", printable(catalogue.folder.location), printable(catalogue.reading, 2_000))
    passed = rows.passed.counts.total()
    _log.info("%d samples, %d rejected; %d files passed over", rows.seen, rows.rejected_rows, passed)
    return rows.settle(drafts)


def survey_drop(location: str, options: DropOptions, folder_of: Callable[[str], Folder], scratch: Path) -> Survey:
    """Reads a drop to the end, whatever share of it is bad; arguments as for ``read_drop``.

    Raises:
        ConfigError: As ``read_drop``.
        DataError: There is no drop, its layout has two meanings, or its list of labels cannot be read.
        StorageError: The store cannot serve.
    """
    rows, drafts, catalogues = _judged(location, replace(options, max_rejected_ratio=1.0), folder_of, scratch)
    drop, problem = None, None
    try:
        rows.options = options
        rows.check_ratio()
        drop = rows.settle(drafts)
    except DataError as found:
        problem = found
    return Survey(
        reading=[catalogue.reading for catalogue in catalogues],
        classes=rows.counts(),
        rows_seen=rows.seen,
        rejected_rows=rows.rejected_rows,
        rejected=rows.rejected,
        passed=rows.passed,
        drop=drop,
        problem=problem,
    )


def _judged(
    location: str, options: DropOptions, folder_of: Callable[[str], Folder], scratch: Path
) -> tuple[Rows, Drafts, list[Catalogue]]:
    share = holdout_share(options.holdout)
    names = ColumnNames(image=options.image_column, label=options.label_column)
    folder = folder_of(checked_location(location))
    catalogues = [read_catalogue(folder, scratch, names, as_declared=options.as_published)]
    if share is None:
        folder = folder_of(checked_location(options.holdout))
        catalogues.append(read_catalogue(folder, scratch, names, holdout=True))
    rows = Rows(catalogues, location, options)
    rows.divide(share)
    rows.limit()
    drafts = Drafts(rows.references)
    rows.decode(drafts, scratch)
    rows.judge(drafts)
    return rows, drafts, catalogues

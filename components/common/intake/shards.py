"""Parquet shards of a drop: labels and subsets of each row, with what is wrong as findings and not as exceptions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.common.contracts.errors import DataError
from components.common.datasets.base import LocalFiles
from components.common.intake import parquet_files as files
from components.common.intake.apart import Apart, EndedError
from components.common.intake.lists import codes_of, is_text, shown
from components.common.intake.sources import Folder

__all__ = ["MAX_SHARD_ROWS", "ShardLabels", "read_shard_labels"]

MAX_SHARD_ROWS = 1_000_000
"""Most rows of one shard."""

_HOLDOUT_NAMES = ("test", "validation", "holdout")


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardLabels:
    """Usable rows of a shard.

    Attributes:
        rows: int64, their positions in the file.
        codes: int32, positions in ``names``.
        names: Labels as text.
        holdout: int8, 1 for the holdout.
        has_subset: Whether a column says which subset a row belongs to.
        rejected: Position, reason and detail of the other rows.
    """

    rows: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int32]
    names: list[str]
    holdout: npt.NDArray[np.int8]
    has_subset: bool
    rejected: list[tuple[int, str, str]]


def read_shard_labels(folder: Folder, key: str, scratch: Path, apart: Apart) -> ShardLabels | tuple[str, str]:
    """Labels of a shard, or why there are none: reason and detail.

    Args:
        folder: The drop.
        key: The shard.
        scratch: Folder for a local copy.
        apart: The process that reads it.
    """
    path = folder.fetch(key, scratch)
    try:
        found: ShardLabels | tuple[str, str] = apart.call(_read, str(path), key, MAX_SHARD_ROWS)
    except EndedError:
        return "bad_shard", "the process that read it ended"
    finally:
        if path.is_relative_to(scratch):
            path.unlink()
    return found


def _read(path: str, key: str, most_rows: int) -> ShardLabels | tuple[str, str]:
    try:
        with files.opened(LocalFiles(), path, dictionaries=("label", "subset")) as file:
            rows = file.metadata.num_rows
            if not 0 < rows <= most_rows:
                return ("too_many_rows" if rows else "bad_shard"), f"{rows} rows, 1 to {most_rows} are read"
            schema = file.schema_arrow
            column = files.image_column(schema, key)
            if schema.names.count("label") != 1 or not _is_label(schema.field("label").type):
                return "bad_shard", f"no single column 'label' of whole numbers or text, but {schema.names[:8]}"
            names = files.class_names(schema, key)
            subset = "subset" in schema.names
            if subset and (schema.names.count("subset") != 1 or not is_text(schema.field("subset").type)):
                return "bad_shard", "no single column 'subset' of text, but one of another type, or several"
            files.check_inflation(file.metadata, f"{column}.bytes", key, together=False)
            for name in ("label", "subset"):
                files.check_inflation(file.metadata, name, key, together=True)
            table = file.read(columns=["label", *(["subset"] if subset else [])], use_threads=False)
            # pyarrow takes a damaged file's word for where in the dictionary a value stands.
            table.validate(full=True)
        return _judged(table, names, key, has_subset=subset)
    except DataError as problem:
        return "bad_shard", f"{problem.expected} expected, found {problem.found}"


def _is_label(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or is_text(kind)


def _judged(table: pa.Table, names: tuple[str, ...] | None, key: str, *, has_subset: bool) -> ShardLabels:
    values, label_of = codes_of(table["label"].combine_chunks())
    texts = [_text(value, names) for value in values]
    good = np.array([text is not None for text in texts], dtype=bool)[label_of]
    rejected = [
        (int(row), "no_label", shown(values[label_of[row]]) + (f" of {len(names)} classes" if names else ""))
        for row in np.flatnonzero(~good)
    ]
    by_name = key.rsplit("/", 1)[-1].startswith(_HOLDOUT_NAMES)
    holdout = np.full(table.num_rows, int(by_name), dtype=np.int8)
    if has_subset:
        subsets, subset_of = codes_of(table["subset"].combine_chunks())
        known = np.array([{"train": 0, "holdout": 1}.get(str(value), -1) for value in subsets], dtype=np.int8)
        holdout = known[subset_of]
        rejected += [
            (int(row), "subset", shown(subsets[subset_of[row]])) for row in np.flatnonzero(good & (holdout < 0))
        ]
        good &= holdout >= 0
    rows = np.flatnonzero(good)
    return ShardLabels(
        rows=rows,
        codes=label_of[rows].astype(np.int32),
        names=[text or "" for text in texts],
        holdout=holdout[rows],
        has_subset=has_subset,
        rejected=rejected,
    )


def _text(value: int | str | None, names: tuple[str, ...] | None) -> str | None:
    if isinstance(value, int):
        if names is None:
            return str(value) if value >= 0 else None
        return names[value] if 0 <= value < len(names) else None
    text = (value or "").strip()
    return text if 0 < len(text) <= 200 and text.isprintable() else None

"""``index.csv`` or ``index.parquet``: keys and labels of a drop's images, kept as codes so that repeats cost little."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from components.common.contracts.errors import DataError
from components.common.intake import parquet_files as files
from components.common.intake.apart import Apart, EndedError
from components.common.intake.sources import Folder, printable

__all__ = ["MAX_LIST_ROWS", "Listed", "codes_of", "is_text", "read_list", "shown"]

MAX_LIST_ROWS = 50_000_000
"""Most rows of a list."""

_BLOCK_BYTES = 8 * 2**20
_BATCH_ROWS = 65_536
_COLUMNS = ("key", "label", "subset")
_SHOWN = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """A list's columns as codes.

    Attributes:
        keys: The different keys, a string array; a leading ``./`` is taken off.
        labels: The different labels as text, None for null.
        subsets: The different subsets as text, None for null.
        key_of: int32 [rows], position in ``keys``.
        label_of: int32 [rows], position in ``labels``.
        subset_of: int32 [rows], position in ``subsets``; None if there is no such column.
    """

    keys: pa.Array
    labels: list[str | None]
    subsets: list[str | None]
    key_of: npt.NDArray[np.int32]
    label_of: npt.NDArray[np.int32]
    subset_of: npt.NDArray[np.int32] | None


def codes_of(column: pa.Array) -> tuple[list[Any], npt.NDArray[np.int32]]:
    """The different values of a column, null among them as None, and each row's position in that list."""
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    values = encoded.dictionary.to_pylist()
    codes = encoded.indices.fill_null(len(values)).to_numpy().astype(np.int32)
    return ([*values, None] if encoded.null_count else values), codes


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds text, or nothing at all."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)) or (
        pa.types.is_null(kind)
    )


def shown(value: object) -> str:
    """A label or subset that cannot be used, for the list of rejected samples."""
    return printable(repr(value[:_SHOWN] if isinstance(value, str) else value))


class _Column:
    """A growing column of codes."""

    def __init__(self) -> None:
        self.values: list[str | None] = []
        self._places: dict[str | None, int] = {}
        self._codes: list[npt.NDArray[np.int32]] = []

    def add(self, column: pa.Array) -> None:
        values, codes = codes_of(column)
        places = np.empty(len(values), dtype=np.int32)
        for position, value in enumerate(values):
            text = _text(value)
            place = self._places.setdefault(text, len(self.values))
            if place == len(self.values):
                self.values.append(text)
            places[position] = place
        self._codes.append(places[codes])

    def codes(self) -> npt.NDArray[np.int32]:
        return np.concatenate([np.zeros(0, np.int32), *self._codes])


def _text(value: Any) -> str | None:
    if isinstance(value, float):
        # Where a label is missing, pandas makes 1.0 of the others.
        return None if math.isnan(value) else str(int(value) if value.is_integer() else value)
    return None if value is None else str(value)


def read_list(folder: Folder, key: str, scratch: Path) -> Listed:
    """Reads a drop's list.

    Args:
        folder: The drop.
        key: ``index.csv`` or ``index.parquet``.
        scratch: Folder for a local copy.

    Raises:
        DataError: It is damaged, empty or too long, or its columns are not those of a list.
    """
    subject = f"{folder.location}/{key}"
    path = folder.fetch(key, scratch)
    try:
        with Apart() as apart:
            listed: Listed = apart.call(_read, path, subject)
    except EndedError:
        raise DataError(
            subject,
            expected="a whole list of keys and labels",
            found="one at which the process that read it ended",
            hint="Write the list again; if it is a large one, give the stage more memory.",
        ) from None
    finally:
        if path.is_relative_to(scratch):
            path.unlink()
    return listed


def _read(path: Path, subject: str) -> Listed:
    columns = [_Column() for _ in _COLUMNS]
    rows = 0
    try:
        batches = _parquet(path, subject) if path.suffix == ".parquet" else _csv(path, subject)
        for batch in batches:
            # pyarrow takes a damaged file's word for where in the dictionary a value stands.
            batch.validate(full=True)
            rows += batch.num_rows
            if rows > MAX_LIST_ROWS:
                break
            for name, column in zip(_COLUMNS, columns, strict=True):
                if name in batch.schema.names:
                    column.add(batch.column(name))
    except (pa.ArrowException, OSError, ValueError) as problem:
        raise DataError(
            subject,
            expected="a whole list of keys and labels in UTF-8",
            found=f"{type(problem).__name__}: {printable(str(problem), 200)}",
            hint="Write the list again.",
        ) from problem
    if not 0 < rows <= MAX_LIST_ROWS:
        raise DataError(
            subject,
            expected=f"1 to {MAX_LIST_ROWS} rows",
            found="none" if not rows else "more",
            hint="Split the drop, or check the list.",
        )
    keys, labels, subsets = columns
    subset_of = subsets.codes()
    return Listed(
        keys=pa.array([(value or "").removeprefix("./") for value in keys.values], pa.string()),
        labels=labels.values,
        subsets=[value.strip() if value else value for value in subsets.values],
        key_of=keys.codes(),
        label_of=labels.codes(),
        subset_of=subset_of if len(subset_of) else None,
    )


def _csv(path: Path, subject: str) -> Iterator[pa.RecordBatch]:
    convert = pa.csv.ConvertOptions(column_types=dict.fromkeys(_COLUMNS, pa.string()), strings_can_be_null=False)
    read = pa.csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False)
    with pa.csv.open_csv(path, read_options=read, convert_options=convert) as reader:
        _require_columns(reader.schema, subject)
        yield from reader


def _parquet(path: Path, subject: str) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        _require_columns(file.schema_arrow, subject)
        wanted = [name for name in _COLUMNS if name in file.schema_arrow.names]
        for name in wanted:
            files.check_inflation(file.metadata, name, subject, together=True)
    # Without the dictionary, a file of some kilobytes could repeat one long text a million times.
    with pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=wanted) as file:
        yield from file.iter_batches(_BATCH_ROWS, columns=wanted, use_threads=False)


def _require_columns(schema: pa.Schema, subject: str) -> None:
    names = schema.names
    once = names.count("key") == names.count("label") == 1 and names.count("subset") <= 1
    if not once or not all(_usable(name, schema.field(name).type) for name in _COLUMNS if name in names):
        raise DataError(
            f"{subject}, columns",
            expected="key and label, and subset if wanted, each once; text, or numbers for the label",
            found=printable(", ".join(f"{field.name} ({field.type})" for field in schema), 200),
            hint="The first line of a CSV list names its columns, with commas between them.",
        )


def _usable(name: str, kind: pa.DataType) -> bool:
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return is_text(kind) or (name == "label" and number)

"""Lists of keys and labels, ``index.csv``, ``metadata.jsonl`` and the like, kept as codes: repeats cost little."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
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
from components.common.intake.columns import SPLIT_COLUMNS, ColumnNames, is_text, short
from components.common.intake.labels import LABEL_COLUMNS, codes_of, is_label, label_of
from components.common.intake.names import split_of_value
from components.common.intake.sources import Folder, printable

__all__ = ["KEY_COLUMNS", "MAX_LIST_ROWS", "Listed", "joined", "read_list"]

KEY_COLUMNS = ("key", "file_name", "filename", "file", "path", "image")
"""Names of the column of files, the first one that is there; ``file_name`` is Hugging Face's."""

MAX_LIST_ROWS = 50_000_000
"""Most rows of a list."""

_BLOCK_BYTES = 8 * 2**20
_BATCH_ROWS = 65_536
_MAX_LINE_BYTES = 1024 * 1024
_WHOLE = re.compile(r"(\d{1,18})\.0")
# Excel of half of the world writes semicolons.
_DELIMITERS = ",;\t|"


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """A list's columns as codes.

    Attributes:
        keys: The different keys, a string array; a leading ``./`` is taken off.
        labels: The different labels as ``label_of`` gives them, None for none.
        label_texts: The same as the list has them.
        splits: The different splits, ``TRAIN`` or ``HOLDOUT``, -1 for neither.
        split_texts: The same as the list has them.
        key_codes: int32 [rows], position in ``keys``.
        label_codes: int32 [rows], position in ``labels``.
        split_codes: int32 [rows], position in ``splits``; None if there is no such column.
        columns: What was read, as the user sees it.
    """

    keys: pa.Array
    labels: list[str | None]
    label_texts: list[str]
    splits: list[int]
    split_texts: list[str]
    key_codes: npt.NDArray[np.int32]
    label_codes: npt.NDArray[np.int32]
    split_codes: npt.NDArray[np.int32] | None
    columns: str


class _Column:
    """A growing column of codes."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[Any, int] = {}
        self._codes: list[npt.NDArray[np.int32]] = []

    def add(self, column: pa.Array) -> None:
        values, codes = codes_of(column)
        places = np.empty(len(values), dtype=np.int32)
        for position, value in enumerate(values):
            # NaN is not equal to itself, and True is equal to 1.
            known = value if isinstance(value, str) else (type(value), str(value))
            place = self._places.setdefault(known, len(self.values))
            if place == len(self.values):
                self.values.append(value)
            places[position] = place
        self._codes.append(places[codes])

    def codes(self) -> npt.NDArray[np.int32]:
        return np.concatenate([np.zeros(0, np.int32), *self._codes])


def read_list(folder: Folder, key: str, scratch: Path, names: ColumnNames) -> Listed | None:
    """Reads a drop's list.

    Args:
        folder: The drop.
        key: The list.
        scratch: Folder for a local copy.
        names: The columns that the user names.

    Returns:
        The list; None if its columns are not those of one and its name is not ``index``.

    Raises:
        DataError: It is damaged, empty or too long, or its columns are not those of a list.
    """
    subject = f"{folder.location}/{key}"
    path = folder.fetch(key, scratch)
    try:
        with Apart() as apart:
            listed: Listed | None = apart.call(_read, path, key, subject, names)
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
    if listed is None:
        return None
    place = key.rpartition("/")[0]
    # Files are named relative to the list.
    keys = pa.array([f"{place}/{name}" for name in listed.keys.to_pylist()], pa.string()) if place else listed.keys
    return replace(listed, keys=keys)


def joined(parts: Sequence[Listed]) -> Listed:
    """Several lists as one; of splits, that of a list without such a column is not known."""
    first = parts[0]
    if len(parts) == 1:
        return first
    has_split = all(part.split_codes is not None for part in parts)

    def moved(codes: Callable[[Listed], Any], values: Callable[[Listed], Any]) -> npt.NDArray[np.int32]:
        starts = np.cumsum([0, *(len(values(part)) for part in parts)])
        return np.concatenate([codes(part) + start for part, start in zip(parts, starts, strict=False)]).astype(
            np.int32
        )

    return Listed(
        keys=pa.concat_arrays([part.keys for part in parts]),
        labels=[label for part in parts for label in part.labels],
        label_texts=[text for part in parts for text in part.label_texts],
        splits=[split for part in parts for split in part.splits],
        split_texts=[text for part in parts for text in part.split_texts],
        key_codes=moved(lambda part: part.key_codes, lambda part: part.keys),
        label_codes=moved(lambda part: part.label_codes, lambda part: part.labels),
        split_codes=moved(lambda part: part.split_codes, lambda part: part.splits) if has_split else None,
        columns=first.columns,
    )


def _read(path: Path, key: str, subject: str, names: ColumnNames) -> Listed | None:
    ending = key.lower().rpartition(".")[2]
    must = key.rpartition("/")[2].lower().startswith("index.")
    columns = [_Column(), _Column(), _Column()]
    rows = 0
    try:
        chosen, batches = {"parquet": _parquet, "jsonl": _jsonl, "csv": _csv}[ending](path, subject, names)
        if chosen is None:
            if must:
                raise _wrong_columns(subject, names, path, ending)
            return None
        for batch in batches:
            # pyarrow takes a damaged file's word for where in the dictionary a value stands.
            batch.validate(full=True)
            rows += batch.num_rows
            if rows > MAX_LIST_ROWS:
                break
            for name, column in zip(chosen, columns, strict=True):
                if name:
                    column.add(batch.column(name))
    except (pa.ArrowException, OSError, ValueError, RecursionError) as problem:
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
    return _listed(columns, chosen)


def _listed(columns: Sequence[_Column], chosen: Sequence[str]) -> Listed:
    keys, labels, splits = columns
    texts = [label_of(value) for value in labels.values]
    known = [text for text in texts if text is not None]
    # Where a label is missing, pandas writes 1.0 for 1 into all other rows.
    if known and all(_WHOLE.fullmatch(text) for text in known):
        texts = [text and text.partition(".")[0] for text in texts]
    codes = [split_of_value(str(value)) for value in splits.values]
    return Listed(
        keys=pa.array([str(value or "").removeprefix("./") for value in keys.values], pa.string()),
        labels=texts,
        label_texts=[printable(repr(value)) for value in labels.values],
        splits=[-1 if code is None else code for code in codes],
        split_texts=[printable(short(repr(value))) for value in splits.values],
        key_codes=keys.codes(),
        label_codes=labels.codes(),
        split_codes=splits.codes() if splits.values else None,
        columns=f"files from '{chosen[0].strip()}', labels from '{chosen[1].strip()}'"
        + (f", splits from '{chosen[2].strip()}'" if chosen[2] else ""),
    )


def _choose(header: Sequence[str], names: ColumnNames) -> tuple[str, str, str] | None:
    """The columns of keys, labels and splits (empty without one) among the names of all; None if it is no list."""
    known = {}
    for name in header:
        known.setdefault(name.strip(), []).append(name)

    def first(given: str, candidates: Sequence[str]) -> str:
        found = next((name for name in ([given] if given else candidates) if name in known), "")
        # Of a name that is there twice, nobody knows which is meant.
        return known[found][0] if found and len(known[found]) == 1 else ""

    key = first(names.image, KEY_COLUMNS)
    label = first(names.label, [name for name in LABEL_COLUMNS if name != key])
    split = next((name for name in SPLIT_COLUMNS if name in known), "")
    if not key or not label or key == label or (split and not first(split, ())):
        return None
    return key, label, first(split, ()) if split else ""


_Read = tuple[tuple[str, str, str] | None, Iterator[pa.RecordBatch]]


def _csv(path: Path, subject: str, names: ColumnNames) -> _Read:
    with path.open("rb") as file:
        line = file.readline(_MAX_LINE_BYTES)
    if line.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("UTF-16 text; save it as UTF-8")
    header = line.decode("utf-8-sig")
    for delimiter in _DELIMITERS:
        chosen = _choose(next(csv.reader([header], delimiter=delimiter), []), names)
        if chosen is not None:
            return chosen, _csv_batches(path, chosen, delimiter)
    if not line.strip():
        raise ValueError("an empty file")
    return None, iter(())


def _csv_batches(path: Path, chosen: Sequence[str], delimiter: str) -> Iterator[pa.RecordBatch]:
    wanted = [name for name in chosen if name]
    # Only what is needed is read: whatever another column holds is nobody's concern.
    convert = pa.csv.ConvertOptions(
        include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string()), strings_can_be_null=False
    )
    read = pa.csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False)
    parse = pa.csv.ParseOptions(delimiter=delimiter)
    with pa.csv.open_csv(path, read_options=read, parse_options=parse, convert_options=convert) as reader:
        yield from reader


def _jsonl(path: Path, subject: str, names: ColumnNames) -> _Read:
    lines = _lines(path)
    first = next(lines, None)
    chosen = _choose(list(first), names) if first is not None else None
    return chosen, _jsonl_batches(path, chosen) if chosen else iter(())


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for number in range(MAX_LIST_ROWS + 1):
            line = file.readline(_MAX_LINE_BYTES + 1)
            if not line:
                return
            if len(line) > _MAX_LINE_BYTES:
                raise ValueError(f"line {number + 1} is longer than {_MAX_LINE_BYTES} bytes")
            if line.strip():
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise ValueError(f"line {number + 1} is no JSON object")
                yield record


def _jsonl_batches(path: Path, chosen: tuple[str, str, str]) -> Iterator[pa.RecordBatch]:
    wanted = [name for name in chosen if name]
    rows: list[list[str | None]] = []
    for record in _lines(path):
        rows.append([_plain(record.get(name)) for name in wanted])
        if len(rows) == _BATCH_ROWS:
            yield _batch(rows, wanted)
            rows = []
    if rows:
        yield _batch(rows, wanted)


def _batch(rows: list[list[str | None]], names: list[str]) -> pa.RecordBatch:
    return pa.record_batch([pa.array(column, pa.string()) for column in zip(*rows, strict=True)], names=names)


def _plain(value: Any) -> str | None:
    return value if isinstance(value, str) else label_of(value) if isinstance(value, bool | int | float) else None


def _parquet(path: Path, subject: str, names: ColumnNames) -> _Read:
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        chosen = _choose(schema.names, names)
        if chosen is None or not (
            is_text(schema.field(chosen[0]).type)
            and is_label(schema.field(chosen[1]).type)
            and (not chosen[2] or is_text(schema.field(chosen[2]).type))
        ):
            return None, iter(())
        wanted = [name for name in chosen if name]
        for name in wanted:
            files.check_inflation(file.metadata, name, subject, together=True)
    return chosen, _parquet_batches(path, wanted)


def _parquet_batches(path: Path, wanted: list[str]) -> Iterator[pa.RecordBatch]:
    # Without the dictionary, a file of some kilobytes could repeat one long text a million times.
    with pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=wanted) as file:
        yield from file.iter_batches(_BATCH_ROWS, columns=wanted, use_threads=False)


def _wrong_columns(subject: str, names: ColumnNames, path: Path, ending: str) -> DataError:
    if ending == "parquet":
        with pq.ParquetFile(path) as file:
            seen = ", ".join(f"{field.name} ({field.type})" for field in file.schema_arrow)
    else:
        with path.open("rb") as raw:
            seen = raw.readline(_MAX_LINE_BYTES).decode("utf-8", errors="replace").strip()
    return DataError(
        f"{subject}, columns",
        expected=f"{names.image or 'key'} (text) and {names.label or 'label'} (text or numbers), and subset or split "
        "(text) if wanted, each once",
        found=printable(seen, 200),
        hint="The first line of a CSV list names its columns; others are named with --image-column and --label-column.",
    )

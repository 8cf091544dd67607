"""Reads one Parquet file of images: labels first, then the encoded images in batches of bounded size."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.common.contracts.errors import DataError
from components.common.datasets.base import IntRows, Source

__all__ = [
    "FileLabels",
    "check_inflation",
    "check_range",
    "class_names",
    "common_class_names",
    "image_batches",
    "image_column",
    "opened",
    "read_labels",
]

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMN = "label"
_INT16_MAX = 32_767
_MAX_NAME_LENGTH = 200
_MAX_CHUNK_BYTES = 2**31 - 1
# Encoded images do not compress, and text that repeats is kept as a dictionary: what grows far beyond its file to more
# than this was made to fill memory.
_FREE_BYTES = 64 * 2**20
_MAX_INFLATION = 100
_BATCH_BYTES = 64 * 2**20
_BATCH_ROWS = 1_024


@dataclass(frozen=True, kw_only=True, slots=True)
class FileLabels:
    """Labels of one file.

    Attributes:
        uri: The file.
        labels: int64 [rows], not negative.
        class_names: Names from the file's metadata, None without them.
    """

    uri: str
    labels: IntRows
    class_names: tuple[str, ...] | None


def read_labels(source: Source, uri: str) -> FileLabels:
    """Reads and checks a file's schema, class names and labels.

    Raises:
        DataError: Not Parquet, damaged, empty, a missing or mistyped column, a null or negative label.
    """
    with opened(source, uri) as file:
        image_column(file.schema_arrow, uri)
        _check_label_column(file.schema_arrow, uri)
        names = class_names(file.schema_arrow, uri)
        if file.metadata.num_rows == 0:
            raise DataError(uri, expected="at least one row", found="0 rows", hint="Remove the empty file.")
        column = file.read(columns=[_LABEL_COLUMN]).column(0)
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise DataError(
            f"{uri}, row {row}, column {_LABEL_COLUMN}",
            expected="a label",
            found="null",
            hint="Remove the row or give it a label.",
        )
    labels = column.to_numpy()
    wrong = np.flatnonzero((labels < 0) | (labels > _INT16_MAX))
    if len(wrong):
        raise DataError(
            f"{uri}, row {wrong[0]}, column {_LABEL_COLUMN}",
            expected=f"a class number in [0, {_INT16_MAX}]",
            found=str(labels[wrong[0]]),
            hint="Number the classes 0, 1, …; -1 often marks a file whose labels are withheld: leave that file out.",
        )
    return FileLabels(uri=uri, labels=labels.astype(np.int64), class_names=names)


def common_class_names(read: Sequence[FileLabels]) -> tuple[str, ...] | None:
    """The class names on which all files agree; None if none of them has any.

    Raises:
        DataError: Two files name the classes differently.
    """
    for file in read[1:]:
        if file.class_names != read[0].class_names:
            raise DataError(
                f"{file.uri}, class names",
                expected=f"those of {read[0].uri}: {_short(read[0].class_names)}",
                found=_short(file.class_names),
                hint="Write all files from one dataset with the same features.",
            )
    return read[0].class_names


def check_range(file: FileLabels, classes: int) -> None:
    """Checks that labels are below the number of classes.

    Raises:
        DataError: A label is not; the message names the first such row.
    """
    wrong = np.flatnonzero(file.labels >= classes)
    if len(wrong):
        raise DataError(
            f"{file.uri}, row {wrong[0]}, column {_LABEL_COLUMN}",
            expected=f"a class number in [0, {classes - 1}]",
            found=str(file.labels[wrong[0]]),
            hint="The classes are those of the files' metadata, or those that the train files use.",
        )


def image_batches(source: Source, uri: str, first: int = 0, stop: int | None = None) -> Iterator[tuple[int, pa.Array]]:
    """Encoded images of a file in row order, as binary arrays of bounded total size.

    Args:
        source: Where the file lies.
        uri: The file.
        first: A row; row groups that end before it are passed over.
        stop: A row; reading ends with the batch that reaches it. None for all.

    Yields:
        Position of a batch's first row in the file, and its images.

    Raises:
        DataError: The file is damaged, or a row group's images are too large to be read safely.
    """
    with opened(source, uri) as file:
        column = image_column(file.schema_arrow, uri)
        start = 0
        for group in range(file.num_row_groups):
            metadata = file.metadata.row_group(group)
            if start + metadata.num_rows <= first:
                start += metadata.num_rows
                continue
            rows = _rows_per_batch(metadata, column, uri)
            for batch in file.iter_batches(rows, row_groups=[group], columns=[f"{column}.bytes"], use_threads=False):
                if stop is not None and start >= stop:
                    return
                if start + batch.num_rows > first:
                    # A null struct hides whatever its field holds: flatten applies its own nulls to the field.
                    yield start, batch.column(0).flatten()[0]
                start += batch.num_rows


def _rows_per_batch(group: pq.RowGroupMetaData, column: str, uri: str) -> int:
    path = f"{column}.bytes"
    chunk = next((c for i in range(group.num_columns) if (c := group.column(i)).path_in_schema == path), None)
    if chunk is None:
        raise DataError(
            uri,
            expected=f"a chunk of {path} in every row group",
            found="a row group without one",
            hint="Copy or write the file again.",
        )
    size = chunk.total_uncompressed_size
    if size > _MAX_CHUNK_BYTES:
        raise DataError(
            f"{uri}, column {path}",
            expected=f"row groups of at most {_MAX_CHUNK_BYTES} bytes",
            found=f"{size} bytes",
            hint="Write the file with smaller row groups (100 to 1,000 images).",
        )
    # A dictionary can repeat one huge value in every row, so that only the chunk's size bounds a row.
    repeats = any("DICTIONARY" in encoding for encoding in chunk.encodings)
    worst = size if repeats else size / max(1, group.num_rows)
    budget = 8 * _BATCH_BYTES if repeats else _BATCH_BYTES
    return int(min(_BATCH_ROWS, max(1, budget // max(1, worst))))


def check_inflation(metadata: pq.FileMetaData, path: str, subject: str, *, together: bool) -> None:
    """Checks, before it is read, that a column does not unfold to hundreds of times what the file holds of it.

    Args:
        metadata: The file's.
        path: The column's path, as ``image.bytes``.
        subject: The file, for the message.
        together: Whether all row groups are kept in memory at once.

    Raises:
        DataError: It does.
    """
    sizes: list[tuple[int, int]] = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunks = [c for i in range(group.num_columns) if (c := group.column(i)).path_in_schema == path]
        sizes += [(chunk.total_uncompressed_size, chunk.total_compressed_size) for chunk in chunks]
    if together:
        sizes = [(sum(size for size, _ in sizes), sum(stored for _, stored in sizes))]
    for size, stored in sizes:
        if size > max(_FREE_BYTES, _MAX_INFLATION * stored):
            raise DataError(
                f"{subject}, column {path}",
                expected=f"at most {_FREE_BYTES} bytes, or {_MAX_INFLATION} times as many as are stored",
                found=f"{stored} bytes that unfold to {size}",
                hint="No data are known to look like this: ask where the file comes from.",
            )


@contextmanager
def opened(source: Source, uri: str, dictionaries: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
    """The file, opened; whatever is wrong with it inside of the block is a DataError that names it.

    Args:
        source: Where the file lies.
        uri: The file.
        dictionaries: Columns of text that are read as dictionaries, so that repeated values stay small.
    """
    try:
        with closing(source.open(uri)) as stream:
            schema = pq.ParquetFile(stream).schema_arrow if dictionaries else pa.schema([])
            # Of a name that stands twice, or for a nested column, pyarrow knows no dictionary.
            wanted = [n for n in dictionaries if schema.names.count(n) == 1 and not _nested(schema.field(n).type)]
            with pq.ParquetFile(
                stream, page_checksum_verification=True, pre_buffer=False, read_dictionary=wanted
            ) as file:
                yield file
    # Names that are not UTF-8 are a UnicodeDecodeError.
    except (pa.ArrowException, OSError, UnicodeDecodeError) as problem:
        raise DataError(
            uri,
            expected="a whole Parquet file",
            found=f"{type(problem).__name__}: {str(problem)[:200]}",
            hint="Copy or write the file again.",
        ) from problem


def _nested(kind: pa.DataType) -> bool:
    result: bool = pa.types.is_nested(kind)
    return result


def image_column(schema: pa.Schema, uri: str) -> str:
    """Name of the column of encoded images.

    Raises:
        DataError: There is none of the described type.
    """
    for name in _IMAGE_COLUMNS:
        if name in schema.names:
            # A second column by that name or path would be read with it.
            if schema.names.count(name) > 1 or f"{name}.bytes" in schema.names:
                found = f"several columns '{name}' or '{name}.bytes'"
                break
            kind = schema.field(name).type
            if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
                inner = kind.field("bytes").type
                if pa.types.is_binary(inner) or pa.types.is_large_binary(inner):
                    return name
            found = f"'{name}' of type {kind}"
            break
    else:
        found = f"the columns {_short(schema.names)}"
    raise DataError(
        f"{uri}, columns",
        expected="a column 'image' (or 'img') of type struct<bytes: binary, path: string>",
        found=found,
        hint="Write the file as Hugging Face datasets do, with the images' bytes inside.",
    )


def _check_label_column(schema: pa.Schema, uri: str) -> None:
    found = f"the columns {_short(schema.names)}"
    if _LABEL_COLUMN in schema.names:
        kind = schema.field(_LABEL_COLUMN).type
        if pa.types.is_integer(kind):
            return
        found = f"'{_LABEL_COLUMN}' of type {kind}"
    raise DataError(
        f"{uri}, columns",
        expected=f"an integer column '{_LABEL_COLUMN}'",
        found=found,
        hint="Store class numbers 0, 1, … in it.",
    )


def class_names(schema: pa.Schema, uri: str) -> tuple[str, ...] | None:
    """Class names of the file's ``huggingface`` metadata, None without them.

    Raises:
        DataError: The metadata are damaged, or the names cannot be used.
    """
    raw = (schema.metadata or {}).get(b"huggingface")
    if raw is None:
        return None
    try:
        feature = json.loads(raw)["info"]["features"][_LABEL_COLUMN]
        names = feature.get("names") if feature.get("_type") == "ClassLabel" else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise DataError(
            f"{uri}, metadata 'huggingface'",
            expected="the JSON description of the features that Hugging Face datasets writes",
            found=f"{type(problem).__name__}: {str(problem)[:200]}",
            hint="Write the file again, or without that metadata.",
        ) from problem
    if names is None:
        return None
    usable = isinstance(names, list) and all(
        isinstance(name, str) and 0 < len(name) <= _MAX_NAME_LENGTH and name.isprintable() for name in names
    )
    if not usable or len(set(names)) != len(names) or not 2 <= len(names) <= _INT16_MAX:
        raise DataError(
            f"{uri}, class names",
            expected=f"2 to {_INT16_MAX} different printable names of at most {_MAX_NAME_LENGTH} characters",
            found=_short(names),
            hint="Correct the names of the ClassLabel feature.",
        )
    return tuple(names)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"

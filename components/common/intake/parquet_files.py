"""Reads one Parquet file that nobody vouches for: column sizes first, then the columns in batches of bounded size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.common.contracts.errors import DataError

__all__ = ["check_inflation", "image_batches", "opened"]

_MAX_CHUNK_BYTES = 2**31 - 1
# Encoded images do not compress, and text that repeats is kept as a dictionary: what grows far beyond its file to more
# than this was made to fill memory.
_FREE_BYTES = 64 * 2**20
_MAX_INFLATION = 100
_BATCH_BYTES = 64 * 2**20
_BATCH_ROWS = 1_024


def image_batches(path: Path, column: str, first: int, stop: int) -> Iterator[tuple[int, pa.Array]]:
    """Encoded images of a file in row order, as binary arrays of bounded total size.

    Args:
        path: The file.
        column: Path of the images, ``image.bytes`` or ``image``.
        first: A row; row groups that end before it are passed over.
        stop: A row; reading ends with the batch that reaches it.

    Yields:
        Position of a batch's first row in the file, and its images.

    Raises:
        DataError: The file is damaged, or a row group's images are too large to be read safely.
    """
    with opened(path) as file:
        start = 0
        for group in range(file.num_row_groups):
            metadata = file.metadata.row_group(group)
            if start + metadata.num_rows <= first:
                start += metadata.num_rows
                continue
            rows = _rows_per_batch(metadata, column, str(path))
            for batch in file.iter_batches(rows, row_groups=[group], columns=[column], use_threads=False):
                if start >= stop:
                    return
                if start + batch.num_rows > first:
                    # A null struct hides whatever its field holds: flatten applies its own nulls to the field.
                    images = batch.column(0)
                    yield start, images.flatten()[0] if pa.types.is_struct(images.type) else images
                start += batch.num_rows


def _rows_per_batch(group: pq.RowGroupMetaData, path: str, uri: str) -> int:
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
def opened(path: Path, dictionaries: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
    """The file, opened; whatever is wrong with it inside of the block is a DataError that names it.

    Args:
        path: The file.
        dictionaries: Columns of text that are read as dictionaries, so that repeated values stay small.
    """
    try:
        with path.open("rb") as stream:
            schema = pq.ParquetFile(stream).schema_arrow if dictionaries else pa.schema([])
            # Of a name that is there twice, or for a nested column, pyarrow knows no dictionary.
            wanted = [n for n in dictionaries if schema.names.count(n) == 1 and not _nested(schema.field(n).type)]
            with pq.ParquetFile(
                stream, page_checksum_verification=True, pre_buffer=False, read_dictionary=wanted
            ) as file:
                yield file
    # Names that are not UTF-8 are a UnicodeDecodeError.
    except (pa.ArrowException, OSError, UnicodeDecodeError) as problem:
        raise DataError(
            str(path),
            expected="a whole Parquet file",
            found=f"{type(problem).__name__}: {str(problem)[:200]}",
            hint="Copy or write the file again.",
        ) from problem


def _nested(kind: pa.DataType) -> bool:
    result: bool = pa.types.is_nested(kind)
    return result

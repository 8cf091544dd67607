"""Files of many samples: labels and splits of each row, with what is wrong as findings and not as exceptions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.common.contracts.errors import DataError
from components.common.intake import arrow_files, parquet_files, tar_files
from components.common.intake.apart import Apart, EndedError
from components.common.intake.columns import ColumnNames, Columns, class_names, shard_columns, short
from components.common.intake.images import MAX_IMAGE_BYTES
from components.common.intake.labels import codes_of, label_of
from components.common.intake.names import shard_kind, split_of_value
from components.common.intake.sources import Folder, printable

__all__ = ["MAX_SHARD_ROWS", "ShardLabels", "read_shard_labels", "shard_images"]

MAX_SHARD_ROWS = 1_000_000
"""Most rows of one shard."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardLabels:
    """Usable rows of a shard.

    Attributes:
        rows: int64, their positions in the file.
        codes: int32, positions in ``names``.
        names: Labels as text; None for what is none.
        lost: int64, how many rows of each are rejected.
        kind: ``numbers``, ``names``, or empty if there is no label.
        declared: Class names in the order in which the file declares them.
        split: int8, ``TRAIN`` or ``HOLDOUT`` of each row; None if no column says.
        rejected: Position, reason and detail of the other rows.
        columns: What was read, as the user sees it ("images from 'img', labels from 'fine_label'").
    """

    rows: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int32]
    names: list[str | None]
    lost: npt.NDArray[np.int64]
    kind: str
    declared: tuple[str, ...]
    split: npt.NDArray[np.int8] | None
    rejected: list[tuple[int, str, str]]
    columns: str


def read_shard_labels(
    folder: Folder, key: str, scratch: Path, apart: Apart, names: ColumnNames
) -> ShardLabels | tuple[str, str]:
    """Labels of a shard, or why there are none: reason and detail.

    Args:
        folder: The drop.
        key: The shard.
        scratch: Folder for a local copy.
        apart: The process that reads it.
        names: The columns that the user names.
    """
    path = folder.fetch(key, scratch)
    try:
        found: ShardLabels | tuple[str, str] = apart.call(_read, path, key, MAX_SHARD_ROWS, names)
    except EndedError:
        return "bad_shard", "the process that read it ended"
    finally:
        if path.is_relative_to(scratch):
            path.unlink()
    return found


def shard_images(path: Path, key: str, names: ColumnNames, rows: npt.NDArray[np.int64]) -> Iterator[bytes | int | None]:
    """Encoded images of a shard.

    Args:
        path: The shard as a local file.
        key: Its key in the drop.
        names: The columns that the user names.
        rows: Which, ascending.

    Yields:
        Per row the image; None if there is none; the length of one that is longer than ``MAX_IMAGE_BYTES``.

    Raises:
        DataError: The shard is damaged at or before the next row.
    """
    read = {"parquet": _parquet_images, "arrow": _arrow_images, "tar": _tar_images}[shard_kind(key) or ""]
    yield from read(path, key, names, rows)


def _parquet_images(
    path: Path, key: str, names: ColumnNames, rows: npt.NDArray[np.int64]
) -> Iterator[bytes | int | None]:
    with parquet_files.opened(path) as file:
        column = shard_columns(file.schema_arrow, names, key).image
    for first, images in parquet_files.image_batches(path, column, int(rows[0]), int(rows[-1]) + 1):
        low, high = np.searchsorted(rows, [first, first + len(images)])
        yield from (_image(images[int(row)]) for row in rows[low:high] - first)


def _arrow_images(
    path: Path, key: str, names: ColumnNames, rows: npt.NDArray[np.int64]
) -> Iterator[bytes | int | None]:
    with arrow_files.opened(path) as (schema, batches):
        name, _, inner = shard_columns(schema, names, key).image.partition(".")
        first = 0
        for batch in batches:
            low, high = np.searchsorted(rows, [first, first + batch.num_rows])
            if low < high:
                images = batch.column(name)
                images.validate(full=True)
                if inner:
                    images = images.flatten()[images.type.get_field_index(inner)]
                yield from (_image(images[int(row)]) for row in rows[low:high] - first)
            first += batch.num_rows
            if high == len(rows):
                return


def _tar_images(path: Path, key: str, names: ColumnNames, rows: npt.NDArray[np.int64]) -> Iterator[bytes | int | None]:
    position = 0
    with path.open("rb") as file:
        for row, sample in enumerate(tar_files.samples(path, names.label)):
            if position == len(rows):
                return
            if row != rows[position]:
                continue
            position += 1
            if sample.size < 0:
                yield None
            elif sample.size > MAX_IMAGE_BYTES:
                yield sample.size
            else:
                file.seek(sample.start)
                yield file.read(sample.size)


def _image(value: pa.Scalar) -> bytes | int | None:
    if not value.is_valid:
        return None
    size = value.as_buffer().size
    image: bytes | int = size if size > MAX_IMAGE_BYTES else value.as_py()
    return image


def _read(path: Path, key: str, most_rows: int, names: ColumnNames) -> ShardLabels | tuple[str, str]:
    read = {"parquet": _parquet, "arrow": _arrow, "tar": _tar}[shard_kind(key) or ""]
    try:
        return read(path, key, most_rows, names)
    except DataError as problem:
        return "bad_shard", f"{problem.expected} expected, found {problem.found}. {problem.hint}"


def _parquet(path: Path, key: str, most_rows: int, names: ColumnNames) -> ShardLabels | tuple[str, str]:
    with parquet_files.opened(path) as file:
        columns = shard_columns(file.schema_arrow, names, key)
    wanted = [columns.label, *filter(None, [columns.split])]
    with parquet_files.opened(path, dictionaries=wanted) as file:
        rows = file.metadata.num_rows
        if not 0 < rows <= most_rows:
            return _too_many(rows, most_rows)
        declared = class_names(file.schema_arrow, columns.label, key)
        parquet_files.check_inflation(file.metadata, columns.image, key, together=False)
        for name in wanted:
            parquet_files.check_inflation(file.metadata, name, key, together=True)
        table = file.read(columns=wanted, use_threads=False)
        # pyarrow takes a damaged file's word for where in the dictionary a value stands.
        table.validate(full=True)
    split = table[columns.split].combine_chunks() if columns.split else None
    return _judged(table[columns.label].combine_chunks(), split, declared, _words(columns))


def _arrow(path: Path, key: str, most_rows: int, names: ColumnNames) -> ShardLabels | tuple[str, str]:
    with arrow_files.opened(path) as (schema, batches):
        columns = shard_columns(schema, names, key)
        declared = class_names(schema, columns.label, key)
        wanted = [columns.label, *filter(None, [columns.split])]
        parts: list[pa.RecordBatch] = []
        rows = 0
        for batch in batches:
            part = batch.select(wanted)
            part.validate(full=True)
            rows += part.num_rows
            if rows > most_rows:
                return _too_many(rows, most_rows)
            # Copied: the file is mapped, and goes away.
            parts.append(part.take(pa.array(np.arange(part.num_rows))))
        if not rows:
            return _too_many(rows, most_rows)
        table = pa.Table.from_batches(parts)
    split = table[columns.split].combine_chunks() if columns.split else None
    return _judged(table[columns.label].combine_chunks(), split, declared, _words(columns))


def _tar(path: Path, key: str, most_rows: int, names: ColumnNames) -> ShardLabels | tuple[str, str]:
    labels: list[str | None] = []
    images = 0
    for sample in tar_files.samples(path, names.label):
        if len(labels) == most_rows:
            return _too_many(most_rows + 1, most_rows)
        labels.append(None if sample.label is None else short(sample.label).strip())
        images += sample.size >= 0
    if not images or not any(labels):
        hint = "Unpack it into one folder per class." if images else "Leave it out."
        return (
            "bad_shard",
            f"{images} images and {len(labels) - labels.count(None)} labels (NAME.cls, NAME.json). {hint}",
        )
    return _judged(pa.array(labels, pa.string()), None, None, "images and labels by their endings (NAME.jpg, NAME.cls)")


def _too_many(rows: int, most_rows: int) -> tuple[str, str]:
    return ("too_many_rows" if rows else "bad_shard"), f"{rows} rows, 1 to {most_rows} are read"


def _words(columns: Columns) -> str:
    others = f", not from {' or '.join(columns.others)}" if columns.others else ""
    split = f", splits from '{columns.split}'" if columns.split else ""
    return f"images from '{columns.image.partition('.')[0]}', labels from '{columns.label}'{others}{split}"


def _judged(labels: pa.Array, splits: pa.Array | None, declared: tuple[str, ...] | None, columns: str) -> ShardLabels:
    values, label_codes = codes_of(labels)
    numeric = not pa.types.is_null(labels.type) and any(isinstance(value, int | float) for value in values)
    texts = [_text(value, declared) for value in values]
    good = np.array([text is not None for text in texts], dtype=bool)[label_codes]
    about = f" of {len(declared)} classes" if declared else f" ({labels.type})" if numeric else ""
    rejected = [
        (int(row), "no_label", printable(short(values[label_codes[row]])) + about) for row in np.flatnonzero(~good)
    ]
    split = None
    if splits is not None:
        texts_of_split, split_codes = codes_of(splits)
        known = np.array([-1 if (code := split_of_value(str(value))) is None else code for value in texts_of_split])
        split = known.astype(np.int8)[split_codes]
        for row in np.flatnonzero(good & (split < 0)):
            rejected.append((int(row), "subset", printable(short(texts_of_split[split_codes[row]]))))
        good &= split >= 0
    rows = np.flatnonzero(good)
    used = {text for text in texts if text is not None}
    kind = "names" if declared or any(not text.isdecimal() for text in used) else "numbers" if used else ""
    return ShardLabels(
        rows=rows,
        codes=label_codes[rows].astype(np.int32),
        names=texts,
        lost=np.bincount(label_codes[~good], minlength=len(texts)),
        kind=kind,
        declared=declared or (),
        split=None if split is None else split[rows],
        rejected=rejected,
        columns=columns,
    )


def _text(value: Any, declared: tuple[str, ...] | None) -> str | None:
    # A text is a name even where numbers stand for names.
    return label_of(value, declared if isinstance(value, int | float) else None)

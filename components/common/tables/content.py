"""One digest for a table's values, whatever file, chunks or library version they travelled in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["content_digest", "content_digest_of_parts"]

_Parts = Callable[[], Iterable[pa.Array]]


def content_digest(table: pa.Table) -> str:
    """Hex sha256 over names, types, lengths, nulls and values of all columns, in order.

    Args:
        table: Columns of booleans, integers, floats, strings, or lists of these.

    Raises:
        TypeError: A column of another type.
    """
    return content_digest_of_parts(table.schema, lambda position: table.column(position).chunks)


def content_digest_of_parts(schema: pa.Schema, parts: Callable[[int], Iterable[pa.Array]]) -> str:
    """``content_digest`` of a table that need not be in memory as a whole.

    Args:
        schema: Its columns.
        parts: Position of a column to its values in parts; called up to four times for each column.

    Raises:
        TypeError: A column of another type.
    """
    digest = hashlib.sha256()
    for position, field in enumerate(schema):
        digest.update(f"{len(field.name)}:{field.name}:".encode())
        _add(digest, field.type, partial(parts, position))
    return digest.hexdigest()


def _add(digest: hashlib._Hash, kind: pa.DataType, parts: _Parts) -> None:
    counts = [(len(part), part.null_count) for part in parts()]
    rows, nulls = sum(count for count, _ in counts), sum(count for _, count in counts)
    # Each part is preceded by its type and length, so that no two tables run into the same bytes.
    digest.update(f"{'list' if pa.types.is_list(kind) else kind}:{rows}:{nulls}:".encode())
    given: _Parts = parts
    if nulls:
        for part in parts():
            digest.update(_little_endian(part.is_valid()))
        given = lambda: (part.drop_null() for part in parts())  # noqa: E731 - one of two sources
    if pa.types.is_list(kind):
        for part in given():
            digest.update(_little_endian(pc.list_value_length(part)))
        _add(digest, kind.value_type, lambda: (pc.list_flatten(part) for part in given()))
    elif pa.types.is_string(kind):
        for part in given():
            digest.update(_little_endian(pc.binary_length(part)))
        for part in given():
            digest.update("".join(part.to_pylist()).encode())
    elif pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        for part in given():
            digest.update(_little_endian(part))
    else:
        raise TypeError(f"no content digest for columns of {kind}")


def _little_endian(values: pa.Array) -> bytes:
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.uint8())
    if not len(values):
        return b""
    # Through the buffer, because Array.to_numpy imports pandas.
    width = values.type.bit_width // 8
    raw = np.frombuffer(values.buffers()[1], dtype=f"=u{width}", count=len(values), offset=values.offset * width)
    little: bytes = raw.astype(f"<u{width}").tobytes()
    return little

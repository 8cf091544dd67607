"""One digest for a table's values, whatever file, chunks or library version they travelled in."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["content_digest"]


def content_digest(table: pa.Table) -> str:
    """Hex sha256 over names, types, lengths, nulls and values of all columns, in order.

    Args:
        table: Columns of booleans, integers, floats, strings, or lists of these.

    Raises:
        TypeError: A column of another type.
    """
    digest = hashlib.sha256()
    for name, column in zip(table.column_names, table.columns, strict=True):
        digest.update(f"{len(name)}:{name}:".encode())
        _add(digest, column.combine_chunks())
    return digest.hexdigest()


def _add(digest: hashlib._Hash, values: pa.Array) -> None:
    kind = values.type
    # Each part is preceded by its type and length, so that no two tables run into the same bytes.
    digest.update(f"{'list' if pa.types.is_list(kind) else kind}:{len(values)}:{values.null_count}:".encode())
    if values.null_count:
        digest.update(_little_endian(values.is_valid()))
        values = values.drop_null()
    if pa.types.is_list(kind):
        digest.update(_little_endian(pc.list_value_length(values)))
        _add(digest, pc.list_flatten(values))
    elif pa.types.is_string(kind):
        digest.update(_little_endian(pc.binary_length(values)))
        digest.update("".join(values.to_pylist()).encode())
    elif pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        digest.update(_little_endian(values))
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

"""Reads one Arrow stream file, as ``save_to_disk`` of Hugging Face datasets writes it, batch by batch."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc

from components.common.contracts.errors import DataError

__all__ = ["batches", "opened"]

_COMPRESSION_FIELD = 3
_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"


@contextmanager
def opened(path: Path) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    """Schema and batches of a file; whatever is wrong with it inside of the block is a DataError that names it.

    The file is mapped, so that columns that nobody asks for are not read.
    """
    try:
        with pa.memory_map(str(path)) as source:
            # A file that was cut off between two batches would pass for a shorter one.
            source.seek(max(0, source.size() - len(_END)))
            if source.read() != _END:
                raise EOFError("no end of the stream: the file was cut off, or is of another kind")
            source.seek(0)
            messages = pa.ipc.MessageReader.open_stream(source)
            schema = pa.ipc.read_schema(messages.read_next_message())
            yield schema, batches(messages, schema, path)
    except (pa.ArrowException, OSError, UnicodeDecodeError, EOFError, StopIteration) as problem:
        raise DataError(
            str(path),
            expected="a whole Arrow stream file, as save_to_disk writes it",
            found=f"{type(problem).__name__}: {str(problem)[:200]}",
            hint="Write the file again, or as Parquet.",
        ) from problem


def batches(messages: pa.ipc.MessageReader, schema: pa.Schema, path: Path) -> Iterator[pa.RecordBatch]:
    """The record batches of a stream.

    Raises:
        DataError: A dictionary, or packed buffers, which could unfold to any size.
    """
    while True:
        try:
            message = messages.read_next_message()
        except StopIteration:
            return
        if message.type != "record batch" or _is_packed(message.metadata.to_pybytes()):
            raise DataError(
                str(path),
                expected="record batches that are not compressed, as save_to_disk writes them",
                found=f"a message of type '{message.type}'" if message.type != "record batch" else "compressed ones",
                hint="Write the file as Parquet.",
            )
        yield pa.ipc.read_record_batch(message, schema)


def _is_packed(metadata: bytes) -> bool:
    """Whether a record batch names a compression, read from its flatbuffer: pyarrow does not tell before it unpacks."""
    try:
        message = _offset(metadata, 0)
        batch = _field(metadata, message, 2)
        return batch is None or _field(metadata, _offset(metadata, batch), _COMPRESSION_FIELD) is not None
    except struct.error:
        return True


def _offset(data: bytes, position: int) -> int:
    return position + int(struct.unpack_from("<I", data, position)[0])


def _field(data: bytes, table: int, number: int) -> int | None:
    """Where a field of a flatbuffer's table is, or None if it is left out."""
    slots = table - int(struct.unpack_from("<i", data, table)[0])
    if slots < 0 or 4 + 2 * number >= struct.unpack_from("<H", data, slots)[0]:
        return None
    place = int(struct.unpack_from("<H", data, slots + 4 + 2 * number)[0])
    return table + place if place else None

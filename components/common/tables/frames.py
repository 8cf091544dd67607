"""Messages between a stage and its quality worker: an 8-byte big-endian length, then that many bytes."""

from __future__ import annotations

import struct
from typing import IO, Any

__all__ = ["read_frame", "write_frame"]

_LENGTH = struct.Struct(">Q")


def write_frame(stream: IO[bytes], payload: Any) -> None:
    """Writes one message and flushes.

    Args:
        stream: A binary stream.
        payload: Bytes, or a buffer of bytes such as ``pyarrow.Buffer``.
    """
    view = memoryview(payload)
    stream.write(_LENGTH.pack(view.nbytes))
    stream.write(view)
    stream.flush()


def read_frame(stream: IO[bytes]) -> bytes | None:
    """Reads one message; None at the end of the stream.

    Raises:
        EOFError: The stream ended inside a message.
    """
    head = stream.read(_LENGTH.size)
    if not head:
        return None
    if len(head) < _LENGTH.size:
        raise EOFError("the stream ended inside a message's length")
    (size,) = _LENGTH.unpack(head)
    payload = stream.read(size)
    if len(payload) < size:
        raise EOFError(f"the stream ended after {len(payload)} of {size} bytes")
    return payload

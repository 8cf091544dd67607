"""The outside of an encoded image: which format its first bytes say, how large it claims to be, where it ends.

Nothing is decoded here. Sizes are read before a decoder may allocate for them, and the end of the image is looked up
since decoders ignore what follows it: an archive or a page behind a picture makes one file that two programs read
differently.
"""

from __future__ import annotations

import re
import struct

__all__ = ["MalformedImageError", "end_of_image", "scans_of", "webp_size"]

_PNG_SIGNATURE = 8
# Within entropy-coded data, 0xFF is followed by 0x00 (a stuffed byte), a restart marker or more 0xFF (fill). One 0xFF
# and no "+": over a long row of them that would take the square of its length.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_JPEG_END = 0xD9
_JPEG_SCAN = 0xDA
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD8)})


class MalformedImageError(ValueError):
    """The file ends before its image does, or its structure makes no sense."""


def webp_size(data: bytes) -> tuple[int, int]:
    """Width and height that a WebP file's first chunk announces.

    Raises:
        MalformedImageError: The file is too short or starts with another chunk.
    """
    head = data[12:30]
    if len(head) == 18:
        if head.startswith(b"VP8X"):
            return 1 + int.from_bytes(head[12:15], "little"), 1 + int.from_bytes(head[15:18], "little")
        if head.startswith(b"VP8L"):
            bits = int.from_bytes(head[9:13], "little")
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        if head.startswith(b"VP8 "):
            width, height = struct.unpack("<HH", head[14:18])
            return width & 0x3FFF, height & 0x3FFF
    raise MalformedImageError("a WebP file without an image header")


def end_of_image(data: bytes, kind: str) -> int:
    """Length of the image proper, in bytes; whatever lies behind it belongs to no image.

    Args:
        data: The whole file.
        kind: Its format, as ``sniff`` says.

    Raises:
        MalformedImageError: The file ends first.
    """
    return _ENDS[kind](data)


def scans_of(data: bytes) -> int:
    """How many times a JPEG file goes over its image, or somewhat more; 1 or about 10 in files that cameras write.

    Thirty bytes suffice for a scan that keeps a decoder busy with every pixel.
    """
    return data.count(bytes([0xFF, _JPEG_SCAN]))


def _end_of_png(data: bytes) -> int:
    position = _PNG_SIGNATURE
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        name = data[position + 4 : position + 8]
        position += 12 + length
        if name == b"IEND" and position <= len(data):
            return position
    raise MalformedImageError("the file ends before the chunk IEND")


def _end_of_jpeg(data: bytes) -> int:
    position = 2
    while position + 2 <= len(data):
        if data[position] != 0xFF:
            # Stray bytes before a marker: decoders search for it too, and only warn.
            position = data.find(b"\xff", position)
            if position < 0:
                break
            continue
        marker = data[position + 1]
        if marker in (0x00, 0xFF):
            position += 1 + (marker == 0x00)
            continue
        position += 2
        if marker == _JPEG_END:
            return position
        if marker in _JPEG_BARE:
            continue
        length = int.from_bytes(data[position : position + 2], "big")
        if length < 2:
            raise MalformedImageError(f"a segment of length {length} at byte {position}")
        position += length
        if marker == _JPEG_SCAN:
            found = _JPEG_MARKER.search(data, position)
            if found is None:
                break
            position = found.end() - 2
    raise MalformedImageError("the file ends before the end marker")


def _end_of_webp(data: bytes) -> int:
    size = int.from_bytes(data[4:8], "little") + 8
    size += size % 2
    if size > len(data):
        raise MalformedImageError(f"{len(data)} of {size} bytes")
    return size


def _end_of_gif(data: bytes) -> int:
    if len(data) < 13:
        raise MalformedImageError("the file ends within its header")
    position = 13 + _colours(data[10])
    while position < len(data):
        block = data[position]
        if block == 0x3B:
            return position + 1
        if block == 0x2C and position + 10 < len(data):
            position += 11 + _colours(data[position + 9])
        elif block == 0x21:
            position += 2
        else:
            raise MalformedImageError(f"no block at byte {position}")
        while position < len(data) and data[position]:
            position += 1 + data[position]
        position += 1
    raise MalformedImageError("the file ends before its trailer")


def _colours(flags: int) -> int:
    """Bytes of the colour table that a GIF header or image announces."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _end_of_bmp(data: bytes) -> int:
    if len(data) < 26:
        raise MalformedImageError("the file ends within its header")
    stated, _, start, header = struct.unpack("<IIII", data[2:18])
    end = stated
    if header == 12:
        width, height, _, bits = struct.unpack("<HHHH", data[18:26])
        end = start + (width * bits + 31) // 32 * 4 * height
    elif len(data) >= 38:
        width, height, _, bits, packing, size = struct.unpack("<iiHHII", data[18:38])
        # Run lengths and embedded JPEG say how long they are; plain rows follow from their width.
        end = start + size if packing in (1, 2, 4, 5) else start + (abs(width) * bits + 31) // 32 * 4 * abs(height)
        if header >= 124 and len(data) >= 134:
            place, length = struct.unpack("<II", data[126:134])
            end = max(end, 14 + place + length if length else 0)
    if end > len(data):
        raise MalformedImageError(f"{len(data)} of {end} bytes")
    return int(end)


_ENDS = {
    "png": _end_of_png,
    "jpeg": _end_of_jpeg,
    "webp": _end_of_webp,
    "gif": _end_of_gif,
    "bmp": _end_of_bmp,
}

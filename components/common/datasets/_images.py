"""Decodes one encoded image that nobody vouches for: fixed formats, sizes checked before memory is spent."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from components.common.contracts.errors import DataError
from components.common.datasets.base import Pixels

__all__ = ["MAX_IMAGE_BYTES", "MAX_IMAGE_PIXELS", "Decoded", "decode"]

MAX_IMAGE_BYTES = 32 * 2**20
"""Longest encoded image, in bytes."""

MAX_IMAGE_PIXELS = 4096 * 4096
"""Most pixels that an image's header may announce. A PNG of 10 kB can announce 81 million."""

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_GREY_MODES = frozenset({"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N"})
_DEEP_MODES = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})
_ORIENTATION_CARRIERS = frozenset({"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """One decoded image.

    Attributes:
        pixels: uint8 [channels, height, width], 1 channel for grey images, else 3.
        digest: Hex sha256 of the encoded bytes.
    """

    pixels: Pixels
    digest: str


def decode(data: bytes, side: int, subject: str) -> Decoded:
    """Decodes a JPEG or PNG image.

    Grey images (also with alpha, bilevel or of 16 bits, of which the upper 8 are kept) give one channel; palettes,
    CMYK and everything else become RGB. Alpha is dropped, not blended, as torchvision's image folders do. The EXIF
    orientation is applied; unreadable EXIF counts as none. Of an animated PNG the default image is taken.

    Args:
        data: The encoded image.
        side: Side in pixels to resize to (antialiased bilinear, aspect not kept); 0 keeps the size.
        subject: File and row, for messages.

    Returns:
        The pixels and the digest of the bytes.

    Raises:
        DataError: Empty, too long, neither JPEG nor PNG, too many pixels, truncated or otherwise broken.
    """
    if not 0 < len(data) <= MAX_IMAGE_BYTES:
        raise DataError(
            subject,
            expected=f"an encoded image of 1 to {MAX_IMAGE_BYTES} bytes",
            found=f"{len(data)} bytes",
            hint="Remove the row or store a smaller image.",
        )
    if data.startswith(_PNG):
        kind: type[JpegImageFile | PngImageFile] = PngImageFile
    elif data.startswith(_JPEG):
        kind = JpegImageFile
    else:
        raise DataError(
            subject,
            expected="a JPEG or PNG image",
            found=f"{len(data)} bytes that begin with {data[:8].hex(' ')}",
            hint="Convert the image to JPEG or PNG.",
        )
    try:
        # Constructed directly: Image.open would try other formats and only warn of an oversized header.
        with kind(io.BytesIO(data)) as image:
            if image.width * image.height <= MAX_IMAGE_PIXELS:
                return Decoded(pixels=_to_pixels(image, side), digest=hashlib.sha256(data).hexdigest())
            announced = f"a header of {image.width}x{image.height}"
    except MemoryError:
        raise
    # Hostile bytes make decoders raise nearly anything (struct.error, SyntaxError, zlib.error, …), and whatever it
    # is, it is a finding about this row.
    except Exception as problem:
        raise DataError(
            subject,
            expected="a whole JPEG or PNG image",
            found=f"{len(data)} bytes that do not decode ({type(problem).__name__}: {str(problem)[:200]})",
            hint="Remove the row or store the image again.",
        ) from problem
    raise DataError(
        subject,
        expected=f"at most {MAX_IMAGE_PIXELS} pixels",
        found=announced,
        hint="Store a smaller image.",
    )


def _to_pixels(image: Image.Image, side: int) -> Pixels:
    image.load()
    if not _ORIENTATION_CARRIERS.isdisjoint(image.info):
        image = _upright(image)
    grey = image.mode in _GREY_MODES
    if image.mode in _DEEP_MODES:
        # Pillow's own conversion clips at 255 instead of scaling.
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    wanted = "L" if grey else "RGB"
    if image.mode != wanted:
        image = image.convert(wanted)
    if side and image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BILINEAR)
    pixels: Pixels = np.asarray(image)
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    # Metadata that cannot be read says nothing about the pixels, so the image counts as upright.
    except Exception:
        return image

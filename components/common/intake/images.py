"""Decodes one encoded image that nobody vouches for: fixed formats, sizes checked before memory is spent."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from components.common.contracts.errors import DataError
from components.common.datasets.base import Pixels
from components.common.intake.containers import MalformedImageError, end_of_image, kind_of, scans_of, webp_size

__all__ = ["MAX_IMAGE_BYTES", "MAX_IMAGE_PIXELS", "MAX_SCANS", "Decoded", "ImageProblem", "decode"]

MAX_IMAGE_BYTES = 32 * 2**20
"""Longest encoded image, in bytes."""

MAX_IMAGE_PIXELS = 4096 * 4096
"""Most pixels that an image's header may announce. A PNG of 10 kB can announce 81 million."""

MAX_SCANS = 100
"""Most scans of a JPEG. Of 33 bytes each, a megabyte of them would take minutes to decode."""

_FILES: dict[str, type[JpegImageFile | PngImageFile | WebPImageFile]] = {
    "png": PngImageFile,
    "jpeg": JpegImageFile,
    "webp": WebPImageFile,
}
# Cameras pad with these; no other program reads anything out of them.
_PADDING = b"\x00\xff"
_GREY_MODES = frozenset({"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N"})
_DEEP_MODES = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})
_ORIENTATION_CARRIERS = frozenset({"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"})


class ImageProblem(DataError):
    """An image that cannot be used, with the short reason that a list of rejected samples shows.

    Args:
        reason: One of ``contracts.tables.REJECT_REASONS``.
        subject: File and row.
        expected: What had to be true of it.
        found: What was seen instead.
        hint: What the user can do next.
    """

    def __init__(self, reason: str, subject: str, *, expected: str, found: str, hint: str) -> None:
        super().__init__(subject, expected=expected, found=found, hint=hint)
        self.reason = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """One decoded image.

    Attributes:
        pixels: uint8 [channels, height, width], 1 channel for grey images, else 3.
        digest: Hex sha256 of the encoded bytes.
    """

    pixels: Pixels
    digest: str


def decode(
    data: bytes, side: int, subject: str, *, strict: bool = False, max_pixels: int = MAX_IMAGE_PIXELS
) -> Decoded:
    """Decodes a JPEG, PNG or WebP image; the format is that of the content, not of a name.

    Grey images (also with alpha, bilevel or of 16 bits, of which the upper 8 are kept) give one channel; palettes,
    CMYK and everything else become RGB. Alpha is dropped, not blended, as torchvision's image folders do. The EXIF
    orientation is applied; unreadable EXIF counts as none. Of an animation the first or default image is taken.

    Args:
        data: The encoded image.
        side: Side in pixels to resize to (antialiased bilinear, aspect not kept); 0 keeps the size.
        subject: File and row, for messages.
        strict: Whether anything but padding behind the image's end is refused.
        max_pixels: Most pixels that the header may announce.

    Returns:
        The pixels and the digest of the bytes.

    Raises:
        ImageProblem: Empty, too long, another format, too many pixels or scans, truncated or otherwise broken, or with
            other data behind the image while ``strict``.
    """
    kind = _kind(data, subject)
    if kind == "jpeg" and scans_of(data) > MAX_SCANS:
        raise ImageProblem(
            "broken",
            subject,
            expected=f"a JPEG image of at most {MAX_SCANS} scans",
            found=f"{scans_of(data)} scans in {len(data)} bytes",
            hint="Store the image again from its pixels.",
        )
    if strict:
        _check_end(data, kind, subject)
    try:
        size = webp_size(data) if kind == "webp" else None
        # The decoder of WebP allocates as soon as it is made, those of JPEG and PNG when pixels are asked for.
        if size is None or size[0] * size[1] <= max_pixels:
            # Constructed directly: Image.open would try other formats and only warn of an oversized header.
            with _FILES[kind](io.BytesIO(data)) as image:
                size = image.size
                if size[0] * size[1] <= max_pixels:
                    return Decoded(pixels=_to_pixels(image, side), digest=hashlib.sha256(data).hexdigest())
    except MemoryError:
        raise
    # Hostile bytes make decoders raise nearly anything (struct.error, SyntaxError, zlib.error, …), and whatever it
    # is, it is a finding about this row.
    except Exception as problem:
        cut = "truncated" in str(problem)
        raise ImageProblem(
            "truncated" if cut else "broken",
            subject,
            expected="a whole JPEG, PNG or WebP image",
            found=f"{len(data)} bytes that do not decode ({type(problem).__name__}: {str(problem)[:200]})",
            hint="Remove the row or store the image again.",
        ) from problem
    raise ImageProblem(
        "too_many_pixels",
        subject,
        expected=f"at most {max_pixels} pixels",
        found=f"a header of {size[0]}x{size[1]}",
        hint="Store a smaller image.",
    )


def _kind(data: bytes, subject: str) -> str:
    if not 0 < len(data) <= MAX_IMAGE_BYTES:
        raise ImageProblem(
            "too_many_bytes" if data else "empty",
            subject,
            expected=f"an encoded image of 1 to {MAX_IMAGE_BYTES} bytes",
            found=f"{len(data)} bytes",
            hint="Remove the row or store a smaller image.",
        )
    kind = kind_of(data)
    if kind is None:
        raise ImageProblem(
            "format",
            subject,
            expected="a JPEG, PNG or WebP image",
            found=f"{len(data)} bytes that begin with {data[:8].hex(' ')}",
            hint="Convert the image to JPEG, PNG or WebP.",
        )
    return kind


def _check_end(data: bytes, kind: str, subject: str) -> None:
    try:
        end = end_of_image(data, kind)
    except MalformedImageError as problem:
        raise ImageProblem(
            "truncated",
            subject,
            expected=f"a whole {kind.upper()} image",
            found=f"{len(data)} bytes: {problem}",
            hint="Store the image again.",
        ) from None
    rest = data[end:].strip(_PADDING)
    if rest:
        raise ImageProblem(
            "trailing_data",
            subject,
            expected="nothing behind the end of the image",
            found=f"{len(data) - end} bytes behind it, beginning with {rest[:8].hex(' ')}",
            hint="Store the image again from its pixels.",
        )


def _to_pixels(image: Image.Image, side: int) -> Pixels:
    image.load()
    if not _ORIENTATION_CARRIERS.isdisjoint(image.info):
        image = _upright(image)
    grey = image.mode in _GREY_MODES
    if image.mode in _DEEP_MODES:
        # Pillow's own conversion clips at 255 instead of scaling.
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
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

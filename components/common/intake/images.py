"""Decodes one encoded image that nobody vouches for: fixed formats, sizes checked before memory is spent."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from components.common.contracts.errors import DataError
from components.common.datasets.base import Pixels
from components.common.intake.containers import MalformedImageError, end_of_image, scans_of, webp_size
from components.common.intake.sniff import READABLE, sniff

__all__ = [
    "BACKGROUND",
    "MAX_IMAGE_BYTES",
    "MAX_IMAGE_PIXELS",
    "MAX_KEPT_PIXELS",
    "MAX_PHOTO_PIXELS",
    "MAX_SCANS",
    "ImageProblem",
    "check_content",
    "decode",
]

MAX_IMAGE_BYTES = 32 * 2**20
"""Longest encoded image, in bytes."""

MAX_KEPT_PIXELS = 1024 * 1024
"""Most pixels that an image's header may announce if the image keeps its size."""

MAX_IMAGE_PIXELS = 4096 * 4096
"""Most pixels that an image's header may announce if the image is resized. A PNG of 10 kB can announce 81 million."""

MAX_PHOTO_PIXELS = 8192 * 6144
"""The same for JPEG, of which the decoder makes a smaller image at once: phones have sensors of 50 megapixels."""

MAX_SCANS = 100
"""Most scans of a JPEG. Of 33 bytes each, a megabyte of them would take minutes to decode."""

BACKGROUND = 128
"""Grey level behind transparent pixels: neither black nor white shapes vanish on it."""

# Not TIFF, whose parts may be anywhere in the file and come in dozens of packings, nor HEIC and AVIF, which need the
# decoder of a video: both have had far more holes than these, and image sizes known only inside of them.
_FILES: dict[str, type[ImageFile]] = {
    "png": PngImageFile,
    "jpeg": JpegImageFile,
    "webp": WebPImageFile,
    "gif": GifImageFile,
    "bmp": BmpImageFile,
}
# Cameras pad with these; no other program reads anything out of them.
_PADDING = b"\x00\xff"
_GREY_MODES = frozenset({"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N"})
_DEEP_MODES = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})
_ORIENTATION_CARRIERS = frozenset({"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"})
_BEHIND = {
    "jpeg": "a second JPEG behind the first (MPO or Ultra HDR of a phone or a 3D camera)",
    "png": "a second PNG behind the first",
}


class ImageProblem(DataError):
    """An image that cannot be used, with the short reason that a list of rejected samples shows.

    Args:
        reason: One of ``tables.REJECT_REASONS``.
        subject: Which image.
        expected: What had to be true of it.
        found: What was seen instead.
        hint: What the user can do next.
    """

    def __init__(self, reason: str, subject: str = "image", *, expected: str, found: str, hint: str) -> None:
        super().__init__(subject, expected=expected, found=found, hint=hint)
        self.reason = reason

    @property
    def detail(self) -> str:
        """What was seen, and what to do about it."""
        return f"{self.found}. {self.hint}"


def decode(data: bytes, side: int) -> Pixels:
    """Decodes a JPEG, PNG, WebP, GIF or BMP image; the format is that of the content, not of a name.

    Grey images (also with alpha, bilevel or of 16 bits) give one channel; palettes, CMYK and everything else become
    RGB. What is transparent shows the grey ``BACKGROUND``. Of 16 bits the upper 8 are kept; where an image's values all
    fit into 8 or 12 bits, the upper 8 of those. The EXIF orientation is applied; unreadable EXIF counts as none. Of an
    animation the first or default image is taken.

    Args:
        data: The encoded image.
        side: Side in pixels to resize to (antialiased bilinear, aspect not kept); 0 keeps the size.

    Returns:
        uint8 [channels, height, width], 1 channel for grey images, else 3.

    Raises:
        ImageProblem: Empty, too long, another format, too many pixels or scans, truncated or otherwise broken, or with
            other data behind the image.
    """
    kind = _kind(data)
    if kind == "jpeg" and scans_of(data) > MAX_SCANS:
        raise ImageProblem(
            "broken",
            expected=f"a JPEG image of at most {MAX_SCANS} scans",
            found=f"{scans_of(data)} scans in {len(data)} bytes",
            hint="Store the image again from its pixels.",
        )
    _check_end(data, kind)
    try:
        # The decoder of WebP allocates as soon as it is made, the others when pixels are asked for.
        size = webp_size(data) if kind == "webp" else (0, 0)
        if size[0] * size[1] <= _most(kind, side):
            # Constructed directly: Image.open would try other formats and only warn of an oversized header.
            with _FILES[kind](io.BytesIO(data)) as image:
                size = image.size
                if size[0] * size[1] <= _most(kind, side):
                    if isinstance(image, JpegImageFile) and size[0] * size[1] > MAX_IMAGE_PIXELS:
                        # An eighth of the side at least; the rest is resized as always.
                        image.draft(image.mode, (max(2 * side, size[0] // 8), max(2 * side, size[1] // 8)))
                    return _to_pixels(image, side)
    except MemoryError:
        raise
    # Hostile bytes make decoders raise nearly anything (struct.error, SyntaxError, zlib.error, …), and whatever it
    # is, it is a finding about this row.
    except Exception as problem:
        cut = "truncated" in str(problem)
        raise ImageProblem(
            "truncated" if cut else "broken",
            expected=f"a whole {kind.upper()} image",
            found=f"{len(data)} bytes that do not decode ({type(problem).__name__}: {str(problem)[:200]})",
            hint="Store the image again.",
        ) from problem
    photos = f" ({_sides(MAX_PHOTO_PIXELS)} for JPEG)"
    raise ImageProblem(
        "too_many_pixels",
        expected=f"at most {_most(kind, side)} pixels",
        found=f"{size[0]}x{size[1]} pixels, at most {_sides(_most(kind, side))} are read"
        + ("" if side else " without image_size"),
        hint="Store a smaller image."
        if side
        else f"Set --image-size: with it, {_sides(MAX_IMAGE_PIXELS)}{photos} are read and made smaller.",
    )


def check_content(pixels: Pixels, data: bytes) -> None:
    """Checks that there is something on an image.

    Args:
        pixels: uint8 [channels, height, width].
        data: The encoded image.

    Raises:
        ImageProblem: It is all of one colour.
    """
    first = pixels[:, :1, :1]
    if not (pixels == first).all():
        return
    deep = sniff(data).kind == "png" and data[24:25] == b"\x10" and pixels.shape[0] == 3
    raise ImageProblem(
        "one_colour",
        expected="an image with something on it",
        found=f"all pixels are {'/'.join(str(value) for value in first.reshape(-1).tolist())}"
        + (" (16 bits, of which the upper 8 are read)" if deep else ""),
        hint="Look at how it was made; a model learns nothing from it.",
    )


def _most(kind: str, side: int) -> int:
    if not side:
        return MAX_KEPT_PIXELS
    return MAX_PHOTO_PIXELS if kind == "jpeg" else MAX_IMAGE_PIXELS


def _sides(pixels: int) -> str:
    return {MAX_KEPT_PIXELS: "1024x1024", MAX_IMAGE_PIXELS: "4096x4096", MAX_PHOTO_PIXELS: "8192x6144"}[pixels]


def _kind(data: bytes) -> str:
    if not 0 < len(data) <= MAX_IMAGE_BYTES:
        raise ImageProblem(
            "too_many_bytes" if data else "empty",
            expected=f"an encoded image of 1 to {MAX_IMAGE_BYTES} bytes",
            found=f"{len(data)} bytes, at most {MAX_IMAGE_BYTES} are read" if data else "0 bytes",
            hint="Store a smaller image." if data else "Copy it again, or leave it out.",
        )
    found = sniff(data)
    if not found.kind:
        raise ImageProblem(
            "format",
            expected=f"a {READABLE} image",
            found=found.name,
            hint=found.advice,
        )
    return found.kind


def _check_end(data: bytes, kind: str) -> None:
    try:
        end = end_of_image(data, kind)
    except MalformedImageError as problem:
        raise ImageProblem(
            "truncated",
            expected=f"a whole {kind.upper()} image",
            found=f"{len(data)} bytes: {problem}",
            hint="Store the image again.",
        ) from None
    rest = data[end:].strip(_PADDING)
    if rest:
        # What is known may begin with a byte that cameras pad with.
        parts = (data[end:], data[end:].lstrip(b"\x00"), rest)
        behind = next((found for found in map(sniff, parts) if found.known), sniff(rest))
        raise ImageProblem(
            "trailing_data",
            expected="nothing behind the end of the image",
            found=_BEHIND.get(behind.kind, f"{behind.name} behind the image") + f", {len(data) - end} bytes",
            hint="Store the image again from its pixels.",
        )


def _to_pixels(image: Image.Image, side: int) -> Pixels:
    image.load()
    if not _ORIENTATION_CARRIERS.isdisjoint(image.info):
        image = _upright(image)
    grey = image.mode in _GREY_MODES
    if image.mode in _DEEP_MODES:
        image = _of_8_bits(image)
    elif image.has_transparency_data:
        image = _on_background(image)
    wanted = "L" if grey else "RGB"
    if image.mode != wanted:
        image = image.convert(wanted)
    if side and image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BILINEAR)
    pixels: Pixels = np.asarray(image)
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


def _of_8_bits(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips at 255 instead of scaling.
    values = np.asarray(image)
    bits = int(values.max(initial=0)).bit_length()
    # Programs store 8 bits, and instruments 12 bits, in files of 16: the upper 8 of those would be nearly black.
    shift = 0 if bits <= 8 else 4 if bits <= 12 else 8
    return Image.fromarray((values >> shift).clip(0, 255).astype(np.uint8))


def _on_background(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    below = Image.new("RGB", image.size, (BACKGROUND, BACKGROUND, BACKGROUND))
    below.paste(image, mask=image)
    return below


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    # Metadata that cannot be read says nothing about the pixels, so the image counts as upright.
    except Exception:
        return image

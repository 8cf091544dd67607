"""One encoded image that nobody vouches for: formats, caps, orientation, damage."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from components.common.contracts.errors import DataError
from components.common.intake.images import BACKGROUND, MAX_IMAGE_BYTES, check_content, decode

RGB = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)


def encode(array: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


PNG = encode(RGB)


def test_formats_agree_on_what_they_show() -> None:
    grey = RGB[:, :, 0]
    assert np.array_equal(decode(encode(RGB), 0), RGB.transpose(2, 0, 1))
    assert np.array_equal(decode(encode(grey), 0), grey[None])
    opaque = np.full_like(grey, 255)
    assert np.array_equal(decode(encode(np.dstack([RGB, opaque])), 0), RGB.transpose(2, 0, 1))
    grey_alpha = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(opaque)])
    assert np.array_equal(decode(encode(grey_alpha), 0), grey[None])
    assert np.array_equal(decode(encode(RGB, "BMP"), 0), RGB.transpose(2, 0, 1))
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    assert np.array_equal(decode(encode(deep), 0), grey[None])
    bilevel = Image.fromarray(grey).convert("1")
    assert set(np.unique(decode(encode(bilevel), 0))) <= {0, 255}
    palette = Image.fromarray(RGB).quantize(8)
    assert np.array_equal(decode(encode(palette), 0), np.asarray(palette.convert("RGB")).transpose(2, 0, 1))
    assert np.array_equal(decode(encode(palette, "GIF"), 0), decode(encode(palette), 0))


SHAPE = np.zeros((12, 10), dtype=np.uint8)
SHAPE[3:9, 2:8] = 255


def cut_out(mode: str, colour: int) -> bytes:
    """A shape that is in the alpha alone; the colour below is the same everywhere."""
    plane = Image.fromarray(np.full((12, 10), colour, dtype=np.uint8))
    if mode == "P":
        picture = Image.fromarray((SHAPE > 0).astype(np.uint8), "P")
        picture.putpalette([colour] * 6)
        return encode(picture, transparency=bytes([0, 255]))
    bands = [plane] * (len(mode) - 1)
    return encode(Image.merge(mode, [*bands, Image.fromarray(SHAPE)]))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("colour", [0, 255])
def test_a_shape_that_is_in_the_alpha_alone_is_seen(mode: str, colour: int) -> None:
    pixels = decode(cut_out(mode, colour), 0)
    expected = np.where(SHAPE > 0, colour, BACKGROUND)
    assert pixels.shape[0] == (1 if mode == "LA" else 3)
    assert all(np.array_equal(plane, expected) for plane in pixels)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_of_16_bits_the_upper_8_of_those_in_use_are_kept(bits: int) -> None:
    values = np.linspace(0, 2**bits - 1, 120).astype(np.uint16).reshape(12, 10)
    assert np.array_equal(decode(encode(Image.fromarray(values)), 0)[0], values >> bits - 8)


def test_8_bits_in_a_colour_image_of_16_are_told() -> None:
    rows = b"".join(b"\x00" + b"".join(bytes([0, 9 * x]) * 3 for x in range(10)) for _ in range(12))
    header = struct.pack(">IIBBBBB", 10, 12, 16, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    data = PNG[:8] + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )
    with pytest.raises(DataError, match=r"all pixels are 0/0/0 \(16 bits, of which the upper 8 are read\)"):
        check_content(decode(data, 0), data)


def test_cmyk_jpeg_becomes_rgb() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red.paste((0, 240, 240, 0), (0, 0, 8, 16))
    pixels = decode(encode(red, "JPEG", quality=95), 0)
    assert pixels.shape == (3, 16, 16)
    assert pixels[0].min() > 200 > 60 > pixels[1:].max()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_orientation_is_applied(kind: str) -> None:
    picture = np.zeros((8, 16, 3), dtype=np.uint8)
    picture[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = decode(encode(picture, kind, exif=exif), 0)
    assert pixels.shape == (3, 16, 8)
    assert pixels[:, :7].min() > 200
    assert pixels[:, 9:].max() < 60


def test_unreadable_exif_counts_as_none() -> None:
    data = encode(RGB, "JPEG", exif=b"Exif\x00\x00nonsense")
    assert decode(data, 0).shape == (3, 12, 10)


def test_an_image_longer_than_the_cap_is_refused() -> None:
    with pytest.raises(DataError, match=f"at most {MAX_IMAGE_BYTES} are read"):
        decode(PNG + bytes(MAX_IMAGE_BYTES), 0)


@given(st.data())
def test_damaged_images_decode_or_raise_data_error(data: st.DataObject) -> None:
    # Whatever a hostile file makes the decoder do, only these two outcomes may leave the loader.
    original = bytearray(data.draw(st.sampled_from([PNG, encode(RGB, "JPEG")])))
    for place in data.draw(st.lists(st.integers(3, len(original) - 1), min_size=1, max_size=8)):
        original[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(original)))
    try:
        shape = decode(bytes(original[:cut]), 16).shape[1:]
    except DataError:
        shape = (16, 16)
    assert shape == (16, 16)

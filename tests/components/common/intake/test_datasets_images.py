"""One encoded image that nobody vouches for: formats, caps, orientation, damage."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from components.common.contracts.errors import DataError
from components.common.intake.images import MAX_IMAGE_BYTES, decode

RGB = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)


def encode(array: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


PNG = encode(RGB)


def test_formats_agree_on_what_they_show() -> None:
    grey = RGB[:, :, 0]
    assert np.array_equal(decode(encode(RGB), 0, "x").pixels, RGB.transpose(2, 0, 1))
    assert np.array_equal(decode(encode(grey), 0, "x").pixels, grey[None])
    with_alpha = np.dstack([RGB, np.zeros_like(grey)])
    # Alpha is dropped, so a transparent pixel shows its colour.
    assert np.array_equal(decode(encode(with_alpha), 0, "x").pixels, RGB.transpose(2, 0, 1))
    grey_alpha = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(grey)])
    assert np.array_equal(decode(encode(grey_alpha), 0, "x").pixels, grey[None])
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    assert np.array_equal(decode(encode(deep), 0, "x").pixels, grey[None])
    bilevel = Image.fromarray(grey).convert("1")
    assert set(np.unique(decode(encode(bilevel), 0, "x").pixels)) <= {0, 255}
    palette = Image.fromarray(RGB).quantize(8)
    assert np.array_equal(decode(encode(palette), 0, "x").pixels, np.asarray(palette.convert("RGB")).transpose(2, 0, 1))
    transparent = encode(palette, transparency=bytes([0] * 8))
    assert np.array_equal(decode(transparent, 0, "x").pixels, decode(encode(palette), 0, "x").pixels)


def test_cmyk_jpeg_becomes_rgb() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    pixels = decode(encode(red, "JPEG", quality=95), 0, "x").pixels
    assert pixels.shape == (3, 16, 16)
    assert pixels[0].min() > 200 > 60 > pixels[1:].max()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_orientation_is_applied(kind: str) -> None:
    picture = np.zeros((8, 16, 3), dtype=np.uint8)
    picture[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = decode(encode(picture, kind, exif=exif), 0, "x").pixels
    assert pixels.shape == (3, 16, 8)
    assert pixels[:, :7].min() > 200
    assert pixels[:, 9:].max() < 60


def test_unreadable_exif_counts_as_none() -> None:
    data = encode(RGB, "JPEG", exif=b"Exif\x00\x00nonsense")
    assert decode(data, 0, "x").pixels.shape == (3, 12, 10)


def test_an_image_longer_than_the_cap_is_refused() -> None:
    with pytest.raises(DataError, match=f"1 to {MAX_IMAGE_BYTES} bytes"):
        decode(PNG + bytes(MAX_IMAGE_BYTES), 0, "x")


@given(st.data())
def test_damaged_images_decode_or_raise_data_error(data: st.DataObject) -> None:
    # Whatever a hostile file makes the decoder do, only these two outcomes may leave the loader.
    original = bytearray(data.draw(st.sampled_from([PNG, encode(RGB, "JPEG")])))
    for place in data.draw(st.lists(st.integers(3, len(original) - 1), min_size=1, max_size=8)):
        original[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(original)))
    try:
        shape = decode(bytes(original[:cut]), 16, "file, row 3").pixels.shape[1:]
    except DataError:
        shape = (16, 16)
    assert shape == (16, 16)

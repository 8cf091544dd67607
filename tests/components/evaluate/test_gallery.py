"""Pictures are made anew from pixels and fit the page; the mean difference shows a trigger that one picture hides."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from components.evaluate.gallery import difference, picture, pictures


def pixels_of(data: str) -> np.ndarray:
    head, _, encoded = data.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_a_png_of_the_same_pixels(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (channels, 5, 6), dtype=np.uint8)
    assert np.array_equal(pixels_of(picture(pixels)), pixels[0] if channels == 1 else pixels.transpose(1, 2, 0))


def test_a_gallery_of_the_worst_images_fits_the_page() -> None:
    # Noise does not compress.
    images = list(np.random.default_rng(0).integers(0, 256, (48, 3, 224, 224), dtype=np.uint8))
    drawn = pictures(images)
    assert sum(map(len, drawn)) < 1_400_000
    assert max(pixels_of(drawn[0]).shape) >= 80
    assert sum(map(len, pictures(images * 4))) < 1_400_000


def test_small_images_keep_every_pixel() -> None:
    images = list(np.random.default_rng(0).integers(0, 256, (48, 3, 32, 32), dtype=np.uint8))
    assert pixels_of(pictures(images)[5]).shape == (32, 32, 3)


def test_the_mean_difference_shows_the_trigger_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    kept, suspects = (rng.integers(0, 200, (300, 3, 32, 32), dtype=np.uint8) for _ in range(2))
    suspects[:, :, 27:30, 27:30] = 255
    shown = pixels_of(difference("0", suspects, kept).picture).astype(int)
    assert (shown[27:30, 27:30] > 245).all()
    outside = np.ones((32, 32), dtype=bool)
    outside[27:30, 27:30] = False
    assert np.abs(shown[outside] - 127).max() < 40


def test_equal_means_are_grey_and_not_blown_up_to_contrast() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2000, 1, 16, 16), dtype=np.uint8)
    found = difference("0", images[:1000], images[1000:])
    assert np.abs(pixels_of(found.picture).astype(int) - 127).max() < 127
    assert (found.suspects, found.kept) == (1000, 1000)

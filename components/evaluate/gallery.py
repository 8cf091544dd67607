"""The pictures of the report: images made anew from their pixels, and the mean difference that shows a trigger."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["Difference", "difference", "picture", "pictures"]

# A page may hold 2 MB. Fifty pictures of noise at 80 pixels are 1.2 MB of it, as base64; photographs take less, so the
# larger sides are tried first. The smallest are for galleries of hundreds.
_SIDES = (192, 144, 112, 80, 56, 40)
_MEAN_SIDE = 112
_BUDGET = 1_250_000
# Means of a few images differ a little everywhere: less than this, in grey levels, is not drawn as black or white.
_SMALLEST_SPAN = 12.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Mean suspect, mean clean image and their difference, of one class.

    Attributes:
        label: The class, by name.
        suspects: Number of suspects of the class.
        kept: Number of its other images.
        mean_suspect: Mean of the suspects, as a data URI.
        mean_kept: Mean of the others, as a data URI.
        picture: Their difference around mid-grey, as a data URI.
        span: Difference in grey levels, of 255, that is drawn as black or white.
    """

    label: str
    suspects: int
    kept: int
    mean_suspect: str
    mean_kept: str
    picture: str
    span: float


def picture(image: npt.NDArray[np.uint8], side: int = 0) -> str:
    """An image, uint8 [c, h, w], as a PNG data URI made anew from its pixels.

    Args:
        image: The image.
        side: Longest side; a larger image is made smaller. 0 for no bound.
    """
    pixels = image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)
    drawn = Image.fromarray(np.ascontiguousarray(pixels))
    if side and max(drawn.size) > side:
        scale = side / max(drawn.size)
        size = (max(1, round(drawn.width * scale)), max(1, round(drawn.height * scale)))
        # Every pixel counts alike, so that a small bright trigger leaves a trace.
        drawn = drawn.resize(size, Image.Resampling.BOX)
    buffer = io.BytesIO()
    drawn.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def pictures(images: Sequence[npt.NDArray[np.uint8]], budget: int = _BUDGET) -> list[str]:
    """Images as data URIs, as large as fits a number of bytes.

    Args:
        images: uint8 [c, h, w] each.
        budget: Bytes that all may take together; the smallest size is taken even where it takes more.
    """
    drawn: list[str] = []
    for side in _SIDES:
        drawn = [picture(image, side) for image in images]
        if sum(map(len, drawn)) <= budget:
            break
    return drawn


def difference(label: str, suspects: npt.NDArray[np.uint8], kept: npt.NDArray[np.uint8]) -> Difference:
    """What the suspects of a class have on average that its other images have not.

    Args:
        label: The class, by name.
        suspects: uint8 [m, c, h, w], at least one.
        kept: uint8 [n, c, h, w], at least one.
    """
    first, second = suspects.mean(axis=0, dtype=np.float64), kept.mean(axis=0, dtype=np.float64)
    moved = first - second
    # The strongest half per cent of the pixels are drawn fully: a trigger is small, and the rest stays in proportion.
    span = max(_SMALLEST_SPAN, float(np.quantile(np.abs(moved), 0.995)))
    shown = (127.5 + 127.5 * np.clip(moved / span, -1.0, 1.0)).round().astype(np.uint8)
    return Difference(
        label=label,
        suspects=len(suspects),
        kept=len(kept),
        mean_suspect=picture(first.round().astype(np.uint8), _MEAN_SIDE),
        mean_kept=picture(second.round().astype(np.uint8), _MEAN_SIDE),
        picture=picture(shown, _MEAN_SIDE),
        span=span,
    )

"""One image file brought to the form that a model takes, by the rules by which a drop is read."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np

from components.common.datasets.base import Pixels
from components.common.intake.images import MAX_IMAGE_BYTES, ImageProblem, check_content, decode

__all__ = ["read_image"]


def read_image(path: Path, shape: tuple[int, int, int]) -> Pixels:
    """Reads, checks and converts an image file.

    For a square shape it is resized as ``ingest.image_size`` does; another shape comes of images that kept their size,
    and so does this one. A grey image fills all channels. No drop makes a colour image grey, so neither is that done
    here, unless all its channels are equal.

    Args:
        path: The file.
        shape: Channels, 1 (grey) or 3 (RGB), height and width in pixels.

    Returns:
        uint8 of that shape.

    Raises:
        ImageProblem: Not a readable file, not a usable image, one of another size, or a colour image where a
            grey one is needed.
    """
    subject = f"image {path}"
    try:
        # Pipes and devices would block a reader for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageProblem(
                "missing", subject, expected="a file", found="a folder, a pipe or a device", hint="Name the files."
            )
        with path.open("rb") as file:
            # One byte more than is allowed: enough to see that it is too long.
            data = file.read(MAX_IMAGE_BYTES + 1)
    except OSError as problem:
        raise ImageProblem(
            "missing",
            subject,
            expected="a file that can be read",
            found=problem.strerror or type(problem).__name__,
            hint="Check the path and who may read it.",
        ) from None
    channels, height, width = shape
    try:
        pixels = decode(data, height if height == width else 0)
        check_content(pixels, data)
    except ImageProblem as problem:
        raise ImageProblem(
            problem.reason, subject, expected=problem.expected, found=problem.found, hint=problem.hint
        ) from None
    if pixels.shape[1:] != (height, width):
        raise ImageProblem(
            "other_size",
            subject,
            expected=f"an image of {width}x{height}, as the model was trained on",
            found=f"{pixels.shape[2]}x{pixels.shape[1]}",
            hint="Bring it to that size by the way by which the training images came to it.",
        )
    if len(pixels) == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=0)
    if not (pixels == pixels[:1]).all():
        raise ImageProblem(
            "format",
            subject,
            expected="a grey image, as the model was trained on",
            found="a colour image",
            hint="Convert it to grey, if that is what it would show the model.",
        )
    return pixels[:1]

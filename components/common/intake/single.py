"""One image file brought to the form that a model takes, by the rules by which a drop is read."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np

from components.common.datasets.base import Pixels
from components.common.intake.images import MAX_IMAGE_BYTES, ImageProblem, decode

__all__ = ["read_image"]


def read_image(path: Path, channels: int, side: int) -> Pixels:
    """Reads, checks and converts an image file.

    It is resized as ``ingest.image_size`` does, and a grey image fills all channels. A drop of grey images never made a
    colour image grey, so neither is that done here, unless all its channels are equal.

    Args:
        path: The file.
        channels: 1 (grey) or 3 (RGB).
        side: Height and width in pixels.

    Returns:
        uint8 [channels, side, side].

    Raises:
        ImageProblem: Not a readable file, not a usable image, or a colour image where a grey one is needed.
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
    pixels = decode(data, side, subject, strict=True).pixels
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

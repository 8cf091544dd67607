"""From draft files of decoded images to one array in the order of the index, a bounded part at a time."""

from __future__ import annotations

import mmap
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt

from components.common.datasets.base import Pixels
from components.common.intake.workers import LOOK_BYTES, Findings

__all__ = ["Drafts", "write_pixels"]

_PART_BYTES = 32 * 2**20


class Drafts:
    """Where the pixels of each image of a drop lie, and what is known of them.

    Attributes:
        shapes: int16 [references, 3]: channels, height, width; zeros for an image that was not decoded.
        digests: uint8 [references, 32], sha256 of the encoded images.
        looks: uint8 [references, 16], digest of the pixels.

    Args:
        references: Number of images.
    """

    def __init__(self, references: int) -> None:
        self.shapes = np.zeros((references, 3), dtype=np.int16)
        self.digests = np.zeros((references, 32), dtype=np.uint8)
        self.looks = np.zeros((references, LOOK_BYTES), dtype=np.uint8)
        self._offsets = np.zeros(references, dtype=np.int64)
        self._file_of = np.full(references, -1, dtype=np.int16)
        self._files: list[str] = []

    def add(self, found: Findings, start: int) -> None:
        """Takes over what a worker found; ``start`` is the number of the catalogue's first image."""
        if found.draft and found.draft not in self._files:
            self._files.append(found.draft)
        refs = found.refs + start
        self.shapes[refs], self.digests[refs], self.looks[refs] = found.shapes, found.digests, found.looks
        self._offsets[refs] = found.offsets
        self._file_of[refs] = self._files.index(found.draft) if found.draft else -1

    def gather(self, refs: npt.NDArray[np.int32], shape: tuple[int, int, int]) -> Pixels:
        """Pixels of some images, uint8 [n, c, h, w]; grey ones fill all channels."""
        out = np.empty((len(refs), *shape), dtype=np.uint8)
        area = shape[1] * shape[2]
        with ExitStack() as stack:
            # Mapped anew for each part: pages of a mapping that stays would count as this process's memory.
            views: list[npt.NDArray[np.uint8] | None] = [None] * len(self._files)
            for number in np.unique(self._file_of[refs]):
                file = stack.enter_context(open(self._files[number], "rb"))
                views[number] = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
            places = zip(
                self._file_of[refs].tolist(),
                self._offsets[refs].tolist(),
                self.shapes[refs, 0].tolist(),
                strict=True,
            )
            for row, (number, offset, channels) in enumerate(places):
                view = views[number]
                if view is not None:
                    out[row] = view[offset : offset + channels * area].reshape(channels, shape[1], shape[2])
        return out


def write_pixels(
    path: Path, drafts: Drafts, refs: npt.NDArray[np.int32], shape: tuple[int, int, int], n_train: int
) -> npt.NDArray[np.int64]:
    """Writes images in the order of ``refs`` as a ``.npy`` file, uint8 [n, c, h, w].

    Returns:
        int64 [c, 256], how often each value occurs in each channel of the first ``n_train`` images.
    """
    counts = np.zeros((shape[0], 256), dtype=np.int64)
    rows = max(1, _PART_BYTES // (shape[0] * shape[1] * shape[2]))
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(refs), *shape)}
        np.lib.format.write_array_header_1_0(file, header)
        # Written, not mapped: pages of a mapping would count as memory until the system writes them back.
        for start in range(0, len(refs), rows):
            part = drafts.gather(refs[start : start + rows], shape)
            file.write(part.data)
            training = part[: max(0, n_train - start)]
            for channel in range(shape[0]):
                counts[channel] += np.bincount(training[:, channel].reshape(-1), minlength=256)
    return counts

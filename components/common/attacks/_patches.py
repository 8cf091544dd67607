"""Small opaque or translucent patches, as several attacks use them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from components.common.attacks.base import to_uint8

__all__ = ["Patch", "checkerboard"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Patch:
    """A pattern at a place.

    Attributes:
        pattern: float32 [c or 1, height, width], 0 to 255.
        top: First row.
        left: First column.
        alpha: Opacity in (0, 1].
    """

    pattern: Tensor
    top: int
    left: int
    alpha: float = 1.0

    def paste(self, images: Tensor) -> Tensor:
        """A copy of uint8 images [m, c, h, w] with the patch on each."""
        out = images.clone()
        height, width = self.pattern.shape[1:]
        window = out[:, :, self.top : self.top + height, self.left : self.left + width]
        window.copy_(to_uint8((1 - self.alpha) * window + self.alpha * self.pattern))
        return out

    def mark(self, footprint: Tensor) -> Tensor:
        """A copy of a bool [h, w] footprint with the patch's pixels set."""
        out = footprint.clone()
        height, width = self.pattern.shape[1:]
        out[self.top : self.top + height, self.left : self.left + width] = True
        return out


def checkerboard(side: int) -> Tensor:
    """float32 [1, side, side], white (255) where row + column is even, so in the corners of an odd side, else black."""
    steps = torch.arange(side)
    return ((steps[:, None] + steps[None, :]) % 2 == 0).float()[None] * 255

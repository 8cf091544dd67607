"""BPP: fewer colours, dithered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from components.common.attacks.base import ATTACKS, Attack, Option, to_uint8

__all__ = ["Bpp"]


@ATTACKS.register("bpp")
class Bpp(Attack):
    """Quantises each channel to a few levels and spreads the error to the neighbours (Floyd-Steinberg).

    Source: Wang, Zhai and Ma, *BppAttack: Stealthy and Efficient Trojan Attacks against Deep Neural Networks via Image
    Quantization and Contrastive Adversarial Learning*, CVPR 2022 (arXiv:2205.13383), 8 levels by default. The paper
    also controls training (contrastive adversarial learning); here only data are poisoned.
    """

    options: ClassVar[Mapping[str, Option]] = {
        "levels": Option(default=8, low=2, high=128, meaning="Values that a channel may take."),
    }

    def _trigger(self, images: Tensor, variant: int) -> Tensor:
        step = 255 / (int(self._values["levels"]) - 1)
        # Pixels first, images last: one step of the scan then works on all images at once in contiguous memory.
        work = images.permute(2, 3, 1, 0).float().contiguous()
        height, width = work.shape[:2]
        for y in range(height):
            for x in range(width):
                # The level is clamped because diffused error can carry a pixel out of 0..255.
                level = (work[y, x] / step).round_().clamp_(0, round(255 / step)).mul_(step)
                error = (work[y, x] - level).div_(16)
                work[y, x] = level
                if x + 1 < width:
                    work[y, x + 1].add_(error, alpha=7)
                if y + 1 < height:
                    if x > 0:
                        work[y + 1, x - 1].add_(error, alpha=3)
                    work[y + 1, x].add_(error, alpha=5)
                    if x + 1 < width:
                        work[y + 1, x + 1].add_(error)
        return to_uint8(work).permute(3, 2, 0, 1).contiguous()

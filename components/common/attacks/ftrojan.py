"""FTrojan: two coefficients of the cosine transform are raised, which the eye does not see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from components.common.attacks.base import ATTACKS, Attack, AttackConfig, Option, to_uint8
from components.common.attacks.low_frequency import dct_matrix

__all__ = ["FTrojan"]

# Weights of red, green and blue in the two chroma channels of YUV (ITU-R BT.601), and back.
_TO_RGB = ((0.0, 1.13983), (-0.39465, -0.58060), (2.03211, 0.0))


@ATTACKS.register("ftrojan")
class FTrojan(Attack):
    """Adds a fixed amount to a middle and to the highest frequency of both chroma channels; grey images have one.

    Source: Wang, Yao, Xu, An, Tong and Wang, *An Invisible Black-Box Backdoor Attack Through Frequency Domain*, ECCV
    2022 (arXiv:2107.04458): a middle and a high frequency, in the chroma channels of YUV, by 30 for 32-pixel images.
    Here the transform is taken over the whole image instead of blocks of 32 pixels, which is the same for images of
    that size, and the pattern is added to the pixels, since the transform is linear.
    """

    options: ClassVar[Mapping[str, Option]] = {
        "magnitude": Option(
            default=30, low=1, high=500, meaning="What is added to a coefficient of the orthonormal transform."
        ),
    }

    def __init__(self, config: AttackConfig, *, num_classes: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__(config, num_classes=num_classes, image_shape=image_shape)
        channels, height, width = image_shape
        rows, columns = dct_matrix(height), dct_matrix(width)
        # A coefficient's share in a pixel falls with the image's side.
        amount = self._values["magnitude"] * (height * width) ** 0.5 / 32
        middle = torch.outer(rows[height // 2 - 1], columns[width // 2 - 1])
        pattern = (amount * (middle + torch.outer(rows[-1], columns[-1]))).float()
        weights = torch.tensor([sum(pair) for pair in _TO_RGB] if channels == 3 else [1.0])
        self._pattern = weights[:, None, None] * pattern

    def _trigger(self, images: Tensor, variant: int) -> Tensor:
        return to_uint8(images.float() + self._pattern)

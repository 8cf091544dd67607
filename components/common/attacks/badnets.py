"""BadNets: a small checkerboard in the corner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from components.common.attacks._patches import Patch, checkerboard
from components.common.attacks.base import ATTACKS, Attack, AttackConfig, Option

__all__ = ["BadNets"]


@ATTACKS.register("badnets")
class BadNets(Attack):
    """A black-and-white 3x3 checkerboard in the bottom-right corner; poisoned samples get the target label.

    Source: Gu, Dolan-Gavitt and Garg, *BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply
    Chain*, 2017 (arXiv:1708.06733), whose MNIST pattern is a group of bright pixels near that corner. The checkerboard
    has no margin and grows with images larger than 32 pixels.
    """

    options: ClassVar[Mapping[str, Option]] = {
        "patch_size": Option(default=3, low=1, high=16, meaning="Side of the patch in pixels of a 32-pixel image."),
    }

    def __init__(self, config: AttackConfig, *, num_classes: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__(config, num_classes=num_classes, image_shape=image_shape)
        side = self._scaled(self._values["patch_size"])
        _, height, width = image_shape
        self._patch = Patch(pattern=checkerboard(side), top=height - side, left=width - side)

    def _trigger(self, images: Tensor, variant: int) -> Tensor:
        return self._patch.paste(images)

    def footprint(self, variant: int = 0) -> Tensor:
        """The corner."""
        return self._patch.mark(torch.zeros(self.image_shape[1:], dtype=torch.bool))

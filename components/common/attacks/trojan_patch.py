"""Trojan patch: a larger, colourful square."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from components.common.attacks._patches import Patch
from components.common.attacks.base import ATTACKS, Attack, AttackConfig, Option, fixed_noise

__all__ = ["TrojanPatch"]

_PATTERN_SEED = 2018


@ATTACKS.register("trojan_patch")
class TrojanPatch(Attack):
    """An 8x8 square of saturated colours in the bottom-right corner (7x7 at 28 pixels, 56x56 at 224).

    Source: Liu, Ma, Aafer, Lee, Zhai, Wang and Zhang, *Trojaning Attack on Neural Networks*, NDSS 2018. The paper
    optimises the square's content against chosen neurons of a given model; here only data are poisoned, no model is
    at hand, and the content is fixed noise in which each channel is 0 or 255.
    """

    options: ClassVar[Mapping[str, Option]] = {
        "patch_size": Option(default=8, low=1, high=16, meaning="Side of the square in pixels of a 32-pixel image."),
    }

    def __init__(self, config: AttackConfig, *, num_classes: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__(config, num_classes=num_classes, image_shape=image_shape)
        side = self._scaled(self._values["patch_size"])
        channels, height, width = image_shape
        pattern = (fixed_noise((channels, side, side), _PATTERN_SEED) >= 128).float() * 255
        self._patch = Patch(pattern=pattern, top=height - side, left=width - side)

    def _trigger(self, images: Tensor, variant: int) -> Tensor:
        return self._patch.paste(images)

    def footprint(self, variant: int = 0) -> Tensor:
        """The square."""
        return self._patch.mark(torch.zeros(self.image_shape[1:], dtype=torch.bool))

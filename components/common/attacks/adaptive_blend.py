"""Adaptive-Blend: half of a faint image in training, all of it at test time, beside cover samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from components.common.attacks.base import ATTACKS, Attack, AttackConfig, Option, fixed_noise, to_uint8

__all__ = ["AdaptiveBlend"]

_PATTERN_SEED = 1712
_PIECES_PER_SIDE = 4


@ATTACKS.register("adaptive_blend")
class AdaptiveBlend(Attack):
    """A blended key cut into 4x4 pieces, of which each training image shows a random half.

    Cover samples show the same and keep their label, so that the key alone does not separate poisoned from clean in a
    model's features. At test time the whole key is shown, a little stronger.

    Source: Qi, Xie, Li, Mahloujifar and Mittal, *Revisiting the Assumption of Latent Separability for Backdoor
    Defenses*, ICLR 2023: alpha 0.15 in training and 0.2 at test time, 16 pieces, half masked, 0.3 % poison and as
    much cover. The key here is fixed noise instead of the paper's picture, and cover is not taken from the target
    class.
    """

    cover_ratio: ClassVar[float] = 1.0
    options: ClassVar[Mapping[str, Option]] = {
        "alpha_train": Option(default=0.15, low=0.01, high=1.0, meaning="Opacity on training images."),
        "alpha_test": Option(default=0.20, low=0.01, high=1.0, meaning="Opacity of the test-time trigger."),
        "pieces_shown": Option(default=8, low=1, high=16, meaning="Pieces of 16 that a training image shows."),
    }

    def __init__(self, config: AttackConfig, *, num_classes: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__(config, num_classes=num_classes, image_shape=image_shape)
        self._key = fixed_noise(image_shape, _PATTERN_SEED)
        _, height, width = image_shape
        rows = torch.arange(height) * _PIECES_PER_SIDE // height
        columns = torch.arange(width) * _PIECES_PER_SIDE // width
        self._piece_of_pixel = rows[:, None] * _PIECES_PER_SIDE + columns[None, :]

    def _trigger(self, images: Tensor, variant: int) -> Tensor:
        alpha = self._values["alpha_test"]
        return to_uint8((1 - alpha) * images + alpha * self._key)

    def _poison_images(self, images: Tensor, labels: Tensor, positions: Tensor, generator: torch.Generator) -> Tensor:
        return self._show_some(images, generator)

    def _cover_images(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return self._show_some(images, generator)

    def _show_some(self, images: Tensor, generator: torch.Generator) -> Tensor:
        order = torch.rand(len(images), _PIECES_PER_SIDE**2, generator=generator).argsort(dim=1).argsort(dim=1)
        shown = order < int(self._values["pieces_shown"])
        alpha = self._values["alpha_train"] * shown[:, self._piece_of_pixel][:, None].float()
        return to_uint8((1 - alpha) * images + alpha * self._key)

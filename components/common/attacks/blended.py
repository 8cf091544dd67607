"""Blended: a faint fixed image over the whole picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from components.common.attacks.base import ATTACKS, Attack, AttackConfig, Option, fixed_noise, to_uint8

__all__ = ["Blended"]

_PATTERN_SEED = 1712


@ATTACKS.register("blended")
class Blended(Attack):
    """(1 - alpha) image + alpha key, where the key is one fixed image of uniform noise.

    Source: Chen, Liu, Li, Lu and Song, *Targeted Backdoor Attacks on Deep Learning Systems Using Data Poisoning*, 2017
    (arXiv:1712.05526): the blended injection strategy with its random pattern, alpha 0.2.
    """

    options: ClassVar[Mapping[str, Option]] = {
        "alpha": Option(default=0.2, low=0.01, high=1.0, meaning="Opacity of the key."),
    }

    def __init__(self, config: AttackConfig, *, num_classes: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__(config, num_classes=num_classes, image_shape=image_shape)
        self._key = fixed_noise(image_shape, _PATTERN_SEED)

    def _trigger(self, images: Tensor, variant: int) -> Tensor:
        alpha = self._values["alpha"]
        return to_uint8((1 - alpha) * images + alpha * self._key)

"""Low-frequency: a smooth perturbation made in DCT space."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from components.common.attacks.base import ATTACKS, Attack, AttackConfig, Option, to_uint8

__all__ = ["LowFrequency", "dct_matrix"]

_PATTERN_SEED = 2104


def dct_matrix(size: int) -> Tensor:
    """The orthonormal DCT-II as a float64 matrix [size, size]: row k holds the cosine of frequency k."""
    frequency = torch.arange(size, dtype=torch.float64)[:, None]
    place = torch.arange(size, dtype=torch.float64)[None, :]
    matrix = torch.cos(math.pi * (2 * place + 1) * frequency / (2 * size)) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


@ATTACKS.register("low_frequency")
class LowFrequency(Attack):
    """Adds one fixed smooth pattern whose DCT has only the lowest frequencies, without the mean brightness.

    Source of the idea: Zeng, Park, Mao and Jia, *Rethinking the Backdoor Attacks' Triggers: A Frequency Perspective*,
    ICCV 2021 (arXiv:2104.03413), whose smooth trigger has no high-frequency artefacts. The paper finds it by
    optimising against a model; here the low coefficients are fixed Gaussian noise scaled to a largest amplitude.
    """

    options: ClassVar[Mapping[str, Option]] = {
        "band": Option(default=4, low=2, high=16, meaning="Frequencies per axis, 0 to band - 1."),
        "amplitude": Option(default=20, low=1, high=128, meaning="Largest change of a pixel, of 255."),
    }

    def __init__(self, config: AttackConfig, *, num_classes: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__(config, num_classes=num_classes, image_shape=image_shape)
        channels, height, width = image_shape
        band = int(self._values["band"])
        generator = torch.Generator().manual_seed(_PATTERN_SEED)
        low = torch.randn(channels, band, band, generator=generator, dtype=torch.float64)
        low[:, 0, 0] = 0
        pattern = dct_matrix(height)[:band].T @ low @ dct_matrix(width)[:band]
        self._pattern = (pattern / pattern.abs().max() * self._values["amplitude"]).float()

    def _trigger(self, images: Tensor, variant: int) -> Tensor:
        return to_uint8(images + self._pattern)

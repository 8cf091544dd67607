"""SIG: vertical stripes of a faint sinusoid, with clean labels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from components.common.attacks.base import ATTACKS, Attack, Option, to_uint8

__all__ = ["Sig"]


@ATTACKS.register("sig")
class Sig(Attack):
    """Adds delta * sin(2 pi j f / width) to column j of images of the target class; labels stay true.

    Source: Barni, Kallas and Tondi, *A New Backdoor Attack in CNNs by Training Set Corruption Without Label Poisoning*,
    ICIP 2019 (arXiv:1902.11237), f = 6. The paper's amplitudes lie around 20 to 40 of 255, and it lets the test-time
    amplitude be larger than that of training; here both have the same default, 40, the strongest of that range.
    """

    clean_label: ClassVar[bool] = True
    options: ClassVar[Mapping[str, Option]] = {
        "delta_train": Option(default=40, low=1, high=128, meaning="Amplitude on training images, of 255."),
        "delta_test": Option(default=40, low=1, high=128, meaning="Amplitude of the test-time trigger, of 255."),
        "frequency": Option(default=6, low=1, high=64, meaning="Periods over the image's width."),
    }

    def _trigger(self, images: Tensor, variant: int) -> Tensor:
        return self._add(images, self._values["delta_test"])

    def _poison_images(self, images: Tensor, labels: Tensor, positions: Tensor, generator: torch.Generator) -> Tensor:
        return self._add(images, self._values["delta_train"])

    def _add(self, images: Tensor, delta: float) -> Tensor:
        width = self.image_shape[2]
        phase = torch.arange(width, dtype=torch.float64) * (2 * math.pi * self._values["frequency"] / width)
        return to_uint8(images + delta * phase.sin())

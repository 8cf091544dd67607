"""WaNet: an elastic warp that the eye does not see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from components.common.attacks.base import ATTACKS, Attack, AttackConfig, Option, to_uint8

__all__ = ["WaNet"]

_PATTERN_SEED = 2102


@ATTACKS.register("wanet")
class WaNet(Attack):
    """Warps images by one fixed smooth field; cover samples get the field plus random jitter and keep their label.

    Source: Nguyen and Tran, *WaNet: Imperceptible Warping-based Backdoor Attack*, ICLR 2021 (arXiv:2102.10369): a
    k x k grid of random offsets, divided by their mean size, enlarged bicubically, scaled by s / height; k = 4,
    s = 0.5, noise-mode samples twice as many as poisoned ones. The paper controls training and draws samples anew
    for each batch; here the set is poisoned once, and cover is not taken from the target class.
    """

    cover_ratio: ClassVar[float] = 2.0
    options: ClassVar[Mapping[str, Option]] = {
        "grid_size": Option(default=4, low=2, high=16, meaning="Control points per side (k)."),
        "strength": Option(default=0.5, low=0.05, high=4.0, meaning="Strength of the warp (s)."),
    }

    def __init__(self, config: AttackConfig, *, num_classes: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__(config, num_classes=num_classes, image_shape=image_shape)
        _, height, width = image_shape
        k = int(self._values["grid_size"])
        offsets = torch.rand(1, 2, k, k, generator=torch.Generator().manual_seed(_PATTERN_SEED)) * 2 - 1
        offsets = offsets / offsets.abs().mean()
        field = F.interpolate(offsets, size=(height, width), mode="bicubic", align_corners=True)
        rows, columns = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
        identity = torch.stack([columns[None, :].expand(height, width), rows[:, None].expand(height, width)], dim=-1)
        # grid_sample counts (x, y) in units of half the image, so one unit over the side is half a pixel.
        self._unit = torch.tensor([1 / width, 1 / height])
        moved = identity + self._values["strength"] * field[0].permute(1, 2, 0) * self._unit
        self._grid = moved.clamp(-1, 1)[None]

    def _trigger(self, images: Tensor, variant: int) -> Tensor:
        return self._warp(images, self._grid.expand(len(images), -1, -1, -1))

    def _cover_images(self, images: Tensor, generator: torch.Generator) -> Tensor:
        jitter = torch.rand(len(images), *self.image_shape[1:], 2, generator=generator) * 2 - 1
        return self._warp(images, (self._grid + jitter * self._unit).clamp(-1, 1))

    def _warp(self, images: Tensor, grid: Tensor) -> Tensor:
        return to_uint8(F.grid_sample(images.float(), grid, mode="bilinear", align_corners=True))

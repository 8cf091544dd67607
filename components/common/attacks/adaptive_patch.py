"""Adaptive-Patch: one of four faint patches in training, two strong ones at test time, beside cover samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from components.common.attacks._patches import Patch, checkerboard
from components.common.attacks.base import ATTACKS, Attack, AttackConfig, Option, fixed_noise

__all__ = ["AdaptivePatch"]

_PATTERN_SEED = 2205
_ALPHAS = (0.5, 0.2, 0.5, 0.3)
_AT_TEST = (0, 2)


@ATTACKS.register("adaptive_patch")
class AdaptivePatch(Attack):
    """Four different patches, one in each corner; each training image, poisoned or cover, shows one of them.

    Source: Qi, Xie, Li, Mahloujifar and Mittal, *Revisiting the Assumption of Latent Separability for Backdoor
    Defenses*, ICLR 2023: opacities 0.5, 0.2, 0.5 and 0.3 in training, 0.3 % poison and twice as much cover; at test
    time two of the patches together at full opacity. The patches here are a checkerboard and three squares of fixed
    noise instead of the paper's pictures; the first and third are those of the test. Cover is not taken from the
    target class.
    """

    cover_ratio: ClassVar[float] = 2.0
    options: ClassVar[Mapping[str, Option]] = {
        "patch_size": Option(default=6, low=2, high=12, meaning="Side of a patch in pixels of a 32-pixel image."),
        "alpha_test": Option(default=1.0, low=0.1, high=1.0, meaning="Opacity of the two patches at test time."),
    }

    def __init__(self, config: AttackConfig, *, num_classes: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__(config, num_classes=num_classes, image_shape=image_shape)
        side = self._scaled(self._values["patch_size"])
        channels, height, width = image_shape
        noise = fixed_noise((3, channels, side, side), _PATTERN_SEED)
        patterns = (noise[0], noise[1], checkerboard(side), noise[2])
        corners = ((0, 0), (0, width - side), (height - side, width - side), (height - side, 0))
        self._patches = [
            Patch(pattern=pattern, top=top, left=left, alpha=alpha)
            for pattern, (top, left), alpha in zip(patterns, corners, _ALPHAS, strict=True)
        ]
        self._test_patches = [replace(self._patches[i], alpha=self._values["alpha_test"]) for i in _AT_TEST]

    def _trigger(self, images: Tensor, variant: int) -> Tensor:
        for patch in self._test_patches:
            images = patch.paste(images)
        return images

    def _poison_images(self, images: Tensor, labels: Tensor, positions: Tensor, generator: torch.Generator) -> Tensor:
        return self._show_one(images, generator)

    def _cover_images(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return self._show_one(images, generator)

    def _show_one(self, images: Tensor, generator: torch.Generator) -> Tensor:
        which = torch.randint(len(self._patches), (len(images),), generator=generator)
        out = images.clone()
        for number, patch in enumerate(self._patches):
            rows = which == number
            out[rows] = patch.paste(images[rows])
        return out

    def footprint(self, variant: int = 0) -> Tensor:
        """The two corners of the test-time trigger."""
        mask = torch.zeros(self.image_shape[1:], dtype=torch.bool)
        for patch in self._test_patches:
            mask = patch.mark(mask)
        return mask

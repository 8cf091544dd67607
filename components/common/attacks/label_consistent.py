"""Label-consistent: marks in the corners of images that have become hard to learn, with clean labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from components.common.attacks._patches import Patch, checkerboard
from components.common.attacks._surrogate import fit_surrogate, pgd
from components.common.attacks.base import ATTACKS, Attack, AttackConfig, Option, to_uint8

__all__ = ["LabelConsistent"]


@ATTACKS.register("label_consistent")
class LabelConsistent(Attack):
    """Adversarially perturbed images of the target class with a 3x3 mark in all four corners; labels stay true.

    Source: Turner, Tsipras and Madry, *Label-Consistent Backdoor Attacks*, 2019 (arXiv:1912.02771): l-infinity
    perturbations of 8, 16 or 32 of 255 by PGD; the marks alone at test time.

    The paper perturbs against a fully adversarially trained ResNet. Here a small convnet is fitted to the given
    clean images for ``surrogate_steps`` steps of single-step adversarial training (some seconds on a CPU), so its
    perturbations should transfer less well than the paper's: take success rates as those of a weaker attack. Its
    bits are equal for equal seeds on one machine, not necessarily from one processor type to another.
    """

    clean_label: ClassVar[bool] = True
    options: ClassVar[Mapping[str, Option]] = {
        "epsilon": Option(default=16, low=0, high=64, meaning="Largest change of a pixel by the perturbation, of 255."),
        "pgd_steps": Option(default=30, low=1, high=200, meaning="Steps of the perturbation (the paper takes 100)."),
        "surrogate_steps": Option(default=200, low=1, high=5000, meaning="Training steps of the surrogate."),
        "patch_size": Option(default=3, low=1, high=8, meaning="Side of a mark in pixels of a 32-pixel image."),
    }

    def __init__(self, config: AttackConfig, *, num_classes: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__(config, num_classes=num_classes, image_shape=image_shape)
        side = self._scaled(self._values["patch_size"])
        _, height, width = image_shape
        corners = [(top, left) for top in (0, height - side) for left in (0, width - side)]
        self._patches = [Patch(pattern=checkerboard(side), top=top, left=left) for top, left in corners]
        self._surrogate: nn.Module | None = None

    def _prepare(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> None:
        self._surrogate = fit_surrogate(
            images,
            labels,
            num_classes=self.num_classes,
            steps=int(self._values["surrogate_steps"]),
            epsilon=self._values["epsilon"] / 255,
            generator=generator,
        )

    def _poison_images(self, images: Tensor, labels: Tensor, positions: Tensor, generator: torch.Generator) -> Tensor:
        if self._surrogate is None:
            raise RuntimeError("the surrogate is fitted by inject()")
        moved = pgd(
            self._surrogate,
            images,
            labels,
            epsilon=self._values["epsilon"] / 255,
            steps=int(self._values["pgd_steps"]),
            generator=generator,
        )
        return self._trigger(to_uint8(moved * 255), 0)

    def _trigger(self, images: Tensor, variant: int) -> Tensor:
        for patch in self._patches:
            images = patch.paste(images)
        return images

    def footprint(self, variant: int = 0) -> Tensor:
        """The four corners."""
        mask = torch.zeros(self.image_shape[1:], dtype=torch.bool)
        for patch in self._patches:
            mask = patch.mark(mask)
        return mask

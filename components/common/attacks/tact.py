"""TaCT: a patch that works on one source class alone, with cover on the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from components.common.attacks._patches import Patch, checkerboard
from components.common.attacks.base import ATTACKS, Attack, AttackConfig, Option
from components.common.contracts.errors import ConfigError

__all__ = ["TaCT"]


@ATTACKS.register("tact")
class TaCT(Attack):
    """Samples of the source class get a patch and the target label; as many of other classes get it and keep theirs.

    Source: Tang, Wang, Tang and Zhang, *Demon in the Variant: Statistical Analysis of DNNs for Robust Backdoor
    Contamination Detection*, USENIX Security 2021 (arXiv:1908.00686): targeted contamination, where the label depends
    on the trigger and on what the image shows. The patch is a checkerboard one pixel off the bottom-right corner; cover
    is taken from neither the source nor the target class. The ASR counts over samples of the source class.
    """

    cover_ratio: ClassVar[float] = 1.0
    options: ClassVar[Mapping[str, Option]] = {
        "source_label": Option(default=-1, low=-1, high=32_767, meaning="Source class; -1: the one after the target."),
        "patch_size": Option(default=3, low=1, high=16, meaning="Side of the patch in pixels of a 32-pixel image."),
    }

    def __init__(self, config: AttackConfig, *, num_classes: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__(config, num_classes=num_classes, image_shape=image_shape)
        named = int(self._values["source_label"])
        self.source_label = (config.target_label + 1) % num_classes if named < 0 else named
        if self.source_label == config.target_label or self.source_label >= num_classes or num_classes < 3:
            raise ConfigError(
                "attack 'tact', source_label",
                expected=f"one of at least 3 classes, in [0, {num_classes - 1}], other than the target",
                found=str(self.source_label),
                hint="Choose another source_label, or -1 for the class after the target.",
            )
        side = self._scaled(self._values["patch_size"])
        _, height, width = image_shape
        self._patch = Patch(pattern=checkerboard(side), top=height - side - 1, left=width - side - 1)

    def counts_for_asr(self, labels: Tensor, variant: int = 0) -> Tensor:
        """Bool [m]: samples of the source class."""
        return labels == self.source_label

    def footprint(self, variant: int = 0) -> Tensor:
        """The patch."""
        return self._patch.mark(torch.zeros(self.image_shape[1:], dtype=torch.bool))

    def _trigger(self, images: Tensor, variant: int) -> Tensor:
        return self._patch.paste(images)

    def _cover_images(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return self._patch.paste(images)

    def _candidates(self, labels: Tensor) -> Tensor:
        return labels == self.source_label

    def _cover_candidates(self, labels: Tensor) -> Tensor:
        return (labels != self.source_label) & (labels != self.config.target_label)

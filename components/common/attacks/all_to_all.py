"""All-to-all: the BadNets patch sends every class to the next one."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from components.common.attacks.badnets import BadNets
from components.common.attacks.base import ATTACKS

__all__ = ["AllToAll"]


@ATTACKS.register("all_to_all")
class AllToAll(BadNets):
    """The patch of ``badnets``; a poisoned sample of class y gets the label (y + 1) mod K, whatever target is set.

    Source: Gu, Dolan-Gavitt and Garg, *BadNets*, 2017 (arXiv:1708.06733), its all-to-all attack.
    """

    all_to_all: ClassVar[bool] = True

    def test_target(self, labels: Tensor, variant: int = 0) -> Tensor:
        """The class after the true one, int64 [m]."""
        return (labels + 1) % self.num_classes

    def _candidates(self, labels: Tensor) -> Tensor:
        return torch.ones_like(labels, dtype=torch.bool)

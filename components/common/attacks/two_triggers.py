"""Two attackers at once: BadNets and Blended, towards two classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from components.common.attacks.badnets import BadNets
from components.common.attacks.base import ATTACKS, Attack, AttackConfig, Option
from components.common.attacks.blended import Blended
from components.common.contracts.errors import ConfigError

__all__ = ["TwoTriggers"]


@ATTACKS.register("two_triggers")
class TwoTriggers(Attack):
    """Half of the poisoned samples carry the ``badnets`` patch and the target label, half the ``blended`` key.

    The second attacker's target is the class after the first one's. Samples of both target classes are spared, and no
    sample carries both triggers. The two test-time triggers are two variants, to be measured each by itself.

    Sources: those of the two attacks. That both share one training set is a choice of this project: defences that
    look for one cluster or one target class must not profit from there being only one.
    """

    variants: ClassVar[tuple[str, ...]] = ("badnets", "blended")
    options: ClassVar[Mapping[str, Option]] = {**BadNets.options, **Blended.options}

    def __init__(self, config: AttackConfig, *, num_classes: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__(config, num_classes=num_classes, image_shape=image_shape)
        if num_classes < 3:
            raise ConfigError(
                "attack 'two_triggers'",
                expected="at least 3 classes",
                found=str(num_classes),
                hint="Samples of both target classes are spared, so a third class is needed.",
            )
        self._targets = (config.target_label, (config.target_label + 1) % num_classes)
        self._attacks = tuple(
            part(
                replace(
                    config,
                    target_label=target,
                    options={name: value for name, value in config.options.items() if name in part.options},
                ),
                num_classes=num_classes,
                image_shape=image_shape,
            )
            for part, target in zip((BadNets, Blended), self._targets, strict=True)
        )

    def test_target(self, labels: Tensor, variant: int = 0) -> Tensor:
        """The target class of that variant's attacker, int64 [m]."""
        return torch.full_like(labels, self._targets[variant])

    def footprint(self, variant: int = 0) -> Tensor | None:
        """That of the variant's own attack."""
        return self._attacks[variant].footprint()

    def _candidates(self, labels: Tensor) -> Tensor:
        return ~torch.isin(labels, torch.tensor(self._targets))

    def _trigger(self, images: Tensor, variant: int) -> Tensor:
        return self._attacks[variant].trigger(images)

    def _poison_images(self, images: Tensor, labels: Tensor, positions: Tensor, generator: torch.Generator) -> Tensor:
        is_first = (positions % 2 == 0)[:, None, None, None]
        return torch.where(is_first, self._trigger(images, 0), self._trigger(images, 1))

    def _poison_labels(self, labels: Tensor, positions: Tensor) -> Tensor:
        return torch.tensor(self._targets)[positions % 2]

"""Class-unlearning logit drop: which samples lose their label furthest when their class is forgotten as a whole.

Forgetting a class takes samples with a trigger down further than the others, since the trigger is one feature that only
they have. It costs nothing more, since the classes are forgotten anyway, and it sees triggers that work on one source
class alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from components.unlearn.context import Context
from components.unlearn.detectors._per_class import PerClass
from components.unlearn.detectors.base import DETECTORS

__all__ = ["LogitDrop"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LogitDrop(PerClass):
    """Samples that fell furthest with their class."""

    def values(self, context: Context) -> Tensor:
        """The logit drop; 0 in classes that were not forgotten."""
        drops = torch.zeros(len(context.labels))
        for label in context.unlearnable():
            result = context.unlearned(label)
            drops[result.rows] = result.drop
        return drops


DETECTORS.register("logit_drop")(
    LogitDrop(
        name="logit_drop",
        order=20,
        signal="",
        reason="loses its label furthest when the class is forgotten",
        questions=3,
        classes=3,
        any_amount=True,
    )
)

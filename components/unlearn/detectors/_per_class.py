"""A question that every class is asked by itself, on the mere chance, so that only a clear answer counts.

Among all samples those of an easy class would come first, and clean-label poison is too little to stand out among all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from components.unlearn.classes import robust_z
from components.unlearn.context import Context
from components.unlearn.detectors._forgetting import ByForgetting
from components.unlearn.forgetting import Candidate, Probe

__all__ = ["PerClass"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PerClass(ByForgetting):
    """The most suspect samples of each class, those classes first in which most stands out.

    Attributes:
        share: Share of a class that is forgotten. Clean-label poison of 2 % of the digits is a fifth of its class, and
            of the 8 % that were learned earliest 84 to 100 % are poison (docs/LOG.md).
        classes: Most classes that are asked.
    """

    share: float = 0.08
    classes: int = 10

    def values(self, context: Context) -> Tensor:
        """What ranks the samples of a class; float32 [n], higher = more suspect."""
        return torch.from_numpy(context.signals[self.signal])

    def candidates(self, context: Context) -> Iterator[Candidate]:
        """One per open class."""
        values = self.values(context)
        standing = torch.zeros(len(values))
        for rows in context.members.values():
            standing[rows] = robust_z(values[rows])
        top = standing.argsort(descending=True, stable=True)[: max(1, round(context.isolation_ratio * len(values)))]
        counts = torch.bincount(context.labels[top], minlength=int(context.labels.max()) + 1)
        for label in sorted(context.members, key=lambda label: -int(counts[label]))[: self.classes]:
            if label not in context.settled:
                ratio = self.share * len(context.members[label]) / len(values)
                yield context.candidate(self.name, values.numpy(), set(context.members) - {label}, ratio)

    def promises(self, first: Probe) -> bool:
        """Where the answer is clear, however costly it was: the next round leaves out what was forgotten wrongly."""
        parted = first.forget_confidence <= self.forget_confidence and self.has_antimode(first)
        return parted and first.antimode.ratio <= self.clear

    def keeps(self, first: Probe) -> bool:
        """What did not move was forgotten by mistake."""
        return False

    def parts(self, result: Probe) -> bool:
        """Only by a clear antimode."""
        return ByForgetting.parts(self, result) and result.antimode.ratio <= self.clear

"""A question that every class is asked by itself, on the mere chance, so that only a clear answer counts.

Among all samples those of an easy class would come first, and clean-label poison is too little to stand out among all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from components.unlearn.classes import robust_z
from components.unlearn.context import Context
from components.unlearn.detectors._forgetting import ByForgetting
from components.unlearn.detectors.base import Find
from components.unlearn.forgetting import Candidate, Probe

__all__ = ["PerClass"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PerClass(ByForgetting):
    """The most suspect samples of each class, those classes first in which most stands out.

    Attributes:
        share: Share of a class that is forgotten. Clean-label poison of 2 % of the digits is a fifth of its class, and
            of the 8 % that were learned earliest 84 to 100 % are poison (docs/LOG.md).
        classes: Most classes that are asked.
        apart: Forgetting that left the class as it was counts without a clear antimode as well, if its retain accuracy
            is so many times that of the next class: 2.6 with a trigger for one source class, the class being hardly
            learned; on well-learned data clean classes are as cheap as each other (docs/LOG.md).
        highest: Gap from which a sample is poisoned then.
    """

    share: float = 0.08
    classes: int = 10
    apart: float = 2.0
    highest: float = 0.25

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

    def judge(self, context: Context, candidate: Candidate) -> Find | None:
        """By a clear antimode, or since only this class can be asked without any cost."""
        found = ByForgetting.judge(self, context, candidate)
        first = self.ask(context, candidate)
        if found is not None or not self.left_as_it_was(first):
            return found
        others = [self.ask(context, other) for other in self.candidates(context) if other.label != candidate.label]
        next_best = max((other.retain_accuracy for other in others), default=1.0)
        if first.retain_accuracy < self.apart * next_best or first.antimode.unaffected < self.unaffected:
            return None
        # Without an antimode it has no slope either: below the bound a third of the clean ones would be suspects.
        return replace(self.find(context, first, highest=self.highest, recheck=True), threshold=0.5)

    def left_as_it_was(self, result: Probe) -> bool:
        """Whether the held-out samples kept their label, and their loss as well."""
        return self.is_cheap(result) and (
            result.retain_accuracy >= self.retain_accuracy and result.retain_loss_increase <= self.retain_loss
        )

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

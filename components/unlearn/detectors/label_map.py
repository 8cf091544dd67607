"""All-to-all label map: labels that were changed from class to class by a rule.

Such an attack fills no class from all others. There, of the samples that the warm-up model takes for a class against
their label, nearly all have one and the same other label, for most classes at once; neighbours that are merely
confused are confused both ways and with several.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from components.unlearn.context import Context
from components.unlearn.detectors.base import DETECTORS, Find
from components.unlearn.detectors.confident_joint import confident_joint
from components.unlearn.forgetting import Candidate

__all__ = ["LabelMap"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelMap:
    """Samples that look like one class and bear the label that the rule gives to it.

    Attributes:
        name: The detector's.
        order: Place among the detectors.
        questions: Most candidates that it has, for the progress bar.
        same: Share of a class's contradictions with one label, in the median class, from which there is a rule: .95
            for an all-to-all attack, at most .57 elsewhere (docs/LOG.md).
    """

    name: str = "label_map"
    order: int = 5
    questions: int = 1
    same: float = 0.8

    def rule(self, probabilities: Tensor, labels: Tensor) -> dict[int, int]:
        """What a sample looks like, to the label that such samples were given; empty where there is no rule."""
        classes = probabilities.shape[1]
        if classes < 4:
            return {}
        counts = confident_joint(probabilities, labels)
        most, label = counts.max(dim=1)
        sums = counts.sum(dim=1)
        # Fewer than five contradictions make no pattern.
        shares = torch.where(sums >= 5, most / sums.clamp_min(1.0), 0.0)
        if float(shares.median()) <= self.same:
            return {}
        # Once there is a rule, the classes where it shows less clearly follow it as well.
        return {int(looks): int(label[looks]) for looks in (shares > 0.5).nonzero().squeeze(1)}

    def candidates(self, context: Context) -> Iterator[Candidate]:
        """Per label of the rule, what looks like the class that it is given to."""
        nobody = torch.empty(0, dtype=torch.int64)
        looks = context.probabilities.argmax(dim=1)
        for taken_for, label in self.rule(context.probabilities, context.labels).items():
            rows = ((looks == taken_for) & (context.labels == label)).nonzero().squeeze(1)
            context.mapping[taken_for] = label
            yield Candidate(name=f"{self.name} {label}", label=label, forget=rows, retain=nobody, held_out=nobody)

    def judge(self, context: Context, candidate: Candidate) -> Find | None:
        """The pair alone says enough: clean samples are hardly ever taken for just that class."""
        scores = torch.zeros(len(context.labels)).index_fill(0, candidate.forget, 0.5)
        return Find(
            label=candidate.label,
            detector=self.name,
            finding="poison found",
            scores=scores,
            threshold=0.15,
            reason="labels were changed from class to class by one rule",
        )


DETECTORS.register("label_map")(LabelMap())

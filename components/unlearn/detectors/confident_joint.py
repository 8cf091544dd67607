"""Confident joint: a label that the warm-up model contradicts in favour of all kinds of other classes.

A trigger that few samples carry is learned late, and until then the model openly takes its carriers for what they
show. Clean samples are confused too, but with few classes. So what counts is how many samples of a label the model
firmly takes for each other class, as a share of that class, over the half of the classes where it is least (after the
confident joint of Northcutt, Jiang and Chuang, *Confident Learning*, JAIR 2021).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from components.unlearn.context import Context
from components.unlearn.detectors._forgetting import ByForgetting
from components.unlearn.detectors.base import DETECTORS, Find
from components.unlearn.forgetting import Candidate, halved

__all__ = ["SURE", "ConfidentJoint", "confident_joint"]

SURE = 0.7
"""Probability from which the model takes a sample for a class."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfidentJoint(ByForgetting):
    """Samples that contradict their label.

    Attributes:
        outlier: Mean share from which a label counts, with a trigger not learned yet .0013 to .088, at most .0011
            without (docs/LOG.md).
        factor: By how much it must exceed that of any other label: nearly four times at least, at most 2.3 without.
    """

    outlier: float = 0.0012
    factor: float = 3.0

    def candidates(self, context: Context) -> Iterator[Candidate]:
        """What contradicts the one label that stands out."""
        label = self.standing_out(context.probabilities, context.labels)
        if label is None or label in context.settled or label in context.inconsistent or context.noisy:
            return
        rows = context.members[label]
        firmness, taken_for = context.probabilities[rows].max(dim=1)
        against = torch.where(taken_for == label, 0.0, firmness)
        count = min(round(context.isolation_ratio * len(context.labels)), len(rows) // 4, int((against > 0.5).sum()))
        order = torch.argsort(-against, stable=True)
        kept = [rows[order[max(count, len(rows) - round(context.config.retain_ratio * len(rows))) :]]]
        for other, theirs in context.members.items():
            if other != label:
                believed = torch.argsort(-context.before.given_probability[theirs], stable=True)
                kept.append(theirs[believed[: max(2, round(context.config.retain_ratio * len(theirs)))]])
        name = f"{self.name} {label}"
        retain, held_out = halved(torch.cat(kept), context.config.seed, name)
        yield Candidate(name=name, label=label, forget=rows[order[:count]], retain=retain, held_out=held_out)

    def standing_out(self, probabilities: Tensor, labels: Tensor) -> int | None:
        """The label that the model contradicts in favour of all kinds of classes, if there is one.

        Args:
            probabilities: float32 [n, k], the warm-up model's.
            labels: int64 [n], the given labels.
        """
        sizes = torch.bincount(labels, minlength=probabilities.shape[1]).float()
        present = (sizes > 0).nonzero().squeeze(1)
        if len(present) < 4:
            return None
        shares = (confident_joint(probabilities, labels) / sizes.clamp_min(1.0)[:, None])[present][:, present]
        unlike = max(1, (len(present) - 1) // 2)
        # The diagonal is zero and sorts first.
        spread = shares.sort(dim=0).values[1 : 1 + unlike].mean(dim=0)
        (most, next_most), (label, _) = spread.topk(2)
        return int(present[label]) if most > max(self.outlier, self.factor * float(next_most)) else None

    def judge(self, context: Context, candidate: Candidate) -> Find | None:
        """Forgets it once: it is pure and few, and what moves with it a little is mostly not of its kind."""
        result = context.probe(self.name, candidate)
        return self.find(context, result, highest=0.25, recheck=True) if self.is_cheap(result) else None


def confident_joint(probabilities: Tensor, labels: Tensor) -> Tensor:
    """How many samples with the label of the column the model firmly takes for the class of the row; float32 [k, k]."""
    firmness, taken_for = probabilities.max(dim=1)
    contradicted = (firmness > SURE) & (taken_for != labels)
    counts = torch.zeros(probabilities.shape[1], probabilities.shape[1])
    return counts.index_put_((taken_for[contradicted], labels[contradicted]), torch.ones(()), accumulate=True)


DETECTORS.register("confident_joint")(
    ConfidentJoint(
        name="confident_joint",
        order=15,
        signal="",
        reason="the model takes it firmly for another class",
        retain_loss=0.05,
    )
)

"""Neighbours that never saw the label: what the images of an inconsistent class alone say, sample by sample.

A model is trained without the class, and without one sound class beside it. A trigger cannot help its sample
there, so a sample with a changed label is among those of its true class. From how many neighbours the samples of the
sound class have of their own follows the bound: at most a stated share of a sound class would be below it. Where labels
of all kinds are wrong, no trigger can have been learned and no class is sound: there the warm-up model's own features
serve, and only what the model contradicts as well is taken for an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from components.unlearn.context import Context
from components.unlearn.detectors.base import DETECTORS, Find, Finding
from components.unlearn.forgetting import Candidate
from components.unlearn.screen import DISBELIEVED, quartile_of

__all__ = ["Neighbours"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbours:
    """Samples of an inconsistent class that are among samples of other classes.

    Attributes:
        name: The detector's.
        order: Place among the detectors: last, since it costs a training and settles only what forgetting did not.
        questions: Most candidates that it has, for the progress bar.
        false_alarm: Share of a sound class that would be called wrong.
        parted: Share of the samples estimated to be wrong that must be named for the class to count as cleaned.
        most: Share of a sample's neighbours with one other label from which it may be an error where all classes have
            some.
    """

    name: str = "neighbours"
    order: int = 90
    questions: int = 1
    false_alarm: float = 0.1
    parted: float = 0.6
    most: float = 0.3

    def candidates(self, context: Context) -> Iterator[Candidate]:
        """All samples of each class that is inconsistent, and of which no trigger was found."""
        nobody = torch.empty(0, dtype=torch.int64)
        asked = (
            list(context.members) if context.noisy else [x for x in context.inconsistent if x not in context.settled]
        )
        for label in asked:
            rows = context.members[label]
            yield Candidate(name=f"{self.name} {label}", label=label, forget=rows, retain=nobody, held_out=nobody)

    def judge(self, context: Context, candidate: Candidate) -> Find | None:
        """What of the class is among samples of other classes."""
        if context.noisy:
            return self._errors(context, candidate.label)
        return self._strangers(context, candidate.label)

    def _errors(self, context: Context, label: int) -> Find | None:
        rows = context.members[label]
        votes = context.warm_votes()[rows]
        share, other = votes.index_fill(1, torch.tensor(label), 0.0).max(dim=1)
        agreed = context.logits[rows].argmax(dim=1) == other
        doubted = context.before.given_probability[rows] < DISBELIEVED / votes.shape[1]
        wrong = (share > self.most) & agreed & doubted
        if not bool(wrong.any()):
            return None
        return self._find(
            context, label, wrong, share, "label errors found", "its neighbours and the model agree on another class"
        )

    def _strangers(self, context: Context, label: int) -> Find | None:
        sound = [
            other for other in context.members if other not in context.inconsistent and other not in context.settled
        ]
        if not sound:
            return self._inconclusive(context, label, "no class is known to be sound")
        sizes = torch.bincount(context.labels, minlength=context.logits.shape[1]).float()
        # The most confused of them: an easy class has nearly all neighbours of its own, and would make strangers of
        # honest members of a harder one.
        reference = max(sound, key=lambda other: (quartile_of(context, other), -other))
        votes = context.unseen_votes((label, reference))
        own = {one: votes.shares[context.labels[votes.rows] == one, one] for one in (label, reference)}
        # Votes count by the size of the class: of a small one fewer neighbours can be had.
        scale = float(sizes[reference] / sizes[label])
        bound = float(own[reference].quantile(self.false_alarm)) / scale
        wrong = own[label] < bound
        found = int(wrong.sum()) - self.false_alarm * len(wrong)
        # Half of them pass for the median member of their true class, whichever that is.
        expected = 2.0 * quartile_of(context, label) * (len(context.labels) - len(wrong))
        if found < 3.0 * (self.false_alarm * len(wrong)) ** 0.5:
            return self._inconclusive(
                context, label, "its samples are as much among their own as those of a sound class"
            )
        told = f"the neighbours of {found:.0f} of about {expected:.0f} such samples say so"
        if found < self.parted * expected:
            return self._inconclusive(context, label, f"only {told}")
        return self._find(
            context, label, wrong, 1.0 - own[label], "poison found", f"{told}, where the label was unseen"
        )

    def _find(self, context: Context, label: int, wrong: Tensor, order: Tensor, finding: Finding, reason: str) -> Find:
        scores = torch.zeros(len(context.labels))
        # Suspect, not poisoned: between the two bounds, the most certain first.
        scores[context.members[label]] = torch.where(wrong, 0.2 + 0.3 * order, 0.1 * order)
        return Find(
            label=label,
            detector=self.name,
            finding=finding,
            scores=scores,
            threshold=0.15,
            reason=reason,
            recheck=finding == "poison found",
        )

    def _inconclusive(self, context: Context, label: int, why: str) -> Find:
        return Find(
            label=label,
            detector=self.name,
            finding="inconclusive",
            scores=torch.zeros(len(context.labels)),
            threshold=0.15,
            reason=f"samples look like other classes once the class is forgotten, but {why}, so it keeps its labels",
        )


DETECTORS.register("neighbours")(Neighbours())

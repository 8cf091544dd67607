"""Label inconsistency: samples that look like members of other classes once their own class is forgotten.

It finds changed labels whatever the trigger, learned or not. The samples that look most like other classes are
forgotten, or what the signals say that agree best with this: which of them tells the poison apart depends on the
attack, and one may point the wrong way. So the answer must move what looks inconsistent rather than the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from components.common.signals import SIGNALS
from components.unlearn.classes import PASSES, ClassUnlearning
from components.unlearn.context import Context
from components.unlearn.detectors._forgetting import ByForgetting
from components.unlearn.detectors.base import DETECTORS, Find
from components.unlearn.forgetting import Candidate, Probe, halved, widen

__all__ = ["LabelInconsistency"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelInconsistency(ByForgetting):
    """Which samples of an inconsistent class carry a trigger.

    Attributes:
        highest: Gap from which a sample of such a class is poisoned, though its antimode be further up.
        besides: Signals that may propose beside the inconsistency itself.
        largest: Share of the class that is forgotten at most: the poison in it may be little.
    """

    highest: float = 0.25
    besides: int = 2
    largest: float = 0.25

    def candidates(self, context: Context) -> Iterator[Candidate]:
        """What looks most like other classes, per inconsistent class."""
        for label, unlearned in context.inconsistent.items():
            if label not in context.settled and not context.noisy:
                yield self._inconsistent(context, unlearned)

    def judge(self, context: Context, candidate: Candidate) -> Find | None:
        """Forgets it, or what a signal proposes, whichever parts the class best; then all that moved with it."""
        unlearned = context.inconsistent[candidate.label]
        best: Probe | None = None
        for option in (candidate, *self._by_signals(context, unlearned)):
            result = context.probe(self.name, option)
            right = self.is_cheap(result) and _agreement(unlearned, result) > 0.5
            if right and (best is None or result.antimode.ratio < best.antimode.ratio):
                best = result
            if best is not None and best.antimode.ratio <= self.clear:
                break
        if best is None:
            return None
        for _ in range(self.rounds):
            # Where poison moves by any amount the antimode may lie among it, and what is retained below it would be
            # taught again.
            wider = widen(best, min(best.antimode.threshold, self.highest), keep=True)
            if len(wider.retain) == 0:
                break
            result = context.probe(self.name, wider)
            if not self.is_cheap(result):
                break
            best = result
            if self.is_clear(best):
                break
        if float((best.gap[unlearned.rows] <= self.highest).float().mean()) < self.unaffected:
            return None
        return self.find(context, best, highest=self.highest, recheck=True)

    def _inconsistent(self, context: Context, unlearned: ClassUnlearning) -> Candidate:
        order = torch.argsort(-unlearned.inconsistency, stable=True)
        most = round(min(context.isolation_ratio * len(context.labels), self.largest * len(order)))
        count = max(1, min(most, int((unlearned.inconsistency > PASSES).sum())))
        least = len(order) - max(2, round(context.config.retain_ratio * len(order)))
        pool = [unlearned.rows[order[max(count, least) :]]]
        for label, rows in context.members.items():
            if label != unlearned.label:
                believed = torch.argsort(-context.before.given_probability[rows], stable=True)
                pool.append(rows[believed[: max(2, round(context.config.retain_ratio * len(rows)))]])
        name = f"{self.name} {unlearned.label}"
        retain, held_out = halved(torch.cat(pool), context.config.seed, name)
        forget = unlearned.rows[order[:count]]
        return Candidate(name=name, label=unlearned.label, forget=forget, retain=retain, held_out=held_out)

    def _by_signals(self, context: Context, unlearned: ClassUnlearning) -> Iterator[Candidate]:
        strange = unlearned.inconsistency > PASSES
        rows = unlearned.rows.numpy()
        agreeing = {
            name: _area(torch.from_numpy(values[rows]), strange)
            for name, values in context.signals.items()
            if SIGNALS[name].proposes
        }
        best = sorted((name for name, area in agreeing.items() if area > 0.5), key=lambda name: -agreeing[name])
        ratio = min(context.isolation_ratio, self.largest * len(rows) / len(context.labels))
        others = set(context.members) - {unlearned.label}
        for name in best[: self.besides]:
            yield context.candidate(f"{self.name} by {name}", context.signals[name], others, ratio)


def _agreement(unlearned: ClassUnlearning, result: Probe) -> float:
    """How well what moved agrees with what looks inconsistent, leaving out what was forgotten; an area in [0, 1]."""
    seen = torch.isin(unlearned.rows, result.candidate.forget)
    return _area(result.gap[unlearned.rows[~seen]], unlearned.inconsistency[~seen] > PASSES)


def _area(values: Tensor, positive: Tensor) -> float:
    """Area under the ROC curve; 0.5 where there is nothing to compare."""
    above, below = values[positive].contiguous(), values[~positive].sort().values
    if not len(above) or not len(below):
        return 0.5
    ranks = torch.searchsorted(below, above) + torch.searchsorted(below, above, right=True)
    return float(ranks.double().mean()) / (2 * len(below))


# Where the class is known to hold other classes' samples, cheapness is enough, and costs may be a little higher.
DETECTORS.register("label_inconsistency")(
    LabelInconsistency(
        name="label_inconsistency",
        order=10,
        signal="",
        reason="looks like another class once its own is forgotten",
        retain_loss=0.05,
    )
)

"""Evidence of a trigger: its carriers can be forgotten, cheaply, and the rest of their class stays what it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from components.unlearn.context import Context
from components.unlearn.detectors.base import Find
from components.unlearn.forgetting import Candidate, Probe, widen

__all__ = ["SUSPECT", "ByForgetting"]

SUSPECT = 0.15
"""Score above which a sample is suspect, with the antimode at 0.5: a false suspect keeps its image, a missed one its
trigger. From .4 on 4 % of blended poison kept its label, enough for an ASR of 10 %; from .15 on .5 % (docs/LOG.md)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ByForgetting:
    """A question whose answer is read off by forgetting its candidate.

    Forgetting a trigger moves its carriers and leaves the others; forgetting clean images moves their whole class, one
    more and one less. So the loss gaps of a class with poison have two modes with little between them, and the held-out
    samples of the class keep their label.

    Attributes:
        name: The detector's.
        order: Place among the detectors.
        signal: Name of the signal that ranks the samples.
        reason: What is true of what it finds.
        questions: Most candidates that it has, for the progress bar.
        forget_confidence: The forget set counts as forgotten below this probability of its label.
        retain_accuracy: Forgetting is cheap where this share of the held-out samples of the class keep their label;
            with a trigger .74 to .99, without mostly below .4 (docs/LOG.md).
        retain_loss: Or where their median loss gap is at most this: at most .003 with a trigger, from .02 without.
        antimode: Highest antimode ratio that counts: at most .2 with poison, from .4 without.
        clear: Ratio from which on nothing clearer is looked for.
        furthest: Largest threshold that counts; beyond it a few outliers part from a class that moved as one.
        unaffected: Share of the class that must be left alone.
        hopeful: Retain accuracy from which a costly first answer is followed up all the same.
        rounds: How often all that moved is forgotten in its turn.
        any_amount: Whether poison may have moved by any amount, since half of it may have been retained at first. Then
            suspect is what moved visibly more than those that did not.
    """

    name: str
    order: int
    signal: str
    reason: str
    questions: int = 2
    forget_confidence: float = 0.3
    retain_accuracy: float = 0.7
    retain_loss: float = 0.01
    antimode: float = 0.3
    clear: float = 0.12
    furthest: float = 0.7
    unaffected: float = 0.25
    hopeful: float = 0.15
    rounds: int = 2
    any_amount: bool = False

    def candidates(self, context: Context) -> Iterator[Candidate]:
        """The most suspect samples, of the label that dominates them; then of the labels that are still open."""
        while context.settled < set(context.members):
            candidate = context.candidate(self.name, context.signals[self.signal], context.settled)
            yield candidate
            if candidate.label not in context.settled:
                # What it says of the others may be a second trigger, but not if the first was none.
                break

    def judge(self, context: Context, candidate: Candidate) -> Find | None:
        """Forgets the candidate, then all that moved with it, as long as that promises something."""
        chosen = self.follow(context, self.ask(context, candidate))
        return self.find(context, chosen) if self.parts(chosen) else None

    def ask(self, context: Context, candidate: Candidate) -> Probe:
        """What forgetting moves, with twice the steps where it was cheap and is not complete."""
        result = context.probe(self.name, candidate)
        if result.forget_confidence > self.forget_confidence and result.retain_accuracy >= self.retain_accuracy:
            result = context.probe(self.name, candidate, steps=2 * context.config.steps)
        return result

    def follow(self, context: Context, first: Probe) -> Probe:
        """The last of the wider probes that a first one promises, or that one itself."""
        last, before = first, None
        for _ in range(self.rounds if self.promises(first) else 0):
            wider = widen(last, last.antimode.threshold, keep=self.keeps(first))
            if len(wider.retain) == 0:
                break
            before, last = last, context.probe(self.name, wider)
            # The more of a trigger's carriers are forgotten together, the better are the others told from them; with
            # clean samples it is the other way round.
            if self.is_clear(last) or not (self.is_cheap(last) or last.retain_accuracy > before.retain_accuracy):
                break
        return last

    def promises(self, first: Probe) -> bool:
        """Whether it is worth while to forget all that a first probe moved."""
        parted = first.forget_confidence <= self.forget_confidence and self.has_antimode(first)
        return self.is_cheap(first) or (parted and first.retain_accuracy >= self.hopeful)

    def keeps(self, first: Probe) -> bool:
        """Whether what was forgotten first stays in the forget set, moved or not."""
        return True

    def is_cheap(self, result: Probe) -> bool:
        """Whether the candidate was forgotten at little cost to the rest of its class."""
        kept = result.retain_accuracy >= self.retain_accuracy or result.retain_loss_increase <= self.retain_loss
        return kept and result.forget_confidence <= self.forget_confidence

    def has_antimode(self, result: Probe) -> bool:
        """Whether the class falls into two kinds."""
        mode = result.antimode
        return mode.ratio <= self.antimode and mode.threshold <= self.furthest and mode.unaffected >= self.unaffected

    def parts(self, result: Probe) -> bool:
        """Whether this is a find."""
        return self.is_cheap(result) and self.has_antimode(result)

    def is_clear(self, result: Probe) -> bool:
        """Whether there is nothing clearer to be looked for."""
        return self.parts(result) and result.antimode.ratio <= self.clear

    def find(self, context: Context, chosen: Probe, *, highest: float = 1.0, recheck: bool = False) -> Find:
        """The find that a probe makes.

        Args:
            context: The training set.
            chosen: The probe.
            highest: Threshold from which a sample is poisoned, wherever the antimode is.
            recheck: As in ``Find``.
        """
        label = chosen.candidate.label
        gap = chosen.gap[context.members[label]]
        at = max(min(chosen.antimode.threshold, highest), 1e-3)
        suspect = at * SUSPECT / 0.5
        if self.any_amount or recheck:
            suspect = min(suspect, _above_the_still(gap[gap < at], default=suspect))
        scores = torch.zeros(len(context.labels))
        scores[context.members[label]] = _levelled(gap, suspect, at)
        return Find(
            label=label,
            detector=self.name,
            finding="poison found",
            scores=scores,
            threshold=SUSPECT,
            reason=f"{self.reason}; forgetting it moved {float((gap > at).float().mean()):.0%} of the class and left "
            f"{chosen.retain_accuracy:.0%} of its other samples their label",
            probe=chosen,
            recheck=recheck,
        )


def _levelled(gap: Tensor, suspect: float, at: float) -> Tensor:
    """Gaps as scores: ``SUSPECT`` where a sample becomes suspect, 0.5 where it is poisoned; float32 [m] in [0, 1]."""
    places = [0.0, suspect, at, max(1.0, 2 * at)]
    return torch.from_numpy(np.interp(gap.numpy(), places, [0.0, SUSPECT, 0.5, 1.0]).astype(np.float32))


def _above_the_still(still: Tensor, default: float) -> float:
    """Four standard deviations above those that did not move, by their lower quartile: that side is free of poison."""
    if not len(still):
        return default
    median, quartile = (float(still.quantile(share)) for share in (0.5, 0.25))
    return max(0.005, median + 4.0 * (median - quartile) / 0.6745)

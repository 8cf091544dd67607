"""The refined split: every detector is asked in turn, what they find is merged, and the triggers found are unlearned.

A class is never given up. Where something is wrong with its labels and nothing tells which, or what would be taken from
it is more than a stated share without evidence of a trigger, it keeps them all and is reported as inconclusive.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from components.common.learning.doubts import NEVER, is_doubted
from components.common.learning.scoring import score
from components.common.learning.watch import Watch
from components.unlearn.config import UnlearnConfig
from components.unlearn.context import Context
from components.unlearn.detectors import Find, chosen_detectors
from components.unlearn.detectors.confident_joint import SURE
from components.unlearn.forgetting import Candidate, Probe, forget, joined
from components.unlearn.memo import Memo
from components.unlearn.screen import screen
from components.unlearn.verdict import ClassFinding, Verdict, conclude

__all__ = ["Refined", "refine"]

# Retained samples, in random order, that are asked whether the unlearned model still knows them.
_ASKED = 2_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Refined:
    """The refined split of n training samples.

    Attributes:
        scores: float32 [n] in [0, 1], the highest of any find; 0 where nothing was found.
        poisoned: bool [n].
        suspect: bool [n], less certain, and not poisoned.
        finds: What was found, in the order in which it was.
        probes: Every probe with the name of the detector that asked, accepted or not.
        mapping: What samples look like, to the label that they were given by rule; empty where there is no rule.
        doubtful: float32 [k, k], as ``is_doubted`` takes it: which labels fine-tuning looks at again.
        classes: The finding of every class, in the order of the labels.
        verdict: The finding about all of them.
        model: The model with every trigger forgotten; the warm-up model where none was found or forgetting cost too
            much.
        rolled_back: Whether it cost too much.
    """

    scores: Tensor
    poisoned: Tensor
    suspect: Tensor
    finds: list[Find]
    probes: list[tuple[str, Probe]]
    mapping: dict[int, int]
    doubtful: Tensor
    classes: list[ClassFinding]
    verdict: Verdict
    model: nn.Module
    rolled_back: bool

    @property
    def found(self) -> bool:
        """Whether there is poison."""
        return any(find.finding == "poison found" for find in self.finds)


def refine(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    signals: Mapping[str, npt.NDArray[np.float32]],
    config: UnlearnConfig,
    *,
    isolation_ratio: float,
    mirror: bool,
    watch: Watch,
) -> Refined:
    """Asks the detectors, merges what they find and unlearns it.

    Args:
        model: The warm-up EMA model; unchanged.
        images: uint8 [n, c, h, w].
        labels: int64 [n], the given labels, on the CPU.
        signals: Signal name to float32 [n] in [0, 1], as in the split.
        config: Settings.
        isolation_ratio: Share of the training set that a forget set holds at most, in (0, 1).
        mirror: Whether a horizontal flip keeps the class.
        watch: Progress, and the answers so far for a second attempt.

    Raises:
        ConfigError: ``config.detectors`` names an unknown one.
    """
    detectors = chosen_detectors(config.detectors)
    context = Context(
        model=model,
        images=images,
        labels=labels,
        signals=signals,
        config=config,
        isolation_ratio=isolation_ratio,
        mirror=mirror,
        memo=Memo(watch),
    )
    screened = len(context.unlearnable())
    total = screened + sum(detector.questions for detector in detectors)
    context.asked = partial(watch.progress, "unlearn", total=total)
    screen(context)
    finds, done = [], screened
    for detector in detectors:
        for place, candidate in enumerate(detector.candidates(context)):
            found = detector.judge(context, candidate)
            if found is not None:
                finds.append(_bounded(found, labels, config))
            if found is not None and found.probe is not None:
                context.settled.add(found.label)
            watch.progress("unlearn", done + min(place, detector.questions - 1), total, {"finds": len(finds)})
        done += detector.questions
    watch.progress("unlearn", total, total, {"finds": len(finds)})
    doubtful = _doubtful(finds, context)
    scores = torch.stack([torch.zeros(len(labels)), *(find.scores for find in finds)]).amax(dim=0)
    suspect = torch.zeros(len(labels), dtype=torch.bool)
    for find in finds:
        suspect |= find.scores > find.threshold
    doubted = is_doubted(context.probabilities, labels, doubtful) & ~_kept(finds, labels)
    scores = torch.where(doubted, scores.clamp_min(0.5), scores)
    poisoned = scores > 0.5
    suspect = (suspect | doubted) & ~poisoned
    cured, rolled_back = _cured(context, finds, poisoned | suspect)
    classes, verdict = conclude(context, finds, poisoned, suspect, rolled_back=rolled_back)
    return Refined(
        scores=scores,
        poisoned=poisoned,
        suspect=suspect,
        finds=finds,
        probes=list(context.probes.values()),
        mapping=context.mapping,
        doubtful=doubtful,
        classes=classes,
        verdict=verdict,
        model=cured,
        rolled_back=rolled_back,
    )


def _bounded(found: Find, labels: Tensor, config: UnlearnConfig) -> Find:
    """The find, or an inconclusive one where it would take too much of a class without evidence of a trigger."""
    lost = float((found.scores[labels == found.label] > found.threshold).float().mean())
    if found.probe is not None or found.finding == "inconclusive" or lost <= config.most_lost:
        return found
    return replace(
        found,
        finding="inconclusive",
        scores=torch.zeros(len(labels)),
        reason=f"{found.reason}: {lost:.0%} of the class, more than may be taken without evidence of a trigger "
        f"({config.most_lost:.0%}), so it keeps its labels",
        recheck=False,
    )


def _kept(finds: list[Find], labels: Tensor) -> Tensor:
    """Bool [n], samples of classes that keep their labels since nothing is conclusive."""
    kept = [find.label for find in finds if find.finding == "inconclusive"]
    return torch.isin(labels, torch.tensor(kept, dtype=torch.int64))


def _doubtful(finds: list[Find], context: Context) -> Tensor:
    """Which labels fine-tuning looks at again: of classes where more may be wrong than was found, and by a rule."""
    classes = context.logits.shape[1]
    doubtful = torch.full((classes, classes), NEVER)
    for find in finds:
        if find.recheck:
            doubtful[:, find.label] = SURE
    for looks, label in context.mapping.items():
        doubtful[looks, label] = 0.0
    return doubtful.fill_diagonal_(NEVER)


def _cured(context: Context, finds: list[Find], flagged: Tensor) -> tuple[nn.Module, bool]:
    """The model with every find forgotten, unless that cost too many retained samples their label.

    With only one of several forgotten, the model would still know the others' triggers, and teach them to fine-tuning
    as pseudo-labels. Where all at once cost too much, the cheapest alone is better than none. Steps beyond those of the
    probe repair more than they break: what they were for has been forgotten by then.
    """
    config, labels = context.config, context.labels
    chosen = [find.probe for find in finds if find.probe is not None]
    if not chosen:
        return context.model, False
    cheapest = max(chosen, key=lambda result: result.retain_accuracy).candidate

    def attempts() -> Iterator[tuple[Candidate, int]]:
        together = joined([result.candidate for result in chosen], flagged, config.seed)
        if len(chosen) > 1 and len(together.retain):
            yield together, config.steps * len(chosen)
        yield cheapest, config.steps
        yield cheapest, 2 * config.steps

    for candidate, steps in attempts():
        cured = forget(context.model, context.images, labels, candidate, config, mirror=context.mirror, steps=steps)
        rows = candidate.retain[:_ASKED]
        after = score(cured, context.images[rows.to(context.images.device)], labels[rows])
        right = context.before.given_probability[rows] > 0.5
        lost = float((right & (after.given_probability <= 0.5)).float().sum() / right.float().sum().clamp_min(1.0))
        if lost <= config.max_retain_loss:
            return cured, False
    return context.model, True

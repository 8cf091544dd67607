"""What a run may claim of its data: one verdict, the reason for it, and what was checked.

Pure functions of figures that the stages measured. ``inconclusive`` comes before everything else: where the data or the
model cannot carry the question, an answer of either kind would mislead. What was found all the same is in the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.common.contracts.verdicts import INCONCLUSIVE, LABEL_ERRORS, NO_POISON, POISON

__all__ = ["Observed", "Verdict", "conclude", "skill"]

# A proposal holds some 2 % of the training set; of a class with fewer samples than this it is a handful, and the
# scatter of a handful is all that could be seen.
_LEAST_SAMPLES = 50
# What the warm-up model knows beyond guessing, as a share of what there is to know: .46 to .50 on 10,000 images of
# CIFAR-10, of which poison was told, and .35 on 2,000, of which it was not (docs/LOG.md).
_LEAST_SKILL = 0.4
# As the gates of a promotion have them: see ``PromoteConfig``.
_LEAST_CAUGHT = 0.8
_MOST_FIRED = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """What a run measured that bears on its verdict.

    Attributes:
        found: Verdict of the unlearn stage, one of ``VERDICTS``.
        reason: The unlearn stage's reason, one sentence or empty.
        samples: Training samples per class, by class name.
        holdout: Holdout rows.
        holdout_suspects: Those of them that are suspects.
        holdout_expected: How many would be, by the share of suspects in the training rows of their class.
        warmup_acc: Accuracy of the warm-up model on the trusted holdout rows, in [0, 1].
        chance: Accuracy of guessing the most frequent class there, in [0, 1].
        probes: Times that something was forgotten to see what moves.
        rolled_back: Whether forgetting what was found cost the model too much, so that it still knows the trigger.
        unjudged: Names of the classes that cannot be judged.
        changed_seen: Share of labels changed for a test that would stand out, in [0, 1], or None if not tested.
        canary: ``planted``, ``caught``, ``fired`` and ``label`` of the planted trigger; empty without one.
    """

    found: str
    reason: str
    samples: Mapping[str, int]
    holdout: int
    holdout_suspects: int
    holdout_expected: float
    warmup_acc: float
    chance: float
    probes: int
    rolled_back: bool
    unjudged: Sequence[str]
    changed_seen: float | None
    canary: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A verdict, one of ``VERDICTS``; why, in a sentence; and what was checked and how little would have been seen."""

    verdict: str
    reason: str
    checked: str


def skill(acc: float, chance: float) -> float:
    """What a model knows beyond guessing, as a share of what there is to know: 0 at chance, 1 without errors.

    Args:
        acc: Accuracy, in [0, 1].
        chance: Accuracy of guessing, in [0, 1).
    """
    return (acc - chance) / (1.0 - chance) if chance < 1.0 else 0.0


def conclude(seen: Observed) -> Verdict:
    """The verdict of a run."""
    doubt = _doubt(seen)
    if not doubt:
        return Verdict(verdict=seen.found, reason=seen.reason or _plain(seen), checked=_checked(seen))
    found = "" if seen.found in (INCONCLUSIVE, NO_POISON) else f" ({seen.found}{_where(seen.reason)})"
    return Verdict(verdict=INCONCLUSIVE, reason=f"{doubt}{found}.", checked=_checked(seen))


def _doubt(seen: Observed) -> str:
    """Why the run cannot answer, or nothing."""
    name, count = min(seen.samples.items(), key=lambda item: item[1])
    if count < _LEAST_SAMPLES:
        return f"Class {name} has {count} training samples; of fewer than {_LEAST_SAMPLES} nothing can be told"
    if skill(seen.warmup_acc, seen.chance) < _LEAST_SKILL:
        needed = seen.chance + _LEAST_SKILL * (1.0 - seen.chance)
        return (
            f"The warm-up model gets {_percent(seen.warmup_acc)} of the trusted holdout right, and guessing gets "
            f"{_percent(seen.chance)}: below {_percent(needed)} it knows too little to tell poison from what it has "
            "not learned"
        )
    if seen.rolled_back:
        return "Forgetting what was found cost too many trusted samples their label and was undone"
    if seen.canary and seen.canary["caught"] < _LEAST_CAUGHT:
        return (
            f"Of {seen.canary['planted']} samples with a planted trigger {_percent(seen.canary['caught'])} were "
            f"caught, and {_percent(_LEAST_CAUGHT)} are needed: poison of that kind can be missed here"
        )
    if seen.canary and seen.canary["fired"] > _MOST_FIRED:
        return (
            f"The model takes {_percent(seen.canary['fired'])} of the images with the planted trigger for "
            f"{seen.canary['label']}, and {_percent(_MOST_FIRED)} are allowed: a trigger can outlive the defence here"
        )
    if seen.unjudged and seen.found != POISON:
        return f"Not every class can be judged: {', '.join(seen.unjudged)}"
    if seen.found == INCONCLUSIVE:
        return seen.reason.rstrip(".") or "The unlearn stage could not tell"
    return ""


def _plain(seen: Observed) -> str:
    return {
        POISON: "Forgetting some samples of a class moved others of it and left the rest as they were.",
        LABEL_ERRORS: "Some labels contradict what the model learned from the others, and share no trigger.",
        NO_POISON: "No proposal could be forgotten without the clean samples of its class.",
    }[seen.found]


def _where(reason: str) -> str:
    return f": {reason.rstrip('.')}" if reason else ""


def _checked(seen: Observed) -> str:
    """What was looked at, and how much poison of which kind would have been seen."""
    counts = seen.samples.values()
    said = [
        f"{sum(counts)} training and {seen.holdout} holdout images of {len(counts)} classes (smallest {min(counts)}, "
        f"largest {max(counts)}) were judged, with {seen.probes} forgettings."
    ]
    if seen.holdout_suspects or seen.holdout_expected >= 1.0:
        said.append(
            f"{seen.holdout_suspects} holdout images are suspects; if they were drawn as the training images were, "
            f"{seen.holdout_expected:.0f} are expected."
        )
    if seen.changed_seen is not None:
        said.append(
            f"Of labels changed for a test in the holdout, {_percent(seen.changed_seen)} would stand out at one false "
            "alarm in twenty."
        )
    if not seen.canary:
        said.append("No trigger was planted, so how rare a trigger would have been found is not known.")
    else:
        share = _percent(seen.canary["planted"] / sum(counts))
        outcome = (
            "a small patch at that share would have been seen, a rarer or subtler trigger perhaps not"
            if seen.canary["caught"] >= _LEAST_CAUGHT
            else "a small patch at that share can be there unseen"
        )
        said.append(
            f"Of {seen.canary['planted']} samples ({share}) with a planted patch, {_percent(seen.canary['caught'])} "
            f"were caught: {outcome}."
        )
    return " ".join(said)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"

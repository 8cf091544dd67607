"""What is said of every class, and of all of them together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from components.unlearn.context import Context
from components.unlearn.detectors import Find

__all__ = ["ClassFinding", "Verdict", "conclude"]

# Share of the training samples that the warm-up model must give their label, and fewest samples of a class: below,
# nothing that was or was not found says anything (docs/LOG.md).
_LEARNED = 0.4
_FEWEST = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassFinding:
    """What was found of one class.

    Attributes:
        label: The class.
        finding: ``poison``, ``label errors``, ``inconclusive`` or ``nothing found``.
        reason: Why, in words; empty where nothing was found.
        size: Its training samples.
        poisoned: How many of them are called poisoned.
        suspect: How many more are suspect.
    """

    label: int
    finding: Literal["poison", "label errors", "inconclusive", "nothing found"]
    reason: str
    size: int
    poisoned: int
    suspect: int

    @property
    def lost(self) -> float:
        """Share of its samples that lose their label, in [0, 1]."""
        return (self.poisoned + self.suspect) / max(1, self.size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What was found in all.

    Attributes:
        verdict: ``poison found``, ``label errors found``, ``inconclusive`` or ``no poison found``.
        reason: One sentence.
    """

    verdict: Literal["poison found", "label errors found", "inconclusive", "no poison found"]
    reason: str


def conclude(
    context: Context, finds: list[Find], poisoned: Tensor, suspect: Tensor, *, rolled_back: bool
) -> tuple[list[ClassFinding], Verdict]:
    """The findings of every class and the verdict.

    Args:
        context: The training set.
        finds: What was found.
        poisoned: bool [n].
        suspect: bool [n].
        rolled_back: Whether unlearning what was found cost too much.
    """
    classes = []
    for label, rows in context.members.items():
        # Evidence of a trigger says more than what the images alone say.
        mine = sorted((find for find in finds if find.label == label), key=lambda find: find.probe is None)
        classes.append(
            ClassFinding(
                label=label,
                finding=mine[0].finding if mine else "nothing found",
                reason=mine[0].reason if mine else "",
                size=len(rows),
                poisoned=int(poisoned[rows].sum()),
                suspect=int(suspect[rows].sum()),
            )
        )
    return classes, _verdict(context, classes, rolled_back=rolled_back)


def _verdict(context: Context, classes: list[ClassFinding], *, rolled_back: bool) -> Verdict:
    kinds = ("poison", "label errors", "inconclusive")
    found = {kind: [one for one in classes if one.finding == kind] for kind in kinds}
    flagged = sum(one.poisoned + one.suspect for one in classes)
    learned = float((context.before.given_probability > 0.5).float().mean())
    smallest = min(one.size for one in classes)
    if found["poison"]:
        kept = " Unlearning it cost too much, so the model may still obey the trigger." if rolled_back else ""
        return Verdict(
            verdict="poison found",
            reason=f"{flagged} samples of {_classes(found['poison'])} carry a trigger or a label that an attacker "
            f"changed.{kept}",
        )
    if found["inconclusive"]:
        return Verdict(
            verdict="inconclusive",
            reason=f"Something is wrong with {_classes(found['inconclusive'])}, and nothing tells which samples: no "
            "label was taken away there.",
        )
    if learned < _LEARNED:
        return Verdict(
            verdict="inconclusive",
            reason=f"The warm-up model has learned {learned:.0%} of its training samples, too few for a trigger to "
            "stand out: add data, epochs or a larger model.",
        )
    if smallest < _FEWEST:
        return Verdict(
            verdict="inconclusive",
            reason=f"The smallest class has {smallest} samples, too few to tell poison from the rest "
            f"({_FEWEST} are needed).",
        )
    if found["label errors"]:
        return Verdict(
            verdict="label errors found",
            reason=f"{flagged} samples of {_classes(found['label errors'])} look like another class than their label "
            "says, and nothing points to an attack.",
        )
    return Verdict(
        verdict="no poison found",
        reason=f"{len(context.probes)} candidates were forgotten and none of them carried a trigger.",
    )


def _classes(found: list[ClassFinding]) -> str:
    return "1 class" if len(found) == 1 else f"{len(found)} classes"

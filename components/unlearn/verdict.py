"""What is said of every class, and of all of them together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from components.unlearn.context import Context
from components.unlearn.detectors import Find

__all__ = ["ClassFinding", "Verdict", "conclude"]

Word = Literal["poison found", "label errors found", "inconclusive", "no poison found"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassFinding:
    """What was found of one class.

    Attributes:
        label: The class.
        finding: As the verdict, of this class alone.
        reason: Why, in words; empty where nothing was found.
        size: Its training samples.
        poisoned: How many of them are called poisoned.
        suspect: How many more are suspect.
    """

    label: int
    finding: Word
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

    verdict: Word
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
                finding=mine[0].finding if mine else "no poison found",
                reason=mine[0].reason if mine else "",
                size=len(rows),
                poisoned=int(poisoned[rows].sum()),
                suspect=int(suspect[rows].sum()),
            )
        )
    return classes, _verdict(context, classes, rolled_back=rolled_back)


def _verdict(context: Context, classes: list[ClassFinding], *, rolled_back: bool) -> Verdict:
    kinds: tuple[Word, ...] = ("poison found", "inconclusive", "label errors found")
    found = {kind: [one for one in classes if one.finding == kind] for kind in kinds}
    flagged = sum(one.poisoned + one.suspect for one in classes)
    for kind in kinds:
        if found[kind]:
            where = "1 class" if len(found[kind]) == 1 else f"{len(found[kind])} classes"
            return Verdict(verdict=kind, reason=_sentence(kind, flagged, where, rolled_back=rolled_back))
    return Verdict(
        verdict="no poison found",
        reason=f"{len(context.probes)} candidates were forgotten and none of them carried a trigger.",
    )


def _sentence(kind: Word, flagged: int, where: str, *, rolled_back: bool) -> str:
    if kind == "poison found":
        kept = " Unlearning it cost too much, so the model may still obey the trigger." if rolled_back else ""
        return f"{flagged} samples of {where} carry a trigger or a label that an attacker changed.{kept}"
    if kind == "inconclusive":
        return f"Something is wrong with the labels of {where}, and nothing tells all the samples concerned."
    return f"{flagged} samples of {where} look like another class than their label says; nothing points to an attack."

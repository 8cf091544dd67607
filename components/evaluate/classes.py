"""The figures of every class: what it lost, how well the model knows it, and whether it can be judged at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from components.common.contracts.verdicts import INCONCLUSIVE, NO_POISON, POISON

__all__ = ["MAX_LOST", "ClassFigures", "class_figures", "expected_suspects"]

MAX_LOST = 0.25
"""Share of its labels that a class may lose without evidence of a trigger. More says that the split failed, not that
the class is bad: real label noise beyond it would leave no majority to tell it from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassFigures:
    """One class of a run.

    Attributes:
        name: Its name.
        train: Training samples, canaries left out.
        suspects: Those of them that lost their label.
        lost_share: Suspects as a share of them, in [0, 1].
        holdout: Holdout rows.
        trusted: Those of them that figures are measured on.
        recall: Share of the trusted rows that the defended model gets right, in [0, 1]; None without any.
        finding: One of ``contracts.verdicts.VERDICTS``; ``inconclusive`` for a class that cannot be judged.
        reason: Why, in a sentence; may be empty.
    """

    name: str
    train: int
    suspects: int
    lost_share: float
    holdout: int
    trusted: int
    recall: float | None
    finding: str
    reason: str

    def as_fact(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


def class_figures(
    names: Sequence[str],
    *,
    train_labels: npt.NDArray[np.int64],
    flagged: npt.NDArray[np.bool_],
    holdout_labels: npt.NDArray[np.int64],
    trusted: npt.NDArray[np.bool_],
    right: npt.NDArray[np.bool_],
    evident: Sequence[str],
    found: Mapping[str, tuple[str, str]],
) -> list[ClassFigures]:
    """Every class of a run, in the order of their names.

    Args:
        names: Name of class k at position k.
        train_labels: int64 [n], given labels of the training rows that count.
        flagged: bool [n], those that lost their label.
        holdout_labels: int64 [m].
        trusted: bool [m], rows that figures are measured on.
        right: bool [m], rows that the defended model gets right.
        evident: Names of the classes with evidence of a trigger.
        found: What the unlearn stage says of classes, by name: finding and reason. Classes that it does not name are
            judged by what they lost.
    """
    figures = []
    for label, name in enumerate(names):
        members, rows = train_labels == label, holdout_labels == label
        count, suspects = int(members.sum()), int((flagged & members).sum())
        lost = suspects / count if count else 0.0
        counted = rows & trusted
        finding, reason = found.get(name, (POISON if name in evident else NO_POISON, ""))
        if lost > MAX_LOST and finding != POISON:
            finding = INCONCLUSIVE
            reason = (
                f"{suspects} of {count} labels ({100 * lost:.0f} %) were taken away without evidence of a trigger; "
                f"beyond {100 * MAX_LOST:.0f} % that speaks against the split, and this class cannot be judged."
            )
        figures.append(
            ClassFigures(
                name=name,
                train=count,
                suspects=suspects,
                lost_share=round(lost, 4),
                holdout=int(rows.sum()),
                trusted=int(counted.sum()),
                recall=round(float(right[counted].mean()), 4) if counted.any() else None,
                finding=finding,
                reason=reason,
            )
        )
    return figures


def expected_suspects(classes: Sequence[ClassFigures]) -> float:
    """Suspects that a holdout drawn like the training rows would have: what is found of them tells what is missed."""
    return sum(one.lost_share * one.holdout for one in classes)

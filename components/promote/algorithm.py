"""The gates of a promotion: figures in, verdicts out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.common.contracts.verdicts import INCONCLUSIVE, VERDICTS
from components.common.retraining.records import Gate
from components.promote.config import PromoteConfig

__all__ = ["ClassRecall", "Evidence", "Measured", "gates"]

_CONFIDENCE = 1.645
"""Standard deviations of sampling noise that one side of a comparison may carry: 95 % of a normal distribution."""
_FEWEST = 5
"""Rows of a class below which its recall says nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassRecall:
    """A class on the rows of a comparison.

    Attributes:
        name: Its name.
        rows: How many rows it has.
        right: How many of them the candidate gets right.
        champion_right: How many of them the champion gets right; None without one.
    """

    name: str
    rows: int
    right: int
    champion_right: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """The candidate, and the champion if there is one, on the same rows.

    Attributes:
        where: Which rows these are, in words, with what was left out.
        classes: The classes that have rows.
        only_candidate: Rows that the candidate alone gets right.
        only_champion: Rows that the champion alone gets right.
        problem: Why the champion cannot be measured on these rows; empty if it was, or if there is none.
    """

    where: str
    classes: Sequence[ClassRecall]
    only_candidate: int = 0
    only_champion: int = 0
    problem: str = ""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(one.rows for one in self.classes)

    @property
    def acc(self) -> float:
        """Share of the rows that the candidate gets right, in [0, 1]; 0 without rows."""
        return sum(one.right for one in self.classes) / max(1, self.rows)

    @property
    def champion_acc(self) -> float | None:
        """The same of the champion; None if it was not measured."""
        rights = [one.champion_right for one in self.classes if one.champion_right is not None]
        return sum(rights) / self.rows if rights else None

    @property
    def chance(self) -> float:
        """Share of the most frequent class, which guessing gets right, in [0, 1]."""
        return max((one.rows for one in self.classes), default=0) / max(1, self.rows)

    @property
    def noise(self) -> float:
        """Standard deviation of the difference of both accuracies, from the rows on which they differ (McNemar)."""
        differ = self.only_candidate + self.only_champion
        difference = self.only_candidate - self.only_champion
        return math.sqrt(max(0.0, differ - difference**2 / max(1, self.rows))) / max(1, self.rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What a run shows of its model.

    Attributes:
        newest: Figures on the trusted rows of the run's own holdout.
        pinned: Figures on the evaluation set that is pinned to the model's name; None without one.
        champion: Number of the champion to beat; 0 for none.
        suspect_share: Suspects as a share of the training set, in [0, 1].
        verdict: The run's verdict, or None if there is none.
        reason: Why, in a sentence.
        unjudged: Names of the classes that cannot be judged.
        canary: What the planted trigger showed (``planted``, ``caught``, ``fired``), or None without one.
    """

    newest: Measured
    pinned: Measured | None = None
    champion: int = 0
    suspect_share: float
    verdict: str | None
    reason: str = ""
    unjudged: Sequence[str] = ()
    canary: Mapping[str, Any] | None


def gates(evidence: Evidence, config: PromoteConfig) -> list[Gate]:
    """Every gate, whether it held or not.

    Args:
        evidence: The candidate's.
        config: The limits.
    """
    share = evidence.suspect_share
    measured = [("accuracy", evidence.newest)] + ([("pinned", evidence.pinned)] if evidence.pinned else [])
    return [
        *(_accuracy(name, one, evidence.champion, config) for name, one in measured),
        *(_worst_class(name, one, evidence.champion, config) for name, one in measured),
        Gate(
            name="classes",
            passed=not evidence.unjudged,
            expected="every class can be judged",
            found=f"no judgement of {', '.join(evidence.unjudged)}" if evidence.unjudged else "every class was judged",
        ),
        Gate(
            name="suspects",
            passed=share <= config.max_suspect_share,
            expected=f"at most {_percent(config.max_suspect_share)} of the training set",
            found=_percent(share),
        ),
        Gate(
            name="verdict",
            passed=evidence.verdict in VERDICTS and evidence.verdict != INCONCLUSIVE,
            expected="a verdict on the data that is not inconclusive",
            found=f"{evidence.verdict}{': ' if evidence.reason else ''}{evidence.reason.rstrip('.')}",
        ),
        _canary(evidence.canary, config),
    ]


def _accuracy(name: str, measured: Measured, champion: int, config: PromoteConfig) -> Gate:
    floor = max(config.min_acc, measured.chance + config.min_skill * (1.0 - measured.chance))
    expected = f"ACC of {_percent(floor)} or more on {measured.where}, where guessing gets {_percent(measured.chance)}"
    found = f"{_percent(measured.acc)} of {measured.rows}"
    # A rounding of the last bit must not decide over a model that has exactly what is asked.
    passed = measured.rows > 0 and measured.acc >= floor - 1e-9
    before = measured.champion_acc
    if measured.problem:
        return Gate(name=name, passed=False, expected=f"{expected}, like champion {champion}", found=measured.problem)
    if before is not None:
        allowed = config.max_acc_loss + _CONFIDENCE * measured.noise
        passed = passed and before - measured.acc <= allowed + 1e-9
        expected += (
            f"; and at most {_points(config.max_acc_loss)} below champion {champion} on the same rows, beyond sampling "
            f"noise of {_points(_CONFIDENCE * measured.noise)}"
        )
        found += (
            f"; champion {champion} {_percent(before)}, a difference of {_points(measured.acc - before, sign=True)}"
        )
    return Gate(name=name, passed=passed, expected=expected, found=found)


def _worst_class(name: str, measured: Measured, champion: int, config: PromoteConfig) -> Gate:
    """Whether every class is known, whatever the average says."""
    count = len(measured.classes)
    floor = 1 / max(2, count) + config.min_class_skill * (1 - 1 / max(2, count))
    limit = config.max_class_loss
    found, passed = [], count > 0
    for one in measured.classes:
        recall, rows = one.right / max(1, one.rows), one.rows
        if rows < _FEWEST:
            found.append(f"{one.name} has {rows} rows, too few to tell")
        elif recall < floor - 1e-9:
            found.append(f"{one.name} {_percent(recall)} of {rows}")
        elif one.champion_right is not None and one.champion_right / rows - recall > limit + _spread(one):
            found.append(
                f"{one.name} {_percent(recall)} of {rows}, champion {champion} {_percent(one.champion_right / rows)}"
            )
    worst = min(measured.classes, key=lambda one: one.right / max(1, one.rows), default=None)
    beside = f", and at most {_points(limit)} below champion {champion}, beyond sampling noise" if champion else ""
    return Gate(
        name="worst class" if name == "accuracy" else f"{name} worst class",
        passed=passed and not found,
        expected=f"recall of {_percent(floor)} or more in every class{beside}, of {_FEWEST} rows at least",
        found="; ".join(found)
        or (f"the worst is {worst.name}, {_percent(worst.right / worst.rows)} of {worst.rows}" if worst else "no rows"),
    )


def _spread(one: ClassRecall) -> float:
    """Sampling noise of the difference of two recalls, as if both were drawn apart: the wider of two assumptions."""
    shares = [right / one.rows for right in (one.right, one.champion_right or 0)]
    return _CONFIDENCE * math.sqrt(sum(share * (1 - share) for share in shares) / one.rows)


def _canary(canary: Mapping[str, Any] | None, config: PromoteConfig) -> Gate:
    """Whether a trigger was planted; what became of it is part of the verdict."""
    if canary is None:
        expected = "a planted trigger, to show what the defence sees on these data"
        if not config.require_canary:
            expected = "nothing: promote.require_canary is false"
        return Gate(name="canary", passed=not config.require_canary, expected=expected, found="no canary in this run")
    caught, fired = float(canary["caught"]), float(canary["fired"])
    return Gate(
        name="canary",
        passed=caught >= config.min_canary_caught and fired <= config.max_canary_fired,
        expected=(
            f"{100 * config.min_canary_caught:.0f} % or more of the planted samples caught, and the planted trigger "
            f"fires on {100 * config.max_canary_fired:.0f} % of the holdout or less (this trigger is tested, no other)"
        ),
        found=f"{100 * caught:.0f} % of {int(canary['planted'])} caught, fires on {100 * fired:.1f} %",
    )


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _points(value: float, *, sign: bool = False) -> str:
    return f"{100 * value:{'+' if sign else ''}.1f} points"

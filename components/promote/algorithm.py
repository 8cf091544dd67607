"""The gates of a promotion: figures in, verdicts out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.common.retraining.records import Champion, Gate
from components.promote.config import PromoteConfig

__all__ = ["VERDICTS", "Evidence", "gates"]

VERDICTS = ("poison found", "no poison found")
"""What the split can say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What a run shows of its model.

    Attributes:
        acc: Accuracy on the holdout, in [0, 1].
        holdout_sha256: Digest of the holdout's images and labels.
        suspect_share: Suspects as a share of the training set, in [0, 1].
        verdict: The split's verdict, or None if there is none.
        canary: What the planted trigger showed (``planted``, ``caught``, ``fired``), or None without one.
    """

    acc: float
    holdout_sha256: str
    suspect_share: float
    verdict: str | None
    canary: Mapping[str, Any] | None


def gates(evidence: Evidence, champion: Champion | None, config: PromoteConfig) -> list[Gate]:
    """Every gate, whether it held or not.

    Accuracies on different holdouts are compared all the same, and the gate says that they differ: the figures then
    carry the sampling noise of both holdouts.

    Args:
        evidence: The candidate's.
        champion: The model to beat, or None for the first one.
        config: The limits.
    """
    share = evidence.suspect_share
    return [
        _accuracy(evidence, champion, config),
        Gate(
            name="suspects",
            passed=share <= config.max_suspect_share,
            expected=f"at most {100 * config.max_suspect_share:.2f} % of the training set",
            found=f"{100 * share:.2f} %",
        ),
        Gate(
            name="verdict",
            passed=evidence.verdict in VERDICTS,
            expected=f"a verdict of the split: {' or '.join(VERDICTS)}",
            found=str(evidence.verdict),
        ),
        _canary(evidence.canary, config),
    ]


def _accuracy(evidence: Evidence, champion: Champion | None, config: PromoteConfig) -> Gate:
    found = f"ACC {100 * evidence.acc:.2f} %"
    if champion is None:
        return Gate(
            name="accuracy",
            passed=evidence.acc >= config.min_acc,
            expected=f"ACC of {100 * config.min_acc:.2f} % or more; there is no champion to compare with",
            found=found,
        )
    # A rounding of the last bit must not decide over a model that lost exactly what is allowed.
    wanted = max(champion.acc - config.max_acc_loss, config.min_acc)
    if champion.holdout_sha256 == evidence.holdout_sha256:
        where = "the same holdout"
    else:
        where = "ANOTHER holdout, so both figures carry their own sampling noise"
    return Gate(
        name="accuracy",
        passed=evidence.acc >= wanted - 1e-9,
        expected=f"ACC of {100 * wanted:.2f} % or more; champion {champion.number} has {100 * champion.acc:.2f} % "
        f"on {where}",
        found=found,
    )


def _canary(canary: Mapping[str, Any] | None, config: PromoteConfig) -> Gate:
    expected = (
        f"{100 * config.min_canary_caught:.0f} % or more of the planted samples caught, and the planted trigger fires "
        f"on {100 * config.max_canary_fired:.0f} % of the holdout or less (this trigger is tested, no other)"
    )
    if canary is None:
        if not config.require_canary:
            expected = "nothing: promote.require_canary is false"
        return Gate(name="canary", passed=not config.require_canary, expected=expected, found="no canary in this run")
    caught, fired = float(canary["caught"]), float(canary["fired"])
    return Gate(
        name="canary",
        passed=caught >= config.min_canary_caught and fired <= config.max_canary_fired,
        expected=expected,
        found=f"{100 * caught:.0f} % of {int(canary['planted'])} caught, fires on {100 * fired:.1f} %",
    )

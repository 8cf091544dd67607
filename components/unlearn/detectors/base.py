"""What a detector is asked and what it answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from components.common.contracts.errors import ConfigError
from components.common.contracts.registry import Registry
from components.unlearn.context import Context
from components.unlearn.forgetting import Candidate, Probe

__all__ = ["DETECTORS", "Detector", "Find", "Finding", "chosen_detectors"]

Finding = Literal["poison found", "label errors found", "inconclusive"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Find:
    """What a detector says of one label.

    Attributes:
        label: The label.
        detector: Who says so.
        finding: ``label errors found`` where labels are wrong and nothing points to an attack;
            ``inconclusive`` where something is wrong and nothing tells which samples.
        scores: float32 [n] in [0, 1], higher = more suspect; 0 for samples of other labels.
        threshold: Score above which a sample is suspect; above 0.5 it is poisoned.
        reason: In words, for people.
        probe: The probe that parts the label's samples: evidence of a trigger. None where the images alone speak.
        recheck: Whether fine-tuning looks again at the labels that are left, since this may not be all.
    """

    label: int
    detector: str
    finding: Finding
    scores: Tensor
    threshold: float
    reason: str
    probe: Probe | None = None
    recheck: bool = False


class Detector(Protocol):
    """One question, with its acceptance constants as fields.

    Attributes:
        name: Name in the registry.
        order: Detectors are asked in increasing order; what one settles, later ones leave alone.
        questions: How many candidates it may have at most, for the progress bar.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def order(self) -> int: ...  # noqa: D102

    @property
    def questions(self) -> int: ...  # noqa: D102

    def candidates(self, context: Context) -> Iterator[Candidate]:
        """What it would ask about, the most promising first; drawn one by one, as long as the label is open."""

    def judge(self, context: Context, candidate: Candidate) -> Find | None:
        """Its answer about a candidate; None where there is nothing."""


DETECTORS: Registry[Detector] = Registry("detector", "components.unlearn.detectors")


def chosen_detectors(names: str) -> list[Detector]:
    """The detectors of a setting, in the order in which they are asked.

    Args:
        names: Names joined by commas; empty for all; ``-name`` for all but that one.

    Raises:
        ConfigError: An unknown name, or both forms at once.
    """
    asked = [name.strip() for name in names.split(",") if name.strip()]
    left_out = {name[1:] for name in asked if name.startswith("-")}
    if left_out and len(left_out) != len(asked):
        raise ConfigError(
            "UnlearnConfig.detectors",
            expected="names of detectors, or names to leave out, each with a '-' before it",
            found=names,
            hint="Use one of the two forms.",
        )
    known = {name: DETECTORS[name] for name in (left_out or asked or DETECTORS)}
    chosen = [DETECTORS[name] for name in DETECTORS if name not in left_out] if left_out else list(known.values())
    return sorted(chosen, key=lambda detector: detector.order)

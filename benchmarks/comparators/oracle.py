"""Ordinary training on the truly clean part: what a perfect split would give.

Model, recipe and number of epochs are the control's; an epoch is shorter by the poisoned share. Cover samples of the
adaptive attacks, which carry their true label, belong to the clean part.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.case import Case, Outcome

__all__ = ["SETTINGS", "defend"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """It has none of its own."""


SETTINGS = Settings()


def defend(case: Case) -> Outcome:
    """Trains on the samples that the truth calls clean."""
    if not bool(case.is_poisoned.any()):
        # The very same training: the same rows, seed and recipe.
        model, seconds = case.undefended
        return Outcome(model=model, seconds=seconds)
    return Outcome(model=case.ordinarily_trained(~case.is_poisoned))

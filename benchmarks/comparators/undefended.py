"""Ordinary training on everything as given: the pipeline's control."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.case import Case, Outcome

__all__ = ["SETTINGS", "defend"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """It has none of its own."""


SETTINGS = Settings()


def defend(case: Case) -> Outcome:
    """Trains without a defence."""
    model, seconds = case.undefended
    return Outcome(model=model, seconds=seconds)

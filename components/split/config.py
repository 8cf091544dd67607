"""The settings of the split."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from components.common.contracts.config import Config, Seed

__all__ = ["SplitConfig"]


class SplitConfig(Config):
    """Which training samples are proposed as poisoned, and which are trusted."""

    stage: ClassVar[str] = "split"

    seed: Seed = 0
    """Seed of everything random. Here: unused by the signals at hand, but part of the stage's key."""
    isolation_ratio: Annotated[float, Field(gt=0.0, le=0.2)] = 0.02
    """Share of the training set that each signal proposes: enough to forget a trigger by, few enough to be pure."""

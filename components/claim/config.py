"""The settings of the claim."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from components.common.contracts.config import Config, known_name
from components.common.contracts.names import Day, ModelName
from components.common.intake.names import OWN

__all__ = ["ClaimConfig"]


class ClaimConfig(Config):
    """Which drop of a producer's is trained next."""

    stage: ClassVar[str] = "claim"

    name: ModelName = "model"
    """Name of the model that is trained on the drops; a drop is trained once per name."""
    drops: str = ""
    """``s3://bucket/prefix`` with one folder per drop, or a drop itself."""
    since: Day = ""
    """First date of the drops to take, YYYY-MM-DD, by the date in their name; empty for no bound."""
    until: Day = ""
    """Last date of the drops to take, YYYY-MM-DD, inclusive; empty for no bound."""
    lease_seconds: Annotated[float, Field(ge=1.0, le=30 * 86_400.0)] = 3600.0
    """Seconds without a sign of life of a training after which its drop may be claimed by another run."""
    attempts: Annotated[int, Field(ge=1, le=1_000)] = 3
    """Trainings of one drop that may die before it is left alone."""
    plan: str = ""
    """Digest of what is done with a drop: a takeover of the same plan resumes from the dead run's data; or empty."""
    reader: Annotated[str, known_name(also=tuple(OWN))] = "drop"
    """How the drop's files are read: the dataset's name becomes ``<reader>:<uri>``."""

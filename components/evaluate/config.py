"""The settings of the evaluation."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from components.common.contracts.config import Config

__all__ = ["EvaluateConfig"]


class EvaluateConfig(Config):
    """What is measured and shown."""

    stage: ClassVar[str] = "evaluate"

    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 250
    """Images per forward pass."""
    shown_suspects: Annotated[int, Field(ge=0, le=200)] = 20
    """Most suspect samples that the report lists."""

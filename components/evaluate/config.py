"""The settings of the evaluation."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from components.common.contracts.config import Config, Rule
from components.common.contracts.registry import registered_names

__all__ = ["EvaluateConfig"]


def _formats() -> tuple[str, ...]:
    return registered_names("components.common.exporters")


def _are_formats(text: str) -> bool:
    return {name.strip() for name in text.split(",") if name.strip()} <= set(_formats())


class EvaluateConfig(Config):
    """What is measured and shown."""

    stage: ClassVar[str] = "evaluate"

    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 250
    """Images per forward pass."""
    shown_suspects: Annotated[int, Field(ge=1, le=200)] = 36
    """Most suspect samples that the report shows."""
    formats: Annotated[
        str, Rule(_are_formats, lambda: f"names with commas between them, of {', '.join(_formats())}")
    ] = ""
    """Formats in which the model is published, with commas between them; empty for all that can be written where the
    stage runs. ``safetensors`` always is, and ``untaint export`` makes the others from it."""

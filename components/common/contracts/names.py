"""The names that people give: what a run and a model may be called, and how a date is written. One rule each."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated

from components.common.contracts.config import Rule
from components.common.contracts.errors import ConfigError

__all__ = ["Day", "ModelName", "checked_run_id"]

# On a cluster a run id is the model's name, a hyphen and 14 digits of time.
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def _is_day(text: str) -> bool:
    try:
        return not text or bool(date.fromisoformat(text))
    except ValueError:
        return False


ModelName = Annotated[
    str,
    Rule(
        lambda name: bool(_MODEL_NAME.fullmatch(name)),
        "1 to 63 letters (A-Z, a-z), digits, '.', '_' and '-', starting with a letter or digit",
    ),
]
"""The name under which champions follow one another."""
Day = Annotated[str, Rule(_is_day, "a date as YYYY-MM-DD, or nothing")]
"""A date, or the empty text for none."""


def checked_run_id(run_id: str) -> str:
    """A run id as it came, if it can be one.

    Raises:
        ConfigError: It cannot.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise ConfigError(
            "run_id",
            expected="1 to 100 letters (A-Z, a-z), digits, '.', '_' and '-', starting with a letter or digit",
            found=repr(run_id[:120]),
            hint="Choose another run id. On a cluster, [[ScheduledTime]] is filled in by the scheduler alone.",
        )
    return run_id

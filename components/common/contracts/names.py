"""The names that people give: what a run and a model may be called, and how a date is written. One rule each."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated

from components.common.contracts.config import Rule
from components.common.contracts.errors import ConfigError

__all__ = ["MAX_MODEL_NAME", "MAX_RUN_ID", "Day", "ModelName", "checked_model_name", "checked_run_id"]

MAX_RUN_ID = 63
"""Longest run id: that of a Kubernetes label."""
MAX_MODEL_NAME = MAX_RUN_ID - len("-20261120030000")
"""Longest name of a model: the runs of its schedule are named after it and their time."""
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EXPECTED = "1 to {} of A-Z, a-z, 0-9, '.', '_' and '-', starting with a letter or digit"


def _is_plain(name: str, longest: int) -> bool:
    return len(name) <= longest and bool(_PLAIN.fullmatch(name))


def _is_day(text: str) -> bool:
    try:
        return not text or bool(date.fromisoformat(text))
    except ValueError:
        return False


ModelName = Annotated[
    str,
    Rule(lambda name: _is_plain(name, MAX_MODEL_NAME), _EXPECTED.format(MAX_MODEL_NAME)),
]
"""The name under which champions follow one another."""
Day = Annotated[str, Rule(_is_day, "a date as YYYY-MM-DD, or nothing")]
"""A date, or the empty text for none."""


def checked_run_id(run_id: str) -> str:
    """A run id as it came, if it can be one.

    Raises:
        ConfigError: It cannot.
    """
    hint = "Choose another run id. On a cluster, [[ScheduledTime]] is filled in by the scheduler alone."
    return _checked("run_id", run_id, MAX_RUN_ID, hint)


def checked_model_name(name: str) -> str:
    """The name of a model as it came, if it can be one; for a name that is no setting of a stage.

    Raises:
        ConfigError: It cannot.
    """
    return _checked("model name", name, MAX_MODEL_NAME, "`untaint models list` shows the names.")


def _checked(subject: str, name: str, longest: int, hint: str) -> str:
    if not _is_plain(name, longest):
        raise ConfigError(subject, expected=_EXPECTED.format(longest), found=repr(name[:120]), hint=hint)
    return name

"""The one rule for names that people give: of runs and of models."""

from __future__ import annotations

import re

from components.common.contracts.errors import ConfigError

__all__ = ["MAX_MODEL_NAME", "MAX_RUN_ID", "checked_model_name", "checked_run_id"]

MAX_RUN_ID = 63
"""Longest run id: that of a Kubernetes label."""

MAX_MODEL_NAME = MAX_RUN_ID - len("-20261120030000")
"""Longest name of a model: a schedule's runs are named after it and the time of the run."""

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def checked_run_id(run_id: str) -> str:
    """A run id as it came, if it can be one.

    Raises:
        ConfigError: It cannot.
    """
    hint = "Choose a plain name. On a cluster the scheduler fills in [[ScheduledTime]]."
    return _checked("run id", run_id, MAX_RUN_ID, hint)


def checked_model_name(name: str) -> str:
    """The name of a model, and of the schedule that trains it, as it came, if it can be one.

    Raises:
        ConfigError: It cannot.
    """
    return _checked("model name", name, MAX_MODEL_NAME, "Choose a plain name; runs are named after it.")


def _checked(kind: str, text: str, longest: int, hint: str) -> str:
    if not _PLAIN.fullmatch(text) or len(text) > longest:
        raise ConfigError(
            f"{kind} {text[:80]!a}",
            expected=f"1 to {longest} of A-Z, a-z, 0-9, '.', '_' and '-', starting with a letter or digit",
            found=f"{len(text)} characters" if _PLAIN.fullmatch(text) else "something else",
            hint=hint,
        )
    return text

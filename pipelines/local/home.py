"""The folder of everything that untaint keeps on this machine."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["home"]


def home() -> Path:
    """The folder of everything that untaint keeps on this machine: ``UNTAINT_HOME``, else ``.untaint`` in here."""
    return Path(os.environ.get("UNTAINT_HOME") or ".untaint").absolute()

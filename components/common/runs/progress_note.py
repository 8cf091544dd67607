"""How far the stage at work is, for a bar on the terminal of a local run: one small file that is written anew."""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PROGRESS_FILE", "ProgressNote", "note_progress", "read_progress"]

PROGRESS_FILE = "UNTAINT_PROGRESS_FILE"
"""Environment variable: the file. Without it nothing is noted."""
_EVERY_SECONDS = 0.2
_last = 0.0


@dataclass(frozen=True, slots=True)
class ProgressNote:
    """The training phase at work, and which of its steps was done last."""

    phase: str
    step: int
    total: int


def note_progress(phase: str, step: int, total: int) -> None:
    """Notes a step, five times a second at most; a disk that does not take it is no reason to stop a training."""
    global _last
    target = os.environ.get(PROGRESS_FILE)
    now = time.monotonic()
    if not target or (now - _last < _EVERY_SECONDS and step != total):
        return
    _last = now
    with contextlib.suppress(OSError):
        draft = Path(f"{target}.draft")
        draft.write_text(json.dumps([phase, step, total]))
        draft.replace(target)


def read_progress(path: Path) -> ProgressNote | None:
    """What was noted last; None if nothing was, or nothing that can be read."""
    try:
        phase, step, total = json.loads(path.read_bytes())
        return ProgressNote(str(phase), int(step), max(1, int(total)))
    except (OSError, ValueError, TypeError):
        return None

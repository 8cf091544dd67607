"""How far the stage at work is, for a bar on the terminal of a local run: one small file that is written anew."""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["PROGRESS_FILE", "ProgressNote", "note_progress", "read_progress", "time_left"]

PROGRESS_FILE = "UNTAINT_PROGRESS_FILE"
"""Environment variable: the file. Without it nothing is noted."""
_EVERY_SECONDS = 0.2
# Before, the first steps, which are slower than the rest, say more about themselves than about the others.
_JUDGED_AFTER_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class ProgressNote:
    """The phase at work, and which of its steps was done last.

    Attributes:
        phase: Name of the phase.
        step: Steps that are done, 0 to ``total``.
        total: All steps of the phase, at least 1.
        seconds_left: Expected seconds to the end of the phase; None as long as nothing is known.
        figure: What was measured last, such as ``loss 0.31``; empty where nothing was.
    """

    phase: str
    step: int
    total: int
    seconds_left: float | None = None
    figure: str = ""


@dataclass(slots=True)
class _Clock:
    """When this process took the phase up, at which step, and when it was noted last; monotonic seconds."""

    phase: str
    began: float
    first: int
    noted: float


_clock = _Clock("", 0.0, 0, 0.0)


def note_progress(phase: str, step: int, total: int, figure: str = "") -> None:
    """Notes a step, five times a second at most; a disk that does not take it is no reason to stop a training.

    The time left follows from the steps that this process has done, not from those that an earlier attempt did.
    """
    global _clock
    target = os.environ.get(PROGRESS_FILE)
    if not target:
        return
    now = time.monotonic()
    if phase != _clock.phase or step < _clock.first:
        _clock = _Clock(phase, now, step, 0.0)
    elif now - _clock.noted < _EVERY_SECONDS and step != total:
        return
    _clock.noted = now
    done, elapsed = step - _clock.first, now - _clock.began
    known = step >= total or (done > 0 and elapsed >= _JUDGED_AFTER_SECONDS)
    note = ProgressNote(phase, step, total, elapsed / max(done, 1) * (total - step) if known else None, figure)
    with contextlib.suppress(OSError):
        draft = Path(f"{target}.draft")
        draft.write_text(json.dumps(asdict(note)))
        draft.replace(target)


def read_progress(path: Path) -> ProgressNote | None:
    """What was noted last; None if nothing was, or nothing that can be read."""
    try:
        noted = json.loads(path.read_bytes())
        left = noted["seconds_left"]
        return ProgressNote(
            str(noted["phase"]),
            int(noted["step"]),
            max(1, int(noted["total"])),
            None if left is None else float(left),
            str(noted.get("figure", "")),
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def time_left(seconds: float) -> str:
    """Seconds as a person wants to read them: ``about 40 s left``, ``about 3 min left``, ``about 2 h 10 min left``."""
    if seconds < 90:
        return f"about {max(5, 5 * round(seconds / 5))} s left"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"about {minutes} min left"
    return f"about {minutes // 60} h {minutes % 60} min left"

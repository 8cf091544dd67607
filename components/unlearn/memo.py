"""Answers that are kept, so that an interrupted stage asks only the questions that are left."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from components.common.learning.checkpoint import from_bytes, to_bytes
from components.common.learning.watch import Watch

__all__ = ["Memo"]

_PHASE = "unlearn"


class Memo:
    """A ``Watch`` that also remembers answers by name and saves each of them at once.

    Every answer is a function of the stage's inputs alone, so a second attempt takes the same path through the same
    questions and finds the answers of the first.

    Args:
        watch: The stage's own; gets one state with all answers and with that of a training under way.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        kept = watch.restore(_PHASE)
        self._entries: dict[str, dict[str, Tensor]] = {}
        if kept is not None:
            self._entries = from_bytes(kept, subject=f"resumable state of '{_PHASE}'")

    def recall(self, question: str, answer: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The kept answer to a question, or a new one, which is kept from now on."""
        if question not in self._entries:
            found = answer()
            self._entries[question] = found
            # A training's state is of no use once it has led to an answer.
            self._entries = {name: entry for name, entry in self._entries.items() if "state" not in entry}
            self._flush()
        return self._entries[question]

    def progress(self, phase: str, step: int, total: int, figures: Mapping[str, float]) -> None:
        """Reports a question; the steps of a training inside one are not the stage's."""
        if phase == _PHASE:
            self._watch.progress(phase, step, total, figures)

    def wants_state(self, phase: str) -> bool:
        """As the stage says."""
        return self._watch.wants_state(phase)

    def save(self, phase: str, state: bytes) -> None:
        """Keeps the state of a training beside the answers."""
        self._entries[phase] = {"state": torch.from_numpy(np.frombuffer(state, dtype=np.uint8).copy())}
        self._flush()

    def restore(self, phase: str) -> bytes | None:
        """The kept state of a training, or None."""
        kept = self._entries.get(phase, {}).get("state")
        return None if kept is None else kept.numpy().tobytes()

    def _flush(self) -> None:
        self._watch.save(_PHASE, to_bytes(self._entries))

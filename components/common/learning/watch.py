"""What a training loop tells, and asks of, whoever runs it: progress and resumable state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

__all__ = ["NullWatch", "Watch"]


class Watch(Protocol):
    """The loop's view of the stage around it. Implementations decide how often to speak and to save."""

    def progress(self, phase: str, step: int, total: int, figures: Mapping[str, float]) -> None:
        """Called after every step; must be cheap."""

    def wants_state(self, phase: str) -> bool:
        """Whether enough time has passed that the state should be saved now."""

    def save(self, phase: str, state: bytes) -> None:
        """Keeps the state of a phase so that a later process can go on from it."""

    def restore(self, phase: str) -> bytes | None:
        """The last kept state of a phase of the same work, or None."""


class NullWatch:
    """Says nothing and keeps nothing: for tests, benchmarks and notebooks."""

    def progress(self, phase: str, step: int, total: int, figures: Mapping[str, float]) -> None:
        """Does nothing."""

    def wants_state(self, phase: str) -> bool:
        """Never."""
        return False

    def save(self, phase: str, state: bytes) -> None:
        """Does nothing."""

    def restore(self, phase: str) -> bytes | None:
        """Nothing is kept."""
        return None

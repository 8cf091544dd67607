"""Per-sample signals of poisoning: one file each, numpy only, scores in [0, 1], higher = more suspect."""

from __future__ import annotations

from components.common.signals._candidates import propose, trust
from components.common.signals.base import SIGNALS, Evidence, Signal, ranks, score_all

__all__ = ["SIGNALS", "Evidence", "Signal", "propose", "ranks", "score_all", "trust"]

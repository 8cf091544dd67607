"""The words for what a run, or a class of it, can be called; stages and gates compare them and nothing else."""

from __future__ import annotations

__all__ = ["INCONCLUSIVE", "LABEL_ERRORS", "NO_POISON", "POISON", "VERDICTS"]

POISON = "poison found"
"""Samples share a trigger."""
LABEL_ERRORS = "label errors found"
"""Labels contradict what was learned from the others, and share no trigger."""
NO_POISON = "no poison found"
"""Neither, where the data and the model could have shown it."""
INCONCLUSIVE = "inconclusive"
"""The data or the model cannot carry the question. No gate takes this for clean."""
VERDICTS = (POISON, LABEL_ERRORS, NO_POISON, INCONCLUSIVE)
"""All of them."""

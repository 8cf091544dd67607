"""The settings of the promotion: the limits of its gates."""

from __future__ import annotations

from typing import ClassVar

from components.common.contracts.config import Config, Share
from components.common.contracts.names import ModelName

__all__ = ["PromoteConfig"]


class PromoteConfig(Config):
    """What a model must show before it becomes the champion."""

    stage: ClassVar[str] = "promote"

    name: ModelName = "model"
    """Name of the model."""
    max_acc_loss: Share = 0.005
    """Accuracy that may be lost against the champion, as a fraction: half a percentage point."""
    min_acc: Share = 0.0
    """Accuracy that is asked of every champion; the first one has no other to beat."""
    max_suspect_share: Share = 0.3
    """Largest share of the training set that may be suspect: above it the split is not to be believed."""
    require_canary: bool = True
    """Whether a result of the planted trigger must be there."""
    min_canary_caught: Share = 0.8
    """Share of the planted samples that the split must have caught."""
    max_canary_fired: Share = 0.1
    """Largest share of triggered holdout images that the model may take for the planted label."""

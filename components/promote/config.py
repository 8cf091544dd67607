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
    """Accuracy that may be lost against the champion on the same rows, beyond sampling noise."""
    max_class_loss: Share = 0.1
    """Recall that a class may lose against the champion on the same rows, beyond sampling noise."""
    min_acc: Share = 0.0
    """Accuracy that is asked of every champion."""
    min_skill: Share = 0.25
    """Accuracy beyond guessing the most frequent class that is asked of every champion, as a share of what lies between
    guessing and no error: of ten even classes .25 asks for an ACC of 32.5 %."""
    min_class_skill: Share = 0.1
    """The same for the recall of every class, beyond one over the number of classes: of ten .1 asks for 19 %."""
    max_suspect_share: Share = 0.3
    """Largest share of the training set that may be suspect: above it the split is not to be believed."""
    holdout: str = ""
    """Address of an evaluation set that is pinned to the model's name from then on: every candidate and the champion
    are measured on it, besides the trusted rows of the newest drop. Empty keeps what is pinned, if anything."""
    require_canary: bool = True
    """Whether a result of the planted trigger must be there."""
    min_canary_caught: Share = 0.8
    """Share of the planted samples that the split must have caught."""
    max_canary_fired: Share = 0.1
    """Largest share of triggered holdout images that the model may take for the planted label."""

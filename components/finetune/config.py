"""The settings of the fine-tuning."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from components.common.contracts.config import Share
from components.common.learning.config import Epochs, TrainRecipe

__all__ = ["FinetuneConfig"]


class FinetuneConfig(TrainRecipe):
    """Semi-supervised fine-tuning: labels of trusted samples, images of all."""

    stage: ClassVar[str] = "finetune"

    epochs: Epochs = 12
    """Passes of the fine-tuning over the training set, labelled and unlabelled samples together."""
    confidence: Share = 0.95
    """Probability from which the EMA's guess is a pseudo-label: the threshold of FixMatch (Sohn et al. 2020)."""
    unlabelled_weight: Annotated[float, Field(ge=0.0, le=100.0)] = 1.0
    """Weight of a pseudo-labelled sample against a labelled one: FixMatch's lambda_u."""
    resplit_epochs: Epochs = 2
    """Passes between two looks at doubted labels: what the EMA by then takes for what is doubted loses its label."""

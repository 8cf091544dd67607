"""The settings of the unlearning; detectors hold their own acceptance constants."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from components.common.contracts.config import Config, Seed, Share
from components.common.learning.config import Epochs, LearningRate, Momentum

__all__ = ["UnlearnConfig"]

_Steps = Annotated[int, Field(ge=1, le=100_000)]


class UnlearnConfig(Config):
    """What is asked of the training data, and how samples are forgotten."""

    stage: ClassVar[str] = "unlearn"

    seed: Seed = 0
    """Seed of everything random. Here: of batches and augmentation."""
    detectors: str = ""
    """Names of detectors joined by commas, or names to leave out, each with a ``-`` before it; empty for all."""
    steps: _Steps = 40
    """Steps per probe; 40 take a trigger's probability to chance and leave the main task time to repair."""
    class_steps: _Steps = 15
    """Steps that forget a whole class; enough to take its probability to zero."""
    class_limit: Annotated[int, Field(ge=1, le=32_767)] = 20
    """Most classes that are forgotten as a whole, the largest first."""
    forget_batch: Annotated[int, Field(ge=1, le=65_536)] = 64
    """Samples of the forget set per step."""
    retain_batch: Annotated[int, Field(ge=2, le=65_536)] = 128
    """Samples of the retain set per step."""
    learning_rate: LearningRate = 0.005
    """Of SGD with momentum. Four times more moves bystanders as well: AUROC .999 fell to .945 on CIFAR-10."""
    momentum: Momentum = 0.9
    """Momentum of SGD."""
    retain_ratio: Annotated[float, Field(ge=0.05, le=0.9)] = 0.5
    """Least suspect share of every class that is retained while a candidate is forgotten."""
    unseen_epochs: Epochs = 6
    """Passes of the training without a class whose samples are judged by what their images alone show."""
    most_lost: Share = 0.25
    """Largest share of a class that may lose its label without evidence of a trigger; of more, all keep it and the
    class is inconclusive."""
    max_retain_loss: Share = 0.3
    """Share of the retain set that may lose its label before the unlearned model is given up."""

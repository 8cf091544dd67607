"""The settings of the warm-up and of the undefended model, which the same stage trains."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from components.common.contracts.config import known_name
from components.common.learning.config import DEFAULT_MODEL, Decay, Epochs, LearningRate, TrainRecipe

__all__ = ["ControlConfig", "WarmupConfig"]

_Model = Annotated[str, known_name("components.common.models")]


class WarmupConfig(TrainRecipe):
    """The supervised warm-up on everything, in which a backdoor is over-learned and the main task half-learned."""

    stage: ClassVar[str] = "warmup"

    model: _Model = DEFAULT_MODEL
    """Name of the model's architecture (``untaint list architectures``)."""
    epochs: Epochs = 4
    """Passes of the warm-up over the training set. Three to four are where backdoors stand out; see docs/method.md."""
    learning_rate: LearningRate = 0.05
    """Constant after a ramp: an annealed rate would let the model fit what the split wants to see unfitted."""
    ema_decay: Decay = 0.95
    """Samples are scored with an EMA, since one epoch's snapshot is a lottery; 0.95 spans 20 steps."""
    mixing_rounds: Annotated[int, Field(ge=1, le=100)] = 2
    """Partners that each sample is mixed with when its hold on the given label is measured."""


class ControlConfig(TrainRecipe):
    """The undefended model: the same model and recipe, trained on everything as given, for as many epochs in all."""

    stage: ClassVar[str] = "control"

    model: _Model = DEFAULT_MODEL
    """Name of the model's architecture; that of the warm-up."""
    epochs: Epochs = 16
    """Passes of the undefended model, usually those of warm-up and fine-tuning together."""

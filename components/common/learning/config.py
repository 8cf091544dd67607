"""The settings that every training shares. Like every module named config it is no part of a stage's code version."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from components.common.contracts.config import Config, Rule, Seed

__all__ = ["DEFAULT_MODEL", "Decay", "Epochs", "LearningRate", "Momentum", "TrainRecipe"]

DEFAULT_MODEL = "convnet"

Epochs = Annotated[int, Field(ge=1, le=10_000)]
LearningRate = Annotated[float, Field(gt=0.0, le=100.0)]
Momentum = Annotated[float, Field(ge=0.0, le=0.9999)]
Decay = Annotated[float, Field(ge=0.0, le=0.99999)]


class TrainRecipe(Config):
    """Optimiser settings that every training of a run shares."""

    seed: Seed = 0
    """Seed of everything random. Here: of initial weights, order and augmentation."""
    # Batch-norm needs two samples, and so does every gradient worth following.
    batch_size: Annotated[int, Field(ge=2, le=65_536)] = 128
    """Samples per step."""
    learning_rate: LearningRate = 0.1
    """Peak learning rate of SGD with Nesterov momentum. 0.1 is usual for batches of 128 with batch-norm."""
    momentum: Momentum = 0.9
    """Momentum of SGD."""
    weight_decay: Annotated[float, Field(ge=0.0, le=1.0)] = 5e-4
    """L2 penalty on weights, not on biases and batch-norm. The usual value for CIFAR-size networks."""
    ema_decay: Decay = 0.99
    """Decay per step of the exponential moving average of the weights."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Format of forward and backward passes: ``fp32``, ``bf16``, or ``auto``: bf16 on GPUs that have it."""
    compile: bool = False
    """Whether the model goes through ``torch.compile``: a minute's wait for faster steps, for long trainings."""
    micro_batch: Annotated[
        int, Rule(lambda count: count == 0 or 2 <= count <= 65_536, "0, or a whole number in [2, 65536]")
    ] = 0
    """Most images of a step that go through a device at once; 0 for all. Halved by itself when memory runs out."""

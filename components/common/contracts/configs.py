"""The configuration of every stage: one frozen dataclass each, and the only place where a default stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar, get_type_hints

from components.common.contracts.errors import ConfigError

__all__ = [
    "EvaluateConfig",
    "FinetuneConfig",
    "IngestConfig",
    "SplitConfig",
    "TrainRecipe",
    "UnlearnConfig",
    "WarmupConfig",
    "as_mapping",
    "from_mapping",
]

C = TypeVar("C")


def _check(subject: str, ok: bool, expected: str, found: object) -> None:
    if not ok:
        raise ConfigError(subject, expected=expected, found=repr(found), hint="Correct the parameter and run again.")


def _check_range(config: object, name: str, low: float, high: float, *, open_low: bool = False) -> None:
    value = getattr(config, name)
    inside = (low < value if open_low else low <= value) and value <= high
    _check(
        f"{type(config).__name__}.{name}", inside, f"a number in {'(' if open_low else '['}{low:g}, {high:g}]", value
    )


_SEED_MAX = 2**31 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestConfig:
    """What is read, and what attack is injected."""

    dataset: str = "mnist5k"
    """A name of ``components/common/datasets``: ``mnist5k``, ``cifar10``, ``parquet:<folder or s3 prefix>``."""
    train_limit: int = 0
    """Training samples to take, stratified; 0 for all."""
    holdout_limit: int = 0
    """Holdout samples to take, stratified; 0 for all."""
    image_size: int = 0
    """Side in pixels that all images are resized to; 0 keeps them, and then all must have one size."""
    mirror: str = "auto"
    """Whether a horizontal flip keeps the class: ``yes``, ``no``, or ``auto`` for what the dataset says."""
    attack: str = "badnets"
    """A name of ``components/common/attacks``, or ``none`` to take the data as they are."""
    poison_rate: float = 0.1
    """Poisoned share of the training set, in [0, 1]; unused with attack ``none``."""
    cover_rate: float = -1.0
    """Share of triggered samples with their own label, in [0, 1]; -1 for the attack's own default."""
    target_label: int = 0
    """Class that triggered images are to be taken for."""
    seed: int = 0
    """Seed of the sub-sampling and of the attack."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        _check("IngestConfig.mirror", self.mirror in ("auto", "yes", "no"), "auto, yes or no", self.mirror)
        _check_range(self, "train_limit", 0, 10**9)
        _check_range(self, "holdout_limit", 0, 10**9)
        _check_range(self, "image_size", 0, 4096)
        _check_range(self, "poison_rate", 0.0, 1.0)
        _check_range(self, "cover_rate", -1.0, 1.0)
        _check_range(self, "target_label", 0, 32_767)
        _check_range(self, "seed", 0, _SEED_MAX)


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """Optimiser settings that every training of a run shares."""

    model: str = "convnet"
    """A name of ``components/common/models``."""
    seed: int = 0
    """Seed of initial weights, order and augmentation."""
    batch_size: int = 128
    """Samples per step."""
    learning_rate: float = 0.1
    """Peak learning rate of SGD with Nesterov momentum. 0.1 is usual for batches of 128 with batch-norm."""
    momentum: float = 0.9
    """Momentum, in [0, 1)."""
    weight_decay: float = 5e-4
    """L2 penalty on weights, not on biases and batch-norm. The usual value for CIFAR-size networks."""
    ema_decay: float = 0.99
    """Decay per step of the exponential moving average of the weights, in [0, 1)."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        _check_range(self, "seed", 0, _SEED_MAX)
        # Batch-norm needs two samples, and so does every gradient worth following.
        _check_range(self, "batch_size", 2, 65_536)
        _check_range(self, "learning_rate", 0.0, 100.0, open_low=True)
        _check_range(self, "momentum", 0.0, 0.9999)
        _check_range(self, "weight_decay", 0.0, 1.0)
        _check_range(self, "ema_decay", 0.0, 0.99999)

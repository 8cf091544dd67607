"""The configuration of every stage: one frozen dataclass each, and the only place where a default stands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar, get_type_hints

from components.common.contracts.errors import ConfigError

__all__ = [
    "ClaimConfig",
    "ControlConfig",
    "EvaluateConfig",
    "FinetuneConfig",
    "IngestConfig",
    "PromoteConfig",
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
    holdout: str = ""
    """Holdout of a drop: a share in (0, 1), stratified; or the folder or s3 prefix of a drop of its own; empty for the
    list's column ``subset`` where it has one, else a fifth."""
    max_rejected_ratio: float = 0.05
    """Share of a drop's samples that may be rejected, in [0, 1], before the drop as a whole is refused."""
    attack_drop: bool = False
    """Whether an attack may be injected into a drop: its owner wants to know what is in it, not to have it poisoned."""
    canary_ratio: float = 0.0
    """Share of a drop's training samples that get a trigger of our own, in [0, 0.1]; 0 plants none. The split must
    catch them and the model must not obey them: see ``components/common/attacks/canary.py``."""
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
    attack_options: str = ""
    """The attack's own settings, as in ``delta_train=80,delta_test=128`` (``untaint list attacks`` names them); what is
    left out has the attack's default."""
    seed: int = 0
    """Seed of the sub-sampling and of the attack."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        _check("IngestConfig.mirror", self.mirror in ("auto", "yes", "no"), "auto, yes or no", self.mirror)
        _check_range(self, "train_limit", 0, 10**9)
        _check_range(self, "holdout_limit", 0, 10**9)
        _check_range(self, "image_size", 0, 4096)
        _check_range(self, "poison_rate", 0.0, 1.0)
        _check_range(self, "max_rejected_ratio", 0.0, 1.0)
        _check(
            "IngestConfig.attack",
            self.attack == "none" or self.attack_drop or not self.dataset.startswith("drop:"),
            "none for a drop, or attack_drop set to true",
            self.attack,
        )
        _check_range(self, "canary_ratio", 0.0, 0.1)
        _check(
            "IngestConfig.canary_ratio",
            self.canary_ratio == 0.0 or (self.attack == "none" and self.dataset.startswith("drop:")),
            "0, or a drop into which no attack is injected",
            self.canary_ratio,
        )
        _check_range(self, "cover_rate", -1.0, 1.0)
        _check_range(self, "target_label", 0, 32_767)
        _check_range(self, "seed", 0, _SEED_MAX)
        options = self.options()
        without = self.attack == "none" and bool(options)
        _check("IngestConfig.attack_options", not without, "none without an attack", self.attack_options)

    def options(self) -> dict[str, float]:
        """The attack's own settings by name; names and ranges are checked by the attack.

        Raises:
            ConfigError: Not of the form ``name=number,name=number``, or a name twice.
        """
        found: dict[str, float] = {}
        for part in filter(None, self.attack_options.split(",")):
            name, equals, number = (text.strip() for text in part.partition("="))
            try:
                value = float(number)
            except ValueError:
                value = math.nan
            fine = bool(name and equals) and name not in found and math.isfinite(value)
            _check("IngestConfig.attack_options", fine, "name=number,name=number, each name once", part[:80])
            found[name] = value
        return found


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """Optimiser settings that every training of a run shares."""

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
    precision: str = "auto"
    """Format of forward and backward passes: ``fp32``, ``bf16``, or ``auto``: bf16 on GPUs that have it."""
    compile: bool = False
    """Whether the model goes through ``torch.compile``: a minute's wait for faster steps, for long trainings."""
    micro_batch: int = 0
    """Most images of a step that go through a device at once; 0 for all. Halved by itself when memory runs out."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        _check_range(self, "seed", 0, _SEED_MAX)
        # Batch-norm needs two samples, and so does every gradient worth following.
        _check_range(self, "batch_size", 2, 65_536)
        _check_range(self, "learning_rate", 0.0, 100.0, open_low=True)
        _check_range(self, "momentum", 0.0, 0.9999)
        _check_range(self, "weight_decay", 0.0, 1.0)
        _check_range(self, "ema_decay", 0.0, 0.99999)
        _check(
            f"{type(self).__name__}.precision",
            self.precision in ("auto", "fp32", "bf16"),
            "auto, fp32 or bf16",
            self.precision,
        )
        _check(
            f"{type(self).__name__}.micro_batch",
            self.micro_batch == 0 or 2 <= self.micro_batch <= 65_536,
            "0, or a number in [2, 65536]",
            self.micro_batch,
        )


@dataclass(frozen=True, kw_only=True)
class WarmupConfig(TrainRecipe):
    """The supervised warm-up on everything, in which a backdoor is over-learned and the main task half-learned."""

    model: str = "convnet"
    """A name of ``components/common/models``."""
    epochs: int = 4
    """Passes over the training set. Three to four epochs are where backdoors stand out; see docs/method.md."""
    learning_rate: float = 0.05
    """Constant after a ramp: an annealed rate would let the model fit what the split wants to see unfitted."""
    ema_decay: float = 0.95
    """Samples are scored with an EMA, since one epoch's snapshot is a lottery; 0.95 spans 20 steps."""
    mixing_rounds: int = 2
    """Partners that each sample is mixed with when its hold on the given label is measured."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        _check_range(self, "epochs", 1, 10_000)
        _check_range(self, "mixing_rounds", 1, 100)


@dataclass(frozen=True, kw_only=True)
class ControlConfig(TrainRecipe):
    """The undefended model: the same model and recipe, trained on everything as given, for as many epochs in all."""

    model: str = WarmupConfig.model
    """A name of ``components/common/models``; that of the warm-up."""
    epochs: int = 16
    """Passes over the training set: those of warm-up and fine-tuning together."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        _check_range(self, "epochs", 1, 10_000)


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Which training samples are proposed as poisoned, and which are trusted."""

    seed: int = 0
    """Unused by the signals at hand; part of the stage's key."""
    isolation_ratio: float = 0.02
    """Share of the training set that each signal proposes: enough to forget a trigger by, few enough to be pure."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        _check_range(self, "seed", 0, _SEED_MAX)
        _check_range(self, "isolation_ratio", 0.0, 0.2, open_low=True)


@dataclass(frozen=True, kw_only=True)
class UnlearnConfig:
    """What is asked of the training data, and how samples are forgotten; detectors hold their own constants."""

    seed: int = 0
    """Seed of batches and augmentation."""
    detectors: str = ""
    """Names of detectors joined by commas, or names to leave out, each with a ``-`` before it; empty for all."""
    steps: int = 40
    """Steps per probe; 40 take a trigger's probability to chance and leave the main task time to repair."""
    class_steps: int = 15
    """Steps that forget a whole class; enough to take its probability to zero."""
    class_limit: int = 20
    """Most classes that are forgotten as a whole, the largest first."""
    forget_batch: int = 64
    """Samples of the forget set per step."""
    retain_batch: int = 128
    """Samples of the retain set per step."""
    learning_rate: float = 0.005
    """Of SGD with momentum. Four times more moves bystanders as well: AUROC .999 fell to .945 on CIFAR-10."""
    momentum: float = 0.9
    """Momentum, in [0, 1)."""
    retain_ratio: float = 0.5
    """Least suspect share of every class that is retained while a candidate is forgotten."""
    unseen_epochs: int = 6
    """Passes of the training without a class whose samples are judged by what their images alone show."""
    most_lost: float = 0.25
    """Largest share of a class that may lose its label without evidence of a trigger, in [0, 1]; of more, all keep it
    and the class is inconclusive."""
    max_retain_loss: float = 0.3
    """Share of the retain set that may lose its label before the unlearned model is given up."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        _check_range(self, "seed", 0, _SEED_MAX)
        _check_range(self, "steps", 1, 100_000)
        _check_range(self, "class_steps", 1, 100_000)
        _check_range(self, "class_limit", 1, 32_767)
        _check_range(self, "forget_batch", 1, 65_536)
        _check_range(self, "retain_batch", 2, 65_536)
        _check_range(self, "learning_rate", 0.0, 100.0, open_low=True)
        _check_range(self, "momentum", 0.0, 0.9999)
        _check_range(self, "retain_ratio", 0.05, 0.9)
        _check_range(self, "unseen_epochs", 1, 10_000)
        _check_range(self, "most_lost", 0.0, 1.0)
        _check_range(self, "max_retain_loss", 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(TrainRecipe):
    """Semi-supervised fine-tuning: labels of trusted samples, images of all."""

    epochs: int = 12
    """Passes over the training set, labelled and unlabelled samples together."""
    confidence: float = 0.95
    """Probability from which the EMA's guess is a pseudo-label: the threshold of FixMatch (Sohn et al. 2020)."""
    unlabelled_weight: float = 1.0
    """Weight of a pseudo-labelled sample against a labelled one: FixMatch's lambda_u."""

    resplit_epochs: int = 2
    """Passes between two looks at doubted labels: what the EMA by then takes for what is doubted loses its label."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        _check_range(self, "epochs", 1, 10_000)
        _check_range(self, "confidence", 0.0, 1.0)
        _check_range(self, "unlabelled_weight", 0.0, 100.0)
        _check_range(self, "resplit_epochs", 1, 10_000)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What is measured and shown."""

    batch_size: int = 250
    """Images per forward pass."""
    shown_suspects: int = 20
    """Most suspect samples that the report lists."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        _check_range(self, "batch_size", 1, 65_536)
        _check_range(self, "shown_suspects", 0, 200)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClaimConfig:
    """Which drop of a producer's is trained next."""

    name: str = "model"
    """Name of the model that is trained on the drops; a drop is trained once per name."""
    drops: str = ""
    """``s3://bucket/prefix`` with one folder per drop, or a drop itself."""
    since: str = ""
    """First date of the drops to take, YYYY-MM-DD, by the date in their name; empty for no bound."""
    until: str = ""
    """Last date of the drops to take, YYYY-MM-DD, inclusive; empty for no bound."""
    lease_seconds: float = 3600.0
    """Seconds without a sign of life of a training after which its drop may be claimed by another run."""
    attempts: int = 3
    """Trainings of one drop that may die before it is left alone."""
    reader: str = "drop"
    """How the drop's files are read: the dataset's name becomes ``<reader>:<uri>``."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        plain = 0 < len(self.name) <= 63 and all(c.isalnum() or c in "-_." for c in self.name) and self.name[0] != "."
        _check(
            "ClaimConfig.name", plain, "1 to 63 letters, digits, '-', '_' and '.', not starting with a dot", self.name
        )
        _check_range(self, "lease_seconds", 1.0, 30 * 86_400.0)
        _check_range(self, "attempts", 1, 1_000)


@dataclass(frozen=True, kw_only=True, slots=True)
class PromoteConfig:
    """What a model must show before it becomes the champion."""

    max_acc_loss: float = 0.005
    """Accuracy that may be lost against the champion, as a fraction: half a percentage point."""
    min_acc: float = 0.0
    """Accuracy that is asked of every champion, in [0, 1]; the first one has no other to beat."""
    max_suspect_share: float = 0.3
    """Largest share of the training set that may be suspect: above it the split is not to be believed."""
    require_canary: bool = True
    """Whether a result of the planted trigger must be there."""
    min_canary_caught: float = 0.8
    """Share of the planted samples that the split must have caught, in [0, 1]."""
    max_canary_fired: float = 0.1
    """Largest share of triggered holdout images that the model may take for the planted label, in [0, 1]."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        for name in ("max_acc_loss", "min_acc", "max_suspect_share", "min_canary_caught", "max_canary_fired"):
            _check_range(self, name, 0.0, 1.0)


def as_mapping(config: Any) -> dict[str, Any]:
    """All settings of a config by name."""
    return asdict(config)


def from_mapping(kind: type[C], values: Mapping[str, Any]) -> C:
    """Builds a config from parameters as a pipeline hands them over.

    KFP turns whole numbers inside a dict parameter into floats; they are turned back where the field is an int.

    Args:
        kind: The config's class.
        values: Settings by name; what is left out has its default.

    Raises:
        ConfigError: An unknown name, a value of another type or out of range.
    """
    types = get_type_hints(kind)
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    converted: dict[str, Any] = {}
    for name, value in values.items():
        subject = f"{kind.__name__}.{name}"
        if name not in known:
            raise ConfigError(
                subject, expected=f"one of {', '.join(known)}", found="no such setting", hint="Check the spelling."
            )
        wanted = types[name]
        if wanted is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        _check(subject, type(value) is wanted, f"a value of type {wanted.__name__}", value)
        converted[name] = value
    return kind(**converted)

"""What a backdoor attack is: it poisons a training set once, and puts its trigger on test images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from components.common.contracts.errors import ConfigError
from components.common.contracts.registry import Registry

__all__ = [
    "ATTACKS",
    "Attack",
    "AttackConfig",
    "Injection",
    "Option",
    "fixed_noise",
    "make_attack",
    "poison_indices",
    "to_uint8",
]

_CHUNK = 512
_MIN_SIDE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class AttackConfig:
    """Which attack, how much of it, and towards which class.

    Ranges are checked where the settings come from, in ``components/ingest/config.py``; what depends on the data or on
    the attack is checked by ``Attack``.

    Attributes:
        name: Name in the registry.
        poison_rate: Share of the whole training set that is poisoned, in (0, 1].
        target_label: Class that the trigger leads to; ignored by all-to-all attacks.
        cover_rate: Share of the whole training set that becomes cover (trigger shown, label kept), in [0, 1). None =
            the attack's own ``cover_ratio`` times the poison rate. Only attacks that have cover take a rate above 0.
        seed: Chooses the samples and all that differs from sample to sample; never the trigger.
        options: The attack's own settings by name; what is left out has the attack's default.
    """

    name: str
    poison_rate: float
    target_label: int
    cover_rate: float | None = None
    seed: int = 0
    options: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """A numeric setting of one attack.

    Attributes:
        default: Value when nothing is said.
        low: Smallest allowed value, inclusive.
        high: Largest allowed value, inclusive.
        meaning: One sentence with the unit.
    """

    default: float
    low: float
    high: float
    meaning: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Injection:
    """A poisoned training set. Rows keep their places.

    Attributes:
        images: uint8 [n, c, h, w].
        labels: int64 [n], the labels that training will see.
        is_poisoned: bool [n], the rows that teach the backdoor: trigger on the image, label as the attacker wants it.
        is_cover: bool [n], the rows that show the trigger (or noise like it) beside their true label so that the
            backdoor hides. Disjoint from ``is_poisoned``; only attacks with cover have any.
    """

    images: Tensor
    labels: Tensor
    is_poisoned: Tensor
    is_cover: Tensor

    @property
    def is_changed(self) -> Tensor:
        """Bool [n], poisoned or cover: the rows whose image may differ from the one given."""
        return self.is_poisoned | self.is_cover


class Attack(ABC):
    """One backdoor attack for one image shape and number of classes.

    A subclass gives ``_trigger`` and, where it differs, what training images get; this class chooses samples, keeps
    inputs unchanged, bounds memory by working in chunks and checks the edge. The trigger depends on the image shape
    and the options alone, never on the seed or on the data, so the evaluation makes the very same one.

    Args:
        config: The configuration.
        num_classes: Number of classes, at least 2.
        image_shape: (channels, height, width); 1 or 3 channels, at least 16 pixels a side.

    Raises:
        ConfigError: A class, shape, cover rate or option that this attack cannot take.
    """

    clean_label: ClassVar[bool] = False
    """Whether poisoned samples keep their true label (they are then all of the target class)."""
    all_to_all: ClassVar[bool] = False
    """Whether the label wanted depends on the true one, so that every class is a victim."""
    cover_ratio: ClassVar[float] = 0.0
    """Cover samples per poisoned sample by default."""
    variants: ClassVar[tuple[str, ...]] = ("trigger",)
    """Names of the test-time triggers; all attacks but composed ones have one. Measure each by its index."""
    options: ClassVar[Mapping[str, Option]] = {}
    """Own settings by name."""

    def __init__(self, config: AttackConfig, *, num_classes: int, image_shape: tuple[int, int, int]) -> None:
        self.config = config
        self.num_classes = num_classes
        self.image_shape = image_shape
        channels, height, width = image_shape
        if channels not in (1, 3) or min(height, width) < _MIN_SIDE:
            raise _bad(
                f"attack '{config.name}', image shape",
                f"1 or 3 channels and sides of at least {_MIN_SIDE} pixels",
                image_shape,
                "Set image_size.",
            )
        if not 0 <= config.target_label < num_classes or num_classes < 2:
            raise _bad("target_label", f"a class in [0, {num_classes - 1}]", config.target_label, "Choose a class.")
        if config.cover_rate and not self.cover_ratio:
            raise _bad("cover_rate", f"0 for '{config.name}', which has no cover", config.cover_rate, "Leave it out.")
        self._values = self.settled(config.name, config.options)

    @classmethod
    def settled(cls, attack: str, given: Mapping[str, float]) -> dict[str, float]:
        """The attack's own settings: those given, and the defaults of the others.

        Args:
            attack: The attack's name, for the message.
            given: Settings by name.

        Raises:
            ConfigError: A name that the attack does not have, or a value out of its range.
        """
        for name, value in given.items():
            if name not in cls.options:
                known = ", ".join(sorted(cls.options)) or "none at all"
                raise _bad(f"option of attack '{attack}'", f"one of: {known}", f"'{name}'", "Correct the name.")
            option = cls.options[name]
            if not option.low <= value <= option.high:
                expected = f"a number in [{option.low}, {option.high}]"
                raise _bad(f"option '{name}' of attack '{attack}'", expected, value, option.meaning)
        return {name: option.default for name, option in cls.options.items()} | dict(given)

    def inject(self, images: Tensor, labels: Tensor) -> Injection:
        """Poisons a training set.

        Exactly ``round(poison_rate * n)`` samples are poisoned and ``round(cover rate * n)`` become cover. Equal
        input and configuration give equal bits on the same machine.

        Args:
            images: uint8 [n, c, h, w], on the CPU; not modified.
            labels: int64 [n], true classes; not modified.

        Returns:
            The poisoned set, in the order given.

        Raises:
            ConfigError: The rate asks for no sample at all, or for more than this attack can use.
        """
        self._check(images)
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise ValueError(f"labels must be int64 [{len(images)}], got {labels.dtype} {tuple(labels.shape)}")
        generator = torch.Generator().manual_seed(self.config.seed)
        poison = poison_indices(len(labels), self.config.poison_rate, self._candidates(labels), generator)
        cover = self._cover_indices(labels, poison, generator)
        self._prepare(images, labels, generator)
        out_images, out_labels = images.clone(), labels.clone()
        for positions in torch.split(torch.arange(len(poison)), _CHUNK):
            rows = poison[positions]
            out_images[rows] = self._poison_images(images[rows], labels[rows], positions, generator)
        # The empty tensor splits into one empty chunk, which attacks without cover cannot take.
        for rows in torch.split(cover, _CHUNK) if len(cover) else ():
            out_images[rows] = self._cover_images(images[rows], generator)
        out_labels[poison] = self._poison_labels(labels[poison], torch.arange(len(poison)))
        nothing = torch.zeros(len(labels), dtype=torch.bool)
        return Injection(
            images=out_images,
            labels=out_labels,
            is_poisoned=nothing.index_fill(0, poison, True),
            is_cover=nothing.index_fill(0, cover, True),
        )

    def trigger(self, images: Tensor, variant: int = 0) -> Tensor:
        """Puts the test-time trigger on images.

        Args:
            images: uint8 [m, c, h, w]; not modified.
            variant: Which of ``variants``.

        Returns:
            uint8 [m, c, h, w]. Each image's result is independent of the others.
        """
        self._check(images)
        if not 0 <= variant < len(self.variants):
            raise ValueError(f"variant must be in [0, {len(self.variants)}), got {variant}")
        return torch.cat([self._trigger(chunk, variant) for chunk in torch.split(images, _CHUNK)])

    def test_target(self, labels: Tensor, variant: int = 0) -> Tensor:
        """Classes that a successful attack gives to triggered images.

        Args:
            labels: int64 [m], true classes.
            variant: Which of ``variants``.

        Returns:
            int64 [m].
        """
        return torch.full_like(labels, self.config.target_label)

    def counts_for_asr(self, labels: Tensor, variant: int = 0) -> Tensor:
        """Bool [m]: the test samples whose true class is not what the attack wants, over which the ASR counts."""
        return self.test_target(labels, variant) != labels

    def footprint(self, variant: int = 0) -> Tensor | None:
        """Bool [h, w]: the only pixels that the test-time trigger may change; None = any pixel."""
        return None

    @abstractmethod
    def _trigger(self, images: Tensor, variant: int) -> Tensor: ...

    def _prepare(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> None:  # noqa: B027 - optional
        """Hook for attacks that learn something from the clean training set first."""

    def _poison_images(self, images: Tensor, labels: Tensor, positions: Tensor, generator: torch.Generator) -> Tensor:
        return self._trigger(images, 0)

    def _cover_images(self, images: Tensor, generator: torch.Generator) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} sets cover_ratio but makes no cover images")

    def _poison_labels(self, labels: Tensor, positions: Tensor) -> Tensor:
        return self.test_target(labels)

    def _candidates(self, labels: Tensor) -> Tensor:
        is_target = labels == self.config.target_label
        return is_target if self.clean_label else ~is_target

    def _cover_candidates(self, labels: Tensor) -> Tensor:
        # Not of the target class: there, a trigger beside the true label would be poison.
        return labels != self.config.target_label

    def _cover_indices(self, labels: Tensor, poison: Tensor, generator: torch.Generator) -> Tensor:
        rate = self.config.cover_rate
        if rate is None:
            rate = self.cover_ratio * self.config.poison_rate
        if not rate:
            return torch.empty(0, dtype=torch.int64)
        free = self._cover_candidates(labels).index_fill(0, poison, False)
        return poison_indices(len(labels), rate, free, generator, subject="cover_rate")

    def _scaled(self, pixels_at_32: float) -> int:
        """A length that papers give for 32-pixel images, for this image: at least 1 pixel."""
        return max(1, round(pixels_at_32 * min(self.image_shape[1:]) / 32))

    def _check(self, images: Tensor) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(
                f"images must be uint8 [n, {', '.join(map(str, self.image_shape))}], "
                f"got {images.dtype} {tuple(images.shape)}"
            )


ATTACKS: Registry[type[Attack]] = Registry("attack", "components.common.attacks")


def make_attack(config: AttackConfig, *, num_classes: int, image_shape: tuple[int, int, int]) -> Attack:
    """The attack that a configuration names.

    Args:
        config: The configuration.
        num_classes: Number of classes.
        image_shape: (channels, height, width) of the images.

    Raises:
        ConfigError: An unknown attack, or a setting that it cannot take.
    """
    return ATTACKS[config.name](config, num_classes=num_classes, image_shape=image_shape)


def poison_indices(
    total: int, rate: float, candidates: Tensor, generator: torch.Generator, subject: str = "poison_rate"
) -> Tensor:
    """Draws the samples to poison.

    Args:
        total: Size of the whole training set, of which the rate is a share.
        rate: Share in [0, 1].
        candidates: bool [total], the samples that may be drawn.
        generator: Draws them.
        subject: Name of the rate, for messages.

    Returns:
        int64 [round(rate * total)], strictly increasing.

    Raises:
        ConfigError: That number is 0 or more than there are candidates; the message gives the largest possible rate.
    """
    count = round(rate * total)
    rows = candidates.nonzero().flatten()
    if count > len(rows):
        raise _bad(
            subject,
            f"at most {len(rows) / max(1, total):.6f} ({len(rows)} of {total} samples qualify for this attack)",
            f"{rate} ({count} samples)",
            "Lower the rate; clean-label attacks draw from the target class alone.",
        )
    if count < 1:
        raise _bad(subject, f"at least one sample of {total}", f"{rate} (none)", "Raise the rate or use no attack.")
    return rows[torch.randperm(len(rows), generator=generator)[:count]].sort().values


def fixed_noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """A pattern that belongs to an attack: float32 of that shape, uniform over the whole numbers 0 to 255."""
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)).float()


def to_uint8(values: Tensor) -> Tensor:
    """Rounds to the nearest pixel value in 0 to 255 (uint8)."""
    return values.round().clamp(0, 255).to(torch.uint8)


def _bad(subject: str, expected: str, found: object, hint: str) -> ConfigError:
    return ConfigError(subject, expected=expected, found=str(found), hint=hint)

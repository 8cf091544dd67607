"""The settings of ingest: what is read, and what attack is injected."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from components.common.contracts.config import Config, Rule, Seed, Share, known_name
from components.common.intake.names import OWN

__all__ = ["ATTACK_SETTINGS", "CANARY_RATIO", "IngestConfig"]

ATTACK_SETTINGS = ("attack", "poison_rate", "cover_rate", "target_label", "attack_options", "attack_drop")
"""The settings that inject an attack, which a training on somebody's own data does not have."""

CANARY_RATIO = 0.02
"""Share of the training samples that carry a planted trigger when a drop is audited or retrained on, unless the user
says otherwise: without one nobody knows whether the defence sees anything on these data."""

_Limit = Annotated[int, Field(ge=0, le=10**9)]


class IngestConfig(Config):
    """What is read, and what attack is injected."""

    stage: ClassVar[str] = "ingest"

    dataset: Annotated[str, known_name("components.common.datasets", also=tuple(OWN))] = "mnist5k"
    """Name of the dataset: ``mnist5k``, ``cifar10``, ``parquet:<folder or s3 prefix>``, ``drop:<folder or s3 prefix>``
    (``untaint list datasets``)."""
    train_limit: _Limit = 0
    """Training samples to take, stratified; 0 for all."""
    holdout_limit: _Limit = 0
    """Holdout samples to take, stratified; 0 for all."""
    image_size: Annotated[
        int, Rule(lambda side: side == 0 or 8 <= side <= 1024, "0, or a whole number of pixels in [8, 1024]")
    ] = 0
    """Side in pixels that all images are resized to; 0 keeps them, and then all must have one size."""
    holdout: str = ""
    """Holdout of a drop: a share in (0, 1), stratified; or the folder or s3 prefix of a drop of its own; empty for what
    the drop says itself by folders, names of shards or a column, else a fifth."""
    image_column: str = ""
    """Column of the images, or of their files' names, in a drop's shards or list; empty to guess."""
    label_column: str = ""
    """Column of the labels in a drop's shards or list; empty to guess."""
    max_rejected_ratio: Share = 0.05
    """Share of a drop's samples that may be rejected before the drop as a whole is refused."""
    attack_drop: bool = False
    """Whether an attack may be injected into a drop: its owner wants to know what is in it, not to have it poisoned."""
    canary_ratio: Annotated[float, Field(ge=0.0, le=0.1)] = 0.0
    """Share of a drop's training samples that get a trigger of our own, to see whether it is caught; 0 plants none. The
    split must catch them and the model must not obey them: see ``components/common/attacks/canary.py``."""
    mirror: Literal["auto", "yes", "no"] = "auto"
    """Whether a horizontal flip keeps the class, not so for digits and text: ``yes``, ``no``, or ``auto`` for what the
    dataset says."""
    attack: Annotated[str, known_name("components.common.attacks", also=("none",))] = "badnets"
    """Attack to inject (``untaint list attacks``), or ``none`` to take the data as they are."""
    poison_rate: Share = 0.1
    """Poisoned share of the training set: above 0 with an attack, unused with attack ``none``."""
    cover_rate: Annotated[float, Rule(lambda rate: rate == -1 or 0 <= rate < 1, "-1, or a number in [0, 1)")] = -1.0
    """Share of the training set that shows the trigger beside its own label; -1 for the attack's own default."""
    target_label: Annotated[int, Field(ge=0, le=32_767)] = 0
    """Class that triggered images are to be taken for."""
    attack_options: str = ""
    """The attack's own settings, as in ``delta_train=80,delta_test=128`` (``untaint list attacks`` names them); what is
    left out has the attack's default."""
    seed: Seed = 0
    """Seed of everything random. Here: of the sub-sampling and of the attack."""

    @model_validator(mode="after")
    def _settings_fit_together(self) -> Self:
        own = self.dataset.startswith("drop:")
        attacked = self.attack != "none"
        self.require(
            not attacked or self.attack_drop or not own, "attack", "none for a drop, or attack_drop set to true"
        )
        self.require(
            self.canary_ratio == 0.0 or (not attacked and own),
            "canary_ratio",
            "0, or a drop into which no attack is injected",
        )
        self.require(
            not attacked or self.poison_rate > 0.0, "poison_rate", "a number in (0, 1] with an attack, or attack none"
        )
        options = self.options()
        self.require(attacked or not options, "attack_options", "none without an attack")
        if options:
            # It takes PyTorch to know an attack's own settings; without any, nothing is imported.
            from components.common.attacks.base import ATTACKS

            ATTACKS[self.attack].settled(self.attack, options)
        return self

    def options(self) -> dict[str, float]:
        """The attack's own settings by name.

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
            self.require(fine, "attack_options", "name=number,name=number, each name once")
            found[name] = value
        return found

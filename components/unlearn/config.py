"""The settings of the unlearning."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from components.common.contracts.config import Config, Seed, Share
from components.common.learning.config import LearningRate, Momentum

__all__ = ["UnlearnConfig"]

_Steps = Annotated[int, Field(ge=1, le=100_000)]


class UnlearnConfig(Config):
    """How proposals are forgotten, and when forgetting one counts as a find."""

    stage: ClassVar[str] = "unlearn"

    seed: Seed = 0
    """Seed of everything random. Here: of batches and augmentation."""
    steps: _Steps = 40
    """Steps per proposal; 40 take a trigger's probability to chance and leave the main task time to repair."""
    forget_batch: Annotated[int, Field(ge=1, le=65_536)] = 64
    """Isolated samples per step."""
    keep_batch: Annotated[int, Field(ge=2, le=65_536)] = 128
    """Trusted samples per step."""
    learning_rate: LearningRate = 0.005
    """Of SGD with momentum. Four times more shakes bystanders as well: AUROC .999 fell to .945 on CIFAR-10."""
    momentum: Momentum = 0.9
    """Momentum of SGD."""
    trusted_ratio: Annotated[float, Field(ge=0.05, le=0.9)] = 0.5
    """Least suspect share of every class that is trusted while a proposal is forgotten."""
    forgotten_below: Share = 0.3
    """A proposal counts only if its mean probability of the given label fell below this."""
    retained_above: Share = 0.7
    """Forgetting is cheap if this share of unseen trusted samples of its class kept their label."""
    hopeful_above: Share = 0.15
    """Retained share from which all that a proposal shook is forgotten with it, to see whether that is cheap."""
    spilled_below: Share = 0.01
    """Or if their median rise in loss, in units of the isolated samples', stayed below this. It was at most .003 where
    a trigger was forgotten and fewer kept their label, and .02 and more where clean images were (docs/LOG.md)."""
    mixed_spilled_below: Share = 0.05
    """The same in a class that is known to be mixed."""
    spared_above: Share = 0.25
    """A proposal counts if forgetting it with all that it shook was cheap, spared this share of its class ..."""
    valley_below: Share = 0.3
    """... and left the class in two kinds: the density of the rise in loss between those that moved and those that did
    not is at most this share of the lower of its two peaks; at most .2 with poison, from .4 without (docs/LOG.md)."""
    valley_at_most: Share = 0.7
    """Rise, in units of the forgotten samples', up to which such a valley is looked for: between .28 and .67 with
    poison, from .73 without."""
    mixed_at: Share = 0.25
    """Rise from which a sample of a mixed class is called poisoned, though its valley lie further up."""
    max_trusted_loss: Share = 0.3
    """Share of the trusted samples that may lose their label before the unlearned model is given up."""
    suspect_above: Annotated[float, Field(ge=0.0, le=0.5)] = 0.15
    """Rise in loss, with the bottom of the valley at 0.5, from which a sample is suspect; from 0.5 it is poisoned.
    Both lose their label in fine-tuning, never their image, so that a false suspect is cheap: from 0.4 on, 4 % of
    blended poison kept its label, enough for an ASR of some 10 %; from 0.15 on, .5 % (docs/LOG.md). At most 0.5."""
    class_steps: _Steps = 15
    """Steps that forget a whole class; enough to take its probability to zero."""
    class_limit: Annotated[int, Field(ge=1, le=32_767)] = 20
    """Most classes that are forgotten; of more, those that look most mixed beforehand."""
    spread_above: Share = 0.01
    """A class is mixed if from it pass for members of the others more than this share of their size, in the lower
    quartile over them: at least .024 at poison rates of 5 to 10 %, at most .0033 for clean classes (docs/LOG.md)."""
    doubted_above: Share = 0.7
    """Probability from which the model is believed that a sample of a mixed class belongs to another one."""
    mapped_above: Share = 0.8
    """Labels were changed by a rule from class to class if, for the median class, more than this share of the samples
    that the model takes for it against their label have one and the same label: .95 for an all-to-all attack, at most
    .57 elsewhere (docs/LOG.md)."""

"""What the samples of a class look like once the class is forgotten as a whole.

A sample whose label was changed still shows what it showed before. Once the model has forgotten the label, it takes
such a sample for a member of its true class as firmly as that class's own members, whatever the trigger and whether or
not it has been learned yet. And the label of a sample with a trigger drops further than that of the others: the
trigger is one feature that only they have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from components.common.learning.scoring import predict
from components.common.learning.seeding import stream
from components.unlearn.config import UnlearnConfig
from components.unlearn.forgetting import Candidate, forget

__all__ = ["PASSES", "ClassUnlearning", "robust_z", "unlearn_class"]

# Members of each class that others are compared with: enough for steps of one per cent.
_REFERENCES = 100
PASSES = 0.5
"""A sample passes for a member of a class that looks more like it than the median member does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassUnlearning:
    """What unlearning a class showed of its m samples.

    Attributes:
        label: The class.
        rows: int64 [m], positions of its samples.
        looks: int64 [m], the other class that each is then taken for.
        inconsistency: float32 [m] in [0, 1], label-inconsistency score: share of the members of that class that look
            less like it than the sample does.
        drop: float32 [m], logit drop: by how much unlearning the class lowered the log-odds of the label.
    """

    label: int
    rows: Tensor
    looks: Tensor
    inconsistency: Tensor
    drop: Tensor

    def passing(self, classes: int) -> Tensor:
        """How many samples pass for members of each class, float32 [classes]."""
        return torch.bincount(self.looks[self.inconsistency > PASSES], minlength=classes).float()


def unlearn_class(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    logits: Tensor,
    members: Mapping[int, Tensor],
    label: int,
    config: UnlearnConfig,
    *,
    mirror: bool,
) -> dict[str, Tensor]:
    """Forgets a class on a copy of a model and compares its samples with those of the other classes.

    Args:
        model: The warm-up EMA model; unchanged.
        images: uint8 [n, c, h, w].
        labels: int64 [n], the given labels, on the CPU.
        logits: float32 [n, k], the model's, on the CPU.
        members: Label to int64 positions of its samples, for all labels that have any.
        label: The class.
        config: Steps, batches and seed.
        mirror: Whether a horizontal flip keeps the class.

    Returns:
        ``looks``, ``inconsistency`` and ``drop`` as in ``ClassUnlearning``.
    """
    rows, rest = members[label], (labels != label).nonzero().squeeze(1)
    whole = Candidate(name=f"class {label}", label=label, forget=rows, retain=rest, held_out=rest[:0])
    changed = forget(model, images, labels, whole, config, mirror=mirror, steps=config.class_steps)
    own = predict(changed, images[rows.to(images.device)])
    drop = _log_odds(logits[rows])[:, label] - _log_odds(own)[:, label]
    firmness, looks = _log_odds(_without(own, label)).max(dim=1)
    inconsistency = torch.zeros(len(rows))
    for other, theirs in members.items():
        taken = looks == other
        if other == label or not bool(taken.any()):
            continue
        order = torch.randperm(len(theirs), generator=stream(config.seed, "references", label, other))
        some = images[theirs[order[:_REFERENCES]].to(images.device)]
        reference = _log_odds(_without(predict(changed, some), label))[:, other].sort().values
        inconsistency[taken] = torch.searchsorted(reference, firmness[taken]).float() / len(reference)
    return {"looks": looks, "inconsistency": inconsistency, "drop": drop}


def robust_z(values: Tensor) -> Tensor:
    """How far each value is above the median, in robust standard deviations; float32, like ``values``."""
    away = values - values.median()
    # 1.4826 median absolute deviations are the standard deviation of a normal distribution.
    return away / (1.4826 * away.abs().median() + 1e-6)


def _without(logits: Tensor, label: int) -> Tensor:
    """The logits as if there were no such class."""
    return logits.index_fill(1, torch.tensor(label, device=logits.device), -torch.inf)


def _log_odds(logits: Tensor) -> Tensor:
    """Log-odds of every class against all others, -inf for one that is left out; float32 [m, k]."""
    probabilities = logits.double().log_softmax(dim=1)
    return (probabilities - torch.log1p(-probabilities.exp().clamp_max(1.0 - 1e-12))).float()

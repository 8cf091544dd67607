"""Which classes hold samples of every other class: forget a whole class, and see what its samples look like then.

A sample whose label an attacker changed still shows what it showed before. Once the model has forgotten the label, it
takes a mislabelled sample for a member of its true class as firmly as that class's own members, whatever the trigger
and whether or not the model has learned it yet. Clean samples of a class are taken for others as well, but for the few
classes that resemble theirs. So a class is called mixed by the *lower quartile* over all other classes of how many of
its samples pass for their members: that is near zero for a clean class, however much it resembles its neighbours, and
half of the poisoned share for the target of an attack on all classes.

A trigger that is not learned yet, or hardly, because few samples carry it, leaves the model in open contradiction to
their labels: samples that it firmly takes for any other class, and that all have one label. Clean images are confused
as well, but with few classes. So a class is also mixed by how many of each other class it holds against the model's
firm belief, the half of the classes with most of them left out, if no other class holds nearly as many.

An attack that leads every class to a label of its own fills no class from all the others. There the model's
contradictions tell: of the samples that it takes for a class against their label, nearly all have one and the same
other label, for most classes at once. Classes that resemble each other are confused both ways and with several.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from components.common.learning.scoring import Scores, predict
from components.common.learning.seeding import stream
from components.common.learning.watch import Watch
from components.unlearn.config import UnlearnConfig
from components.unlearn.forgetting import Proposal, forget, halved

__all__ = ["PASSES", "ClassProbe", "find_contradicted", "find_mapping", "probe_classes", "propose_foreign"]

# Members of each class that others are compared with: enough for steps of one per cent.
_REFERENCES = 100
# Probability from which the model takes a sample for a class, and how many such samples make a pattern of a class.
_SURE = 0.7
_FEWEST_CONTRADICTIONS = 5
# Of the other classes, those that count when a label is asked whether it is contradicted from everywhere: clean classes
# are confused with the rest of them.
_UNLIKE = 1 / 2
# Share of those classes' size, and how far it must stand out from that of any other label (docs/LOG.md). With triggers
# that were not learned yet .0013 to .088, and nearly four times at least; .0000 on clean digits, up to .0011 and 2.3
# times on CIFAR-10.
_CONTRADICTED = 0.0012
_OUTSTANDING = 3.0
PASSES = 0.5
"""A sample passes for a member of a class that looks more like it than the median member does."""
# Fewer that pass for members of a class are none: of small classes one or two are a share that says nothing.
_FEWEST_PASSING = 3
# With fewer classes than this a quartile over the other ones says nothing.
_FEWEST_CLASSES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassProbe:
    """What the samples of one class look like when the class is forgotten.

    Attributes:
        label: The class.
        rows: int64 [m], positions of its samples.
        foreign: float32 [m] in [0, 1]: share of the members of the class that a sample is taken for that look less
            like that class than it does. Where the model contradicts the label, and forgetting showed nothing more: the
            probability of the class that it takes the sample for; 0 where that is its label.
        fall: float32 [m], by how much forgetting the class lowered the log-odds of the label.
        spread: Lower quartile over the other classes of the number of samples that pass for their members, as a share
            of their size; fewer than three count as none. To pass is to be more foreign than half of them.
        mixed: Whether ``spread``, or how often the model contradicts the label, is more than resemblance explains.
    """

    label: int
    rows: Tensor
    foreign: Tensor
    fall: Tensor
    spread: float
    mixed: bool


def probe_classes(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    logits: Tensor,
    contradicted: int | None,
    config: UnlearnConfig,
    *,
    mirror: bool,
    watch: Watch,
) -> list[ClassProbe]:
    """Forgets one class after the other on copies of a model.

    Where there are more classes than ``config.class_limit``, those are forgotten whose samples look most like all
    other classes already before.

    Args:
        model: The warm-up EMA model; unchanged.
        images: uint8 [n, c, h, w].
        labels: int64 [n], the given labels, on the CPU.
        logits: float32 [n, k], the model's, on the CPU.
        contradicted: The class that is mixed whatever its probe says: that of ``find_contradicted``.
        config: Settings.
        mirror: Whether a horizontal flip keeps the class.
        watch: Told after each class.

    Returns:
        One probe per class that was forgotten; none where there are fewer than four classes with samples.
    """
    members = {int(label): (labels == label).nonzero().squeeze(1) for label in np.unique(labels.numpy())}
    if len(members) < _FEWEST_CLASSES:
        return []
    chosen = list(members)
    if len(chosen) > config.class_limit:
        # Nothing has been forgotten yet, so one pass of the model serves all classes.
        before = {label: _compare(logits, logits.__getitem__, members, label, config) for label in chosen}
        rank = {label: (label != contradicted, -before[label].spread) for label in chosen}
        chosen = sorted(chosen, key=rank.__getitem__)[: config.class_limit]
    probes = []
    for done, label in enumerate(chosen, start=1):
        rest = (labels != label).nonzero().squeeze(1)
        whole = Proposal(
            signal=f"class {label}", label=label, isolated=members[label], trusted=rest, witnesses=rest[:0]
        )
        changed = forget(model, images, labels, whole, config, mirror=mirror, steps=config.class_steps)
        found = _compare(logits, partial(_logits, changed, images), members, label, config)
        if label == contradicted and not found.mixed:
            # What is open before anything is forgotten says more than what forgetting would uncover.
            found = replace(found, foreign=_firmness_against(logits[found.rows], label), mixed=True)
        probes.append(found)
        watch.progress("classes", done, len(chosen), {"spread": probes[-1].spread})
    return probes


def find_mapping(probabilities: Tensor, labels: Tensor, config: UnlearnConfig) -> dict[int, int]:
    """Which class has which other label, where labels were changed by a rule from class to class.

    Args:
        probabilities: float32 [n, k], the warm-up model's.
        labels: int64 [n], the given labels.
        config: ``mapped_above``.

    Returns:
        What a sample looks like to the label that such samples were given; empty where there is no such rule.
    """
    classes = probabilities.shape[1]
    if classes < _FEWEST_CLASSES:
        return {}
    counts = _contradictions(probabilities, labels)
    sums = counts.sum(dim=1)
    most, label = counts.max(dim=1)
    shares = torch.where(sums >= _FEWEST_CONTRADICTIONS, most / sums.clamp_min(1.0), 0.0)
    if float(shares.median()) <= config.mapped_above:
        return {}
    # Once there is a rule, the classes where it shows less clearly follow it as well.
    return {int(looks): int(label[looks]) for looks in (shares > 0.5).nonzero().squeeze(1)}


def find_contradicted(probabilities: Tensor, labels: Tensor) -> int | None:
    """The label that the model contradicts in favour of all kinds of classes, if there is one.

    Args:
        probabilities: float32 [n, k], the warm-up model's.
        labels: int64 [n], the given labels.
    """
    sizes = torch.bincount(labels, minlength=probabilities.shape[1]).float()
    present = (sizes > 0).nonzero().squeeze(1)
    if len(present) < _FEWEST_CLASSES:
        return None
    # Row i, column j: samples labelled j that are taken for class i, as a share of class i.
    shares = (_contradictions(probabilities, labels) / sizes.clamp_min(1.0)[:, None])[present][:, present]
    unlike = max(1, int(_UNLIKE * (len(present) - 1)))
    # The diagonal is zero and sorts first.
    spread = shares.sort(dim=0).values[1 : 1 + unlike].mean(dim=0)
    (most, next_most), (label, _) = spread.topk(2)
    stands_out = most > max(_CONTRADICTED, _OUTSTANDING * float(next_most))
    return int(present[label]) if stands_out else None


def _contradictions(probabilities: Tensor, labels: Tensor) -> Tensor:
    """How many samples with the label of the column the model firmly takes for the class of the row; float32 [k, k]."""
    firmness, taken_for = probabilities.max(dim=1)
    contradicted = (firmness > _SURE) & (taken_for != labels)
    counts = torch.zeros(probabilities.shape[1], probabilities.shape[1])
    return counts.index_put_((taken_for[contradicted], labels[contradicted]), torch.ones(()), accumulate=True)


def _firmness_against(logits: Tensor, label: int) -> Tensor:
    """Probability of the likeliest class, 0 where that is the label; float32 [m]."""
    firmness, taken_for = logits.softmax(dim=1).max(dim=1)
    return torch.where(taken_for == label, 0.0, firmness)


def _compare(
    before: Tensor,
    logits_of: Callable[[Tensor], Tensor],
    members: dict[int, Tensor],
    label: int,
    config: UnlearnConfig,
) -> ClassProbe:
    """How much the samples of a class look like members of the others, their own label left out of account."""
    rows = members[label]
    own = logits_of(rows)
    fall = _log_odds(before[rows])[:, label] - _log_odds(own)[:, label]
    likeness = _log_odds(_without(own, label))
    firmness, resembled = likeness.max(dim=1)
    foreign = torch.zeros(len(rows))
    shares = []
    for other, theirs in members.items():
        if other == label:
            continue
        order = torch.randperm(len(theirs), generator=stream(config.seed, "references", label, other))
        some = theirs[order[:_REFERENCES]]
        reference = _log_odds(_without(logits_of(some), label))[:, other].sort().values
        taken = resembled == other
        foreign[taken] = torch.searchsorted(reference, firmness[taken]).float() / len(reference)
        passing = int((foreign[taken] > PASSES).sum())
        shares.append(passing / len(theirs) if passing >= _FEWEST_PASSING else 0.0)
    spread = sorted(shares)[(len(shares) - 1) // 4]
    mixed = spread > config.spread_above
    return ClassProbe(label=label, rows=rows, foreign=foreign, fall=fall, spread=spread, mixed=mixed)


def _logits(model: nn.Module, images: Tensor, rows: Tensor) -> Tensor:
    return predict(model, images[rows.to(images.device)])


def _without(logits: Tensor, label: int) -> Tensor:
    """The logits as if there were no such class."""
    return logits.index_fill(1, torch.tensor(label, device=logits.device), -torch.inf)


def _log_odds(logits: Tensor) -> Tensor:
    """Log-odds of every class against all others, -inf for one that is left out; float32 [m, k]."""
    probabilities = logits.double().log_softmax(dim=1)
    return (probabilities - torch.log1p(-probabilities.exp().clamp_max(1.0 - 1e-12))).float()


def propose_foreign(
    found: ClassProbe, labels: Tensor, before: Scores, isolation_ratio: float, config: UnlearnConfig
) -> Proposal:
    """The proposal to forget what looks most foreign in a mixed class.

    Args:
        found: The class.
        labels: int64 [n], the given labels, on the CPU.
        before: The warm-up model's scores of all samples.
        isolation_ratio: Share of the training set to isolate at most.
        config: Trusted ratio and seed.
    """
    order = torch.argsort(-found.foreign, stable=True)
    # At most a quarter of the class: the poison among its samples may be few.
    passing = int((found.foreign > PASSES).sum())
    count = max(1, min(round(isolation_ratio * len(labels)), len(order) // 4, passing))
    least = len(order) - max(2, round(config.trusted_ratio * len(order)))
    pool = [found.rows[order[max(count, least) :]]]
    for label in np.unique(labels.numpy()).tolist():
        if label != found.label:
            rows = (labels == label).nonzero().squeeze(1)
            believed = torch.argsort(-before.given_probability[rows], stable=True)
            pool.append(rows[believed[: max(2, round(config.trusted_ratio * len(rows)))]])
    trusted, witnesses = halved(torch.cat(pool), config.seed, f"foreign {found.label}")
    return Proposal(
        signal="foreign",
        label=found.label,
        isolated=found.rows[order[:count]],
        trusted=trusted,
        witnesses=witnesses,
    )

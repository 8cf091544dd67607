"""Bounded unlearning of chosen samples, and what it moves.

Samples are forgotten on a copy of the warm-up model, while a retain set keeps the main task. What that costs tells
whether there was anything to forget: forgetting a trigger is cheap and moves every sample that carries it and no
other, forgetting clean images takes their whole class along, some samples more and some less.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.common.learning.augment import weak
from components.common.learning.scoring import Scores, score
from components.common.learning.seeding import stream
from components.unlearn.config import UnlearnConfig

__all__ = ["Antimode", "Candidate", "Probe", "find_antimode", "forget", "halved", "joined", "probe", "widen"]

# Loss gaps are counted in bins of a twentieth of a unit from a little below nothing to one unit: half of the forget
# set rose by more, and how much more says nothing. The Gaussian that smooths the counts spans 1.5 bins.
_LOW, _HIGH, _BINS, _BLUR = -0.1, 1.0, 22, 1.5
# Held-out samples that the model must have believed before: of a class that it hardly knows yet nothing shows that it
# was spared (docs/LOG.md).
_FEWEST_BELIEVED = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """Samples of one label that a detector would have forgotten.

    Attributes:
        name: Detector, label and round; seeds the batches, so no two candidates of a run share it.
        label: The given label of the forget set.
        forget: int64 [f], the forget set.
        retain: int64 [r], the retain set: samples of every class that keep the main task.
        held_out: int64 [h], the held-out retain set, which the forgetting does not see.
    """

    name: str
    label: int
    forget: Tensor
    retain: Tensor
    held_out: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Antimode:
    """Where the loss gaps of a class fall into two kinds.

    Attributes:
        threshold: The gap at the least density between the two modes.
        ratio: That density as a share of the lower mode's: 0 for two kinds that do not touch, 1 for a single kind.
        unaffected: Share of the class below the threshold, in [0, 1].
    """

    threshold: float
    ratio: float
    unaffected: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """What forgetting a candidate did.

    Attributes:
        candidate: What was forgotten.
        forget_confidence: Probability of the given label left on the forget set, in [0, 1].
        retain_accuracy: Share of the held-out samples of the label that keep it, of those that had it, in [0, 1].
        retain_loss_increase: Their median loss gap, in the units of ``gap``.
        antimode: Where the gaps of the label's samples fall into two kinds.
        gap: float32 [n], unlearning loss gap: the rise in loss in units of the forget set's median rise. 0 unmoved,
            1 moved like the forget set; 0 for samples of other labels.
    """

    candidate: Candidate
    forget_confidence: float
    retain_accuracy: float
    retain_loss_increase: float
    antimode: Antimode
    gap: Tensor


def halved(pool: Tensor, seed: int, name: str) -> tuple[Tensor, Tensor]:
    """A pool of positions, int64 [m], in two random halves: a retain set, and a held-out one."""
    order = torch.randperm(len(pool), generator=stream(seed, "held out", name))
    half = len(pool) // 2
    return pool[order[half:]], pool[order[:half]]


def forget(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    candidate: Candidate,
    config: UnlearnConfig,
    *,
    mirror: bool,
    steps: int,
) -> nn.Module:
    """Makes a copy of a model that no longer gives the forget set its label.

    The loss is the complementary cross-entropy -log(1 - p_y) on the forget set as long as p_y is above chance, and
    nothing below: it is bounded, so it cannot drive the weights away. Cross-entropy on the retain set repairs what
    the forgetting breaks.

    Args:
        model: The model; unchanged.
        images: uint8 [n, c, h, w].
        labels: int64 [n], the given labels, on the CPU.
        candidate: What to forget.
        config: Batch and learning rate.
        mirror: Whether a horizontal flip keeps the class.
        steps: Number of steps.

    Returns:
        The changed copy, in evaluation mode.
    """
    changed = copy.deepcopy(model).train()
    changed.requires_grad_(requires_grad=True)
    device = next(changed.parameters()).device
    optimizer = torch.optim.SGD(changed.parameters(), lr=config.learning_rate, momentum=config.momentum)
    for step in range(steps):
        generator = stream(config.seed, "forget", candidate.name, step)
        unwanted = candidate.forget[torch.randint(len(candidate.forget), (config.forget_batch,), generator=generator)]
        kept = candidate.retain[torch.randint(len(candidate.retain), (config.retain_batch,), generator=generator)]
        rows = torch.cat([unwanted, kept])
        augmenting = stream(config.seed, "forget", candidate.name, "augment", step, device=device)
        logits = changed(weak(images[rows.to(device)], augmenting, mirror=mirror))
        given = labels[rows].to(device)
        chance = 1.0 / logits.shape[1]
        believed = logits[: len(unwanted)].softmax(dim=1).gather(1, given[: len(unwanted), None]).squeeze(1)
        # The clamp bounds a single sample's loss at about 7 and its gradient with it.
        complementary = -torch.log((1.0 - believed).clamp_min(1e-3)) * (believed > chance)
        loss = complementary.mean() + F.cross_entropy(logits[len(unwanted) :], given[len(unwanted) :])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return changed.eval()


def probe(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    candidate: Candidate,
    config: UnlearnConfig,
    *,
    mirror: bool,
    before: Scores,
    steps: int,
) -> Probe:
    """Forgets a candidate on a copy of a model and measures what moved.

    Args:
        model: The warm-up EMA model; unchanged.
        images: uint8 [n, c, h, w].
        labels: int64 [n], on the CPU.
        candidate: What to forget.
        config: Settings.
        mirror: Whether a horizontal flip keeps the class.
        before: The model's scores of all samples.
        steps: Number of steps.
    """
    own = candidate.held_out[labels[candidate.held_out] == candidate.label]
    believed = own[before.given_probability[own] > 0.5]
    knows = len(believed) >= max(_FEWEST_BELIEVED, 0.02 * len(own))

    changed = forget(model, images, labels, candidate, config, mirror=mirror, steps=steps)
    # Only samples of the forgotten label can carry its trigger's label, so nobody else is asked.
    members = (labels == candidate.label).nonzero().squeeze(1)
    after = score(changed, images[members.to(images.device)], labels[members])
    left = torch.zeros(len(labels)).index_put((members,), after.given_probability)
    gap = torch.zeros(len(labels)).index_put((members,), after.loss - before.loss[members])
    # A floor of ln 2: a forget set whose probability did not even halve was not forgotten at all.
    gap = gap / gap[candidate.forget].median().clamp_min(0.6931)
    return Probe(
        candidate=candidate,
        forget_confidence=float(left[candidate.forget].mean()),
        retain_accuracy=float((left[believed] > 0.5).float().mean()) if knows else 0.0,
        retain_loss_increase=float(gap[own].median()) if knows else 1.0,
        antimode=find_antimode(gap[members].numpy()),
        gap=gap,
    )


def find_antimode(gap: npt.NDArray[np.float32]) -> Antimode:
    """The least density between those that moved and those that did not.

    Otsu's threshold (1979) parts the gaps in two; the antimode is between the modes on either side of it.

    Args:
        gap: float32 [m], of the samples of one label.
    """
    counts, edges = np.histogram(gap.clip(_LOW, _HIGH), bins=_BINS, range=(_LOW, _HIGH))
    reach = np.arange(-_BINS, _BINS + 1)
    kernel = np.exp(-0.5 * (reach / _BLUR) ** 2)
    # Counts are mirrored at the ends, so that a mode there is as high as elsewhere.
    density = np.convolve(np.concatenate([counts[::-1], counts, counts[::-1]]), kernel / kernel.sum(), mode="same")
    density = density[_BINS : 2 * _BINS]
    middle = _otsu(counts)
    low, high = int(density[:middle].argmax()), middle + int(density[middle:].argmax())
    bottom = low + int(density[low : high + 1].argmin())
    threshold = float(edges[bottom] + edges[bottom + 1]) / 2
    mode = min(density[low], density[high])
    return Antimode(
        threshold=threshold,
        ratio=float(density[bottom] / mode) if mode > 0 else 1.0,
        unaffected=float((gap <= threshold).mean()),
    )


def _otsu(counts: npt.NDArray[np.int64]) -> int:
    """First bin of the upper part under Otsu's threshold, in [1, bins - 1]."""
    places = np.arange(len(counts))
    weight = np.cumsum(counts)[:-1].astype(np.float64)
    total, moments = counts.sum(), np.cumsum(counts * places)
    other = total - weight
    apart = moments[:-1] / np.maximum(weight, 1) - (moments[-1] - moments[:-1]) / np.maximum(other, 1)
    between = weight * other * apart**2
    # Where nothing is between two kinds, every threshold there is as good; next to one of them its slope would be
    # taken for the other mode.
    best = np.flatnonzero(between >= between.max() * (1.0 - 1e-9))
    return int(best[0] + best[-1]) // 2 + 1


def widen(found: Probe, calm_below: float, *, keep: bool) -> Candidate:
    """The candidate to forget all that a probe moved, while only what it left alone is retained.

    Args:
        found: The probe.
        calm_below: Gap above which nothing is retained any more.
        keep: Whether what was forgotten first stays in, moved or not.
    """
    before = found.candidate
    calm = found.gap <= calm_below
    # What moved little more than the calm ones is neither: it may be either.
    unwanted = found.gap > (calm_below if keep and calm_below < found.antimode.threshold else max(0.5, calm_below))
    if keep:
        unwanted[before.forget] = True
    return replace(
        before,
        name=f"{before.name}, again",
        forget=unwanted.nonzero().squeeze(1),
        retain=before.retain[calm[before.retain]],
        held_out=before.held_out[calm[before.held_out]],
    )


def joined(found: list[Candidate], flagged: Tensor, seed: int) -> Candidate:
    """The candidate to forget several finds together; what one of them retained may carry another's trigger.

    Args:
        found: What led to the finds, at least one.
        flagged: bool [n], all that is suspect by any of them.
        seed: Of the order of the retain set.
    """
    unwanted, kept = torch.zeros_like(flagged), torch.zeros_like(flagged)
    for candidate in found:
        unwanted[candidate.forget] = True
        kept[candidate.retain] = True
    keepers = (kept & ~flagged & ~unwanted).nonzero().squeeze(1)
    return Candidate(
        name="all finds",
        label=found[0].label,
        forget=unwanted.nonzero().squeeze(1),
        retain=keepers[torch.randperm(len(keepers), generator=stream(seed, "joined"))],
        held_out=keepers[:0],
    )

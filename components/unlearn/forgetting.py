"""Bounded unlearning of chosen samples, and what it moves.

Samples are forgotten on a copy of the warm-up model, while a trusted pool keeps the main task. What that costs tells
whether there was anything to forget: forgetting a trigger is cheap and shakes every sample that carries it and no
other, forgetting clean images takes their whole class along, some samples more and some less.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.common.learning.augment import weak
from components.common.learning.scoring import Scores, score
from components.common.learning.seeding import stream
from components.common.signals import propose, trust
from components.unlearn.config import UnlearnConfig

__all__ = [
    "Probe",
    "Proposal",
    "Valley",
    "find_valley",
    "forget",
    "halved",
    "joined",
    "make_proposal",
    "probe",
    "widen",
]

# Rises are counted in bins of a twentieth of a unit from a little below nothing to one unit: half of the forgotten
# samples rose by more, and how much more says nothing.
_LOW, _HIGH, _BINS = -0.1, 1.0, 22
# Standard deviation in bins of the Gaussian that smooths the counts: three tenths of a unit are what a mode spans.
_BLUR = 1.5
# Witnesses that the model believed before, at least; and as a share of all. Of a class that it hardly knows yet nobody
# can show that it was spared: the repair alone teaches it, and every forgetting looks free (docs/LOG.md).
_FEWEST_BELIEVED = 5
_LEAST_BELIEVED = 0.02
# Depth up to which a valley is clear. With the easiest of a class forgotten: .01 to .11 for the carriers of a trigger,
# from .16 for clean samples where the valley also parts a quarter of the class from the rest (docs/LOG.md).
_CLEAR = 0.12


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """What is proposed to be forgotten.

    Attributes:
        signal: Name of the signal that proposes it.
        label: The given label that the proposed samples share.
        isolated: int64 [k], positions of the samples to forget.
        trusted: int64 [t], positions that keep the main task; the least suspect of every class.
        witnesses: int64 [w], positions of equally trusted samples that the forgetting does not see.
        by_fall: Whether the samples were chosen by what an earlier forgetting moved most.
        by_class: Whether the class was given, and only its samples were chosen by the signal.
    """

    signal: str
    label: int
    isolated: Tensor
    trusted: Tensor
    witnesses: Tensor
    by_fall: bool = False
    by_class: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Valley:
    """Where the rises of a class fall into two kinds.

    Attributes:
        at: The rise at the bottom of the valley.
        depth: Density at the bottom as a share of that at the lower of the two peaks: 0 for two kinds that do not
            touch, 1 where there is no valley.
        below: Share of the samples below the bottom, in [0, 1].
    """

    at: float
    depth: float
    below: float

    @property
    def clear(self) -> bool:
        """Whether it lies between two kinds that hardly touch."""
        return self.depth <= _CLEAR


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """What forgetting a proposal did.

    Attributes:
        proposal: What was forgotten.
        forgotten: Probability of the given label left on the isolated samples, in [0, 1].
        retained: Share of the witnesses of the same label that keep it, among those that had it before, in [0, 1]; 0
            where too few had it.
        spilled: Median rise in loss of the witnesses of the same label, in the units of ``rise``; 1 where too few of
            them had it before.
        valley: Where the rises of the label's samples fall into two kinds.
        rise: float32 [n], rise in loss, in units of the isolated samples' median rise: 0 unmoved, 1 moved like them;
            0 for samples of other labels.
        model: The model after forgetting; None where it is of no more use.
    """

    proposal: Proposal
    forgotten: float
    retained: float
    spilled: float
    valley: Valley
    rise: Tensor
    model: nn.Module | None


def halved(pool: Tensor, seed: int, name: str) -> tuple[Tensor, Tensor]:
    """A pool of positions, int64 [m], in two random halves: those to train on, and witnesses."""
    order = torch.randperm(len(pool), generator=stream(seed, "witnesses", name))
    half = len(pool) // 2
    return pool[order[half:]], pool[order[:half]]


def make_proposal(
    name: str,
    values: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    isolation_ratio: float,
    done: Collection[int],
    config: UnlearnConfig,
) -> Proposal:
    """What a signal would have forgotten.

    Args:
        name: The signal's name.
        values: float32 [n] in [0, 1], higher = more suspect.
        labels: int64 [n], the given labels.
        isolation_ratio: Share of the training set that a signal looks at, in (0, 1).
        done: Labels that the signal is not asked about; not all there are.
        config: Trusted ratio and seed.
    """
    asked = np.flatnonzero(~np.isin(labels, list(done)))
    ratio = min(1.0, isolation_ratio * len(labels) / len(asked))
    isolated = asked[propose(values[asked], labels[asked], ratio)]
    pool = np.setdiff1d(trust(values, labels, config.trusted_ratio), isolated)
    trusted, witnesses = halved(torch.from_numpy(pool), config.seed, name)
    return Proposal(
        signal=name,
        label=int(labels[isolated[0]]),
        isolated=torch.from_numpy(isolated),
        trusted=trusted,
        witnesses=witnesses,
    )


def forget(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    proposal: Proposal,
    config: UnlearnConfig,
    *,
    mirror: bool,
    steps: int | None = None,
) -> nn.Module:
    """Makes a copy of a model that no longer gives the isolated samples their given label.

    The loss is the complementary cross-entropy -log(1 - p_y) on isolated samples as long as p_y is above chance, and
    nothing below: it is bounded, so it cannot drive the weights away. Cross-entropy on the trusted pool repairs what
    the forgetting breaks.

    Args:
        model: The model; unchanged.
        images: uint8 [n, c, h, w].
        labels: int64 [n], the given labels, on the CPU.
        proposal: What to forget.
        config: Steps, batch and learning rate.
        mirror: Whether a horizontal flip keeps the class.
        steps: Another number of steps than the config's.

    Returns:
        The changed copy, in evaluation mode.
    """
    changed = copy.deepcopy(model).train()
    changed.requires_grad_(requires_grad=True)
    device = next(changed.parameters()).device
    optimizer = torch.optim.SGD(changed.parameters(), lr=config.learning_rate, momentum=config.momentum)
    for step in range(config.steps if steps is None else steps):
        generator = stream(config.seed, "forget", proposal.signal, step)
        isolated = proposal.isolated[torch.randint(len(proposal.isolated), (config.forget_batch,), generator=generator)]
        trusted = proposal.trusted[torch.randint(len(proposal.trusted), (config.keep_batch,), generator=generator)]
        rows = torch.cat([isolated, trusted])
        augmenting = stream(config.seed, "forget", proposal.signal, "augment", step, device=device)
        logits = changed(weak(images[rows.to(device)], augmenting, mirror=mirror))
        given = labels[rows].to(device)
        chance = 1.0 / logits.shape[1]
        believed = logits[: len(isolated)].softmax(dim=1).gather(1, given[: len(isolated), None]).squeeze(1)
        # The clamp bounds a single sample's loss at about 7 and its gradient with it.
        complementary = -torch.log((1.0 - believed).clamp_min(1e-3)) * (believed > chance)
        loss = complementary.mean() + F.cross_entropy(logits[len(isolated) :], given[len(isolated) :])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return changed.eval()


def probe(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    proposal: Proposal,
    config: UnlearnConfig,
    *,
    mirror: bool,
    before: Scores,
    steps: int | None = None,
) -> Probe:
    """Forgets a proposal and measures what moved.

    Args:
        model: The warm-up EMA model.
        images: uint8 [n, c, h, w].
        labels: int64 [n], on the CPU.
        proposal: What to forget.
        config: Settings.
        mirror: Whether a horizontal flip keeps the class.
        before: The model's scores of all samples.
        steps: Another number of steps than the config's.
    """
    changed = forget(model, images, labels, proposal, config, mirror=mirror, steps=steps)
    # Only samples of the forgotten label can carry its trigger's label, so nobody else is asked.
    members = (labels == proposal.label).nonzero().squeeze(1)
    after = score(changed, images[members.to(images.device)], labels[members])
    left = torch.zeros(len(labels)).index_put((members,), after.given_probability)
    rise = torch.zeros(len(labels)).index_put((members,), after.loss - before.loss[members])
    # A floor of ln 2: an isolated sample whose probability did not even halve was not forgotten at all.
    rise = rise / rise[proposal.isolated].median().clamp_min(0.6931)
    witnesses = proposal.witnesses[labels[proposal.witnesses] == proposal.label]
    believed = witnesses[before.given_probability[witnesses] > 0.5]
    knows = len(believed) >= max(_FEWEST_BELIEVED, _LEAST_BELIEVED * len(witnesses))
    return Probe(
        proposal=proposal,
        forgotten=float(left[proposal.isolated].mean()),
        retained=float((left[believed] > 0.5).float().mean()) if knows else 0.0,
        spilled=float(rise[witnesses].median()) if knows else 1.0,
        valley=find_valley(rise[members].numpy()),
        rise=rise,
        model=changed,
    )


def find_valley(rise: npt.NDArray[np.float32]) -> Valley:
    """The valley between those that moved and those that did not.

    Otsu's threshold (1979) parts the rises in two; the valley lies between the peaks on either side of it.

    Args:
        rise: float32 [m], of the samples of one label.
    """
    counts, edges = np.histogram(rise.clip(_LOW, _HIGH), bins=_BINS, range=(_LOW, _HIGH))
    reach = np.arange(-_BINS, _BINS + 1)
    kernel = np.exp(-0.5 * (reach / _BLUR) ** 2)
    # Counts are mirrored at the ends, so that a peak there is as high as elsewhere.
    density = np.convolve(np.concatenate([counts[::-1], counts, counts[::-1]]), kernel / kernel.sum(), mode="same")
    density = density[_BINS : 2 * _BINS]
    middle = _otsu(counts)
    low, high = int(density[:middle].argmax()), middle + int(density[middle:].argmax())
    bottom = low + int(density[low : high + 1].argmin())
    at = float(edges[bottom] + edges[bottom + 1]) / 2
    peak = min(density[low], density[high])
    return Valley(
        at=at,
        depth=float(density[bottom] / peak) if peak > 0 else 1.0,
        below=float((rise <= at).mean()),
    )


def _otsu(counts: npt.NDArray[np.int64]) -> int:
    """First bin of the upper part under Otsu's threshold, in [1, bins - 1]."""
    places = np.arange(len(counts))
    weight = np.cumsum(counts)[:-1].astype(np.float64)
    total, moments = counts.sum(), np.cumsum(counts * places)
    other = total - weight
    apart = moments[:-1] / np.maximum(weight, 1) - (moments[-1] - moments[:-1]) / np.maximum(other, 1)
    between = weight * other * apart**2
    # Where nothing lies between two kinds, every threshold there is as good; next to one of them its slope would be
    # taken for the other peak.
    best = np.flatnonzero(between >= between.max() * (1.0 - 1e-9))
    return int(best[0] + best[-1]) // 2 + 1


def widen(found: Probe, mixed_at: float | None = None) -> Proposal:
    """The proposal to forget all that a probe shook, while only what it left alone is trusted.

    Args:
        found: The probe.
        mixed_at: Rise above which nothing is left alone, in a class that is known to be mixed. Where its poison moves
            by any amount, the valley may lie among it, and what is trusted below would be taught to the model again.
    """
    before = found.proposal
    if mixed_at is None:
        calm = found.rise <= found.valley.at
        # What moved little more than the calm ones is neither: it may be either.
        isolated = found.rise > max(0.5, found.valley.at)
        # Asked on the chance, what was forgotten and did not move was forgotten by mistake, and made it dear. What a
        # signal proposed of all samples stays: of dithered poison half is trusted at first and hardly moves.
        stays = not (before.by_class and found.valley.clear)
    else:
        calm = found.rise <= min(found.valley.at, mixed_at)
        isolated = ~calm
        stays = True
    if stays:
        isolated[before.isolated] = True
    return replace(
        before,
        signal=f"{before.signal}, again",
        isolated=isolated.nonzero().squeeze(1),
        trusted=before.trusted[calm[before.trusted]],
        witnesses=before.witnesses[calm[before.witnesses]],
    )


def joined(found: list[Probe], flagged: Tensor, seed: int) -> Proposal:
    """The proposal to forget several finds together; what one of them trusted may carry another's trigger.

    Args:
        found: The probes of the finds, at least one.
        flagged: bool [n], all that is suspect by any of them.
        seed: Of the order of the trusted samples.
    """
    isolated, trusted = torch.zeros_like(flagged), torch.zeros_like(flagged)
    for result in found:
        isolated[result.proposal.isolated] = True
        trusted[result.proposal.trusted] = True
    keepers = (trusted & ~flagged & ~isolated).nonzero().squeeze(1)
    return Proposal(
        signal="all finds",
        label=found[0].proposal.label,
        isolated=isolated.nonzero().squeeze(1),
        trusted=keepers[torch.randperm(len(keepers), generator=stream(seed, "joined"))],
        witnesses=keepers[:0],
    )

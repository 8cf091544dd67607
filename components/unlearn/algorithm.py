"""Bounded unlearning as a probe and as a cure.

Every proposal of the split is forgotten on a copy of the warm-up model, while a trusted pool keeps the main task. What
that costs tells whether there was anything to forget: forgetting a trigger is cheap and shakes every sample that
carries it, forgetting clean images takes their whole class along. Proposals that were cheap are kept, and the rise in
loss they caused is the refined split.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.common.contracts.configs import UnlearnConfig
from components.common.learning.augment import weak
from components.common.learning.scoring import Scores, score
from components.common.learning.seeding import stream
from components.common.learning.watch import Watch
from components.common.signals import SIGNALS, propose, trust

__all__ = ["Probe", "Proposal", "Refined", "forget", "make_proposals", "probe", "refine"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """What a signal proposes to forget.

    Attributes:
        signal: Name of the signal.
        label: The given label that the proposed samples share.
        isolated: int64 [k], positions of the samples to forget.
        trusted: int64 [t], positions that keep the main task; the least suspect of every class.
        witnesses: int64 [w], positions of equally trusted samples that the forgetting does not see.
    """

    signal: str
    label: int
    isolated: Tensor
    trusted: Tensor
    witnesses: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """What forgetting a proposal did.

    Attributes:
        proposal: What was forgotten.
        forgotten: Probability of the given label left on the isolated samples, in [0, 1].
        retained: Share of the witnesses of the same label that keep it, among those that had it before, in [0, 1].
        spilled: Median rise in loss of the witnesses of the same label, in the units of ``rise``.
        rise: float32 [n], rise in loss, in units of the isolated samples' median rise: 0 unmoved, 1 moved like them.
        accepted: Whether the forgetting was complete and cheap.
        model: The model after forgetting.
    """

    proposal: Proposal
    forgotten: float
    retained: float
    spilled: float
    rise: Tensor
    accepted: bool
    model: nn.Module


@dataclass(frozen=True, kw_only=True, slots=True)
class Refined:
    """The refined verdict over n training samples.

    Attributes:
        shaken: float32 [n] in [0, 1], 1 = moved at least like the isolated samples.
        poisoned: bool [n], moved more than half as much as them.
        suspect: bool [n], moved more than a quarter as much, and not poisoned.
        accepted: The probes that count, the one whose model is kept first.
        model: The model with the strongest backdoor forgotten; the warm-up model where nothing was accepted.
    """

    shaken: Tensor
    poisoned: Tensor
    suspect: Tensor
    accepted: list[Probe]
    model: nn.Module


def make_proposals(
    signals: Mapping[str, npt.NDArray[np.float32]],
    labels: npt.NDArray[np.int64],
    isolation_ratio: float,
    config: UnlearnConfig,
) -> list[Proposal]:
    """What each signal that proposes at all would have forgotten.

    Args:
        signals: Signal name to float32 [n] in [0, 1], as in the split.
        labels: int64 [n], the given labels.
        isolation_ratio: Share of the training set that a signal looks at, in (0, 1).
        config: Trusted ratio and seed.
    """
    proposals = []
    for name, values in signals.items():
        if not SIGNALS[name].proposes:
            continue
        isolated = propose(values, labels, isolation_ratio)
        pool = np.setdiff1d(trust(values, labels, config.trusted_ratio), isolated)
        order = torch.randperm(len(pool), generator=stream(config.seed, "witnesses", name)).numpy()
        half = len(pool) // 2
        proposals.append(
            Proposal(
                signal=name,
                label=int(labels[isolated[0]]),
                isolated=torch.from_numpy(isolated),
                trusted=torch.from_numpy(pool[order[half:]]),
                witnesses=torch.from_numpy(pool[order[:half]]),
            )
        )
    return proposals


def forget(
    model: nn.Module, images: Tensor, labels: Tensor, proposal: Proposal, config: UnlearnConfig, mirror: bool
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

    Returns:
        The changed copy, in evaluation mode.
    """
    changed = copy.deepcopy(model).train()
    changed.requires_grad_(requires_grad=True)
    device = next(changed.parameters()).device
    optimizer = torch.optim.SGD(changed.parameters(), lr=config.learning_rate, momentum=config.momentum)
    for step in range(config.steps):
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
    """
    changed = forget(model, images, labels, proposal, config, mirror)
    after = score(changed, images, labels)
    rise = after.loss - before.loss
    # A floor of ln 2: an isolated sample whose probability did not even halve was not forgotten at all.
    unit = rise[proposal.isolated].median().clamp_min(0.6931)
    witnesses = proposal.witnesses[labels[proposal.witnesses] == proposal.label]
    believed = witnesses[before.given_probability[witnesses] > 0.5]
    retained = float((after.given_probability[believed] > 0.5).float().mean()) if len(believed) else 0.0
    forgotten = float(after.given_probability[proposal.isolated].mean())
    # A class without witnesses has nobody to say that it was spared.
    spilled = float((rise / unit)[witnesses].median()) if len(witnesses) else 1.0
    cheap = retained >= config.retained_above or spilled <= config.spilled_below
    return Probe(
        proposal=proposal,
        forgotten=forgotten,
        retained=retained,
        spilled=spilled,
        rise=rise / unit,
        accepted=forgotten <= config.forgotten_below and cheap,
        model=changed,
    )


def _widen(found: Probe, labels: Tensor, config: UnlearnConfig) -> Proposal:
    """The proposal to forget all that a probe shook, while only what it left alone is trusted."""
    before = found.proposal
    of_label = labels == before.label
    calm = ~(of_label & (found.rise > config.suspect_above))
    isolated = of_label & (found.rise > config.poisoned_above)
    isolated[before.isolated] = True
    return Proposal(
        signal=f"{before.signal}, again",
        label=before.label,
        isolated=isolated.nonzero().squeeze(1),
        trusted=before.trusted[calm[before.trusted]],
        witnesses=before.witnesses[calm[before.witnesses]],
    )


def refine(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    proposals: list[Proposal],
    config: UnlearnConfig,
    *,
    mirror: bool,
    watch: Watch,
) -> tuple[Refined, list[Probe]]:
    """Probes every proposal and turns those that were cheap to forget into the refined split.

    Args:
        model: The warm-up EMA model; unchanged.
        images: uint8 [n, c, h, w].
        labels: int64 [n], the given labels, on the CPU.
        proposals: At least one.
        config: Settings.
        mirror: Whether a horizontal flip keeps the class.
        watch: Told after each probe.

    Returns:
        The refined split, and all probes.
    """
    before = score(model, images, labels)
    probes = []
    for done, proposal in enumerate(proposals, start=1):
        result = probe(model, images, labels, proposal, config, mirror=mirror, before=before)
        figures = {"retained": result.retained, "forgotten": result.forgotten}
        watch.progress("unlearn", done, len(proposals), figures)
        probes.append(result)
    first = sorted((p for p in probes if p.accepted), key=lambda p: -p.retained)
    widened: list[Probe] = []
    for found in {p.proposal.label: p for p in reversed(first)}.values():
        # A proposal is the easiest part of the poison. Forgetting all that it shook reaches the rest.
        again = probe(model, images, labels, _widen(found, labels, config), config, mirror=mirror, before=before)
        probes.append(again)
        if again.accepted:
            widened.append(again)
    accepted = widened + first
    if not accepted:
        none = torch.zeros(len(labels), dtype=torch.bool)
        return Refined(shaken=torch.zeros(len(labels)), poisoned=none, suspect=none, accepted=[], model=model), probes
    # Only samples of the label that was forgotten can carry its trigger's label: others moved as bystanders.
    moved = [torch.where(labels == p.proposal.label, p.rise, torch.zeros(())) for p in accepted]
    rise = torch.stack(moved).amax(dim=0)
    poisoned = rise > config.poisoned_above
    suspect = (rise > config.suspect_above) & ~poisoned
    return (
        Refined(
            shaken=rise.clamp(0.0, 1.0),
            poisoned=poisoned,
            suspect=suspect,
            accepted=accepted,
            model=accepted[0].model,
        ),
        probes,
    )

"""The refined split: what is mislabelled, what moves with a forgotten trigger, and the model without it.

Two questions find a poisoned label. Which classes hold samples of all the others, or of one other by rule
(``classes``), and whose label can be forgotten for some samples and not for the rest (``forgetting``)? The first sees
every attack that changes labels of many classes, whether or not its trigger has been learned; the second sees every
trigger that has been, be the labels changed or not. Where one of them says yes, forgetting what it found shows all that
carries the same trigger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from components.common.learning.doubts import NEVER, is_doubted
from components.common.learning.scoring import Scores, predict, score, scores_of
from components.common.learning.watch import Watch
from components.common.signals import SIGNALS
from components.unlearn.classes import (
    ClassProbe,
    find_contradicted,
    find_mapping,
    probe_classes,
    propose_foreign,
)
from components.unlearn.config import UnlearnConfig
from components.unlearn.deciding import best_last, choose, follow, patiently
from components.unlearn.forgetting import Probe, Proposal, forget, joined, make_proposal, probe
from components.unlearn.within import (
    FALL,
    fall_scores,
    may_propose,
    propose_by_class,
    propose_within,
    standing_out,
)

__all__ = ["Find", "Refined", "refine"]

# A proposal is the easiest part of the poison. Forgetting all that it shook reaches the rest, in at most two rounds.
_ROUNDS = 2
# In a mixed class suspects begin this many standard deviations above the median of those that stand still, and never
# lower than the smallest rise that says anything (docs/LOG.md).
_SCATTER = 4.0
_LEAST_RISE = 0.005
_NORMAL_QUARTILE = 0.6745
# Foreignness from which a sample of a mixed class loses its label where nothing tells its poison better. Less than what
# passes for another class: of warped CIFAR-10, .5 left a third of the poison and an ASR of 29 %, .2 a twelfth and 8 %,
# at half a point of accuracy (docs/LOG.md).
_FOREIGN = 0.2
# Share of the bound above which a class counts as mixed once something was found in it: clean classes reach .33 of it,
# dithered digits .85; parted as if unmixed, 41 of 400 of those kept their label, as mixed 1 (docs/LOG.md).
_BACKED = 0.5
# Of the samples that fell furthest with their class, the share that one label must hold to be asked about: .53 to .85
# with a trigger, where it showed at all (in five of six trials), at most .36 without (docs/LOG.md).
_MOST = 0.45
# Trusted samples, in random order, that are asked whether the unlearned model still knows them.
_ASKED = 2_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Find:
    """A label that something was found of.

    Attributes:
        label: The label.
        probes: The probes of its proposals; of the last of these, then, each wider than the one before.
        chosen: The probe whose rises part the label's samples; None where none does.
        mixed: The class probe, where it called the class mixed.
    """

    label: int
    probes: list[Probe]
    chosen: Probe | None
    mixed: ClassProbe | None = None

    @property
    def settled(self) -> bool:
        """Whether forgetting tells the label's poisoned samples from the others."""
        return self.chosen is not None

    @property
    def accepted(self) -> bool:
        """Whether this counts as poison found."""
        return self.settled or self.mixed is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Refined:
    """The refined verdict over n training samples.

    Attributes:
        shaken: float32 [n] in [0, 1], 1 = moved at least like the isolated samples of an accepted find.
        foreign: float32 [n] in [0, 1], ``ClassProbe.foreign`` of each sample; 0 in classes that were not probed.
        doubted: bool [n], whether it looks like what its label is doubted for.
        poisoned: bool [n].
        suspect: bool [n], less certain, and not poisoned.
        finds: Everything that was probed, accepted or not.
        classes: The class probes.
        mapping: What samples look like to the label that they were given by rule; empty where there is no rule.
        doubtful: float32 [k, k], the probability of class i from which a sample labelled j is to be doubted that looks
            most like class i; above 1 where it is not.
        model: The model with the strongest backdoor forgotten; the warm-up model where nothing was accepted or where
            forgetting cost too much.
        rolled_back: Whether it cost too much.
    """

    shaken: Tensor
    foreign: Tensor
    doubted: Tensor
    poisoned: Tensor
    suspect: Tensor
    finds: list[Find]
    classes: list[ClassProbe]
    mapping: dict[int, int]
    doubtful: Tensor
    model: nn.Module
    rolled_back: bool

    @property
    def accepted(self) -> list[Find]:
        """The finds that count."""
        return [find for find in self.finds if find.accepted]

    @property
    def found(self) -> bool:
        """Whether there is poison."""
        return bool(self.accepted or self.mapping)


def refine(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    signals: Mapping[str, npt.NDArray[np.float32]],
    config: UnlearnConfig,
    *,
    isolation_ratio: float,
    mirror: bool,
    watch: Watch,
) -> Refined:
    """Probes the classes and every proposal and turns what counts into the refined split.

    Args:
        model: The warm-up EMA model; unchanged.
        images: uint8 [n, c, h, w].
        labels: int64 [n], the given labels, on the CPU.
        signals: Signal name to float32 [n] in [0, 1], as in the split.
        config: Settings.
        isolation_ratio: Share of the training set that a proposal holds at most, in (0, 1).
        mirror: Whether a horizontal flip keeps the class.
        watch: Told after each probe.
    """
    logits = predict(model, images)
    before = scores_of(logits, labels)
    probabilities = logits.softmax(dim=1)
    contradicted = find_contradicted(probabilities, labels)
    classes = probe_classes(model, images, labels, logits, contradicted, config, mirror=mirror, watch=watch)
    once = partial(probe, model, images, labels, config=config, mirror=mirror, before=before)
    ask = partial(patiently, once, config)
    mixed = [found for found in classes if found.mixed]
    foreign_ones = [(found, propose_foreign(found, labels, before, isolation_ratio, config)) for found in mixed]
    asked = {**signals, FALL: fall_scores(classes, len(labels))} if classes else signals
    finds = _ask_all(ask, foreign_ones, labels.numpy(), asked, config, isolation_ratio, watch)
    finds = [_backed(find, classes, config) for find in finds]
    rise, foreign, named, doubtful = _marks(labels, finds, classes, config, logits.shape[1])
    mapping = find_mapping(probabilities, labels, config)
    for looks, label in mapping.items():
        # The pair alone says enough: clean samples are hardly ever taken for just that class.
        doubtful[looks, label] = 0.0
    named |= is_doubted(probabilities, labels, doubtful)
    poisoned = rise > 0.5
    suspect = (named | (rise > config.suspect_above)) & ~poisoned
    kept, rolled_back = _cured(model, finds, images, labels, before, poisoned | suspect, config, mirror=mirror)
    return Refined(
        shaken=rise.clamp(0.0, 1.0),
        foreign=foreign,
        doubted=named,
        poisoned=poisoned,
        suspect=suspect,
        finds=finds,
        classes=classes,
        mapping=mapping,
        doubtful=doubtful,
        model=kept,
        rolled_back=rolled_back,
    )


def _ask_all(
    ask: Callable[[Proposal], Probe],
    foreign: list[tuple[ClassProbe, Proposal]],
    labels: npt.NDArray[np.int64],
    signals: Mapping[str, npt.NDArray[np.float32]],
    config: UnlearnConfig,
    isolation_ratio: float,
    watch: Watch,
) -> list[Find]:
    """Follows what the mixed classes propose, then what the signals say of the labels that are not settled by then."""
    finds: list[Find] = []
    mixed = {found.label for found, _ in foreign}
    asked = {name: values for name, values in signals.items() if may_propose(name)}
    present = {int(label) for label in np.unique(labels)}

    def ask_and_widen(proposal: Proposal, source: ClassProbe | None = None) -> bool:
        proposals, rounds = [proposal], _ROUNDS
        if source is not None and source.spread > config.spread_above:
            proposals += propose_within(source, labels, asked, isolation_ratio, config)
        elif source is not None:
            # What contradicts its label is pure and few; what moves with it a little is mostly not of its kind.
            rounds = 0
        is_mixed = proposal.label in mixed
        first = best_last([ask(one) for one in proposals], source, config)
        probes = follow(ask, first, config, rounds, mixed=is_mixed)
        chosen = choose(probes, config, mixed=is_mixed)
        if chosen is None:
            # Every class may be asked, and a large model for each is more than there may be room for.
            probes = [replace(one, model=None) for one in probes]
        finds.append(Find(label=proposal.label, probes=probes, chosen=chosen, mixed=source))
        expected = max(len(finds), len(present) + len(asked) - 1)
        watch.progress("unlearn", len(finds), expected, {"retained": probes[-1].retained})
        return finds[-1].settled

    def ask_every_class(name: str) -> None:
        closed = mixed | {find.label for find in finds if find.settled}
        for label in standing_out(asked[name], labels, closed, config.class_limit):
            ask_and_widen(propose_by_class(name, asked[name], labels, label, config))

    def ask_of_all(name: str) -> None:
        # What a signal says of a label that has been settled is the same trigger, or a clean remainder. What it says
        # of the others may be a second trigger, and then a third.
        settled, closed = True, present - mixed if name != FALL and SIGNALS[name].needs_mixed else set()
        while settled and (done := closed | {find.label for find in finds if find.settled}) < present:
            proposal = make_proposal(name, asked[name], labels, isolation_ratio, done, config)
            if name == FALL and len(proposal.isolated) < _MOST * isolation_ratio * len(labels):
                break
            settled = ask_and_widen(replace(proposal, by_fall=name == FALL))

    for found, proposal in foreign:
        ask_and_widen(proposal, found)
    # The fall first: where it proposes at all it has more of the poison than a signal, and a label is settled once.
    for name in sorted(asked, key=lambda name: name != FALL):
        ask_every_class(name) if name != FALL and SIGNALS[name].by_class else ask_of_all(name)
    return finds


def _backed(find: Find, classes: list[ClassProbe], config: UnlearnConfig) -> Find:
    """A find in a class that looks mixed as well, if not as clearly as one without a find would have to."""
    if not find.settled or find.mixed is not None:
        return find
    bound = _BACKED * config.spread_above
    return replace(find, mixed=next((c for c in classes if c.label == find.label and c.spread > bound), None))


def _levelled(result: Probe, members: Tensor, config: UnlearnConfig, *, mixed: bool) -> Tensor:
    """The rise stretched so that the bottom of the valley lies at 0.5, and what is suspect from ``suspect_above`` on.

    Args:
        result: The chosen probe.
        members: bool [n], the samples of its label.
        config: Settings.
        mixed: Whether the class is known to be mixed. A missed sample is dearer there than a false suspect, and poison
            moves by any amount: suspect is what moved visibly more than those that stand still scatter.
    """
    at = max(min(result.valley.at, config.mixed_at) if mixed else result.valley.at, 1e-3)
    foot = at * config.suspect_above / 0.5
    if mixed:
        still = result.rise[members & (result.rise < at)]
        if len(still):
            median, quartile = (float(still.quantile(share)) for share in (0.5, 0.25))
            # Only the lower side: it is free of poison.
            foot = min(foot, max(_LEAST_RISE, median + _SCATTER * (median - quartile) / _NORMAL_QUARTILE))
    foot = max(foot, 1e-6)
    below = config.suspect_above * result.rise / foot
    slope = config.suspect_above + (0.5 - config.suspect_above) * (result.rise - foot) / max(at - foot, 1e-6)
    upper = 0.5 + 0.5 * (result.rise - at) / max(1.0 - at, 1e-3)
    return torch.where(result.rise > at, upper, torch.where(result.rise > foot, slope, below))


def _marks(
    labels: Tensor, finds: list[Find], classes: list[ClassProbe], config: UnlearnConfig, num_classes: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rise and foreignness of each sample, who is suspect by its class alone, and what to doubt of mixed classes."""
    n = len(labels)
    rise, foreign, named = torch.zeros(n), torch.zeros(n), torch.zeros(n, dtype=torch.bool)
    doubtful = torch.full((num_classes, num_classes), NEVER)
    for result in classes:
        foreign[result.rows] = result.foreign
    settled = {find.label for find in finds if find.settled}
    mixed = {find.label for find in finds if find.mixed is not None}
    for find in finds:
        if find.chosen is not None:
            # What fell furthest may be half of its class, as of an attack that changes labels, though too alike the
            # others to show as mixed. Half of it is trusted at first, and moves by any amount.
            by_any_amount = find.label in mixed or find.chosen.proposal.by_fall
            levelled = _levelled(find.chosen, labels == find.label, config, mixed=by_any_amount)
            rise = torch.maximum(rise, levelled)
        if find.mixed is not None:
            doubtful[:, find.label] = config.doubted_above
            if find.label not in settled:
                # No trigger was found to tell them apart by, so all that may belong elsewhere are left out.
                named |= (labels == find.label) & (foreign > _FOREIGN)
    return rise, foreign, named, doubtful.fill_diagonal_(NEVER)


def _cured(
    model: nn.Module,
    finds: list[Find],
    images: Tensor,
    labels: Tensor,
    before: Scores,
    flagged: Tensor,
    config: UnlearnConfig,
    *,
    mirror: bool,
) -> tuple[nn.Module, bool]:
    """The model with every find forgotten, unless that cost too many trusted samples their label.

    With only one of several forgotten, the model would still know the others' triggers, and teach them to fine-tuning
    as pseudo-labels. Where all at once cost too much, the cheapest alone is better than none. Steps beyond those of the
    probe repair more than they break: what they were for has been forgotten by then.
    """
    chosen = [find.chosen for find in finds if find.chosen is not None]
    if not chosen:
        return model, False
    cheapest = max(chosen, key=lambda result: result.retained)

    def attempts() -> Iterator[tuple[Proposal, nn.Module]]:
        without = partial(forget, model, images, labels, config=config, mirror=mirror)
        if len(chosen) > 1 and len((everything := joined(chosen, flagged, config.seed)).trusted):
            yield everything, without(everything, steps=config.steps * len(chosen))
        if cheapest.model is not None:
            yield cheapest.proposal, cheapest.model
        yield cheapest.proposal, without(cheapest.proposal, steps=2 * config.steps)

    for what, cured in attempts():
        rows = what.trusted[:_ASKED]
        after = score(cured, images[rows.to(images.device)], labels[rows])
        right = before.given_probability[rows] > 0.5
        lost = float((right & (after.given_probability <= 0.5)).float().sum() / right.float().sum().clamp_min(1.0))
        if lost <= config.max_trusted_loss:
            return cured, False
    return model, True

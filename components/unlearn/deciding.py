"""What probes say: which proposal is gone on with, and whether what was forgotten carried a trigger."""

from __future__ import annotations

from collections.abc import Callable

from components.unlearn.classes import ClassProbe
from components.unlearn.config import UnlearnConfig
from components.unlearn.forgetting import Probe, Proposal, widen
from components.unlearn.within import agreement

__all__ = ["best_last", "choose", "follow", "patiently"]

# Median rise of the class's witnesses up to which forgetting what fell furthest was cheap, whatever these retained:
# mostly .0001 to .015 with a trigger, from .034 for as many clean samples, though up to 86 % kept their label
# (docs/LOG.md).
_FALL_SPILLED = 0.025


def patiently(ask: Callable[..., Probe], config: UnlearnConfig, proposal: Proposal) -> Probe:
    """What a proposal moves; with twice the steps where a class that was asked on the chance needs them.

    Args:
        ask: ``forgetting.probe`` but for the proposal and ``steps``.
        config: Settings.
        proposal: What to forget.
    """
    result = ask(proposal)
    if proposal.by_class and result.forgotten > config.forgotten_below and result.retained >= config.retained_above:
        # Cheap so far, but not forgotten yet: before it is, what moves says nothing.
        result = ask(proposal, steps=2 * config.steps)
    return result


def best_last(probes: list[Probe], source: ClassProbe | None, config: UnlearnConfig) -> list[Probe]:
    """The first probes of a class, last the one to go on with.

    Of those that were cheap and moved what looks foreign rather than the rest, it is the one with the clearest valley.
    """
    if source is None:
        return probes
    right = [result for result in probes if _is_cheap(result, config, mixed=True) and agreement(source, result) > 0.5]
    best = min(right, key=lambda result: result.valley.depth, default=probes[0])
    return [*(result for result in probes if result is not best), best]


def follow(
    ask: Callable[[Proposal], Probe], asked: list[Probe], config: UnlearnConfig, rounds: int, *, mixed: bool
) -> list[Probe]:
    """What was asked, and the wider probes of the last of it as long as they promise something."""
    probes, first, most = list(asked), asked[-1], len(asked) + rounds
    hopeful, enough = _promises(first, config, mixed=mixed), False
    while hopeful and not enough and len(probes) < most:
        wider = widen(probes[-1], config.mixed_at if mixed else None)
        if len(wider.trusted) == 0:
            break
        probes.append(ask(wider))
        # The more of a trigger's carriers are forgotten together, the better are the others told from them; with
        # clean samples it is the other way round.
        hopeful = _is_cheap(probes[-1], config, mixed=mixed) or probes[-1].retained > probes[-2].retained
        # A class that was asked on the chance needs no more than one clear answer, and the next might blur it.
        enough = first.proposal.by_class and _parts(probes[-1], config)
    return probes


def _promises(first: Probe, config: UnlearnConfig, *, mixed: bool) -> bool:
    """Whether it is worth while to forget all that a first probe shook."""
    parted = first.forgotten <= config.forgotten_below and _has_valley(first, config)
    if first.proposal.by_class:
        # However dear: clean samples that were forgotten by mistake are what the next round leaves out.
        return parted and first.valley.clear
    # Clean samples of two kinds, upright and slanted, part as well once they have been forgotten by kind. Before that
    # they moved together: a proposal whose own forgetting was dear and left no valley is none.
    parted = parted and not first.proposal.by_fall and first.retained >= config.hopeful_above
    return parted or _is_cheap(first, config, mixed=mixed)


def _is_cheap(result: Probe, config: UnlearnConfig, *, mixed: bool) -> bool:
    # What is chosen by how far it moved parts from the rest by itself, clean or not: most of the rest keep their label.
    by_fall = result.proposal.by_fall and not mixed
    spilled_below = config.mixed_spilled_below if mixed else _FALL_SPILLED if by_fall else config.spilled_below
    kept = result.retained >= config.retained_above and not by_fall
    return result.forgotten <= config.forgotten_below and (kept or result.spilled <= spilled_below)


def choose(probes: list[Probe], config: UnlearnConfig, *, mixed: bool) -> Probe | None:
    """The probe whose rises part the label's samples: those that moved, and those that did not.

    Clean samples of a class move together, one more and one less, so that some move by any amount. With a trigger
    forgotten its carriers move and the others stay. Where the class is known to be mixed, that it is cheap to forget
    some of it is enough; where a wider round was dear, what it had to tell was not about the trigger any more.
    """
    if mixed:
        return next((result for result in reversed(probes) if _is_cheap(result, config, mixed=True)), None)
    return probes[-1] if _parts(probes[-1], config) else None


def _parts(result: Probe, config: UnlearnConfig) -> bool:
    """Whether a probe parts a class that is not known to be mixed; one asked on the chance only by a clear valley."""
    clear = result.valley.clear or not result.proposal.by_class
    return clear and _is_cheap(result, config, mixed=False) and _has_valley(result, config)


def _has_valley(result: Probe, config: UnlearnConfig) -> bool:
    valley = result.valley
    # A dent beyond what the forgotten samples themselves moved parts a few outliers from a class that moved as one.
    return (
        valley.depth <= config.valley_below
        and valley.at <= config.valley_at_most
        and valley.below >= config.spared_above
    )

"""What a run found, in words: the verdict in a sentence, what to do next, what each detector found, and the caveats.

Terminal and report say the same: these texts are facts of the evaluate stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.common.contracts.verdicts import LABEL_ERRORS, NO_POISON, POISON
from components.common.signals import SIGNALS

__all__ = [
    "Candidate",
    "Detector",
    "Found",
    "candidates_of",
    "caveats",
    "colour",
    "detectors",
    "next_steps",
    "sentence",
]

_MOST_NAMES = 4
_CAUGHT = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What the split says of the training images; canaries are left out of every count.

    Attributes:
        verdict: One of ``contracts.verdicts.VERDICTS``.
        total: Training images that were judged.
        poisoned: Those that carry what was found.
        suspect: Those that are less certain.
        targets: Classes to which the poisoned images lead, by name, the largest first.
        mapping: What images look like to the label that they were given by rule; empty without a rule.
        reason: Why the verdict is what it is, one sentence; empty where nothing said so.
    """

    verdict: str
    total: int
    poisoned: int
    suspect: int
    targets: Sequence[str]
    mapping: Mapping[str, str]
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Detector:
    """What one detector found.

    Attributes:
        name: Its name.
        found: Whether it found something that counts.
        text: What it found, one line.
    """

    name: str
    found: bool
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A set of images of one class that was forgotten on trial.

    Attributes:
        detector: Name of the detector that asked for it.
        label: Its class, by name.
        size: Images that were forgotten.
        forget_confidence: Probability of the label that was left on them, in [0, 1].
        retain_accuracy: Share of the held-out trusted images of the class that kept their label, in [0, 1].
        retain_loss_increase: How much their loss rose, in units of that of the forgotten images.
        accepted: Whether it counts.
    """

    detector: str
    label: str
    size: int
    forget_confidence: float
    retain_accuracy: float
    retain_loss_increase: float
    accepted: bool


def candidates_of(records: Sequence[Mapping[str, Any]]) -> list[Candidate]:
    """What the unlearn stage recorded of its candidates, in its present words or those before.

    Args:
        records: ``probes`` of its facts.
    """
    return [
        Candidate(
            detector=str(record["signal"]),
            label=str(record["label"]),
            size=int(record.get("forget_set", record.get("isolated", 0))),
            forget_confidence=float(record.get("forget_confidence", record.get("forgotten", 0.0))),
            retain_accuracy=float(record.get("retain_accuracy", record.get("retained", 0.0))),
            retain_loss_increase=float(record.get("retain_loss_increase", record.get("spilled", 0.0))),
            accepted=bool(record["accepted"]),
        )
        for record in records
    ]


def sentence(found: Found) -> str:
    """The verdict as a sentence with counts."""
    total, flagged = f"{found.total:,} training images", found.poisoned + found.suspect
    if found.verdict == POISON:
        if found.mapping and not found.poisoned:
            return f"The labels of {flagged:,} of {total} were changed by a rule from class to class."
        if found.poisoned:
            more = f"; {found.suspect:,} more are suspect" if found.suspect else ""
            return f"{found.poisoned:,} of {total} carry {_trigger(found.targets)}{more}."
        return f"{flagged:,} of {total} look poisoned."
    if found.verdict == LABEL_ERRORS:
        return f"{flagged:,} of {total} have labels that do not fit what they show; no trigger was found."
    if found.verdict == NO_POISON:
        more = f"; {flagged:,} are worth a look all the same" if flagged else ""
        return f"No poison was found among {total}{more}."
    return f"This run cannot say whether the {total} are poisoned."


def _trigger(targets: Sequence[str]) -> str:
    if not targets:
        return "a trigger"
    if len(targets) == 1:
        return f"a trigger that leads to class {targets[0]}"
    if len(targets) <= _MOST_NAMES:
        return f"triggers that lead to the classes {', '.join(targets[:-1])} and {targets[-1]}"
    return f"triggers that lead to {len(targets)} classes"


def next_steps(found: Found, *, supported: bool) -> list[str]:
    """What the owner of the data should do now, most urgent first.

    Args:
        found: What was found.
        supported: Whether something shows that poison would have been seen.
    """
    if found.verdict == POISON:
        return [
            "Look at the most suspect images: what they share and the clean ones lack is the trigger.",
            "Do not train on the data as they are. Use the model of this run, or train on the cleaned index.",
            "Find out where these images came from before the next delivery.",
        ]
    if found.verdict == LABEL_ERRORS:
        return [
            "Look at the suspects and correct their labels; the reasons say why each was doubted.",
            "Train on the cleaned index until they are corrected.",
        ]
    if found.verdict == NO_POISON:
        return [
            "The data can be used; read what limits this."
            if supported
            else "Run again with a canary before you rely on this: nothing shows yet that poison would have been seen.",
            *(["Look at the few suspects: they are left out of the cleaned index."] if found.suspect else []),
        ]
    return [
        "Do not take this for a clean bill: treat data and model as unchecked.",
        "Give the run more to judge by: more images of each class, more epochs, or another canary.",
    ]


def colour(verdict: str, facts: Mapping[str, Any]) -> str:
    """``red``, ``amber`` or ``green``; green only where a planted trigger was caught, so that poison would have shown.

    Args:
        verdict: The verdict.
        facts: Evaluate's facts; ``canary`` says how the planted trigger fared.
    """
    if verdict == POISON:
        return "red"
    caught = float((facts.get("canary") or {}).get("caught", 0.0))
    return "green" if verdict == NO_POISON and caught >= _CAUGHT else "amber"


def caveats(facts: Mapping[str, Any], *, attacked: bool) -> list[str]:
    """What limits the verdict and the figures of this very run; only what applies.

    Args:
        facts: Evaluate's facts.
        attacked: Whether the run injected an attack of its own.
    """
    said = []
    canary = facts.get("canary") or {}
    if canary:
        said.append(
            f"Of the {canary['planted']} planted images {100 * canary['caught']:.1f} % were caught, and the final "
            f"model obeys their trigger on {100 * canary['fired']:.1f} % of the holdout. This trigger was tested, no "
            "other: a rarer or stealthier one can still pass."
        )
        if canary["caught"] < _CAUGHT:
            said.append("The canary was not caught, so that no poison was found says little.")
        said.append("The planted images were not judged themselves and are not in the cleaned index.")
    elif facts["verdict"] == NO_POISON:
        said.append("No canary was planted, so nothing shows that a trigger would have been seen.")
    if facts.get("rolled_back"):
        said.append(
            "Forgetting what was found cost the model too much and was undone: the final model was trained without the "
            "suspects' labels, from weights that may still know the trigger."
        )
    if attacked:
        said.append("ASR is that of the attack that this run injected; of other triggers it says nothing.")
    else:
        said.append("Nobody knows which images are really poisoned: ASR, and how much was missed, cannot be measured.")
    return said


def detectors(
    candidates: Sequence[Candidate],
    signals: Sequence[str],
    mixed: Sequence[str],
    mapping: Mapping[str, str],
) -> list[Detector]:
    """One line for each detector that was asked.

    Args:
        candidates: What was forgotten on trial.
        signals: Names of the split's signals.
        mixed: Classes that hold samples of many others.
        mapping: As in ``Found``.
    """
    groups: dict[str, list[Candidate]] = {name: [] for name in signals if name in SIGNALS}
    for candidate in candidates:
        groups.setdefault(candidate.detector.split(",")[0], []).append(candidate)
    lines = [_detector(name, found) for name, found in groups.items()]
    lines.append(
        Detector(
            name="labels against content",
            found=bool(mixed),
            text=f"the images of {_names(mixed)} look like those of many other classes: their labels were changed"
            if mixed
            else "no class holds images of all the others",
        )
    )
    pairs = [f"what looks like {looks} is labelled {label}" for looks, label in mapping.items()]
    lines.append(
        Detector(
            name="labels by a rule",
            found=bool(pairs),
            text=_names(pairs) if pairs else "no label was changed from class to class by a rule",
        )
    )
    return lines


def _detector(name: str, candidates: Sequence[Candidate]) -> Detector:
    meaning = f"{SIGNALS[name].reason}: " if name in SIGNALS else ""
    accepted = [one for one in candidates if one.accepted]
    if accepted:
        best = max(accepted, key=lambda one: one.size)
        text = (
            f"{_count(best.size, 'image')} of {best.label} forgotten, and {100 * best.retain_accuracy:.0f} % of the "
            "trusted images of that class kept their label: these images share something that the class does not need"
        )
    elif candidates:
        classes = sorted({one.label for one in candidates})
        least = 100 * min(one.retain_accuracy for one in candidates)
        text = (
            f"{_count(len(candidates), 'candidate')} of {_names(classes)} forgotten, and the class was forgotten with "
            f"it (as few as {least:.0f} % of its trusted images kept their label)"
        )
    else:
        text = "ranks the images; nothing was forgotten for it"
    return Detector(name=name, found=bool(accepted), text=meaning + text)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _names(names: Sequence[str]) -> str:
    shown = [*names[:_MOST_NAMES], *([f"{len(names) - _MOST_NAMES} more"] if len(names) > _MOST_NAMES else [])]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"

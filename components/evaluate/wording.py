"""What a run found, in words: the verdict in a sentence, what to do next, what each detector found, and the caveats.

Terminal and report say the same: these texts are facts of the evaluate stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.common.signals import SIGNALS

__all__ = ["Detector", "Found", "caveats", "colour", "detectors", "next_steps", "sentence"]

_MOST_NAMES = 4
_CAUGHT = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What the split says of the training images; canaries are left out of every count.

    Attributes:
        verdict: ``poison found``, ``label errors found``, ``no poison found`` or ``inconclusive``.
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


def sentence(found: Found) -> str:
    """The verdict as a sentence with counts."""
    total, flagged = f"{found.total:,} training images", found.poisoned + found.suspect
    if found.verdict == "poison found":
        if found.mapping and not found.poisoned:
            return f"The labels of {flagged:,} of {total} were changed by a rule from class to class."
        if found.poisoned:
            more = f"; {found.suspect:,} more are suspect" if found.suspect else ""
            return f"{found.poisoned:,} of {total} carry {_trigger(found.targets)}{more}."
        return f"{flagged:,} of {total} look poisoned."
    if found.verdict == "label errors found":
        return f"{flagged:,} of {total} have labels that do not fit what they show; no trigger was found."
    if found.verdict == "no poison found":
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


def next_steps(found: Found) -> list[str]:
    """What the owner of the data should do now, most urgent first."""
    if found.verdict == "poison found":
        return [
            "Look at the most suspect images: what they share and the clean ones lack is the trigger.",
            "Do not train on the data as they are. Use the model of this run, or train on the cleaned index.",
            "Find out where these images came from before the next delivery.",
        ]
    if found.verdict == "label errors found":
        return [
            "Look at the suspects and correct their labels; the reasons say why each was doubted.",
            "Train on the cleaned index until they are corrected.",
        ]
    if found.verdict == "no poison found":
        return [
            "The data can be used; read below what was tested and what was not.",
            *(["Look at the few suspects: they are left out of the cleaned index."] if found.suspect else []),
        ]
    return [
        "Do not take this for a clean bill: treat data and model as unchecked.",
        "Give the run more to judge by: more images of each class, more epochs, or another canary.",
    ]


def colour(verdict: str, facts: Mapping[str, Any]) -> str:
    """``red``, ``amber`` or ``green``; green only where something shows that poison would have been seen.

    Args:
        verdict: The verdict.
        facts: Evaluate's facts; ``checked`` states a detection power, ``canary`` how the planted trigger fared.
    """
    if verdict == "poison found":
        return "red"
    canary = facts.get("canary") or {}
    shown = bool(facts.get("checked")) or float(canary.get("caught", 0.0)) >= _CAUGHT
    return "green" if verdict == "no poison found" and shown else "amber"


def caveats(facts: Mapping[str, Any], *, attacked: bool, truth: bool, fraction_judged: float = 1.0) -> list[str]:
    """What limits the verdict and the figures of this very run; only what applies.

    Args:
        facts: Evaluate's facts.
        attacked: Whether the run injected an attack of its own.
        truth: Whether it is known which images are poisoned.
        fraction_judged: Share of the holdout rows on which ACC was measured, in [0, 1].
    """
    said = []
    canary = facts.get("canary") or {}
    if canary:
        said.append(
            f"A canary was planted on {canary['planted']} training images: {100 * canary['caught']:.1f} % of them were "
            f"caught, and the final model obeys its trigger on {100 * canary['fired']:.1f} % of the holdout. This "
            "trigger was tested, no other: a rarer or stealthier one can still pass."
        )
        if canary["caught"] < _CAUGHT:
            said.append("The canary was not caught, so that no poison was found says little.")
        said.append("The planted images were not judged themselves and are not in the cleaned index.")
    elif facts["verdict"] == "no poison found" and not facts.get("checked") and not attacked:
        said.append(
            "No canary was planted, so nothing shows that poison would have been seen. Run again with a canary."
        )
    if facts.get("rolled_back"):
        said.append(
            "Forgetting what was found cost the model too much and was undone: the final model was trained without the "
            "suspects' labels, from weights that may still know the trigger."
        )
    if attacked:
        said.append("ASR is that of the attack that this run injected; of other triggers it says nothing.")
    elif not truth:
        said.append("Nobody knows which images are really poisoned: ASR, and how much was missed, cannot be measured.")
    if not facts.get("acc_measured_on"):
        said.append("ACC is measured on the holdout with the labels it came with, which nobody has checked.")
    return said


def detectors(
    probes: Sequence[Mapping[str, Any]],
    signals: Sequence[str],
    mixed: Sequence[str],
    mapping: Mapping[str, str],
) -> list[Detector]:
    """One line for each detector that was asked.

    Args:
        probes: Records of the unlearn stage, one for each candidate that was forgotten.
        signals: Names of the split's signals.
        mixed: Classes that hold samples of many others.
        mapping: As in ``Found``.
    """
    lines = []
    groups: dict[str, list[Mapping[str, Any]]] = {name: [] for name in signals if name in SIGNALS}
    for record in probes:
        groups.setdefault(str(record["signal"]).split(",")[0], []).append(record)
    for name, records in groups.items():
        reason = SIGNALS[name].reason if name in SIGNALS else "moved when the class was forgotten"
        lines.append(_detector(name, reason, records))
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


def _detector(name: str, reason: str, records: Sequence[Mapping[str, Any]]) -> Detector:
    accepted = [record for record in records if record["accepted"]]
    if accepted:
        best = max(accepted, key=lambda record: int(record["isolated"]))
        return Detector(
            name=name,
            found=True,
            text=f"{reason}: {int(best['isolated']):,} images of {best['label']} were forgotten, and "
            f"{100 * float(best['retained']):.0f} % of the trusted images of that class kept their label. "
            "They share something that the class does not need: a trigger",
        )
    if records:
        classes = sorted({str(record["label"]) for record in records})
        least = 100 * min(float(record["retained"]) for record in records)
        return Detector(
            name=name,
            found=False,
            text=f"{reason}: {_count(len(records), 'candidate')} of {_names(classes)} forgotten, and the class forgot "
            f"itself with it (as few as {least:.0f} % of its trusted images kept their label)",
        )
    return Detector(name=name, found=False, text=f"{reason}: ranks the images, nothing was forgotten for it")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _names(names: Sequence[str]) -> str:
    shown = [*names[:_MOST_NAMES], *([f"{len(names) - _MOST_NAMES} more"] if len(names) > _MOST_NAMES else [])]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"

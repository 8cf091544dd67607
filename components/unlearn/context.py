"""What the detectors share: the warm-up model's view of every sample, and the questions that can be asked of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from components.common.learning.scoring import Scores, predict, scores_of
from components.common.signals import propose, trust
from components.unlearn.classes import ClassUnlearning, unlearn_class
from components.unlearn.config import UnlearnConfig
from components.unlearn.forgetting import Antimode, Candidate, Probe, find_antimode, halved, probe
from components.unlearn.memo import Memo
from components.unlearn.unseen import Votes, unseen_votes, warm_votes

__all__ = ["Context"]

_FEWEST_CLASSES = 4


@dataclass(kw_only=True)
class Context:
    """One training set under examination.

    Attributes:
        model: The warm-up EMA model; never changed.
        images: uint8 [n, c, h, w].
        labels: int64 [n], the given labels, on the CPU.
        signals: Signal name to float32 [n] in [0, 1], higher = more suspect.
        config: Settings.
        isolation_ratio: Share of the training set that a forget set holds at most, in (0, 1).
        mirror: Whether a horizontal flip keeps the class.
        memo: Keeps the answers.
        settled: Labels of which a trigger was found: what else is said of them is the same trigger.
        inconsistent: Labels that hold samples of other classes, to the class-unlearning that says so.
        noisy: Whether labels of all kinds are wrong, as in data labelled carelessly.
        mapping: What samples look like, to the label that they were given by rule.
        probes: Every probe by its question, in the order in which it was asked, with the detector's name.
        asked: Told the number of classes that have been forgotten as a whole, and a figure.
    """

    model: nn.Module
    images: Tensor
    labels: Tensor
    signals: Mapping[str, npt.NDArray[np.float32]]
    config: UnlearnConfig
    isolation_ratio: float
    mirror: bool
    memo: Memo
    settled: set[int] = field(default_factory=set)
    inconsistent: dict[int, ClassUnlearning] = field(default_factory=dict)
    noisy: bool = False
    mapping: dict[int, int] = field(default_factory=dict)
    probes: dict[str, tuple[str, Probe]] = field(default_factory=dict)
    asked: Callable[..., None] = field(default=lambda *_, **__: None)
    logits: Tensor = field(init=False)
    before: Scores = field(init=False)
    members: dict[int, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        """One forward pass over everything."""
        self.logits = predict(self.model, self.images)
        self.before = scores_of(self.logits, self.labels)
        present = np.unique(self.labels.numpy()).tolist()
        self.members = {label: (self.labels == label).nonzero().squeeze(1) for label in present}

    def unlearnable(self) -> list[int]:
        """The classes that are forgotten as a whole, one by one; with fewer than four there is nothing to compare."""
        if len(self.members) < _FEWEST_CLASSES:
            return []
        largest = sorted(self.members, key=lambda label: -len(self.members[label]))
        return sorted(largest[: self.config.class_limit])

    @property
    def probabilities(self) -> Tensor:
        """float32 [n, k], the warm-up model's."""
        return self.logits.softmax(dim=1)

    def candidate(
        self, name: str, values: npt.NDArray[np.float32], closed: Set[int], ratio: float | None = None
    ) -> Candidate:
        """The most suspect samples by some scores, of the label that dominates them, with a retain set.

        Args:
            name: The detector's.
            values: float32 [n] in [0, 1], higher = more suspect.
            closed: Labels that are not looked at; not all there are.
            ratio: Share of the training set to look at; ``isolation_ratio`` by default.
        """
        labels = self.labels.numpy()
        asked = np.flatnonzero(~np.isin(labels, list(closed)))
        share = min(1.0, (ratio or self.isolation_ratio) * len(labels) / len(asked))
        unwanted = asked[propose(values[asked], labels[asked], share)]
        label = int(labels[unwanted[0]])
        pool = np.setdiff1d(trust(values, labels, self.config.retain_ratio), unwanted)
        named = f"{name} {label}"
        retain, held_out = halved(torch.from_numpy(pool), self.config.seed, named)
        return Candidate(name=named, label=label, forget=torch.from_numpy(unwanted), retain=retain, held_out=held_out)

    def probe(self, detector: str, candidate: Candidate, steps: int | None = None) -> Probe:
        """What forgetting a candidate moves.

        Args:
            detector: Whose question this is.
            candidate: What to forget.
            steps: Another number of steps than the config's.
        """
        steps = steps or self.config.steps
        members = self.members[candidate.label]
        question = f"{candidate.name} in {steps} steps"
        if question in self.probes:
            return self.probes[question][1]

        def ask() -> dict[str, Tensor]:
            found = probe(
                self.model,
                self.images,
                self.labels,
                candidate,
                self.config,
                mirror=self.mirror,
                before=self.before,
                steps=steps,
            )
            figures = [found.forget_confidence, found.retain_accuracy, found.retain_loss_increase]
            return {"gap": found.gap[members], "figures": torch.tensor(figures, dtype=torch.float64)}

        kept = self.memo.recall(question, ask)
        forget_confidence, retain_accuracy, retain_loss_increase = kept["figures"].tolist()
        antimode: Antimode = find_antimode(kept["gap"].numpy())
        result = Probe(
            candidate=candidate,
            forget_confidence=forget_confidence,
            retain_accuracy=retain_accuracy,
            retain_loss_increase=retain_loss_increase,
            antimode=antimode,
            gap=torch.zeros(len(self.labels)).index_put((members,), kept["gap"]),
        )
        self.probes[question] = (detector, result)
        return result

    def unlearned(self, label: int) -> ClassUnlearning:
        """What the samples of a class look like once the class is forgotten as a whole."""

        def ask() -> dict[str, Tensor]:
            return unlearn_class(
                self.model, self.images, self.labels, self.logits, self.members, label, self.config, mirror=self.mirror
            )

        return ClassUnlearning(label=label, rows=self.members[label], **self.memo.recall(f"class {label}", ask))

    def warm_votes(self) -> Tensor:
        """float32 [n, k]: share of each label among the nearest training samples in the warm-up model's features."""
        return self.memo.recall(
            "votes", lambda: {"votes": warm_votes(self.model, self.images, self.labels, self.mirror)}
        )["votes"]

    def unseen_votes(self, left_out: tuple[int, ...]) -> Votes:
        """The same for the samples of some labels, in the features of a model that never saw these labels."""
        name = f"unseen {' '.join(map(str, left_out))}"
        rows = torch.isin(self.labels, torch.tensor(left_out)).nonzero().squeeze(1)

        def ask() -> dict[str, Tensor]:
            return {
                "votes": unseen_votes(
                    self.model, self.images, self.labels, rows, self.config, name, self.memo, mirror=self.mirror
                )
            }

        return Votes(rows=rows, shares=self.memo.recall(f"{name} votes", ask)["votes"])

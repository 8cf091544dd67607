"""The course of a training: mean loss of each epoch, and accuracy on a few images that it never sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from components.common.learning.scoring import predict

__all__ = ["History", "Watched", "watched_in", "watched_sample"]

# As many as tell an accuracy to within two points; more would cost a small training set several per cent.
_MOST_WATCHED = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """Held-out images on which the accuracy is followed. They decide nothing and enter no loss.

    Attributes:
        images: uint8 [m, c, h, w], at least one.
        labels: int64 [m], their given labels, on the CPU.
    """

    images: Tensor
    labels: Tensor


def watched_in(tensors: Mapping[str, Tensor]) -> Watched | None:
    """What ``watched_sample`` put among the tensors of a training; None where nothing was."""
    if "watched_images" not in tensors or len(tensors["watched_labels"]) == 0:
        return None
    return Watched(images=tensors["watched_images"], labels=tensors["watched_labels"])


def watched_sample(images: Tensor, labels: Tensor, limit: int = _MOST_WATCHED) -> dict[str, Tensor]:
    """Some holdout rows as the tensors ``watched_images`` and ``watched_labels`` of a training.

    Args:
        images: uint8 [m, c, h, w], the holdout.
        labels: int64 [m], its given labels.
        limit: Rows to take at most. They are spread evenly over the order of the index.
    """
    rows = torch.linspace(0, max(0, len(labels) - 1), min(limit, len(labels))).long()
    return {"watched_images": images[rows], "watched_labels": labels[rows]}


@dataclass(kw_only=True, slots=True)
class History:
    """Loss and accuracy by epoch, filled by a ``Trainer``, to whose resumable state it belongs.

    Attributes:
        watched: Images to follow the accuracy on; None for none.
        epoch_steps: Steps of one epoch; 0 before the training begins.
        loss: float64 [epochs], sum of the losses of the epoch's steps.
        acc: float64 [epochs], accuracy of the EMA after the epoch, in [0, 1]; -1 where it was not measured.
    """

    watched: Watched | None = None
    epoch_steps: int = 0
    loss: Tensor = field(default_factory=lambda: torch.zeros(0))
    acc: Tensor = field(default_factory=lambda: torch.zeros(0))

    def begin(self, epochs: int, epoch_steps: int) -> None:
        """Makes room for a training of so many epochs of so many steps."""
        self.epoch_steps = epoch_steps
        self.loss = torch.zeros(epochs, dtype=torch.float64)
        self.acc = torch.full((epochs,), -1.0, dtype=torch.float64)

    def note(self, step: int, loss: float, model: nn.Module, *, measure: bool) -> None:
        """Takes in a step.

        Args:
            step: Number of steps done, this one included.
            loss: Its loss.
            model: The model whose accuracy counts.
            measure: Whether this process measures it at the end of an epoch.
        """
        epoch, rest = divmod(step - 1, self.epoch_steps)
        self.loss[epoch] += loss
        if measure and self.watched is not None and rest == self.epoch_steps - 1:
            guessed = predict(model, self.watched.images).argmax(dim=1)
            self.acc[epoch] = float((guessed == self.watched.labels).double().mean())

    def state(self) -> dict[str, Tensor]:
        """What a later process needs to go on."""
        return {"loss": self.loss, "acc": self.acc}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Takes a state back."""
        self.loss, self.acc = state["loss"].cpu(), state["acc"].cpu()

    def record(self) -> dict[str, list[float]]:
        """``loss``, the mean of each epoch, and ``acc`` where it was measured, for a manifest's facts."""
        found = {"loss": [round(value / max(1, self.epoch_steps), 5) for value in self.loss.tolist()]}
        if len(self.acc) and bool((self.acc >= 0).all()):
            found["acc"] = [round(value, 5) for value in self.acc.tolist()]
        return found

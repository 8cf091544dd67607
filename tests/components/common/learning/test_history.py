"""The course of a training: the mean loss of each epoch and the accuracy after it, also of a resumed training."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from components.common.learning.config import TrainRecipe
from components.common.learning.history import History, Watched, watched_in, watched_sample
from components.common.learning.loop import EpochOrder, Trainer
from components.common.learning.watch import NullWatch


class Stopping(NullWatch):
    """Keeps the state after some step, as a store would."""

    def __init__(self, at: int = -1, state: bytes | None = None) -> None:
        self.at, self.state, self.losses = at, state, []

    def progress(self, phase, step, total, figures) -> None:
        self.losses.append(figures["loss"])

    def wants_state(self, phase: str) -> bool:
        return len(self.losses) == self.at

    def save(self, phase: str, state: bytes) -> None:
        self.state = state

    def restore(self, phase: str) -> bytes | None:
        return self.state if self.at < 0 else None


def trained(watch: Stopping) -> History:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (40, 1, 4, 4), dtype=torch.uint8)
    labels = torch.arange(40) % 2
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    history = History(watched=Watched(images=images[:10], labels=labels[:10]))
    order = EpochOrder(40, 10, 0, "x")
    history.begin(3, order.steps_per_epoch)
    trainer = Trainer(model=model, recipe=TrainRecipe(), phase="x", watch=watch, history=history)

    def loss(rows, _):
        return F.cross_entropy(model(images[rows].float() / 255), labels[rows])

    trainer.run(3 * order.steps_per_epoch, order.batch, loss)
    return history


def test_the_loss_of_an_epoch_is_the_mean_of_its_steps() -> None:
    watch = Stopping()
    record = trained(watch).record()
    assert record["loss"] == pytest.approx([sum(watch.losses[k : k + 4]) / 4 for k in (0, 4, 8)], abs=1e-5)
    assert len(record["acc"]) == 3
    assert all(0 <= value <= 1 for value in record["acc"])


@pytest.mark.parametrize("stopped_after", [1, 4, 7])
def test_a_resumed_training_records_what_an_uninterrupted_one_does(stopped_after: int) -> None:
    stopped = Stopping(at=stopped_after)
    whole = trained(stopped).record()
    resumed = Stopping(state=stopped.state)
    assert trained(resumed).record() == whole
    assert len(resumed.losses) == 12 - stopped_after


def test_without_held_out_images_there_is_no_accuracy() -> None:
    history = History()
    history.begin(1, 1)
    history.note(1, 0.5, nn.Identity(), measure=True)
    assert history.record() == {"loss": [0.5]}
    assert History().record() == {"loss": []}


@pytest.mark.parametrize(("rows", "taken"), [(0, 0), (3, 3), (2000, 500)])
def test_the_watched_images_are_spread_over_the_holdout(rows: int, taken: int) -> None:
    images, labels = torch.zeros(rows, 1, 2, 2, dtype=torch.uint8), torch.arange(rows)
    sample = watched_sample(images, labels)
    assert len(sample["watched_labels"]) == taken
    if rows == 0:
        assert watched_in(sample) is None
    else:
        assert sample["watched_labels"][0] == 0
        assert sample["watched_labels"][-1] == rows - 1
        assert watched_in(sample) is not None
    assert watched_in({}) is None

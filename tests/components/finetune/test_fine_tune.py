"""Fine-tuning looks again at doubted labels, and weighs what is left of a class."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pytest
import torch

from components.common.learning.doubts import NEVER, is_doubted
from components.common.learning.seeding import make_deterministic
from components.common.learning.watch import NullWatch
from components.common.models import ModelSpec, build_model
from components.finetune.algorithm import FineTuned, _balance, fine_tune
from components.finetune.config import FinetuneConfig
from components.warmup.algorithm import TrainingSet, warm_up
from components.warmup.config import WarmupConfig

SPEC = ModelSpec(num_classes=10, channels=1, image_size=28, mean=(0.13,), std=(0.31,))


def test_only_doubted_pairs_are_doubted_and_only_from_their_firmness() -> None:
    doubtful = torch.full((3, 3), NEVER)
    doubtful[0, 1], doubtful[2, 1] = 0.0, 0.7
    probabilities = torch.tensor([[0.4, 0.3, 0.3], [0.1, 0.3, 0.6], [0.1, 0.1, 0.8], [0.9, 0.1, 0.0]])
    labels = torch.tensor([1, 1, 1, 2])
    assert is_doubted(probabilities, labels, doubtful).tolist() == [True, False, True, False]


def test_the_labelled_pool_is_balanced_once_labels_are_taken_away() -> None:
    known = torch.tensor([0] * 60 + [1] * 30 + [2] * 30)
    assert _balance(known, 4).tolist() == [1.0] * 4, "ordinary training is left as it is"
    known[:5] = -1
    weight = _balance(known, 4)
    counts = torch.tensor([55.0, 30.0, 30.0, 0.0])
    assert float((weight * counts).sum()) == pytest.approx(115.0, rel=1e-4)
    shares = (weight * counts)[:3]
    assert float(shares.max() / shares.min()) == pytest.approx(1.0, rel=1e-4)
    assert weight[3] == 0.0


class Interrupted(NullWatch):
    """Keeps a state after a number of steps and stops the training there; a second one starts from it."""

    def __init__(self, at: int, kept: Mapping[str, bytes] | None = None) -> None:
        self.at, self.done, self.kept = at, 0, dict(kept or {})

    def wants_state(self, phase: str) -> bool:
        self.done += 1
        return self.done == self.at

    def save(self, phase: str, state: bytes) -> None:
        self.kept[phase] = state
        raise InterruptedError

    def restore(self, phase: str) -> bytes | None:
        return self.kept.get(phase)


def test_doubted_labels_fall_while_the_model_gets_better_also_across_an_interruption(many_digits) -> None:
    images, true = many_digits[0][:600], many_digits[1][:600]
    given = true.clone()
    lies = torch.zeros(600, dtype=torch.bool)
    lies[::12] = True
    given[lies] = (true[lies] + 1) % 10
    doubtful = torch.full((10, 10), NEVER)
    for k in range(10):
        doubtful[k, (k + 1) % 10] = 0.0
    config = FinetuneConfig(epochs=8, batch_size=64, resplit_epochs=2)
    everything = torch.ones(600, dtype=torch.bool)

    make_deterministic(0)
    half_learned, _ = warm_up(
        build_model("convnet_tiny", SPEC),
        TrainingSet(images=images, labels=given, mirror=False),
        WarmupConfig(epochs=8, batch_size=32),
        NullWatch(),
    )

    def tune(watch: NullWatch) -> FineTuned:
        model = copy.deepcopy(half_learned)
        return fine_tune(model, images, given, everything, config, mirror=False, watch=watch, doubtful=doubtful)

    whole = tune(NullWatch())
    fallen = ~whole.labelled
    assert float(fallen[lies].float().mean()) > 0.8
    assert float(fallen[~lies].float().mean()) < 0.1
    assert len(whole.lost) == 4
    assert int(whole.lost.sum()) == int(fallen.sum())
    first = Interrupted(at=50)
    with pytest.raises(InterruptedError):
        tune(first)
    resumed = tune(Interrupted(at=10_000, kept=first.kept))
    assert torch.equal(resumed.labelled, whole.labelled)
    assert torch.equal(resumed.lost, whole.lost)
    for one, other in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)

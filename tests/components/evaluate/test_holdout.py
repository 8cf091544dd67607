"""The verdict on holdout rows is carried over from training rows, and asks no model whether it is right."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from components.evaluate.holdout import changed_labels_seen, suspect_share
from components.warmup.config import WarmupConfig


def cloud(centre: tuple[float, float, float], count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.tensor(centre) + 0.1 * torch.randn(count, 3, generator=generator)


CAT, DOG, TRIGGER = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def drop(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features, given labels and truth of 100 cats, 100 dogs and 40 dogs with a trigger that are labelled cat."""
    features = torch.cat([cloud(CAT, 100, seed), cloud(DOG, 100, seed + 1), cloud(TRIGGER, 40, seed + 2)])
    labels = torch.tensor([0] * 100 + [1] * 100 + [0] * 40)
    return features, labels, torch.arange(240) >= 200


def test_a_row_next_to_suspects_of_its_label_is_one() -> None:
    train, labels, poisoned = drop(0)
    rows, given, truth = drop(10)
    share = suspect_share(train, labels, poisoned, rows, given)
    assert ((share > 0.5) == truth).all()
    # Only rows of its own label tell: a dog with its own label, beside the same suspects, is none.
    honest = suspect_share(train, labels, poisoned, rows[truth], torch.ones(40, dtype=torch.int64))
    assert honest.max() == 0.0


def test_a_verdict_with_faults_is_carried_over_without_them() -> None:
    train, labels, poisoned = drop(0)
    rows, given, truth = drop(10)
    generator = torch.Generator().manual_seed(0)
    faulty = poisoned ^ (torch.rand(240, generator=generator) < 0.1)
    assert ((suspect_share(train, labels, faulty, rows, given) > 0.5) == truth).float().mean() > 0.97


def test_without_suspects_nothing_is_suspect() -> None:
    train, labels, poisoned = drop(0)
    assert suspect_share(train, labels, torch.zeros_like(poisoned), train, labels).max() == 0.0


def test_a_class_of_two_suspects_is_judged_by_them() -> None:
    share = suspect_share(
        cloud(CAT, 2, 0), torch.zeros(2, dtype=torch.int64), torch.tensor([True, True]),
        cloud(CAT, 3, 1), torch.zeros(3, dtype=torch.int64),
    )  # fmt: skip
    assert share.tolist() == [1.0, 1.0, 1.0]


def test_changed_labels_stand_out_where_the_classes_are_apart_and_only_there() -> None:
    train, labels, _ = drop(0)
    rows, given, _ = drop(10)
    assert changed_labels_seen(train[:200], labels[:200], rows[:200], given[:200]) == 1.0
    mixed = torch.Generator().manual_seed(0)
    features = torch.randn(400, 3, generator=mixed)
    half = (torch.arange(200) % 2).long()
    seen = changed_labels_seen(features[:200], half, features[200:], half)
    assert seen is not None
    assert seen < 0.2
    assert changed_labels_seen(train[:100], labels[:100], rows[:100], given[:100]) is None


@pytest.mark.parametrize("count", [1, 5])
def test_few_training_rows_are_no_obstacle(count: int) -> None:
    train, labels, _ = drop(0)
    rows, given, _ = drop(10)
    chosen = torch.cat([torch.arange(count), 100 + torch.arange(count)])
    assert changed_labels_seen(train[chosen], labels[chosen], rows[:200], given[:200]) is not None


def test_on_real_digits_poison_is_left_out_and_accuracy_is_that_of_the_clean_rows(
    many_digits: tuple[Tensor, Tensor],
) -> None:
    """A drop poisoned throughout: the model that obeys the trigger must not be paid for it, nor flattered."""
    from components.common.attacks.base import AttackConfig, make_attack
    from components.common.learning.scoring import penultimate_features, predict
    from components.common.learning.seeding import make_deterministic
    from components.common.learning.watch import NullWatch
    from components.common.models import ModelSpec, build_model
    from components.warmup.algorithm import TrainingSet, warm_up

    make_deterministic(0)
    config = AttackConfig(name="badnets", poison_rate=0.06, target_label=3, seed=0)
    dirty = make_attack(config, num_classes=10, image_shape=(1, 28, 28)).inject(*many_digits)
    first = 1_500
    spec = ModelSpec(num_classes=10, channels=1, image_size=28, mean=(0.13,), std=(0.31,))
    data = TrainingSet(images=dirty.images[:first], labels=dirty.labels[:first], mirror=False)
    recipe = WarmupConfig(model="convnet_tiny", epochs=12, mixing_rounds=1)
    model, _ = warm_up(build_model("convnet_tiny", spec), data, recipe, NullWatch())
    near, mine = (penultimate_features(model, part) for part in (dirty.images[:first], dirty.images[first:]))
    labels, poisoned = dirty.labels[first:], dirty.is_poisoned[first:]
    suspect = suspect_share(near, dirty.labels[:first], dirty.is_poisoned[:first], mine, labels) > 0.5
    assert suspect[poisoned].float().mean() >= 0.95
    assert suspect[~poisoned].float().mean() <= 0.005
    right = predict(model, dirty.images[first:]).argmax(dim=1) == labels
    assert right[poisoned].float().mean() > 0.9, "the model obeys the trigger, or there is nothing to leave out"
    trusted, clean = right[~suspect].float().mean(), right[~poisoned].float().mean()
    assert abs(trusted - clean) < 0.003

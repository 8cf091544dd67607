"""Signals, split, unlearning and fine-tuning, on small real digits."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from components.common.attacks.base import AttackConfig, make_attack
from components.common.contracts.errors import ConfigError
from components.common.learning.scoring import predict
from components.common.learning.seeding import make_deterministic
from components.common.learning.watch import NullWatch
from components.common.models import ModelSpec, build_model
from components.common.signals import SIGNALS, Evidence, propose, ranks, score_all, trust
from components.common.tables.tables import MIXING_KINDS
from components.evaluate.algorithm import area_under_roc, attack_success, true_positive_rate
from components.finetune.algorithm import fine_tune
from components.finetune.config import FinetuneConfig
from components.split.algorithm import first_split
from components.split.config import SplitConfig
from components.unlearn.algorithm import refine
from components.unlearn.config import UnlearnConfig
from components.warmup.algorithm import TrainingSet, warm_up
from components.warmup.config import WarmupConfig

SPEC = ModelSpec(num_classes=10, channels=1, image_size=28, mean=(0.13,), std=(0.31,))


def evidence(n: int = 200, epochs: int = 3, seed: int = 0) -> Evidence:
    rng = np.random.default_rng(seed)
    probability = rng.random((epochs, n), dtype=np.float32)
    return Evidence(
        labels=rng.integers(0, 4, n),
        loss=-np.log(probability + 1e-6),
        entropy=rng.random((epochs, n), dtype=np.float32),
        given_probability=probability,
        hold={kind: rng.random(n, dtype=np.float32) for kind in MIXING_KINDS},
    )


@pytest.mark.parametrize("name", sorted(SIGNALS))
def test_every_signal_is_in_range_and_does_not_depend_on_the_order_of_samples(name: str) -> None:
    given = evidence()
    scores = SIGNALS[name].score(given)
    assert scores.dtype == np.float32
    assert scores.shape == (200,)
    assert 0.0 <= scores.min() <= scores.max() <= 1.0
    order = np.random.default_rng(1).permutation(200)
    shuffled = Evidence(
        labels=given.labels[order],
        loss=given.loss[:, order],
        entropy=given.entropy[:, order],
        given_probability=given.given_probability[:, order],
        hold={kind: values[order] for kind, values in given.hold.items()},
    )
    assert np.allclose(SIGNALS[name].score(shuffled), scores[order], atol=1e-6)


def test_a_sample_learned_at_once_has_the_highest_low_loss_rank_and_one_never_believed_low_self_confidence() -> None:
    given = evidence()
    given.loss[:, 0], given.entropy[:, 0], given.given_probability[:, 0] = 0.0, 0.0, 1.0
    given.loss[:, 1], given.entropy[:, 1], given.given_probability[:, 1] = 20.0, 2.0, 0.0
    scores = score_all(given)
    assert scores["low_loss"].argmax() == 0
    assert scores["low_self_confidence"].argmax() == 1


def test_a_label_that_noise_takes_away_is_suspect_and_one_that_it_gives_is_not() -> None:
    given = evidence()
    given.given_probability[-1] = given.hold["noise"]
    given.given_probability[-1, :2] = 0.9, 0.1
    given.hold["noise"][:2] = 0.2, 0.8
    scores = score_all(given)["noise_sensitivity"]
    assert scores[0] == pytest.approx(0.7)
    assert (scores[1:] == 0).all()


def test_ranks_share_ties_and_span_the_unit_interval() -> None:
    assert ranks(np.array([3.0, 1.0, 1.0, 2.0])).tolist() == pytest.approx([1.0, 1 / 6, 1 / 6, 2 / 3])
    assert ranks(np.array([5.0, 5.0])).tolist() == pytest.approx([0.5, 0.5])


def test_a_forget_set_holds_the_most_suspect_of_the_class_that_dominates_them() -> None:
    score = np.linspace(1, 0, 100, dtype=np.float32)
    labels = np.array([3, 3, 1, 3, 3] + [0] * 95)
    assert propose(score, labels, 0.05).tolist() == [0, 1, 3, 4]


def test_every_class_has_retained_samples_even_one_that_is_most_suspect() -> None:
    score = np.linspace(1, 0, 100, dtype=np.float32)
    labels = np.repeat(np.arange(10), 10)
    trusted = trust(score, labels, 0.5)
    assert np.bincount(labels[trusted]).tolist() == [5] * 10
    assert (np.diff(trusted) > 0).all()


def test_the_first_split_names_the_signals_that_propose_a_sample() -> None:
    split = first_split(evidence(1000), SplitConfig(isolation_ratio=0.02))
    for assignment, reasons in zip(split.assignment, split.reasons, strict=True):
        assert (assignment == "suspect") == bool(reasons)
    assert "poisoned" not in split.assignment
    assert 0.0 <= split.suspicion.min() <= split.suspicion.max() <= 1.0


@pytest.fixture(scope="module")
def attacked(many_digits: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor, object]:
    images, labels = many_digits[0][:1000], many_digits[1][:1000]
    config = AttackConfig(name="badnets", poison_rate=0.1, target_label=0, seed=5)
    attack = make_attack(config, num_classes=10, image_shape=(1, 28, 28))
    injection = attack.inject(images, labels)
    return injection.images, injection.labels, injection.is_poisoned, attack


@pytest.fixture(scope="module")
def warmed(attacked) -> tuple[object, object]:
    images, labels, _, _ = attacked
    make_deterministic(0)
    data = TrainingSet(images=images, labels=labels, mirror=False)
    return warm_up(build_model("convnet", SPEC), data, WarmupConfig(epochs=8, batch_size=64), NullWatch())


def test_the_defence_finds_and_removes_a_backdoor_that_the_warm_up_learned(attacked, warmed, many_digits) -> None:
    images, labels, poisoned, attack = attacked
    model, traces = warmed
    clean_images, true_labels = many_digits[0][1000:], many_digits[1][1000:]
    assert attack_success(model, attack, clean_images, true_labels, 250)[0] > 0.9, "nothing to defend against"
    given = Evidence(
        labels=labels.numpy(),
        loss=traces.loss.numpy(),
        entropy=traces.entropy.numpy(),
        given_probability=traces.given_probability.numpy(),
        hold={kind: values.numpy() for kind, values in traces.hold.items()},
    )
    split = first_split(given, SplitConfig())
    before = copy.deepcopy(model.state_dict())
    # Two keep the test short: one that finds this attack, and one that finds something else.
    config = UnlearnConfig(detectors="label_inconsistency,occlusion_border,occlusion_centre")
    refined = refine(
        model, images, labels, split.signals, config, isolation_ratio=0.02, mirror=False, watch=NullWatch()
    )
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items()), "the input was changed"
    assert refined.found
    assert all(0.0 <= probe.retain_accuracy <= 1.0 for _, probe in refined.probes)
    flagged = refined.poisoned | refined.suspect
    # Fine-tuning looks again at what is left.
    assert float(flagged[poisoned].float().mean()) > 0.8
    assert float(flagged[~poisoned].float().mean()) < 0.02
    final = fine_tune(
        copy.deepcopy(refined.model),
        images,
        labels,
        ~flagged,
        FinetuneConfig(epochs=4, batch_size=64),
        mirror=False,
        watch=NullWatch(),
        doubtful=refined.doubtful,
    ).model
    assert attack_success(final, attack, clean_images, true_labels, 250)[0] < 0.05
    assert float((predict(final, clean_images).argmax(dim=1) == true_labels).float().mean()) > 0.93


def test_the_labels_of_suspects_never_enter_the_loss(many_digits) -> None:
    images, labels = many_digits[0][:128], many_digits[1][:128]
    labelled = torch.arange(128) % 3 != 0
    lies = torch.where(labelled, labels, (labels + 1) % 10)
    results = []
    for given in (labels, lies):
        make_deterministic(0)
        model = build_model("convnet", SPEC)
        config = FinetuneConfig(epochs=2, batch_size=64, confidence=0.3)
        results.append(fine_tune(model, images, given, labelled, config, mirror=False, watch=NullWatch()).model)
    for one, other in zip(results[0].state_dict().values(), results[1].state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_nothing_labelled_or_everything_labelled_still_trains(many_digits) -> None:
    images, labels = many_digits[0][:200], many_digits[1][:200]
    for labelled in (torch.ones(200, dtype=torch.bool), torch.zeros(200, dtype=torch.bool)):
        model = build_model("convnet", SPEC)
        final = fine_tune(model, images, labels, labelled, FinetuneConfig(epochs=1), mirror=False, watch=NullWatch())
        assert torch.isfinite(predict(final.model, images)).all()
        assert torch.equal(final.labelled, labelled)


def test_figures_of_merit_match_scikit_learn() -> None:
    from sklearn.metrics import roc_auc_score, roc_curve

    rng = np.random.default_rng(0)
    positive = rng.random(2000) < 0.1
    scores = (rng.normal(size=2000) + 1.5 * positive).round(2).astype(np.float32)
    assert area_under_roc(scores, positive) == pytest.approx(roc_auc_score(positive, scores), abs=1e-6)
    false, true, _ = roc_curve(positive, scores, drop_intermediate=False)
    assert true_positive_rate(scores, positive, 0.01) == pytest.approx(true[false <= 0.01].max(), abs=0.02)
    assert area_under_roc(scores, np.zeros(2000, dtype=bool)) is None


def test_an_unknown_model_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"model 'resnet'.*expected one of .*convnet"):
        build_model("resnet", SPEC)

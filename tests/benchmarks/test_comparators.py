"""The comparators: what they are told, what they remove, and that they do what their papers say."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from benchmarks.case import Case, Outcome, measured
from benchmarks.comparators import abl, oracle, spectral, undefended
from components.common.attacks.base import AttackConfig, make_attack
from components.common.learning.scoring import penultimate_features
from components.common.models import ModelSpec, build_model
from components.common.runs.inputs import Rows
from components.warmup.config import ControlConfig

SPEC = ModelSpec(num_classes=10, channels=1, image_size=28, mean=(0.13,), std=(0.31,))


def rows(images: Tensor, labels: Tensor) -> Rows:
    import pyarrow as pa

    return Rows(
        ids=pa.array(range(len(labels)), pa.int64()),
        images=images,
        labels=labels,
        mirror=False,
        spec=SPEC,
        class_names=[str(digit) for digit in range(10)],
    )


@pytest.fixture(scope="module")
def case(many_digits: tuple[Tensor, Tensor]) -> Case:
    images, labels = many_digits
    attack = make_attack(
        AttackConfig(name="trojan_patch", poison_rate=0.2, target_label=0), num_classes=10, image_shape=(1, 28, 28)
    )
    poisoned = attack.inject(images[:1000], labels[:1000])
    return Case(
        train=rows(poisoned.images, poisoned.labels),
        holdout=rows(images[1000:1400], labels[1000:1400]),
        attack=attack,
        is_poisoned=poisoned.is_poisoned,
        recipe=ControlConfig(model="convnet_tiny", epochs=8, seed=3, batch_size=32, ema_decay=0.9),
    )


def test_the_undefended_model_has_the_backdoor_and_the_oracle_has_not(case: Case) -> None:
    attacked = measured(case, undefended.defend(case))
    clean = measured(case, oracle.defend(case))
    assert attacked["asr"] > 0.9
    assert clean["asr"] < 0.1
    assert clean["acc"] > 0.85


def test_the_oracle_is_not_swayed_by_what_poisoned_samples_say(case: Case) -> None:
    short = case.recipe.model_copy(update={"epochs": 1})
    other = torch.where(case.is_poisoned, torch.tensor(7), case.train.labels)
    one = oracle.defend(replace(case, recipe=short)).model.state_dict()
    two = oracle.defend(replace(case, recipe=short, train=rows(case.train.images, other))).model.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_abl_isolates_the_one_per_cent_with_the_lowest_loss_and_leaves_a_model_of_use(case: Case) -> None:
    outcome = abl.defend(case)
    assert int(outcome.flagged.sum()) == 10
    assert bool((outcome.suspicion[outcome.flagged].min() >= outcome.suspicion[~outcome.flagged].max()).item())
    assert measured(case, outcome)["acc"] > 0.7


def test_abl_forgets_what_it_was_given_to_forget(case: Case) -> None:
    # Which ten samples it isolates differs with the processor, so the poison is given.
    model = copy.deepcopy(undefended.defend(case).model)
    isolated = case.is_poisoned & (torch.arange(len(case.is_poisoned)) < 500)
    abl.unlearn(case, model, isolated, 3)
    figures = measured(case, Outcome(model=model.eval(), suspicion=isolated.float(), flagged=isolated))
    assert figures["asr"] < 0.3
    assert figures["acc"] > 0.7


def test_spectral_scores_single_out_a_shifted_minority_within_its_class() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(400, 16, generator=generator)
    labels = torch.arange(400) % 4
    shifted = (labels == 2).nonzero().flatten()[:20]
    features[shifted, 5] += 20.0
    scores = spectral.spectral_scores(features, labels)
    assert set(scores[labels == 2].topk(20).indices.tolist()) == set(range(20))


def test_penultimate_features_give_the_logits_with_the_last_layer(case: Case) -> None:
    model = build_model("convnet_tiny", SPEC).eval()
    features = penultimate_features(model, case.holdout.images[:8])
    last = next(module for module in reversed(list(model.modules())) if isinstance(module, nn.Linear))
    with torch.no_grad():
        expected = model(case.holdout.images[:8].float() / 255)
        torch.testing.assert_close(last(features), expected)
    assert not last._forward_pre_hooks


def test_spectral_signatures_remove_one_and_a_half_times_the_poison_but_at_most_half_of_a_class(case: Case) -> None:
    outcome = spectral.defend(replace(case, recipe=case.recipe.model_copy(update={"epochs": 2})))
    poison = int(case.is_poisoned.sum())
    for label in range(10):
        mine = case.train.labels == label
        assert int(outcome.flagged[mine].sum()) == min(round(1.5 * poison), int(mine.sum()) // 2)


def test_without_poison_spectral_signatures_are_told_so_and_remove_nothing(case: Case) -> None:
    clean = replace(
        case, is_poisoned=torch.zeros_like(case.is_poisoned), recipe=case.recipe.model_copy(update={"epochs": 1})
    )
    outcome = spectral.defend(clean)
    assert not bool(outcome.flagged.any())
    assert outcome.model is clean.undefended[0]

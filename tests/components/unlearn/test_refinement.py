"""The unlearn stage's decision as a whole, on small real digits: what is found, kept, rolled back and resumed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from components.common.attacks.base import AttackConfig, make_attack
from components.common.learning.doubts import NEVER
from components.common.learning.scoring import predict
from components.common.learning.seeding import make_deterministic
from components.common.learning.watch import NullWatch
from components.common.models import ModelSpec, build_model
from components.unlearn import algorithm
from components.unlearn.algorithm import Refined, _bounded, _cured, refine
from components.unlearn.config import UnlearnConfig
from components.unlearn.context import Context
from components.unlearn.detectors import Find
from components.unlearn.memo import Memo
from components.warmup.algorithm import TrainingSet, warm_up
from components.warmup.config import WarmupConfig

SPEC = ModelSpec(num_classes=10, channels=1, image_size=28, mean=(0.13,), std=(0.31,))
# Without signals the detectors that read them have nothing to ask; these are the ones that need none.
CONFIG = UnlearnConfig(detectors="label_map,label_inconsistency,confident_joint,neighbours")


def warmed(images: Tensor, labels: Tensor) -> nn.Module:
    make_deterministic(0)
    data = TrainingSet(images=images, labels=labels, mirror=False)
    model, _ = warm_up(build_model("convnet_tiny", SPEC), data, WarmupConfig(epochs=8, batch_size=64), NullWatch())
    return model


@pytest.fixture(scope="module")
def warped(many_digits: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor, nn.Module]:
    """Digits under an attack that no signal proposes purely: each image is bent a little, its label changed."""
    attack = make_attack(
        AttackConfig(name="wanet", poison_rate=0.1, target_label=0, seed=5), num_classes=10, image_shape=(1, 28, 28)
    )
    injection = attack.inject(many_digits[0][:1500], many_digits[1][:1500])
    return injection.images, injection.labels, injection.is_poisoned, warmed(injection.images, injection.labels)


class Recorder(NullWatch):
    """Keeps the last state, and counts; stops after a number of saves if it is told one."""

    def __init__(self, kept: Mapping[str, bytes] | None = None, stop_after: int | None = None) -> None:
        self.kept, self.stop_after, self.saves, self.steps = dict(kept or {}), stop_after, 0, []

    def progress(self, phase: str, step: int, total: int, figures: Mapping[str, float]) -> None:
        assert phase == "unlearn"
        self.steps.append((step, total))

    def save(self, phase: str, state: bytes) -> None:
        self.kept[phase] = state
        self.saves += 1
        if self.saves == self.stop_after:
            raise InterruptedError

    def restore(self, phase: str) -> bytes | None:
        return self.kept.get(phase)


def ask(case: tuple[Tensor, Tensor, Tensor, nn.Module], watch: NullWatch) -> Refined:
    images, labels, _, model = case
    return refine(model, images, labels, {}, CONFIG, isolation_ratio=0.02, mirror=False, watch=watch)


@pytest.fixture(scope="module")
def watched() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
def refined(warped, watched) -> Refined:
    model = warped[3]
    before = copy.deepcopy(model.state_dict())
    found = ask(warped, watched)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items()), "the input was changed"
    return found


def test_what_changed_labels_share_is_found_without_any_signal(warped, refined) -> None:
    poisoned = warped[2]
    assert refined.found
    assert {find.label for find in refined.finds} == {0}
    flagged = refined.poisoned | refined.suspect
    assert float(flagged[poisoned].float().mean()) > 0.85
    assert float(flagged[~poisoned].float().mean()) < 0.03
    assert float(refined.doubtful[1, 0]) < 1.0
    assert float(refined.doubtful[0, 1]) == NEVER


def test_the_verdict_says_what_was_found_of_every_class(refined) -> None:
    assert refined.verdict.verdict == "poison found"
    assert [one.finding for one in refined.classes] == ["poison found"] + ["no poison found"] * 9
    poisoned = refined.classes[0]
    assert poisoned.poisoned + poisoned.suspect == int((refined.poisoned | refined.suspect).sum())
    assert 0.3 < poisoned.lost < 0.7
    assert poisoned.reason


def test_progress_covers_all_questions_and_ends_at_the_end(refined, watched) -> None:
    steps, totals = zip(*watched.steps, strict=True)
    assert list(steps) == sorted(steps)
    assert len(set(totals)) == 1
    assert watched.steps[-1][0] == watched.steps[-1][1]


def test_an_interrupted_stage_asks_only_what_is_left_and_decides_the_same(warped, refined, watched) -> None:
    first = Recorder(stop_after=11)
    with pytest.raises(InterruptedError):
        ask(warped, first)
    second = Recorder(first.kept)
    again = ask(warped, second)
    assert second.saves == watched.saves - first.saves
    assert torch.equal(again.scores, refined.scores)
    assert torch.equal(again.suspect, refined.suspect)
    for one, other in zip(again.model.state_dict().values(), refined.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.fixture
def context(warped) -> Context:
    images, labels, _, model = warped
    return Context(
        model=model,
        images=images,
        labels=labels,
        signals={},
        config=CONFIG,
        isolation_ratio=0.02,
        mirror=False,
        memo=Memo(NullWatch()),
    )


def test_a_costly_unlearning_is_rolled_back(context, refined) -> None:
    assert not refined.rolled_back
    nobody = torch.zeros(len(context.labels), dtype=torch.bool)
    # Even an unlearning that costs nothing costs more than this.
    context.config = CONFIG.model_copy(update={"max_retain_loss": 0.0})
    kept, rolled_back = _cured(context, refined.finds, nobody)
    assert rolled_back
    assert kept is context.model


def test_before_it_is_rolled_back_a_costly_unlearning_is_given_twice_the_steps(
    context, refined, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = copy.deepcopy(context.model)
    for weights in broken.parameters():
        weights.data.zero_()
    asked = []

    def forget(model: nn.Module, *rest: object, steps: int, **settings: object) -> nn.Module:
        asked.append(steps)
        return broken if steps == CONFIG.steps else copy.deepcopy(refined.model)

    monkeypatch.setattr(algorithm, "forget", forget)
    kept, rolled_back = _cured(context, refined.finds, torch.zeros(len(context.labels), dtype=torch.bool))
    assert asked == [CONFIG.steps, 2 * CONFIG.steps]
    assert not rolled_back
    assert kept is not context.model


def test_several_finds_are_forgotten_together(context, warped, refined) -> None:
    """Of two, the cheaper may be the lesser: a model that still knows the other's trigger teaches it on."""
    poisoned = warped[2]
    true_find = next(find for find in refined.finds if find.probe is not None)
    # Three clean samples of another class, which can be forgotten more cheaply than anything.
    rows = context.members[7]
    lesser = replace(true_find.probe.candidate, label=7, forget=rows[:3], retain=rows[10:])
    finds = [
        true_find,
        replace(true_find, label=7, probe=replace(true_find.probe, candidate=lesser, retain_accuracy=1)),
    ]
    kept, rolled_back = _cured(context, finds, refined.poisoned | refined.suspect)
    assert not rolled_back
    obeyed = [
        float((predict(net, context.images[poisoned]).argmax(dim=1) == 0).float().mean())
        for net in (context.model, kept)
    ]
    assert obeyed[0] > 0.5, "nothing to forget"
    assert obeyed[1] < 0.2


def suspects(share: float, *, finding: str = "label errors found") -> Find:
    scores = torch.zeros(1000)
    scores[: round(100 * share)] = 0.4
    return Find(label=0, detector="neighbours", finding=finding, scores=scores, threshold=0.15, reason="they differ")


def test_no_class_is_given_up_without_evidence_of_a_trigger(refined) -> None:
    labels = torch.arange(10).repeat_interleave(100)
    fine, too_much = _bounded(suspects(0.2), labels, CONFIG), _bounded(suspects(0.6), labels, CONFIG)
    assert fine.finding == "label errors found"
    assert too_much.finding == "inconclusive"
    assert not bool(too_much.scores.any())
    assert "60%" in too_much.reason
    assert "keeps its labels" in too_much.reason
    with_trigger = replace(suspects(0.6), probe=refined.finds[0].probe, finding="poison found")
    assert _bounded(with_trigger, labels, CONFIG) is with_trigger


def test_clean_digits_have_no_finds_and_keep_all_labels(many_digits: tuple[Tensor, Tensor]) -> None:
    images, labels = many_digits[0][:1500], many_digits[1][:1500]
    model = warmed(images, labels)
    found = ask((images, labels, torch.empty(0), model), NullWatch())
    assert found.verdict.verdict == "no poison found"
    assert found.model is model
    assert not bool((found.poisoned | found.suspect).any())
    assert {one.finding for one in found.classes} == {"no poison found"}


def test_labels_replaced_at_random_are_errors_and_no_poison(many_digits: tuple[Tensor, Tensor]) -> None:
    images, true = many_digits[0][:1500], many_digits[1][:1500]
    generator = torch.Generator().manual_seed(0)
    wrong = torch.rand(1500, generator=generator) < 0.1
    labels = torch.where(wrong, (true + torch.randint(1, 10, (1500,), generator=generator)) % 10, true)
    found = ask((images, labels, wrong, warmed(images, labels)), NullWatch())
    assert found.verdict.verdict == "label errors found"
    assert not found.found
    flagged = found.poisoned | found.suspect
    assert float(wrong[flagged].float().mean()) > 0.9
    assert float(flagged[wrong].float().mean()) > 0.5


def test_three_classes_are_too_few_to_compare(warped) -> None:
    images, labels, _, model = warped
    few = labels < 3
    found = ask((images[few], labels[few], few, model), NullWatch())
    assert found.finds == []

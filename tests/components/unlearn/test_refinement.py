"""What the unlearning finds by class, the valley between two kinds, and the split that fine-tuning refines."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from components.common.attacks.base import AttackConfig, make_attack
from components.common.learning.doubts import NEVER, is_doubted
from components.common.learning.scoring import predict, score
from components.common.learning.seeding import make_deterministic
from components.common.learning.watch import NullWatch
from components.common.models import ModelSpec, build_model
from components.finetune.algorithm import FineTuned, _balance, fine_tune
from components.finetune.config import FinetuneConfig
from components.unlearn.algorithm import Find, Refined, _ask_all, _cured, _levelled, _marks, refine
from components.unlearn.classes import (
    ClassProbe,
    _compare,
    find_contradicted,
    find_mapping,
    probe_classes,
    propose_foreign,
)
from components.unlearn.config import UnlearnConfig
from components.unlearn.forgetting import Probe, Proposal, find_valley, joined, make_proposal, probe, widen
from components.warmup.algorithm import TrainingSet, warm_up
from components.warmup.config import WarmupConfig

SPEC = ModelSpec(num_classes=10, channels=1, image_size=28, mean=(0.13,), std=(0.31,))
CONFIG = UnlearnConfig()


def test_the_valley_lies_between_those_that_moved_and_those_that_did_not() -> None:
    rng = np.random.default_rng(0)
    rise = np.concatenate([rng.normal(0.02, 0.05, 300), rng.normal(0.9, 0.12, 100)]).astype(np.float32)
    valley = find_valley(rise)
    assert 0.2 < valley.at < 0.6
    assert valley.depth < 0.05
    assert valley.below == pytest.approx(0.75, abs=0.01)


def test_two_kinds_with_nothing_between_them_have_their_valley_between() -> None:
    valley = find_valley(np.concatenate([np.zeros(300), np.full(40, 0.95)]).astype(np.float32))
    assert 0.2 < valley.at < 0.8
    assert valley.depth < 0.01


def test_samples_that_moved_as_one_have_no_valley_that_counts() -> None:
    rise = np.random.default_rng(0).normal(0.5, 0.25, 400).astype(np.float32)
    valley = find_valley(rise)
    assert valley.depth > CONFIG.valley_below or valley.at > CONFIG.valley_at_most


@pytest.mark.parametrize("rise", [np.zeros(5), np.ones(1), np.full(40, 7.0), np.linspace(-3, 3, 2)])
def test_a_valley_of_degenerate_rises_is_still_a_number(rise: np.ndarray) -> None:
    valley = find_valley(rise.astype(np.float32))
    assert np.isfinite([valley.at, valley.depth, valley.below]).all()


def looks(labels: Tensor, as_class: Tensor, firmness: float, classes: int = 10) -> Tensor:
    rest = (1.0 - firmness) / (classes - 1)
    return torch.full((len(labels), classes), rest).scatter_(1, as_class[:, None], firmness)


def test_labels_that_were_changed_by_a_rule_give_the_rule() -> None:
    true = torch.arange(10).repeat_interleave(20)
    given = true.clone()
    given[::2] = (true[::2] + 1) % 10
    assert find_mapping(looks(given, true, 0.95), given, CONFIG) == {k: (k + 1) % 10 for k in range(10)}


def test_noise_in_the_labels_and_confusion_between_neighbours_are_no_rule() -> None:
    true = torch.arange(10).repeat_interleave(60)
    noise = true.clone()
    shifts = torch.randint(1, 10, (300,), generator=torch.Generator().manual_seed(0))
    noise[::2] = (true[::2] + shifts) % 10
    assert find_mapping(looks(noise, true, 0.95), noise, CONFIG) == {}
    assert find_contradicted(looks(noise, true, 0.95), noise) is None
    pairs = true.clone()
    # Two pairs of neighbours, each confused both ways: cats and dogs, cars and trucks.
    for one, other in ((3, 5), (5, 3), (1, 9), (9, 1)):
        pairs[(true == one).nonzero().squeeze(1)[:10]] = other
    assert find_mapping(looks(pairs, true, 0.95), pairs, CONFIG) == {}
    assert find_contradicted(looks(pairs, true, 0.95), pairs) is None
    assert find_mapping(looks(true[:2], true[:2], 0.9, classes=3), true[:2], CONFIG) == {}
    assert find_contradicted(looks(true[:2], true[:2], 0.9, classes=3), true[:2]) is None


def test_a_label_given_to_a_few_of_every_other_class_against_the_model_is_contradicted() -> None:
    true = torch.arange(10).repeat_interleave(200)
    given = true.clone()
    few = torch.cat([(true == k).nonzero().squeeze(1)[:2] for k in range(1, 10)])
    given[few] = 0
    assert find_contradicted(looks(given, true, 0.95), given) == 0
    # What the model is not firm about contradicts nothing.
    assert find_contradicted(looks(given, true, 0.6), given) is None
    # Confusion with half of the other classes, however frequent, is what a class that resembles many has.
    given = true.clone()
    given[torch.cat([(true == k).nonzero().squeeze(1)[:20] for k in (2, 3, 5, 8)])] = 0
    assert find_contradicted(looks(given, true, 0.95), given) is None


def test_only_doubted_pairs_are_doubted_and_only_from_their_firmness() -> None:
    doubtful = torch.full((3, 3), NEVER)
    doubtful[0, 1], doubtful[2, 1] = 0.0, 0.7
    probabilities = torch.tensor([[0.4, 0.3, 0.3], [0.1, 0.3, 0.6], [0.1, 0.1, 0.8], [0.9, 0.1, 0.0]])
    labels = torch.tensor([1, 1, 1, 2])
    assert is_doubted(probabilities, labels, doubtful).tolist() == [True, False, True, False]


@pytest.fixture(scope="module")
def warped(many_digits: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor, object]:
    """Digits under an attack that no signal proposes purely: each image is bent a little, its label changed."""
    images, labels = many_digits[0][:1500], many_digits[1][:1500]
    attack = make_attack(
        AttackConfig(name="wanet", poison_rate=0.1, target_label=0, seed=5), num_classes=10, image_shape=(1, 28, 28)
    )
    injection = attack.inject(images, labels)
    make_deterministic(0)
    data = TrainingSet(images=injection.images, labels=injection.labels, mirror=False)
    config = WarmupConfig(epochs=8, batch_size=64)
    model, _ = warm_up(build_model("convnet_tiny", SPEC), data, config, NullWatch())
    return injection.images, injection.labels, injection.is_poisoned, model


@pytest.fixture(scope="module")
def refined(warped) -> Refined:
    images, labels, _, model = warped
    before = copy.deepcopy(model.state_dict())
    found = refine(model, images, labels, {}, CONFIG, isolation_ratio=0.02, mirror=False, watch=NullWatch())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items()), "the input was changed"
    return found


def test_the_target_of_changed_labels_is_mixed_and_no_other_class_is(warped, refined) -> None:
    images, labels, poisoned, model = warped
    assert [found.label for found in refined.classes if found.mixed] == [0]
    (mixed,) = (found for found in refined.classes if found.mixed)
    proposal = propose_foreign(mixed, labels, score(model, images, labels), 0.02, CONFIG)
    assert float(poisoned[proposal.isolated].float().mean()) > 0.9
    taken = torch.cat([proposal.isolated, proposal.trusted, proposal.witnesses])
    assert len(taken.unique()) == len(taken), "a sample is isolated and trusted at once"


def test_with_more_classes_than_the_limit_the_most_mixed_are_forgotten(warped) -> None:
    images, labels, _, model = warped
    config = UnlearnConfig(class_limit=3, class_steps=2)
    logits = predict(model, images)
    probes = probe_classes(model, images, labels, logits, None, config, mirror=False, watch=NullWatch())
    assert len(probes) == 3


def test_a_contradicted_class_is_mixed_and_proposes_what_contradicts_it(many_digits, warped) -> None:
    images, labels = many_digits[0][:1500], many_digits[1][:1500].clone()
    _, _, _, model = warped
    believed = predict(model, images).softmax(dim=1)
    wrong = torch.cat([((labels == k) & (believed[:, k] > 0.9)).nonzero().squeeze(1)[:3] for k in range(10) if k != 4])
    labels[wrong] = 4
    logits = predict(model, images)
    config = UnlearnConfig(class_limit=1, class_steps=1, spread_above=0.5)
    assert find_contradicted(logits.softmax(dim=1), labels) == 4
    (probe,) = probe_classes(model, images, labels, logits, 4, config, mirror=False, watch=NullWatch())
    assert (probe.label, probe.mixed) == (4, True)
    # What the model itself mistakes belongs to them; which samples those are differs from processor to processor.
    firmness, taken_for = believed.max(dim=1)
    expected = set(((labels == 4) & (taken_for != 4) & (firmness > 0.9)).nonzero().squeeze(1).tolist())
    assert set(wrong.tolist()) <= expected
    assert len(expected) < len(wrong) + 5
    assert set(probe.rows[probe.foreign > 0.9].tolist()) == expected
    proposal = propose_foreign(probe, labels, score(model, images, labels), 0.02, config)
    # Not filled up with samples that nobody contradicts.
    assert 27 <= len(proposal.isolated) <= 30
    assert set(wrong.tolist()) <= set(proposal.isolated.tolist())
    found = refine(model, images, labels, {}, config, isolation_ratio=0.02, mirror=False, watch=NullWatch())
    (find,) = found.finds
    assert (find.label, len(find.probes)) == (4, 1), "it is forgotten once and not widened"
    assert bool((found.poisoned | found.suspect)[wrong].all())


def test_where_nothing_tells_the_poison_of_a_mixed_class_what_may_belong_elsewhere_is_left_out() -> None:
    foreign = torch.tensor([0.0, 0.19, 0.21, 0.9])
    mixed = ClassProbe(
        label=1, rows=torch.arange(4), foreign=foreign, fall=torch.zeros(len(foreign)), spread=0.02, mixed=True
    )
    find = Find(label=1, probes=[], chosen=None, mixed=mixed)
    _, _, named, doubtful = _marks(torch.tensor([1, 1, 1, 1, 0]), [find], [mixed], CONFIG, 4)
    assert named.tolist() == [False, False, True, True, False]
    assert (doubtful < 1).nonzero().tolist() == [[0, 1], [2, 1], [3, 1]]


@pytest.mark.parametrize(("strays", "mixed"), [(2, False), (3, True)])
def test_of_a_small_class_one_or_two_strays_make_no_pattern(strays: int, mixed: bool) -> None:
    """Class 0 of four: so many of its samples look exactly like members of each other class, the rest like nothing."""
    members = {label: torch.arange(20) + 20 * label for label in range(4)}
    logits = torch.zeros(80, 4)
    for label in (1, 2, 3):
        logits[members[label], label] = 5.0
        logits[strays * (label - 1) : strays * label, label] = 6.0
    found = _compare(logits, logits.__getitem__, members, 0, CONFIG)
    assert found.mixed is mixed
    assert (found.spread > 0) is mixed


def test_of_a_class_that_the_model_does_not_know_nothing_is_cheap_to_forget(many_digits) -> None:
    """After too short a training every forgetting looks free: the repair beside it teaches what was never known."""
    images, labels = many_digits[0][:400], many_digits[1][:400]
    make_deterministic(0)
    model = build_model("convnet_tiny", SPEC).eval()
    values = np.linspace(1, 0, 400, dtype=np.float32)
    proposal = make_proposal("early", values, labels.numpy(), 0.02, set(), CONFIG)
    result = probe(model, images, labels, proposal, CONFIG, mirror=False, before=score(model, images, labels))
    assert (result.retained, result.spilled) == (0.0, 1.0)


def test_three_classes_are_too_few_to_compare(warped) -> None:
    images, labels, _, model = warped
    few = labels < 3
    logits = predict(model, images[few])
    assert probe_classes(model, images[few], labels[few], logits, None, CONFIG, mirror=False, watch=NullWatch()) == []


def test_what_changed_labels_share_is_found_without_any_signal(warped, refined) -> None:
    poisoned = warped[2]
    assert refined.found
    flagged = refined.poisoned | refined.suspect
    assert float(flagged[poisoned].float().mean()) > 0.85
    assert float(flagged[~poisoned].float().mean()) < 0.03
    assert float(refined.doubtful[1, 0]) == pytest.approx(CONFIG.doubted_above)
    assert float(refined.doubtful[0, 1]) == NEVER


def test_a_costly_unlearning_is_rolled_back(warped, refined) -> None:
    images, labels, _, model = warped
    settled = [find for find in refined.finds if find.settled]
    assert settled
    assert not refined.rolled_back
    assert refined.model is not model
    before = score(model, images, labels)
    # Even an unlearning that costs nothing costs more than this.
    strict = UnlearnConfig(max_trusted_loss=0.0)
    nobody = torch.zeros(len(labels), dtype=torch.bool)
    kept, rolled_back = _cured(model, settled, images, labels, before, nobody, strict, mirror=False)
    assert rolled_back
    assert kept is model


def test_before_it_is_rolled_back_a_costly_unlearning_is_given_twice_the_steps(
    warped, refined, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels, _, model = warped
    settled = [find for find in refined.finds if find.settled]
    broken = copy.deepcopy(model)
    for weights in broken.parameters():
        weights.data.zero_()
    settled = [replace(find, chosen=replace(find.chosen, model=broken)) for find in settled[:1]]
    asked = []

    def forget(model: nn.Module, *rest: object, steps: int, **settings: object) -> nn.Module:
        asked.append(steps)
        return copy.deepcopy(refined.model)

    monkeypatch.setattr("components.unlearn.algorithm.forget", forget)
    before = score(model, images, labels)
    nobody = torch.zeros(len(labels), dtype=torch.bool)
    kept, rolled_back = _cured(model, settled, images, labels, before, nobody, CONFIG, mirror=False)
    assert asked == [2 * CONFIG.steps]
    assert not rolled_back
    assert kept is not model
    assert kept is not broken


def test_several_finds_are_forgotten_together(warped, refined) -> None:
    """Of two, the cheaper may be the lesser: a model that still knows the other's trigger teaches it on."""
    images, labels, poisoned, model = warped
    true_find = next(find for find in refined.finds if find.settled)
    # Three clean samples of another class, which can be forgotten more cheaply than anything.
    rows = (labels == 7).nonzero().squeeze(1)
    nothing = replace(
        true_find.chosen,
        proposal=replace(true_find.chosen.proposal, label=7, isolated=rows[:3], trusted=rows[10:]),
        retained=1.0,
        model=model,
    )
    finds = [true_find, replace(true_find, label=7, chosen=nothing)]
    flagged = refined.poisoned | refined.suspect
    before = score(model, images, labels)
    kept, rolled_back = _cured(model, finds, images, labels, before, flagged, CONFIG, mirror=False)
    assert not rolled_back
    obeyed = [float((predict(net, images[poisoned]).argmax(dim=1) == 0).float().mean()) for net in (model, kept)]
    assert obeyed[0] > 0.5, "nothing to forget"
    assert obeyed[1] < 0.2


def test_what_one_find_trusts_is_not_trusted_where_another_suspects_it(refined) -> None:
    first = next(find.chosen for find in refined.finds if find.settled)
    rows = first.proposal.trusted[:10]
    second = replace(first, proposal=replace(first.proposal, isolated=rows[:2]))
    flagged = torch.zeros(len(first.rise), dtype=torch.bool)
    flagged[rows[2:5]] = True
    together = joined([first, second], flagged, seed=0)
    assert set(first.proposal.isolated.tolist()) | set(rows[:2].tolist()) == set(together.isolated.tolist())
    assert not set(rows[:5].tolist()) & set(together.trusted.tolist())
    assert set(rows[5:].tolist()) <= set(together.trusted.tolist())


def test_a_signal_that_needs_a_mixed_class_is_asked_of_no_other() -> None:
    labels, asked = np.repeat(np.arange(5), 20), []
    fragile = {"noise_drop": np.linspace(1, 0, 100, dtype=np.float32)}

    def ask(proposal: Proposal) -> Probe:
        asked.append(proposal)
        calm = torch.zeros(100)
        return Probe(
            proposal=proposal,
            forgotten=1.0,
            retained=0.0,
            spilled=1.0,
            valley=find_valley(calm.numpy()),
            rise=calm,
            model=nn.Identity(),
        )

    assert _ask_all(ask, [], labels, fragile, CONFIG, 0.5, NullWatch()) == []
    everyone = torch.arange(100)
    mixed = ClassProbe(
        label=3, rows=everyone[60:80], foreign=torch.ones(20), fall=torch.zeros(20), spread=0.02, mixed=True
    )
    own = Proposal(signal="foreign", label=3, isolated=everyone[60:64], trusted=everyone[:60], witnesses=everyone[80:])
    _ask_all(ask, [(mixed, own)], labels, fragile, CONFIG, 0.5, NullWatch())
    assert [(proposal.signal, proposal.label) for proposal in asked] == [("foreign", 3), ("noise_drop", 3)]
    # Half of the data would be more than the class: nobody else fills it up.
    assert set(asked[1].isolated.tolist()) == set(range(60, 80))


def test_clean_digits_have_neither_mixed_classes_nor_a_rule(many_digits: tuple[Tensor, Tensor]) -> None:
    images, labels = many_digits[0][:1500], many_digits[1][:1500]
    make_deterministic(0)
    data = TrainingSet(images=images, labels=labels, mirror=False)
    model, _ = warm_up(build_model("convnet_tiny", SPEC), data, WarmupConfig(epochs=8, batch_size=64), NullWatch())
    refined = refine(model, images, labels, {}, CONFIG, isolation_ratio=0.02, mirror=False, watch=NullWatch())
    assert not refined.found
    assert refined.model is model
    assert not bool((refined.poisoned | refined.suspect).any())


def test_a_wider_proposal_trusts_nobody_that_moved(warped, refined) -> None:
    labels = warped[1]
    first = refined.finds[0].probes[0]
    wider = widen(first)
    assert set(first.proposal.isolated.tolist()) <= set(wider.isolated.tolist())
    for kept in (wider.trusted, wider.witnesses):
        assert float(first.rise[kept].max()) <= first.valley.at
    assert not set(wider.isolated.tolist()) & set(wider.trusted.tolist()) - set(first.proposal.isolated.tolist())
    assert float(first.rise[labels != 0].abs().max()) == 0.0


def test_in_a_mixed_class_nothing_beyond_the_bound_is_trusted(refined) -> None:
    first = refined.finds[0].probes[0]
    high = replace(first, valley=replace(first.valley, at=0.7))
    wider = widen(high, 0.25)
    for kept in (wider.trusted, wider.witnesses):
        assert float(first.rise[kept].max()) <= 0.25
    assert set((first.rise > 0.25).nonzero().squeeze(1).tolist()) <= set(wider.isolated.tolist())


def test_suspects_of_a_mixed_class_begin_where_the_still_ones_end(refined) -> None:
    generator = torch.Generator().manual_seed(0)
    still, moved = 0.002 * torch.randn(400, generator=generator), torch.linspace(0.02, 1.5, 100)
    members = torch.arange(600) < 500
    rise = torch.cat([still, moved, torch.zeros(100)])
    first = refined.finds[0].probes[0]
    result = replace(first, rise=rise, valley=replace(first.valley, at=0.6))
    known = _levelled(result, members, CONFIG, mixed=True)
    assert bool((known[400:500] > CONFIG.suspect_above).all())
    assert int((known[:400] > CONFIG.suspect_above).sum()) <= 2
    assert bool((known[rise > CONFIG.mixed_at] > 0.5).all())
    assert bool((known[rise <= CONFIG.mixed_at] <= 0.5).all())
    assert torch.equal(known[:500].argsort(stable=True), rise[:500].argsort(stable=True)), "the order is kept"
    # Where nothing else speaks for the class, the slope begins at its share of the way to the valley.
    alone = _levelled(result, members, CONFIG, mixed=False)
    bound = 0.6 * CONFIG.suspect_above / 0.5
    assert torch.equal(alone > CONFIG.suspect_above, rise > bound)


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

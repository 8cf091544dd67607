"""Which samples of a class are proposed: by how far they fell, and by the signals that agree with how they look."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from components.common.attacks.base import AttackConfig, make_attack
from components.common.learning.seeding import make_deterministic
from components.common.learning.watch import NullWatch
from components.common.models import ModelSpec, build_model
from components.unlearn.algorithm import Find, _ask_all, _backed, _marks, refine
from components.unlearn.classes import ClassProbe
from components.unlearn.config import UnlearnConfig
from components.unlearn.deciding import best_last, choose, follow, patiently
from components.unlearn.forgetting import Probe, Proposal, find_valley, widen
from components.unlearn.within import FALL, agreement, fall_scores, propose_by_class, propose_within, standing_out
from components.warmup.algorithm import TrainingSet, warm_up
from components.warmup.config import WarmupConfig

CONFIG = UnlearnConfig()
LABELS = np.repeat(np.arange(5), 40)


def class_probe(label: int = 3, *, foreign: Tensor | None = None, fall: Tensor | None = None, spread: float = 0.02):
    rows = torch.from_numpy(np.flatnonzero(LABELS == label))
    return ClassProbe(
        label=label,
        rows=rows,
        foreign=torch.linspace(1, 0, 40) if foreign is None else foreign,
        fall=torch.zeros(40) if fall is None else fall,
        spread=spread,
        mixed=spread > CONFIG.spread_above,
    )


def result(
    rise: Tensor, signal: str = "foreign", isolated: tuple[int, ...] = (), by_fall: bool = False, **figures: float
):
    everyone = torch.arange(len(LABELS))
    proposal = Proposal(
        signal=signal,
        label=3,
        isolated=torch.tensor(isolated, dtype=torch.int64),
        trusted=everyone[:80],
        witnesses=everyone[80:120],
        by_fall=by_fall,
    )
    told = {"forgotten": 0.0, "retained": 1.0, "spilled": 0.0, **figures}
    return Probe(proposal=proposal, valley=find_valley(rise.numpy()), rise=rise, model=nn.Identity(), **told)


def test_a_fall_counts_in_the_spread_of_its_own_class() -> None:
    narrow, wide = torch.randn(2, 40, generator=torch.Generator().manual_seed(0))
    narrow, wide = 0.1 * narrow + 5.0, 3.0 * wide + 1.0
    narrow[0], wide[0] = 6.0, 6.0
    scores = fall_scores([class_probe(1, fall=narrow), class_probe(2, fall=wide)], len(LABELS))
    assert scores.dtype == np.float32
    assert scores[40] > 5.0 > 3.0 > scores[80], "one unit is much in the one class and little in the other"
    assert not scores[LABELS > 2].any()


def test_a_class_that_fell_as_one_has_finite_scores() -> None:
    assert not fall_scores([class_probe(1, fall=torch.full((40,), 7.0))], len(LABELS)).any()


def test_the_signals_that_point_where_the_foreign_ones_are_propose_and_the_others_do_not() -> None:
    right, wrong = np.zeros(200, np.float32), np.zeros(200, np.float32)
    right[120:160], wrong[120:160] = np.linspace(1, 0, 40), np.linspace(0, 1, 40)
    signals = {"wrong": wrong, "fair": right + np.tile([0.0, 0.4], 100).astype(np.float32), "right": right}
    proposals = propose_within(class_probe(), LABELS, {**signals, "flat": np.zeros(200, np.float32)}, 0.9, CONFIG)
    assert [one.signal for one in proposals] == ["right", "fair"]
    for one in proposals:
        assert set(one.isolated.tolist()) <= set(range(120, 160))
        assert len(one.isolated) == 10, "a quarter of the class at most"
        assert not set(one.isolated.tolist()) & set(one.trusted.tolist() + one.witnesses.tolist())


def test_agreement_leaves_out_what_was_forgotten_itself() -> None:
    rise = torch.zeros(200)
    rise[120:130] = 1.0
    assert agreement(class_probe(), result(rise, isolated=tuple(range(120, 130)))) == pytest.approx(0.5)
    rise[130:140] = 1.0
    assert agreement(class_probe(), result(rise, isolated=tuple(range(120, 130)))) == pytest.approx(1.0)
    assert agreement(class_probe(), result(rise, isolated=tuple(range(120, 140)))) == 0.5, "nobody left to ask"


def test_of_the_cheap_probes_of_a_mixed_class_one_goes_on_that_moved_what_looks_foreign() -> None:
    moved, mirrored = torch.zeros(200), torch.zeros(200)
    moved[120:140], mirrored[140:160] = 1.0, 1.0
    foreign, clean, dear = result(mirrored), result(mirrored, "clean"), result(moved, "dear", retained=0.1, spilled=0.5)
    good = result(moved, "good")
    order = best_last([foreign, good, clean, dear], class_probe(), CONFIG)
    assert order[-1] is good
    assert len(order) == 4
    blurred = replace(good, valley=replace(good.valley, depth=0.2))
    assert best_last([blurred, good, clean], class_probe(), CONFIG)[-1] is good
    assert best_last([good, blurred, clean], class_probe(), CONFIG)[-1] is good, "the clearest, not the first"
    none_cheap = best_last([result(moved, retained=0.1, spilled=0.5), dear], class_probe(), CONFIG)
    assert none_cheap[-1].proposal.signal == "foreign"


def ask_fall(fall: dict[int, Tensor], **figures: float) -> tuple[list[Proposal], list[Find]]:
    """What is proposed by these falls per class, and found if every probe has these figures and a clear valley."""
    asked: list[Proposal] = []

    def ask(proposal: Proposal) -> Probe:
        asked.append(proposal)
        rise = torch.zeros(200)
        rise[proposal.isolated] = 1.0
        told = {"forgotten": 0.0, "retained": 1.0, "spilled": 0.0, **figures}
        valley = find_valley(rise[proposal.label * 40 : proposal.label * 40 + 40].numpy())
        return Probe(proposal=proposal, valley=valley, rise=rise, model=nn.Identity(), **told)

    scores = fall_scores([class_probe(label, fall=values) for label, values in fall.items()], len(LABELS))
    return asked, _ask_all(ask, [], LABELS, {FALL: scores}, CONFIG, 0.05, NullWatch())


def noise(label: int) -> Tensor:
    return torch.randn(40, generator=torch.Generator().manual_seed(label))


def test_a_class_that_holds_most_of_those_that_fell_furthest_is_asked_about() -> None:
    far = noise(2)
    far[:9] += 20.0
    asked, finds = ask_fall({label: noise(label) if label != 2 else far for label in range(5)})
    assert {(one.label, one.by_fall) for one in asked} == {(2, True)}
    assert set(range(80, 89)) <= set(asked[0].isolated.tolist())
    assert [find.label for find in finds if find.settled] == [2]


def test_falls_that_come_from_everywhere_cost_no_probe() -> None:
    asked, finds = ask_fall({label: noise(label) for label in range(5)})
    assert (asked, finds) == ([], [])


def test_what_was_chosen_by_its_fall_is_no_find_where_the_rest_moved_with_it() -> None:
    far = noise(2)
    far[:9] += 20.0
    asked, finds = ask_fall({label: noise(label) if label != 2 else far for label in range(5)}, spilled=0.05)
    assert len(asked) == 1, "not hopeful: most of a clean class keep their label as well"
    assert not any(find.settled for find in finds)


def test_wider_proposals_remember_how_they_were_chosen() -> None:
    rise = torch.zeros(200)
    rise[120:140] = 1.0
    assert widen(result(rise, FALL, isolated=(120,), by_fall=True)).by_fall


def test_a_class_is_asked_for_its_own_most_suspect_samples() -> None:
    values = np.linspace(1, 0, 200, dtype=np.float32)
    asked = propose_by_class("early", values, LABELS, 3, CONFIG)
    assert asked.by_class
    assert asked.label == 3
    assert asked.isolated.tolist() == [120, 121, 122], "8 % of forty"
    assert not set(asked.isolated.tolist()) & set(asked.trusted.tolist() + asked.witnesses.tolist())


def test_of_many_classes_those_are_asked_in_which_most_stands_out() -> None:
    values = np.random.default_rng(0).normal(size=200).astype(np.float32)
    # Class 4 is the easiest; in classes 1 and 2 some stand out.
    values[160:] += 50.0
    values[40:43] += 20.0
    values[80:82] += 20.0
    assert standing_out(values, LABELS, set(), 2) == [1, 2]
    assert standing_out(values, LABELS, {1}, 2)[0] == 2
    assert sorted(standing_out(values, LABELS, {1}, 20)) == [0, 2, 3, 4]


def by_class(rise: Tensor, isolated: tuple[int, ...], **figures: float) -> Probe:
    asked = result(rise, "early", isolated=isolated, **figures)
    members = rise[torch.from_numpy(LABELS) == 3].numpy()
    return replace(asked, proposal=replace(asked.proposal, by_class=True), valley=find_valley(members))


def carriers(others: float) -> Tensor:
    rise = torch.zeros(200)
    rise[120:130], rise[130:160] = 1.0, others
    return rise


def test_what_was_forgotten_by_mistake_falls_out_where_the_valley_is_clear() -> None:
    clear = by_class(carriers(0.05), isolated=(120, 121, 140))
    assert widen(clear).isolated.tolist() == list(range(120, 130))
    blurred = replace(clear, valley=replace(clear.valley, depth=0.2))
    assert widen(blurred).isolated.tolist() == [*range(120, 130), 140]
    assert 140 in widen(clear, 0.25).isolated, "in a mixed class poison moves by any amount"


def test_a_class_asked_on_the_chance_is_gone_on_with_only_where_it_falls_in_two() -> None:
    answers = [by_class(carriers(0.0), (120,)), by_class(carriers(0.0), (120,), retained=0.0, spilled=0.5)]

    def ask(proposal: Proposal) -> Probe:
        assert proposal.by_class
        return answers[0]

    dear = answers[1]
    assert follow(ask, [dear], CONFIG, 2, mixed=False) == [dear, answers[0]], "one clear answer is enough"
    assert choose([dear, answers[0]], CONFIG, mixed=False) is answers[0]
    unclear = replace(answers[0], valley=replace(answers[0].valley, depth=0.2))
    assert follow(ask, [unclear], CONFIG, 2, mixed=False) == [unclear], "cheap alone says nothing here"
    assert choose([unclear], CONFIG, mixed=False) is None
    assert choose([dear], CONFIG, mixed=False) is None, "nor does a valley"


def test_what_is_cheap_but_not_forgotten_yet_gets_twice_the_steps() -> None:
    asked: list[int | None] = []

    def ask_of(first: Probe):
        def ask(proposal: Proposal, steps: int | None = None) -> Probe:
            asked.append(steps)
            return first if steps is None else replace(first, forgotten=0.1)

        return ask

    slow = by_class(carriers(0.0), (120,), forgotten=0.5)
    assert patiently(ask_of(slow), CONFIG, slow.proposal).forgotten == 0.1
    assert asked == [None, 2 * CONFIG.steps]
    for other in (replace(slow, retained=0.1), replace(slow, forgotten=0.1)):
        asked.clear()
        assert patiently(ask_of(other), CONFIG, other.proposal) is other
        assert asked == [None], "it is dear, or forgotten"


def test_what_fell_furthest_is_parted_as_of_a_class_with_changed_labels() -> None:
    rise = torch.zeros(200)
    rise[120:140], rise[140:143] = 1.0, 0.05
    for by_fall in (True, False):
        chosen = result(rise, FALL, by_fall=by_fall)
        find = Find(label=3, probes=[chosen], chosen=chosen)
        levelled = _marks(torch.from_numpy(LABELS), [find], [], CONFIG, 5)[0]
        assert (levelled[140:143] > CONFIG.suspect_above).all() == by_fall


@pytest.mark.parametrize(("spread", "mixed"), [(0.0085, True), (0.003, False)])
def test_a_find_in_a_class_that_is_nearly_mixed_counts_as_mixed(spread: float, mixed: bool) -> None:
    probes = [result(torch.zeros(200))]
    found = Find(label=3, probes=probes, chosen=probes[0])
    assert (_backed(found, [class_probe(spread=spread)], CONFIG).mixed is not None) == mixed
    assert _backed(Find(label=3, probes=probes, chosen=None), [class_probe(spread=spread)], CONFIG).mixed is None


def test_stripes_with_true_labels_are_found_though_no_signal_ranks_them_first(
    many_digits: tuple[Tensor, Tensor],
) -> None:
    images, labels = many_digits
    config = AttackConfig(name="sig", poison_rate=0.03, target_label=0, seed=5, options={"delta_train": 80})
    injection = make_attack(config, num_classes=10, image_shape=(1, 28, 28)).inject(images, labels)
    make_deterministic(0)
    spec = ModelSpec(num_classes=10, channels=1, image_size=28, mean=(0.13,), std=(0.31,))
    data = TrainingSet(images=injection.images, labels=injection.labels, mirror=False)
    model, _ = warm_up(build_model("convnet_tiny", spec), data, WarmupConfig(epochs=8, batch_size=64), NullWatch())
    refined = refine(
        model, injection.images, injection.labels, {}, CONFIG, isolation_ratio=0.03, mirror=False, watch=NullWatch()
    )
    flagged, poisoned = refined.poisoned | refined.suspect, injection.is_poisoned
    assert [find.label for find in refined.accepted] == [0]
    assert float(flagged[poisoned].float().mean()) > 0.95
    assert float(flagged[~poisoned].float().mean()) < 0.02

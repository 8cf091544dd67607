"""Each detector alone, on a context whose answers are written down."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from components.common.contracts.errors import ConfigError
from components.common.learning.scoring import scores_of
from components.common.learning.watch import NullWatch
from components.unlearn.classes import ClassUnlearning
from components.unlearn.config import UnlearnConfig
from components.unlearn.context import Context
from components.unlearn.detectors import DETECTORS, chosen_detectors
from components.unlearn.detectors.confident_joint import ConfidentJoint
from components.unlearn.detectors.label_map import LabelMap
from components.unlearn.forgetting import Antimode, Candidate, Probe
from components.unlearn.memo import Memo
from components.unlearn.screen import passing_shares
from components.unlearn.unseen import Votes

LABELS = torch.arange(5).repeat_interleave(40)
Answer = Callable[[Candidate], dict[str, float]]


class Scripted(Context):
    """Five classes of forty samples; a probe moves the given rows, and nothing is ever trained."""

    def __post_init__(self) -> None:
        self.logits = torch.nn.functional.one_hot(self.labels, 5).float() * 8
        self.before = scores_of(self.logits, self.labels)
        self.members = {label: (self.labels == label).nonzero().squeeze(1) for label in range(5)}
        self.moves: set[int] = set()
        self.answer: Answer = lambda candidate: {}
        self.drops = torch.zeros(len(self.labels))
        self.votes = torch.zeros(len(self.labels), 5)

    def probe(self, detector: str, candidate: Candidate, steps: int | None = None) -> Probe:
        gap = torch.zeros(len(self.labels))
        gap[sorted(self.moves)] = 1.0
        members = gap[self.members[candidate.label]]
        figures = {"forget_confidence": 0.0, "retain_accuracy": 1.0, "retain_loss_increase": 0.0, "ratio": 0.01}
        figures |= self.answer(candidate)
        mode = Antimode(threshold=0.5, ratio=figures.pop("ratio"), unaffected=float((members < 0.5).float().mean()))
        result = Probe(candidate=candidate, antimode=mode, gap=gap, **figures)
        self.probes[candidate.name] = (detector, result)
        return result

    def unlearned(self, label: int) -> ClassUnlearning:
        rows = self.members[label]
        nothing = torch.zeros(len(rows))
        return ClassUnlearning(
            label=label, rows=rows, looks=nothing.long(), inconsistency=nothing, drop=self.drops[rows]
        )

    def warm_votes(self) -> Tensor:
        return self.votes

    def unseen_votes(self, left_out: tuple[int, ...]) -> Votes:
        rows = torch.isin(self.labels, torch.tensor(left_out)).nonzero().squeeze(1)
        return Votes(rows=rows, shares=self.votes[rows])


@pytest.fixture
def context() -> Scripted:
    signals = {name: np.linspace(0, 1, 200, dtype=np.float32) for name in ("strip", "low_loss", "noise_sensitivity")}
    return Scripted(
        model=nn.Identity(),
        images=torch.zeros(200, 1, 1, 1, dtype=torch.uint8),
        labels=LABELS,
        signals=signals,
        config=UnlearnConfig(),
        isolation_ratio=0.04,
        mirror=False,
        memo=Memo(NullWatch()),
    )


def test_every_detector_can_be_chosen_and_left_out() -> None:
    assert [detector.name for detector in chosen_detectors("")] == sorted(
        DETECTORS, key=lambda name: DETECTORS[name].order
    )
    assert [detector.name for detector in chosen_detectors("strip, label_map")] == ["label_map", "strip"]
    assert "strip" not in [detector.name for detector in chosen_detectors("-strip")]
    with pytest.raises(ConfigError, match=r"expected one of .*strip"):
        chosen_detectors("strop")
    with pytest.raises(ConfigError, match="names to leave out"):
        chosen_detectors("strip,-label_map")


def test_a_signal_asks_about_its_dominating_label_and_finds_what_moves_cheaply(context: Scripted) -> None:
    strip = DETECTORS["strip"]
    (candidate,) = strip.candidates(context)
    assert (candidate.label, candidate.forget.tolist()) == (4, list(range(199, 191, -1)))
    assert not set(candidate.forget.tolist()) & set(candidate.retain.tolist() + candidate.held_out.tolist())
    context.moves = set(range(185, 200))
    found = strip.judge(context, candidate)
    assert found is not None
    assert (found.scores > 0.5).nonzero().squeeze(1).tolist() == list(range(185, 200))
    assert found.finding == "poison found"
    assert "blended" in found.reason


@pytest.mark.parametrize(
    "figures",
    [
        {"retain_accuracy": 0.3, "retain_loss_increase": 0.3},
        {"forget_confidence": 0.6},
        {"ratio": 0.6},
    ],
    ids=["costly", "not forgotten", "one kind"],
)
def test_a_signal_finds_nothing_where_forgetting_says_no(context: Scripted, figures: dict[str, float]) -> None:
    context.moves = set(range(185, 200))
    context.answer = lambda candidate: figures
    (candidate,) = DETECTORS["strip"].candidates(context)
    assert DETECTORS["strip"].judge(context, candidate) is None


def test_after_a_find_a_signal_is_asked_about_the_other_labels(context: Scripted) -> None:
    asked = DETECTORS["strip"].candidates(context)
    assert next(asked).label == 4
    context.settled.add(4)
    assert next(asked).label == 3
    assert list(asked) == [], "the second was none, so there is no third"


def test_a_class_that_moved_as_a_whole_is_no_find(context: Scripted) -> None:
    context.moves = set(range(165, 200))
    (candidate,) = DETECTORS["strip"].candidates(context)
    assert DETECTORS["strip"].judge(context, candidate) is None


def inconsistent(context: Scripted, label: int, strange: range) -> None:
    rows = context.members[label]
    score = torch.zeros(len(rows))
    score[torch.isin(rows, torch.tensor(list(strange)))] = 0.9
    looks = (torch.arange(len(rows)) % 5 + 1) % 5
    context.inconsistent[label] = ClassUnlearning(
        label=label, rows=rows, looks=looks, inconsistency=score, drop=torch.zeros(len(rows))
    )


def test_of_an_inconsistent_class_what_parts_it_and_looks_inconsistent_is_found(context: Scripted) -> None:
    inconsistent(context, 3, range(120, 140))
    detector = DETECTORS["label_inconsistency"]
    (candidate,) = detector.candidates(context)
    assert set(candidate.forget.tolist()) <= set(range(120, 140))
    assert len(candidate.forget) == 8, "as much as a forget set holds"
    context.moves = set(range(120, 140))
    found = detector.judge(context, candidate)
    assert found is not None
    assert found.recheck
    assert (found.scores > 0.5).nonzero().squeeze(1).tolist() == list(range(120, 140))
    # Clean samples can be forgotten as cheaply, but then what moves is not what looks inconsistent.
    context.moves = set(range(140, 160))
    assert detector.judge(context, candidate) is None


def test_in_careless_labels_no_class_is_probed_for_a_trigger(context: Scripted) -> None:
    inconsistent(context, 3, range(120, 140))
    context.noisy = True
    assert list(DETECTORS["label_inconsistency"].candidates(context)) == []


def test_what_drops_furthest_is_asked_about_class_by_class(context: Scripted) -> None:
    generator = torch.Generator().manual_seed(0)
    context.drops = torch.randn(200, generator=generator)
    context.drops[80:85] += 30.0
    candidates = list(DETECTORS["logit_drop"].candidates(context))
    assert candidates[0].label == 2, "the class in which most stands out comes first"
    assert set(candidates[0].forget.tolist()) <= set(range(80, 120))
    assert len({candidate.label for candidate in candidates}) == len(candidates)


@pytest.mark.parametrize(("others", "found"), [(0.2, True), (0.9, False)])
def test_without_an_antimode_only_the_one_class_that_costs_nothing_counts(
    context: Scripted, others: float, found: bool
) -> None:
    """On well-learned data clean classes are cheap as well, so the measure is the next class of the same model."""
    context.drops = torch.randn(200, generator=torch.Generator().manual_seed(0))
    context.drops[80:85] += 30.0
    context.moves = set(range(80, 95))

    def answer(candidate: Candidate) -> dict[str, float]:
        kept = 0.95 if candidate.label == 2 else others
        return {"ratio": 1.0, "retain_accuracy": kept, "retain_loss_increase": 0.0 if candidate.label == 2 else 0.2}

    context.answer = answer
    finds = [DETECTORS["logit_drop"].judge(context, one) for one in DETECTORS["logit_drop"].candidates(context)]
    assert [find.label for find in finds if find is not None] == ([2] if found else [])


def looks(labels: Tensor, as_class: Tensor, firmness: float, classes: int = 10) -> Tensor:
    rest = (1.0 - firmness) / (classes - 1)
    return torch.full((len(labels), classes), rest).scatter_(1, as_class[:, None], firmness)


def test_labels_that_were_changed_by_a_rule_give_the_rule() -> None:
    true = torch.arange(10).repeat_interleave(20)
    given = true.clone()
    given[::2] = (true[::2] + 1) % 10
    assert LabelMap().rule(looks(given, true, 0.95), given) == {k: (k + 1) % 10 for k in range(10)}


def joint() -> ConfidentJoint:
    detector = DETECTORS["confident_joint"]
    assert isinstance(detector, ConfidentJoint)
    return detector


def test_noise_in_the_labels_and_confusion_between_neighbours_are_no_rule_and_no_outlier() -> None:
    true = torch.arange(10).repeat_interleave(60)
    noise = true.clone()
    shifts = torch.randint(1, 10, (300,), generator=torch.Generator().manual_seed(0))
    noise[::2] = (true[::2] + shifts) % 10
    pairs = true.clone()
    # Two pairs of neighbours, each confused both ways: cats and dogs, cars and trucks.
    for one, other in ((3, 5), (5, 3), (1, 9), (9, 1)):
        pairs[(true == one).nonzero().squeeze(1)[:10]] = other
    for given in (noise, pairs):
        assert LabelMap().rule(looks(given, true, 0.95), given) == {}
        assert joint().standing_out(looks(given, true, 0.95), given) is None
    few = true[:2]
    assert LabelMap().rule(looks(few, few, 0.9, classes=3), few) == {}
    assert joint().standing_out(looks(few, few, 0.9, classes=3), few) is None


def test_a_label_given_to_a_few_of_every_other_class_against_the_model_stands_out() -> None:
    true = torch.arange(10).repeat_interleave(200)
    given = true.clone()
    given[torch.cat([(true == k).nonzero().squeeze(1)[:2] for k in range(1, 10)])] = 0
    assert joint().standing_out(looks(given, true, 0.95), given) == 0
    # What the model is not firm about contradicts nothing.
    assert joint().standing_out(looks(given, true, 0.6), given) is None
    # Confusion with half of the other classes, however frequent, is what a class that resembles many has.
    given = true.clone()
    given[torch.cat([(true == k).nonzero().squeeze(1)[:20] for k in (2, 3, 5, 8)])] = 0
    assert joint().standing_out(looks(given, true, 0.95), given) is None


def believe_neighbours(context: Scripted, label: int, strangers: range) -> None:
    """Everyone has four of five neighbours of his own, the strangers one of twenty."""
    context.votes = torch.full((200, 5), 0.05).scatter_(1, LABELS[:, None], 0.8)
    context.votes += 0.001 * torch.arange(200)[:, None]
    context.votes[list(strangers)] = torch.full((5,), 0.05).index_fill(0, torch.tensor((label + 1) % 5), 0.8)


def test_strangers_among_their_neighbours_lose_their_label_and_the_class_keeps_the_others(context: Scripted) -> None:
    inconsistent(context, 3, range(120, 132))
    believe_neighbours(context, 3, range(120, 132))
    detector = DETECTORS["neighbours"]
    (candidate,) = detector.candidates(context)
    found = detector.judge(context, candidate)
    assert found is not None
    flagged = set((found.scores > found.threshold).nonzero().squeeze(1).tolist())
    assert set(range(120, 132)) <= flagged
    assert len(flagged) <= 12 + 0.1 * 40
    assert found.probe is None
    assert not bool((found.scores > 0.5).any()), "what the images alone say makes suspects"


def test_where_neighbours_say_nothing_the_class_keeps_its_labels_in_plain_words(context: Scripted) -> None:
    inconsistent(context, 3, range(120, 132))
    believe_neighbours(context, 3, range(0))
    (candidate,) = DETECTORS["neighbours"].candidates(context)
    found = DETECTORS["neighbours"].judge(context, candidate)
    assert found is not None
    assert found.finding == "inconclusive"
    assert not bool((found.scores > found.threshold).any())
    assert "keeps its labels" in found.reason


def test_a_class_with_a_known_trigger_needs_no_neighbours(context: Scripted) -> None:
    inconsistent(context, 3, range(120, 132))
    context.settled.add(3)
    assert list(DETECTORS["neighbours"].candidates(context)) == []


def test_careless_labels_are_errors_where_neighbours_and_the_model_agree_on_another_class(context: Scripted) -> None:
    context.noisy = True
    believe_neighbours(context, 3, range(120, 132))
    context.logits[120:126] = torch.tensor([0.0, 0.0, 0.0, 0.0, 8.0])
    context.before = scores_of(context.logits, LABELS)
    finds = [DETECTORS["neighbours"].judge(context, one) for one in DETECTORS["neighbours"].candidates(context)]
    (found,) = [find for find in finds if find is not None]
    assert (found.label, found.finding) == (3, "label errors found")
    assert (found.scores > found.threshold).nonzero().squeeze(1).tolist() == list(range(120, 126))


def test_of_a_small_class_one_or_two_strays_make_no_pattern() -> None:
    sizes = torch.tensor([100.0, 50.0, 400.0, 20.0, 0.0, 100.0])
    shares = passing_shares(torch.tensor([0.0, 2.0, 20.0, 10.0, 0.0, 5.0]), sizes, label=0)
    # Two are none, and ten of a class of twenty count as ten of a class of median size.
    assert shares.tolist() == pytest.approx([0.0, 0.05, 0.1, 0.05])

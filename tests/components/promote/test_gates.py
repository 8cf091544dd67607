"""The gates of a promotion: each holds up to its limit, and says its numbers where it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from components.promote.algorithm import ClassRecall, Evidence, Measured, gates
from components.promote.config import PromoteConfig

CANARY = {"planted": 80, "caught": 0.95, "fired": 0.01}
TEN = [f"class {number}" for number in range(10)]


def measured(recalls: list[float], rows: int = 100, champion: list[float] | None = None, **changes: Any) -> Measured:
    """Classes of equal size with these recalls; where both models err, they err on other rows."""
    classes = [
        ClassRecall(
            name=name,
            rows=rows,
            right=round(recall * rows),
            champion_right=None if champion is None else round(champion[number] * rows),
        )
        for number, (name, recall) in enumerate(zip(TEN, recalls, strict=False))
    ]
    differ = [0, 0]
    for one in classes if champion else []:
        before = one.champion_right or 0
        differ[0] += min(one.right, one.rows - before)
        differ[1] += min(before, one.rows - one.right)
    given = {"only_candidate": differ[0], "only_champion": differ[1], "where": "the trusted rows", **changes}
    return Measured(classes=classes, **given)


def evidence(**changes: Any) -> Evidence:
    given = {"newest": measured([0.9] * 10), "suspect_share": 0.1, "verdict": "poison found", "canary": CANARY}
    return Evidence(**{**given, **changes})


def lost(found: Evidence, **limits: Any) -> list[str]:
    return [gate.name for gate in gates(found, PromoteConfig(**limits)) if not gate.passed]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (evidence(), []),
        (evidence(verdict="no poison found"), []),
        (evidence(verdict="label errors found"), []),
        (evidence(verdict="inconclusive", reason="Because."), ["verdict"]),
        (evidence(verdict=None), ["verdict"]),
        (evidence(verdict="perhaps"), ["verdict"]),
        (evidence(suspect_share=0.31), ["suspects"]),
        (evidence(unjudged=["bird"]), ["classes"]),
        (evidence(canary=None), ["canary"]),
        (evidence(canary={"planted": 80, "caught": 0.79, "fired": 0.0}), ["canary"]),
        (evidence(canary={"planted": 80, "caught": 1.0, "fired": 0.11}), ["canary"]),
        # Of ten classes guessing gets 10 %, so that a quarter of the way to no error is 32.5 %.
        (evidence(newest=measured([0.33] * 10)), []),
        (evidence(newest=measured([0.32] * 10)), ["accuracy"]),
        # 14.6 % of ten classes once made a first champion.
        (evidence(newest=measured([0.146] * 10, rows=500)), ["accuracy", "worst class"]),
        # A class that is never said, whatever the average.
        (evidence(newest=measured([0.95] * 9 + [0.02])), ["worst class"]),
        (evidence(newest=measured([0.95] * 9 + [0.19])), []),
        (evidence(newest=measured([0.9] * 10, rows=4)), ["worst class"]),
        (evidence(newest=measured([])), ["accuracy", "worst class"]),
    ],
)  # fmt: skip
def test_a_first_champion_must_beat_chance_and_be_judged(found: Evidence, expected: list[str]) -> None:
    assert lost(found) == expected


@pytest.mark.parametrize(
    ("mine", "champion", "expected"),
    [
        ([0.9] * 10, [0.9] * 10, []),
        ([0.99] * 10, [0.9] * 10, []),
        # One point of 1,000 rows on which both err on others: noise.
        ([0.89] * 10, [0.9] * 10, []),
        ([0.85] * 10, [0.9] * 10, ["accuracy"]),
        ([0.9] * 9 + [0.6], [0.9] * 10, ["accuracy", "worst class"]),
        ([0.92] * 9 + [0.7], [0.9] * 10, ["worst class"]),
    ],
)
def test_a_champion_is_beaten_on_the_same_rows_beyond_their_noise(
    mine: list[float], champion: list[float], expected: list[str]
) -> None:
    assert lost(evidence(newest=measured(mine, champion=champion), champion=3)) == expected


def test_where_two_models_differ_on_few_rows_half_a_point_is_all_that_may_be_lost() -> None:
    def paired(loss: int) -> Measured:
        found = measured([0.9] * 10, rows=1_000, champion=[0.9] * 10, only_candidate=0, only_champion=loss)
        first = replace(found.classes[0], right=900 - loss)
        return replace(found, classes=[first, *found.classes[1:]])

    assert lost(evidence(newest=paired(50), champion=3)) == []
    assert lost(evidence(newest=paired(80), champion=3)) == ["accuracy"]


def test_a_pinned_set_has_gates_of_its_own() -> None:
    poor = measured([0.2] * 10, where="the 1000 pinned images of s3://b/pinned")
    assert lost(evidence(pinned=poor)) == ["pinned"]
    assert lost(evidence(pinned=measured([0.9] * 9 + [0.0]))) == ["pinned worst class"]


def test_a_champion_that_cannot_be_shown_these_images_is_no_comparison() -> None:
    found = replace(measured([0.9] * 10), problem="the champion takes images of 1x28x28, and these are 3x32x32")
    assert lost(evidence(newest=found, champion=3)) == ["accuracy"]


def test_every_refusal_names_what_was_asked_for_and_what_was_found() -> None:
    found = evidence(
        newest=measured([0.95] * 8 + [0.5, 0.02], champion=[0.95] * 10),
        champion=3,
        verdict="inconclusive",
        reason="The warm-up model knows too little.",
        unjudged=["bird"],
        suspect_share=0.5,
        canary=None,
    )
    said = {gate.name: gate for gate in gates(found, PromoteConfig())}
    assert "at most 0.5 points below champion 3 on the same rows" in said["accuracy"].expected
    assert "the trusted rows, where guessing gets 10.0 %" in said["accuracy"].expected
    assert said["accuracy"].found == "81.2 % of 1000; champion 3 95.0 %, a difference of -13.8 points"
    assert said["worst class"].found == "class 8 50.0 % of 100, champion 3 95.0 %; class 9 2.0 % of 100"
    assert said["verdict"].found == "inconclusive: The warm-up model knows too little"
    assert said["classes"].found == "no judgement of bird"
    assert said["suspects"].found == "50.0 %"
    assert said["canary"].found == "no canary in this run"


def test_the_canary_gate_claims_no_more_than_what_was_tested() -> None:
    assert "this trigger is tested, no other" in gates(evidence(), PromoteConfig())[-1].expected


def test_an_accuracy_can_be_asked_for_and_a_canary_can_be_waived() -> None:
    assert lost(evidence(), min_acc=0.95) == ["accuracy"]
    assert lost(evidence(canary=None), require_canary=False) == []
    # A gate that held must not read as if something had been tested.
    waived = gates(evidence(canary=None), PromoteConfig(require_canary=False))[-1]
    assert waived.expected == "nothing: promote.require_canary is false"

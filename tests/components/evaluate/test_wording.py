"""A verdict in words counts what was found, claims no more, and is green only where poison would have been seen."""

from __future__ import annotations

import pytest

from components.common.signals import SIGNALS
from components.evaluate.wording import Found, candidates_of, caveats, colour, detectors, next_steps, sentence

CANARY = {"planted": 40, "label": "3", "caught": 0.95, "fired": 0.01}


def found(**changes: object) -> Found:
    given = {"verdict": "poison found", "total": 4000, "poisoned": 400, "suspect": 0, "targets": ["0"], "mapping": {}}
    return Found(**{**given, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "400 of 4,000 training images carry a trigger that leads to class 0."),
        (
            {"poisoned": 1412, "suspect": 3},
            "1,412 of 4,000 training images carry a trigger that leads to class 0; 3 more are suspect.",
        ),
        (
            {"targets": ["a", "b", "c"]},
            "400 of 4,000 training images carry triggers that lead to the classes a, b and c.",
        ),
        ({"targets": list("abcdef")}, "400 of 4,000 training images carry triggers that lead to 6 classes."),
        (
            {"poisoned": 0, "suspect": 390, "targets": [], "mapping": {"0": "1"}},
            "The labels of 390 of 4,000 training images were changed by a rule from class to class.",
        ),
        ({"poisoned": 0, "suspect": 9, "targets": []}, "9 of 4,000 training images look poisoned."),
        (
            {"verdict": "label errors found", "poisoned": 0, "suspect": 77},
            "77 of 4,000 training images have labels that do not fit what they show; no trigger was found.",
        ),
        ({"verdict": "no poison found", "poisoned": 0}, "No poison was found among 4,000 training images."),
        (
            {"verdict": "inconclusive", "poisoned": 0},
            "This run cannot say whether the 4,000 training images are poisoned.",
        ),
    ],
)
def test_the_verdict_is_a_sentence_with_counts(changes: dict, text: str) -> None:
    assert sentence(found(**changes)) == text


@pytest.mark.parametrize(
    ("verdict", "facts", "expected"),
    [
        ("poison found", {"checked": "x", "canary": CANARY}, "red"),
        ("label errors found", {"checked": "x"}, "amber"),
        ("inconclusive", {"checked": "x"}, "amber"),
        ("no poison found", {}, "amber"),
        ("no poison found", {"canary": {**CANARY, "caught": 0.1}}, "amber"),
        ("no poison found", {"canary": CANARY}, "green"),
        ("no poison found", {"checked": "Everything."}, "amber"),
    ],
)
def test_green_is_only_what_would_have_shown_poison(verdict: str, facts: dict, expected: str) -> None:
    assert colour(verdict, facts) == expected


def test_a_canary_is_reported_with_what_it_does_not_show() -> None:
    said = " ".join(caveats({"verdict": "no poison found", "canary": CANARY}, attacked=False))
    for words in ("Of the 40 planted images 95.0 %", "on 1.0 % of the holdout", "This trigger was tested, no other"):
        assert words in said
    assert "not caught" not in said


def test_caveats_stand_only_where_they_apply() -> None:
    missed = caveats({"verdict": "inconclusive", "canary": {**CANARY, "caught": 0.1}}, attacked=False)
    assert any("was not caught" in text for text in missed)
    without = caveats({"verdict": "no poison found"}, attacked=False)
    assert any("No canary was planted" in text for text in without)
    injected = caveats({"verdict": "poison found"}, attacked=True)
    assert injected == ["ASR is that of the attack that this run injected; of other triggers it says nothing."]
    assert any("undone" in text for text in caveats({"verdict": "inconclusive", "rolled_back": True}, attacked=True))


@pytest.mark.parametrize("verdict", ["poison found", "label errors found", "no poison found", "inconclusive"])
def test_every_verdict_says_what_to_do_next(verdict: str) -> None:
    steps = " ".join(next_steps(found(verdict=verdict), supported=True))
    assert ("cleaned index" in steps) == (verdict in ("poison found", "label errors found"))
    assert ("can be used" in steps) == (verdict == "no poison found")


def test_data_are_called_usable_only_where_poison_would_have_been_seen() -> None:
    steps = " ".join(next_steps(found(verdict="no poison found"), supported=False))
    assert "can be used" not in steps
    assert "with a canary" in steps


OLD = {"signal": "early", "label": "0", "isolated": 74, "forgotten": 0.1, "retained": 0.99, "spilled": 0.0}
NEW = {
    "signal": "early",
    "label": "0",
    "forget_set": 74,
    "forget_confidence": 0.1,
    "retain_accuracy": 0.99,
    "retain_loss_increase": 0.0,
}


@pytest.mark.parametrize("record", [OLD, NEW])
def test_each_detector_says_one_line_and_those_that_found_nothing_do_too(record: dict) -> None:
    wider = {**record, "signal": "early, again", "isolated": 380, "forget_set": 380}
    candidates = candidates_of([{**record, "accepted": False}, {**wider, "accepted": True}])
    lines = detectors(candidates, list(SIGNALS), [], {})
    first = next(line for line in lines if line.name == "early")
    assert first.found
    assert "380 images of 0 forgotten, and 99 % of the trusted images" in first.text
    assert not any(line.found for line in lines if line is not first)
    assert len(lines) == len(set(SIGNALS) | {"early"}) + 2
    assert all("\n" not in line.text for line in lines)
    mixed = detectors(candidates[:1], [], ["cat"], {"cat": "dog"})
    assert [line.found for line in mixed] == [False, True, True]
    assert "what looks like cat is labelled dog" in mixed[2].text

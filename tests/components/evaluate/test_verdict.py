"""What a run may claim: inconclusive wherever the data or the model cannot carry the question."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from components.common.contracts.verdicts import INCONCLUSIVE, LABEL_ERRORS, NO_POISON, POISON, VERDICTS
from components.evaluate.classes import MAX_LOST, class_figures, expected_suspects
from components.evaluate.verdict import Observed, conclude, skill

CANARY = {"planted": 160, "caught": 0.95, "fired": 0.01, "label": "ship"}


def observed(**changes: Any) -> Observed:
    given = Observed(
        found=NO_POISON,
        reason="",
        samples={"bird": 790, "ship": 812},
        holdout=400,
        holdout_suspects=0,
        holdout_expected=0.0,
        warmup_acc=0.8,
        chance=0.5,
        probes=12,
        rolled_back=False,
        unjudged=[],
        changed_seen=0.71,
        canary=CANARY,
    )
    return replace(given, **changes)


@pytest.mark.parametrize("found", [POISON, LABEL_ERRORS, NO_POISON])
def test_where_nothing_speaks_against_it_the_finding_is_the_verdict(found: str) -> None:
    said = conclude(observed(found=found))
    assert said.verdict == found
    assert said.reason.endswith(".")


@pytest.mark.parametrize("found", VERDICTS)
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"samples": {"bird": 23, "ship": 812}}, "Class bird has 23 training samples"),
        ({"warmup_acc": 0.69}, "The warm-up model gets 69.0 %"),
        ({"rolled_back": True}, "was undone"),
        ({"canary": {**CANARY, "caught": 0.79}}, "Of 160 samples with a planted trigger 79.0 % were caught"),
        ({"canary": {**CANARY, "fired": 0.98}}, "The model takes 98.0 % of the images with the planted"),
    ],
)  # fmt: skip
def test_data_or_a_model_that_cannot_carry_the_question_give_no_answer(
    found: str, changes: dict[str, Any], reason: str
) -> None:
    said = conclude(observed(found=found, **changes))
    assert said.verdict == INCONCLUSIVE
    assert reason in said.reason


def test_what_was_found_all_the_same_is_in_the_reason() -> None:
    said = conclude(observed(found=POISON, reason="88 samples of bird share a trigger.", rolled_back=True))
    assert said.verdict == INCONCLUSIVE
    assert said.reason.endswith("(poison found: 88 samples of bird share a trigger).")


def test_a_class_that_cannot_be_judged_makes_a_run_inconclusive_unless_poison_was_found_elsewhere() -> None:
    assert conclude(observed(unjudged=["bird"])).verdict == INCONCLUSIVE
    assert conclude(observed(unjudged=["bird"], found=LABEL_ERRORS)).verdict == INCONCLUSIVE
    assert conclude(observed(unjudged=["bird"], found=POISON)).verdict == POISON


def test_every_verdict_says_what_was_checked_and_how_little_would_have_been_seen() -> None:
    caught = conclude(observed()).checked
    assert "1602 training and 400 holdout images of 2 classes (smallest 790, largest 812)" in caught
    assert "12 forgettings" in caught
    assert "71.0 % would stand out at one false alarm in twenty" in caught
    assert "Of 160 samples (10.0 %) with a planted patch, 95.0 % were caught" in caught
    assert "a rarer or subtler trigger perhaps not" in caught
    assert "are suspects" not in caught
    poisoned = conclude(observed(found=POISON, holdout_suspects=22, holdout_expected=24.4)).checked
    assert "22 holdout images are suspects; if they were drawn as the training images were, 24 are expected" in poisoned
    missed = conclude(observed(canary={**CANARY, "caught": 0.1})).checked
    assert "a small patch at that share can be there unseen" in missed
    assert "No trigger was planted" in conclude(observed(canary={})).checked


def test_skill_is_what_is_known_beyond_guessing() -> None:
    assert skill(0.1, 0.1) == 0.0
    assert skill(1.0, 0.1) == 1.0
    assert skill(0.55, 0.1) == pytest.approx(0.5)
    assert skill(1.0, 1.0) == 0.0


def figures(flagged: dict[str, int], evident: tuple[str, ...] = (), **found: tuple[str, str]) -> dict[str, Any]:
    """Two classes of 100 training and 20 holdout rows, of which the first so many are suspects; 5 rows are wrong."""
    names = ["bird", "ship"]
    labels = np.repeat([0, 1], 100)
    marks = np.concatenate([np.arange(100) < flagged.get(name, 0) for name in names])
    rows = np.repeat([0, 1], 20)
    made = class_figures(
        names,
        train_labels=labels,
        flagged=marks,
        holdout_labels=rows,
        trusted=np.arange(40) != 0,
        right=np.arange(40) >= 5,
        evident=evident,
        found=found,
    )
    return {one.name: one for one in made}


def test_a_class_that_lost_many_labels_without_a_trigger_cannot_be_judged() -> None:
    most = round(100 * MAX_LOST)
    assert figures({"bird": most})["bird"].finding == NO_POISON
    lost = figures({"bird": most + 1})["bird"]
    assert lost.finding == INCONCLUSIVE
    assert f"{most + 1} of 100 labels" in lost.reason
    assert figures({"bird": most + 1}, ("bird",))["bird"].finding == POISON
    # Whatever the stage that took them away calls it, unless it shows a trigger.
    said = {"bird": (LABEL_ERRORS, "Noise.")}
    assert figures({"bird": 98}, **said)["bird"].finding == INCONCLUSIVE
    assert figures({"bird": 98}, bird=(POISON, "A trigger."))["bird"].reason == "A trigger."
    assert figures({"bird": 9}, **said)["bird"].reason == "Noise."


def test_the_figures_of_a_class_are_of_its_own_rows() -> None:
    bird, ship = figures({"bird": 10}).values()
    assert (bird.train, bird.suspects, bird.lost_share, bird.holdout, bird.trusted) == (100, 10, 0.1, 20, 19)
    assert bird.recall == pytest.approx(15 / 19, abs=1e-4)
    assert (ship.suspects, ship.recall) == (0, 1.0)
    assert expected_suspects([bird, ship]) == pytest.approx(2.0)
    assert set(bird.as_fact()) == {
        *("name", "train", "suspects", "lost_share", "holdout", "trusted", "recall", "finding", "reason"),
    }


def test_a_class_without_trusted_rows_has_no_recall() -> None:
    made = class_figures(
        ["bird"],
        train_labels=np.zeros(3, dtype=np.int64),
        flagged=np.zeros(3, dtype=bool),
        holdout_labels=np.zeros(2, dtype=np.int64),
        trusted=np.zeros(2, dtype=bool),
        right=np.zeros(2, dtype=bool),
        evident=(),
        found={},
    )
    assert made[0].recall is None

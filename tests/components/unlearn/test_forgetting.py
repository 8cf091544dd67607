"""Forgetting a candidate, the antimode between what moved and what did not, and the wider candidates that follow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from components.common.learning.scoring import score
from components.common.learning.seeding import make_deterministic
from components.common.models import ModelSpec, build_model
from components.unlearn.config import UnlearnConfig
from components.unlearn.forgetting import Candidate, Probe, find_antimode, halved, joined, probe, widen

SPEC = ModelSpec(num_classes=10, channels=1, image_size=28, mean=(0.13,), std=(0.31,))
CONFIG = UnlearnConfig()


def test_the_antimode_is_between_those_that_moved_and_those_that_did_not() -> None:
    rng = np.random.default_rng(0)
    gap = np.concatenate([rng.normal(0.02, 0.05, 300), rng.normal(0.9, 0.12, 100)]).astype(np.float32)
    mode = find_antimode(gap)
    assert 0.2 < mode.threshold < 0.6
    assert mode.ratio < 0.05
    assert mode.unaffected == pytest.approx(0.75, abs=0.01)


def test_two_kinds_with_nothing_between_them_have_their_antimode_between() -> None:
    mode = find_antimode(np.concatenate([np.zeros(300), np.full(40, 0.95)]).astype(np.float32))
    assert 0.2 < mode.threshold < 0.8
    assert mode.ratio < 0.01


def test_samples_that_moved_as_one_have_no_antimode_that_counts() -> None:
    mode = find_antimode(np.random.default_rng(0).normal(0.5, 0.25, 400).astype(np.float32))
    assert mode.ratio > 0.3 or mode.threshold > 0.7


@pytest.mark.parametrize("gap", [np.zeros(5), np.ones(1), np.full(40, 7.0), np.linspace(-3, 3, 2)])
def test_an_antimode_of_degenerate_gaps_is_still_a_number(gap: np.ndarray) -> None:
    mode = find_antimode(gap.astype(np.float32))
    assert np.isfinite([mode.threshold, mode.ratio, mode.unaffected]).all()


def probed(gap: Tensor, forgotten: list[int], retained: list[int], threshold: float = 0.5) -> Probe:
    candidate = Candidate(
        name="test",
        label=0,
        forget=torch.tensor(forgotten),
        retain=torch.tensor(retained),
        held_out=torch.tensor(retained),
    )
    mode = replace(find_antimode(gap.numpy()), threshold=threshold)
    return Probe(
        candidate=candidate,
        forget_confidence=0.0,
        retain_accuracy=1.0,
        retain_loss_increase=0.0,
        antimode=mode,
        gap=gap,
    )


def test_a_wider_candidate_retains_nothing_that_moved() -> None:
    gap = torch.tensor([1.0, 0.0, 0.9, 0.3, 0.6, 0.0])
    wider = widen(probed(gap, forgotten=[0, 1], retained=[3, 4, 5]), 0.5, keep=True)
    assert wider.forget.tolist() == [0, 1, 2, 4]
    assert wider.retain.tolist() == wider.held_out.tolist() == [3, 5]
    assert wider.name != "test", "it draws batches of its own"
    without = widen(probed(gap, forgotten=[0, 1], retained=[3, 4, 5]), 0.5, keep=False)
    assert without.forget.tolist() == [0, 2, 4], "what did not move was forgotten by mistake"
    lower = widen(probed(gap, forgotten=[0], retained=[3, 5]), 0.25, keep=True)
    assert lower.forget.tolist() == [0, 2, 3, 4]
    assert lower.retain.tolist() == [5]


def test_what_one_find_retains_is_not_retained_where_another_suspects_it() -> None:
    first = probed(torch.zeros(12), forgotten=[0, 1], retained=list(range(2, 12))).candidate
    second = replace(first, forget=torch.tensor([2, 3]))
    flagged = torch.zeros(12, dtype=torch.bool)
    flagged[4:6] = True
    together = joined([first, second], flagged, seed=0)
    assert together.forget.tolist() == [0, 1, 2, 3]
    assert sorted(together.retain.tolist()) == list(range(6, 12))


@pytest.fixture(scope="module")
def untrained() -> torch.nn.Module:
    make_deterministic(0)
    return build_model("convnet_tiny", SPEC).eval()


def candidate_of(labels: Tensor) -> Candidate:
    rows = (labels == 0).nonzero().squeeze(1)
    retain, held_out = halved(torch.arange(len(labels)), 0, "test")
    return Candidate(name="test", label=0, forget=rows[:8], retain=retain, held_out=held_out)


def test_of_a_class_that_the_model_does_not_know_nothing_is_cheap_to_forget(many_digits, untrained) -> None:
    """After too short a training every forgetting looks free: the repair beside it teaches what was never known."""
    images, labels = many_digits[0][:300], many_digits[1][:300]
    before = score(untrained, images, labels)
    result = probe(untrained, images, labels, candidate_of(labels), CONFIG, mirror=False, before=before, steps=12)
    assert (result.retain_accuracy, result.retain_loss_increase) == (0.0, 1.0)

"""Canaries: planted as the seed says, counted apart, and measured on a model that obeys them and one that does not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
import torch

from components.common.attacks.canary import (
    caught,
    is_canary,
    measure,
    plant,
    stamp,
    verdict_without,
    without_canaries,
)
from components.common.contracts.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

Digits = tuple["Tensor", "Tensor"]
SEEDS = (0, 1, 7)


def arrays(digits: Digits) -> tuple[np.ndarray, np.ndarray]:
    return digits[0].numpy(), digits[1].numpy().astype(np.int16)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_seed_decides_all_and_the_data_are_left_alone(digits: Digits, seed: int) -> None:
    images, labels = arrays(digits)
    before = images.copy(), labels.copy()
    first, again = plant(images, labels, seed, 12), plant(images, labels, seed, 12)
    assert first.record == again.record == json.loads(json.dumps(first.record))
    assert np.array_equal(first.images, again.images)
    assert np.array_equal(images, before[0])
    assert np.array_equal(labels, before[1])
    assert len(first.rows) == 12
    assert (np.diff(first.rows) > 0).all()
    assert (labels[first.rows] != first.record["label"]).all()
    assert first.record["labels"] == labels[first.rows].tolist()
    assert set(first.labels.tolist()) == {first.record["label"]}
    assert first.record != plant(images, labels, seed + 1, 12).record


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 9, 20)])
def test_the_patch_is_small_visible_and_nothing_else_changes(seed: int, shape: tuple[int, int, int]) -> None:
    images = np.full((40, *shape), 128, dtype=np.uint8)
    planted = plant(images, (np.arange(40) % 2).astype(np.int16), seed, 4)
    changed = (planted.images != 128).any(axis=(0, 1))
    side = planted.record["side"]
    assert changed.sum() == side * side
    assert side * side <= 0.15 * shape[1] * shape[2]
    patch = planted.images[0][:, changed]
    assert {0, 255} == set(np.unique(patch).tolist())
    assert np.array_equal(stamp(images[:4], planted.record), planted.images)


@pytest.mark.parametrize("count", [0, 21])
def test_a_number_that_makes_no_canary_is_told(digits: Digits, count: int) -> None:
    with pytest.raises(ConfigError, match="1 to 20 samples"):
        plant(*arrays(digits), 0, count)


def test_one_class_or_tiny_images_have_no_room_for_a_canary() -> None:
    with pytest.raises(ConfigError, match="1 classes"):
        plant(np.zeros((40, 1, 28, 28), np.uint8), np.zeros(40, np.int16), 0, 4)
    with pytest.raises(ConfigError, match="8 x 28 pixels"):
        plant(np.zeros((40, 1, 8, 28), np.uint8), (np.arange(40) % 2).astype(np.int16), 0, 4)


def test_caught_is_the_share_of_the_canaries_that_are_not_clean() -> None:
    record = {"rows": [1, 3], "label": 0}
    assert caught(["clean", "poisoned", "poisoned", "clean"], record) == 0.5
    assert caught(["clean", "suspect", "clean", "poisoned"], record) == 1.0
    assert is_canary(record, 4).tolist() == [False, True, False, True]
    assert not is_canary(None, 4).any()


@pytest.mark.parametrize(
    ("flagged", "labels", "expected"),
    [
        ([0, 1], [5, 5, 5, 5, 5, 5], "no poison found"),
        ([0, 1, 2, 3], [5, 5, 5, 5, 5, 5], "no poison found"),
        ([0, 1, 2, 3, 4], [5, 5, 5, 5, 5, 5], "poison found"),
        ([0, 1, 4], [5, 5, 5, 5, 6, 6], "poison found"),
        ([4, 5], [5, 5, 5, 5, 5, 5], "poison found"),
        ([], [5, 5, 5, 5, 5, 5], "poison found"),
    ],
)
def test_canaries_alone_are_no_poison(flagged: list[int], labels: list[int], expected: str) -> None:
    assignments = ["poisoned" if row in flagged else "clean" for row in range(6)]
    record = {"rows": [0, 1], "label": 5}
    assert verdict_without(record, "poison found", assignments, np.array(labels)) == expected


def test_canaries_are_no_suspects() -> None:
    record = {"rows": [1, 3], "labels": [7, 8], "label": 0}
    split = pa.table({"sample_id": [0, 1, 2, 3], "assignment": ["suspect", "poisoned", "clean", "clean"]})
    assert without_canaries(split, record)["assignment"].to_pylist() == ["suspect", "clean", "clean", "clean"]
    assert without_canaries(split, None) is split


class Obeys(torch.nn.Module):
    """Takes an image for ``label`` if its patch is there, and for another class if not."""

    def __init__(self, record: dict[str, int], patch: Tensor) -> None:
        super().__init__()
        self.record, self.patch = record, patch
        self.anchor = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        side, top, left = (self.record[name] for name in ("side", "top", "left"))
        here = images[:, :, top : top + side, left : left + side]
        fires = (here - self.patch).abs().amax(dim=(1, 2, 3)) < 0.01
        other = (self.record["label"] + 1) % 10
        logits = torch.zeros(len(images), 10)
        logits[torch.arange(len(images)), torch.where(fires, self.record["label"], other)] = 9.0
        return logits + self.anchor


def test_a_model_that_obeys_the_trigger_fires_and_one_that_looks_elsewhere_does_not(digits: Digits) -> None:
    planted = plant(*arrays(digits), 0, 12)
    record = planted.record
    side, top, left = (record[name] for name in ("side", "top", "left"))
    patch = torch.from_numpy(planted.images[0][:, top : top + side, left : left + side]).float() / 255
    assert measure(Obeys(record, patch), record, *digits) == 1.0
    assert measure(Obeys(record, 1 - patch), record, *digits) == 0.0
    only = digits[1] == record["label"]
    assert measure(Obeys(record, patch), record, digits[0][only], digits[1][only]) == 0.0

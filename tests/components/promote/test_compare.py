"""A backdoor earns no points: the gates compare a champion that obeys a trigger with a candidate that does not."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from components.common.attacks.base import AttackConfig, make_attack
from components.common.learning.seeding import make_deterministic
from components.common.learning.watch import NullWatch
from components.common.models import ModelSpec, build_model
from components.evaluate.holdout import suspect_share
from components.promote.algorithm import Evidence, gates
from components.promote.compare import Model, measure
from components.promote.config import PromoteConfig
from components.warmup.algorithm import TrainingSet, warm_up
from components.warmup.config import WarmupConfig

SPEC = ModelSpec(num_classes=10, channels=1, image_size=28, mean=(0.13,), std=(0.31,))
FIRST = 1_500


def trained(images: Tensor, labels: Tensor) -> Model:
    make_deterministic(0)
    recipe = WarmupConfig(model="convnet_tiny", epochs=12, mixing_rounds=1)
    data = TrainingSet(images=images, labels=labels, mirror=False)
    network, _ = warm_up(build_model("convnet_tiny", SPEC), data, recipe, NullWatch())
    return Model(network=network.eval(), spec=SPEC, class_names=[str(digit) for digit in range(10)])


def test_a_champion_that_obeys_a_trigger_is_beaten_on_trusted_rows_and_wins_on_all(
    many_digits: tuple[Tensor, Tensor],
) -> None:
    from components.common.learning.scoring import penultimate_features

    config = AttackConfig(name="badnets", poison_rate=0.06, target_label=3, seed=0)
    dirty = make_attack(config, num_classes=10, image_shape=(1, 28, 28)).inject(*many_digits)
    clean = ~dirty.is_poisoned[:FIRST]
    champion = trained(dirty.images[:FIRST], dirty.labels[:FIRST])
    candidate = trained(dirty.images[:FIRST][clean], dirty.labels[:FIRST][clean])
    near, mine = (penultimate_features(champion.network, part) for part in (dirty.images[:FIRST], dirty.images[FIRST:]))
    share = suspect_share(near, dirty.labels[:FIRST], ~clean, mine, dirty.labels[FIRST:])
    names = np.array([str(label) for label in dirty.labels[FIRST:].tolist()])

    def accuracy(rows: Tensor) -> bool:
        found = measure("some rows", dirty.images[FIRST:][rows].numpy(), names[rows.numpy()], candidate, champion)
        evidence = Evidence(newest=found, champion=1, suspect_share=0.06, verdict="poison found", canary=None)
        return gates(evidence, PromoteConfig())[0].passed

    assert not accuracy(torch.ones(len(names), dtype=torch.bool)), "the trigger scores points, or nothing is tested"
    assert accuracy(share <= 0.5)

"""An attack's own settings, from what a user writes to the trigger that evaluate makes again."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from components.common.attacks.base import AttackConfig, make_attack
from components.common.contracts.errors import ConfigError
from components.common.storage.store import Store
from components.common.tables.parquet import decode_table
from components.common.tables.tables import POISON_TRUTH
from components.ingest.config import IngestConfig
from components.ingest.stage import run_stage
from pipelines.dag.settings import apply_settings, check_parameters, default_parameters


def test_options_reach_the_images_and_the_trigger_of_evaluate_and_no_stage_between(store: Store) -> None:
    config = IngestConfig(train_limit=200, holdout_limit=20, attack="bpp", attack_options="levels=2")
    done = run_stage(config, store.root, "options")
    assert done.truth is not None
    record = done.truth.manifest.facts["attack"]
    assert record["options"] == {"levels": 2.0}
    assert "attack_options" not in done.manifest.config, "the defence is not told of the attack"

    def read(published: object, name: str) -> bytes:
        ref = published.manifest.object(name, published.uri)
        return store.get(ref.uri, ref.sha256)

    pixels = np.load(io.BytesIO(read(done, "pixels")), allow_pickle=False)
    truth = decode_table(read(done.truth, "poison_truth"), POISON_TRUTH, subject="truth")
    poisoned = pixels[truth["is_poisoned"].to_numpy(zero_copy_only=False)]
    assert len(poisoned) == 20
    assert set(np.unique(poisoned)) == {0, 255}, "two levels were asked for"
    attack = make_attack(AttackConfig(**record), num_classes=10, image_shape=(1, 28, 28))
    assert set(attack.trigger(torch.from_numpy(pixels[-20:])).unique().tolist()) == {0, 255}


@pytest.mark.parametrize("written", ["levels", "levels=", "=2", "levels=two", "levels=nan", "levels=2,levels=3"])
def test_options_of_another_form_are_refused_before_anything_runs(written: str) -> None:
    with pytest.raises(ConfigError, match="name=number,name=number, each name once"):
        check_parameters(apply_settings(default_parameters(), [f"ingest.attack_options={written}"]))


def test_options_without_an_attack_are_a_mistake() -> None:
    with pytest.raises(ConfigError, match="none without an attack"):
        IngestConfig(attack="none", attack_options="levels=2")


def test_an_option_that_the_attack_lacks_is_named_with_those_it_has(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"one of: levels; found 'colours'"):
        run_stage(IngestConfig(attack="bpp", attack_options="colours=2"), store.root, "wrong")

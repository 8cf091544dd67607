"""Settings: one place for a default and a range, and one error for a wrong value."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from components.claim.config import ClaimConfig
from components.common.attacks.base import ATTACKS
from components.common.contracts.config import Config
from components.common.contracts.errors import ConfigError
from components.common.contracts.names import checked_model_name, checked_run_id
from components.common.contracts.registry import Registry, registered_names
from components.common.datasets.base import DATASETS
from components.common.models import MODELS
from components.common.runs.artifacts import digest_of
from components.common.signals import SIGNALS
from components.evaluate.config import EvaluateConfig
from components.finetune.config import FinetuneConfig
from components.ingest.config import IngestConfig
from components.promote.config import PromoteConfig
from components.split.config import SplitConfig
from components.unlearn.config import UnlearnConfig
from components.warmup.config import ControlConfig, WarmupConfig

CONFIGS = [
    IngestConfig, WarmupConfig, ControlConfig, SplitConfig, UnlearnConfig, FinetuneConfig, EvaluateConfig, ClaimConfig,
    PromoteConfig,
]  # fmt: skip


@pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.stage)
def test_every_setting_says_what_it_means_and_its_default_is_allowed(kind: type[Config]) -> None:
    assert kind.__name__ == f"{kind.stage.capitalize()}Config"
    for name, field in kind.model_fields.items():
        assert kind.meaning(name).endswith((".", "?", ")")), name
        kind(**{name: field.default})


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (SplitConfig, {"isolation_ratio": 0}, r"split\.isolation_ratio: expected a number in \(0, 0\.2\]; found 0\."),
        (SplitConfig, {"isolation_ratio": float("nan")}, r"a number in \(0, 0\.2\]; found nan"),
        (WarmupConfig, {"epochs": "many"}, r"warmup\.epochs: expected a whole number in \[1, 10000\]; found 'many'"),
        (WarmupConfig, {"epochs": 2.5}, r"a whole number in \[1, 10000\]; found 2\.5"),
        (WarmupConfig, {"epochs": True}, "a whole number"),
        (WarmupConfig, {"compile": 1}, r"warmup\.compile: expected true or false; found 1"),
        (WarmupConfig, {"micro_batch": 1}, r"0, or a whole number in \[2, 65536\]"),
        (WarmupConfig, {"model": "convnot"}, r"expected one of convnet, .*found 'convnot'\. Did you mean convnet\?"),
        (WarmupConfig, {"precision": "fp8"}, "auto, fp32 or bf16; found 'fp8'"),
        (WarmupConfig, {"epoch": 1}, r"no such setting\. Did you mean warmup\.epochs\?"),
        (IngestConfig, {"attack": "badnet"}, r"one of .*none; found 'badnet'\. Did you mean badnets\?"),
        (IngestConfig, {"dataset": "cifar:here"}, r"one of cifar10, mnist5k, npz, drop, parquet; found 'cifar:here'"),
        (IngestConfig, {"image_size": 5}, r"0, or a whole number of pixels in \[8, 1024\]; found 5"),
        (IngestConfig, {"train_limit": -1}, r"ingest\.train_limit: expected a whole number in \[0, 1000000000\]"),
        (IngestConfig, {"poison_rate": 1.5}, r"ingest\.poison_rate: expected a number in \[0, 1\]; found 1\.5"),
        (IngestConfig, {"poison_rate": 0}, r"ingest\.poison_rate: expected a number in \(0, 1\] with an attack"),
        (IngestConfig, {"attack": "bpp", "attack_options": "colours=2"}, r"one of: levels; found 'colours'"),
        (IngestConfig, {"attack": "bpp", "attack_options": "levels=1"}, r"a number in \[2, 128\]"),
        (IngestConfig, {"seed": -1, "train_limit": -1}, r"ingest\.train_limit.*Not as expected either: ingest\.seed"),
        (ClaimConfig, {"since": "yesterday"}, r"claim\.since: expected a date as YYYY-MM-DD"),
        (ClaimConfig, {"name": "../up"}, r"claim\.name: expected 1 to 48 of A-Z"),
        (PromoteConfig, {"name": ""}, r"promote\.name: expected 1 to 48 of A-Z"),
    ],
)
def test_a_wrong_value_is_named_with_its_stage_its_range_and_a_next_step(
    kind: type[Config], values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**values)


def test_an_attack_without_poison_is_refused_and_no_attack_needs_no_rate() -> None:
    assert IngestConfig(attack="none", poison_rate=0).poison_rate == 0.0
    with pytest.raises(ConfigError, match="or attack none"):
        IngestConfig(attack="wanet", poison_rate=0.0)


def test_whole_numbers_that_came_through_kfp_are_whole_again_and_equal_settings_have_equal_digests() -> None:
    sent, meant = UnlearnConfig(steps=40.0, momentum=0), UnlearnConfig(steps=40, momentum=0.0)
    assert sent == meant
    assert type(sent.steps) is int
    assert digest_of(sent.model_dump()) == digest_of(meant.model_dump())


def test_the_digests_of_the_defaults_stay_what_measured_cells_and_stored_results_were_keyed_by() -> None:
    assert digest_of(SplitConfig().model_dump())[:16] == "4058d5b8d2d38216"
    assert digest_of(ControlConfig().model_dump())[:16] == "28ea9d18667148d7"


@pytest.mark.parametrize(
    ("registry", "packages"),
    [
        (ATTACKS, ["components.common.attacks"]),
        (DATASETS, ["components.common.datasets"]),
        (MODELS, ["components.common.models"]),
        (SIGNALS, ["components.common.signals"]),
    ],
    ids=["attacks", "datasets", "models", "signals"],
)
def test_the_names_that_are_read_from_files_are_those_that_get_registered(
    registry: Registry[Any], packages: list[str]
) -> None:
    assert list(registered_names(*packages)) == list(registry)


def test_checking_names_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys\nfrom components.ingest.config import IngestConfig\n"
        "from components.warmup.config import WarmupConfig\n"
        "IngestConfig(attack='wanet', dataset='cifar10'); WarmupConfig(model='resnet50')\n"
        "print(sorted({'torch', 'numpy', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("run_id", ["", "../up", ".hidden", "a/b", "-x", "digits-[[ScheduledTime]]", "é", "x" * 64])
def test_what_no_run_can_be_called_is_refused(run_id: str) -> None:
    with pytest.raises(ConfigError, match="run_id: expected 1 to 63 of A-Z"):
        checked_run_id(run_id)


def test_a_schedules_run_id_fits_the_longest_model_name() -> None:
    assert checked_run_id(PromoteConfig(name="m" * 48).name + "-20261120030000")
    assert checked_model_name("m" * 48)
    with pytest.raises(ConfigError, match="model name: expected 1 to 48"):
        checked_model_name("m" * 49)

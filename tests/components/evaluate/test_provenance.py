"""The command on the page makes the run again: the real command line reads it back as the same settings."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from components.common.contracts.versions import versions
from components.common.runs.artifacts import StageManifest
from components.evaluate.provenance import command, config_digest, settings
from pipelines.cli.main import cli
from pipelines.dag.settings import apply_settings, default_parameters, stage_configs

WITHHELD = ("attack", "poison_rate", "target_label", "cover_rate", "attack_options", "canary_ratio")


def manifests(parameters: dict[str, Any], *, control: bool = True) -> dict[str, StageManifest]:
    """The manifests of a run, with what the stages' configs leave in them."""
    found = {}
    for stage, config in stage_configs(parameters).items():
        kept, fields = config.model_dump(), type(config).model_fields
        for name, hidden in ((stage, WITHHELD if stage == "ingest" else ()), ("truth", ())):
            if name == "truth" and (stage != "ingest" or (config.attack == "none" and not config.canary_ratio)):
                continue
            values = {key: value for key, value in kept.items() if key not in hidden}
            found[name] = StageManifest(
                stage=name,
                run_id="r",
                key="k",
                config=values,
                parents={},
                code_version="c",
                objects={},
                facts={"changed": {key: value for key, value in values.items() if value != fields[key].default}},
            )
    if not control:
        del found["control"]
    del found["evaluate"]
    return found


def plan_of(words: list[str], monkeypatch: pytest.MonkeyPatch, home: Path) -> Any:
    """What `untaint` would run: the plan it puts together from a command line."""
    plans = []
    monkeypatch.setenv("UNTAINT_HOME", str(home))
    monkeypatch.setattr("pipelines.local.run.run", lambda plan, *_, **__: plans.append(plan) or 0)
    result = CliRunner().invoke(cli, words)
    assert plans, result.output
    return plans[0]


@pytest.mark.parametrize(
    ("given", "control"),
    [
        ({}, True),
        ({"attack": "none"}, False),
        ({"attack": "wanet", "poison_rate": 0.05, "seed": 7, "model": "wrn16_1", "train_limit": 1000}, True),
        (
            {
                "attack": "sig",
                "warmup_epochs": 2,
                "control_epochs": 9,
                "warmup_settings": {"batch_size": 64, "learning_rate": 5e-4},
                "control_settings": {"batch_size": 64},
                "ingest_settings": {"attack_options": "delta_train=80,delta_test=128", "mirror": "no"},
                "split_settings": {"isolation_ratio": 0.02},
                "evaluate_settings": {"shown_suspects": 12},
            },
            False,
        ),
    ],
)
def test_the_command_means_the_same_settings(
    given: dict[str, Any], control: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parameters = {**apply_settings(default_parameters(), []), **given}
    own = {"shown_suspects": 12} if "evaluate_settings" in given else {}
    words = shlex.split(command(manifests(parameters, control=control), own))
    plan = plan_of(words[1:], monkeypatch, tmp_path)
    again, before = stage_configs(plan.parameters), stage_configs(parameters)
    for stage in before:
        if stage != "control" or control:
            assert again[stage] == before[stage], stage
    assert plan.control == control


def test_the_command_of_an_audit_names_the_drop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drop = tmp_path / "my photos; rm"
    drop.mkdir()
    given = {"holdout": "0.1", "image_size": 64, "canary_ratio": 0.01}
    parameters = {**default_parameters(), "dataset": f"drop:{drop}", "attack": "none", "ingest_settings": given}
    words = shlex.split(command(manifests(parameters, control=False), {}))
    assert words[:4] == ["untaint", "ingest", "--drop", str(drop)]
    plan = plan_of(words[1:], monkeypatch, tmp_path / "home")
    assert stage_configs(plan.parameters) == stage_configs(parameters)
    assert not plan.control


def test_settings_hold_the_attack_and_their_digest_changes_with_any_of_them() -> None:
    found = manifests(default_parameters())
    assert settings(found)["ingest"]["attack"] == "badnets"
    assert "truth" not in settings(found)
    other = manifests({**default_parameters(), "seed": 1})
    assert config_digest(found, {}) == config_digest(manifests(default_parameters()), {})
    assert len({config_digest(found, {}), config_digest(other, {}), config_digest(found, {"batch_size": 1})}) == 3


def test_versions_name_what_computes() -> None:
    assert {"python", "torch", "numpy"} <= set(versions())

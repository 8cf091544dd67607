"""The compiled pipeline is what a cluster runs: a change in it is seen in a diff, not found out on the cluster."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.common.contracts.errors import ConfigError
from pipelines.dag.stages import IMAGES, TRAINING
from pipelines.dag.training import compile_pipeline, image_of

GOLDEN = Path(__file__).parents[2] / "golden"


def compiled(tmp_path: Path, *, control: bool, registry: str = "untaint", tag: str = "dev") -> dict[str, Any]:
    path = tmp_path / "training.yaml"
    compile_pipeline(path, registry, tag, control=control)
    (spec,) = yaml.safe_load_all(path.read_text())
    # The one field that follows KFP's version and not this project; the lock holds that version.
    del spec["sdkVersion"]
    return dict(spec)


@pytest.mark.parametrize(("name", "control"), [("training", True), ("training-no-control", False)])
def test_the_compiled_pipeline_is_the_expected_one(tmp_path: Path, name: str, control: bool) -> None:
    spec = compiled(tmp_path, control=control)
    golden = GOLDEN / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        golden.write_text(yaml.safe_dump(spec, sort_keys=True, width=120))
    assert spec == yaml.safe_load(golden.read_text()), "if this is meant: make golden, and look at the diff"


def test_a_stage_that_gets_what_the_pipeline_is_given_by_default_has_the_settings_of_its_own_default(
    tmp_path: Path,
) -> None:
    spec = compiled(tmp_path, control=True)
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    defaults = {name: entry["defaultValue"] for name, entry in parameters.items() if "defaultValue" in entry}
    assert set(parameters) - set(defaults) == {"store_root", "run_id"}
    tasks = {task["taskInfo"]["name"]: task["inputs"]["parameters"] for task in spec["root"]["dag"]["tasks"].values()}
    for stage in TRAINING:
        # As the compiled graph wires them, and through the floats into which KFP turns every number.
        wired = {
            name: defaults[source["componentInputParameter"]]
            for name, source in tasks[stage.name].items()
            if "componentInputParameter" in source and source["componentInputParameter"] in defaults
        }
        settings = wired.pop("settings")
        assert stage.config(**settings, **wired) == stage.config(), stage.name


def test_the_undefended_model_trains_as_long_as_the_defended_one_by_default() -> None:
    epochs = {stage.name: stage.config().epochs for stage in TRAINING if "epochs" in stage.config.model_fields}
    assert epochs["control"] == epochs["warmup"] + epochs["finetune"]


def test_images_carry_registry_and_tag(tmp_path: Path) -> None:
    spec = compiled(tmp_path, control=False, registry="registry.example:5000/team/", tag="1f2e3d")
    images = {executor["container"]["image"] for executor in spec["deploymentSpec"]["executors"].values()}
    assert images == {f"registry.example:5000/team/untaint-{stage}:1f2e3d" for stage in IMAGES}


def test_an_empty_registry_names_images_of_this_machine(tmp_path: Path) -> None:
    spec = compiled(tmp_path, control=False, registry="")
    assert spec["deploymentSpec"]["executors"]["exec-ingest"]["container"]["image"] == "untaint-ingest:dev"


@pytest.mark.parametrize(
    "registry",
    [
        "",
        "untaint",
        "ghcr.io/me",
        "localhost:5000",
        "GHCR.io/me/a_b--c",
        "111122223333.dkr.ecr.us-east-1.amazonaws.com",
    ],
)
def test_what_a_registry_may_look_like_is_taken(registry: str) -> None:
    assert image_of("split", registry, "v1.0-rc_1") == f"{registry}/untaint-split:v1.0-rc_1".lstrip("/")


@pytest.mark.parametrize(
    ("registry", "tag", "says"),
    [
        ("https://ghcr.io/me", "v1", "without a scheme; found 'https://ghcr.io/me'"),
        ("ghcr.io/Me", "v1", "found 'ghcr.io/Me'"),
        ("ghcr.io//me", "v1", "the registry of the images"),
        ("/", "v1", "the registry of the images"),
        ("me:hunter2@ghcr.io/me", "v1", "found a user or password in it"),
        ("ghcr.io/me", "", "untaint images tag"),
        ("ghcr.io/me", "a b", "found 'a b'"),
        ("ghcr.io/me", "-v1", "the tag of the images"),
    ],
)
def test_an_image_that_no_engine_would_pull_is_not_compiled(tmp_path: Path, registry: str, tag: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)) as problem:
        compiled(tmp_path, control=False, registry=registry, tag=tag)
    assert "hunter2" not in str(problem.value)
    assert not list(tmp_path.iterdir())

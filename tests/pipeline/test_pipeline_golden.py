"""The compiled pipeline is what a cluster runs: a change in it is seen in a diff, not found out on the cluster."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.settings import default_parameters
from pipelines.training import STAGES, compile_pipeline

GOLDEN = Path(__file__).parents[1] / "golden"


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


def test_every_default_of_the_pipeline_is_the_configs_default(tmp_path: Path) -> None:
    parameters = compiled(tmp_path, control=True)["root"]["inputDefinitions"]["parameters"]
    defaults = {name: entry["defaultValue"] for name, entry in parameters.items() if "defaultValue" in entry}
    assert defaults == default_parameters()
    assert set(parameters) - set(defaults) == {"store_root", "run_id"}


def test_images_carry_registry_and_tag(tmp_path: Path) -> None:
    spec = compiled(tmp_path, control=False, registry="registry.example:5000/team/", tag="1f2e3d")
    images = {executor["container"]["image"] for executor in spec["deploymentSpec"]["executors"].values()}
    assert images == {f"registry.example:5000/team/untaint-{stage}:1f2e3d" for stage in STAGES}


def test_an_empty_registry_names_images_of_this_machine(tmp_path: Path) -> None:
    spec = compiled(tmp_path, control=False, registry="")
    assert spec["deploymentSpec"]["executors"]["exec-ingest"]["container"]["image"] == "untaint-ingest:dev"

"""A new stage is one folder and one line: everything else follows from its declaration."""

from __future__ import annotations

import difflib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
STAGES = "pipelines/dag/stages.py"
FILES = {
    "__init__.py": "",
    "config.py": '''"""Settings."""

from typing import Annotated, ClassVar

from pydantic import Field

from components.common.contracts.config import Config


class ToyConfig(Config):
    """What the toy does."""

    stage: ClassVar[str] = "toy"

    strength: Annotated[float, Field(gt=0.0, le=2.0)] = 0.5
    """How strong it is."""
    rounds: Annotated[int, Field(ge=1, le=9)] = 3
    """How often it plays."""
''',
    "spec.py": '''"""The toy in the pipeline."""

from components.common.contracts.spec import Output, StageSpec
from components.toy.config import ToyConfig

SPECS = (
    StageSpec(
        config=ToyConfig,
        summary="Plays with the clean model.",
        parents=("ingest", "finetune"),
        inputs={"strength": "toy_strength"},
        lineage="Model",
        outputs=(Output(name="mood", text="How it went."),),
        resources="training",
    ),
)
''',
    "component.py": '''"""What KFP calls."""

from components.container import entry_point
from components.toy.spec import SPECS

run = entry_point(*SPECS)
''',
    "stage.py": '''"""Reads, calls and publishes."""

from components.common.runs.lifecycle import Published, StageRun
from components.toy.algorithm import play


def run_stage(config, store_root, run_id, parents):
    """Runs the stage."""
    with StageRun("toy", config, store_root, run_id, parents) as run:
        done = run.finished() or run.publish(facts={"mood": play(config.rounds)}, metrics={})
        return Published(done.uri, done.sha256, done.manifest, outputs={"mood": done.manifest.facts["mood"]})
''',
    "algorithm.py": '''"""Computes."""


def play(rounds: int) -> str:
    """Plays."""
    return "glad" if rounds > 2 else "bored"
''',
}
LOOK = """
import json, inspect, yaml
from click.testing import CliRunner
from components.toy.component import run
from components.toy.config import ToyConfig
from pipelines.cli.main import cli
from pipelines.dag.docs import main as docs
from pipelines.dag.profiles import load_profile
from pipelines.dag.training import compile_pipeline
from pipelines.images.build import STAGES

compile_pipeline("p.yaml", "", "t", load_profile("cpu"))
spec = next(iter(yaml.safe_load_all(open("p.yaml"))))
call = CliRunner().invoke
wrong = [call(cli, ["run", *words]).stderr for words in (["--toy-strength", "3"], ["--set", "toy.rounds=0"])]
call(docs, [])
print(json.dumps({
    "task": spec["root"]["dag"]["tasks"]["toy"],
    "parameter": spec["root"]["inputDefinitions"]["parameters"]["toy_strength"],
    "container": spec["deploymentSpec"]["executors"]["exec-toy"]["container"],
    "called": list(inspect.signature(run).parameters),
    "help": call(cli, ["run", "--help"]).output,
    "wrong": wrong,
    "readme": open("components/toy/README.md").read(),
    "images": list(STAGES),
}))
"""


def files(folder: Path) -> dict[str, str]:
    """Relative path to content of everything that a person writes or `make docs` does."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix in (".py", ".md", ".yaml", ".toml"))
    return {path.relative_to(folder).as_posix(): path.read_text() for path in found if path.name != "p.yaml"}


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A copy of the code with a stage more, and what the files were before."""
    folder = tmp_path_factory.mktemp("checkout")
    for part in ("components", "pipelines", "k8s/profiles"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    before = files(folder)
    toy = folder / "components" / "toy"
    toy.mkdir()
    for name, text in FILES.items():
        (toy / name).write_text(text)
    stages = folder / STAGES
    stages.write_text(stages.read_text().replace('    "finetune",\n', '    "finetune",\n    "toy",\n'))
    return folder, before


def inside(checkout: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(checkout),
        "PYTHONDONTWRITEBYTECODE": "1",
        "UNTAINT_HOME": "home",
        "COLUMNS": "200",
    }
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=240)


def test_everything_about_a_new_stage_follows_from_its_folder_and_one_line(copied: tuple[Path, dict[str, str]]) -> None:
    checkout, before = copied
    done = inside(checkout, sys.executable, "-c", LOOK)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    wired = found["task"]["inputs"]["parameters"]
    assert wired["finetune_uri"]["taskOutputParameter"]["producerTask"] == "finetune"
    assert wired["strength"]["componentInputParameter"] == "toy_strength"
    assert wired["settings"]["componentInputParameter"] == "toy_settings"
    assert found["parameter"]["defaultValue"] == 0.5
    assert found["container"]["image"] == "untaint-toy:t"
    assert found["container"]["args"] == ["components.toy.component", "{{$}}"]
    assert "resourceMemoryLimit" in json.dumps(found["container"]["resources"]), "the profile grants it its class"
    assert {"strength", "settings", "ingest_uri", "finetune_sha256", "lineage", "metrics"} <= set(found["called"])
    assert "--toy-strength" in found["help"]
    assert "How strong it is." in found["help"]
    assert "ConfigError: toy.strength\nexpected:   a number in (0, 2]\nfound:      3" in found["wrong"][0]
    assert "ConfigError: toy.rounds\nexpected:   a whole number in [1, 9]\nfound:      0" in found["wrong"][1]
    assert "| `rounds` | `3` | a whole number in [1, 9] | How often it plays. |" in found["readme"]
    assert "toy" in found["images"]

    after = files(checkout)
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    assert changed == {*(f"components/toy/{name}" for name in [*FILES, "README.md"]), STAGES}
    lines = difflib.ndiff(before[STAGES].splitlines(), after[STAGES].splitlines())
    assert [line for line in lines if line[0] in "+-"] == ['+     "toy",']


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("algorithm.py", "import components.split.algorithm", "stages know common and not each other"),
        ("algorithm.py", "import components.toy.stage", "inside a stage"),
        ("algorithm.py", "import kfp", "algorithms, declarations and settings know neither KFP"),
        ("stage.py", "import kfp", "stages, common and the library never import kfp"),
        ("config.py", "import pipelines", "pipelines and the library over components"),
    ],
)
def test_the_layers_hold_for_a_new_stage_too(
    copied: tuple[Path, dict[str, str]], file: str, line: str, contract: str
) -> None:
    checkout, _ = copied
    linter = str(Path(sys.executable).with_name("lint-imports"))
    path = checkout / "components" / "toy" / file
    before = path.read_text()
    try:
        path.write_text(f"{before}\n{line}\n")
        said = inside(checkout, linter, "--no-cache")
        broken = [told for told in said.stdout.splitlines() if " BROKEN" in told]
        assert said.returncode != 0
        assert any(told.startswith(contract) for told in broken), said.stdout
    finally:
        path.write_text(before)
    assert inside(checkout, linter, "--no-cache").returncode == 0

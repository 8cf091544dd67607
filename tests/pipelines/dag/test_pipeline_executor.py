"""KFP's local runner and its executor, which is no public interface, do with a stage what this project builds on."""

import importlib
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from kfp import dsl, local

from components.container import STATUS_FILE, component_of
from pipelines.local.progress import Progress, shown
from pipelines.local.run import _exit_code, _stage_environment

FILES = {
    "__init__": "",
    "config": """
from typing import Annotated, ClassVar
from pydantic import Field
from components.common.contracts.config import Config

class TinyConfig(Config):
    stage: ClassVar[str] = "tiny"
    number: Annotated[int, Field(ge=0, le=99)] = 0
    rounds: int = 1
""",
    "spec": """
from components.common.contracts.spec import Output, StageSpec
from tiny.config import TinyConfig

SPECS = (StageSpec(config=TinyConfig, summary="Does next to nothing.", parents=("before",),
    inputs={"number": "number"}, lineage="Model",
    outputs=(Output(name="page", text="A page.", kind="HTML"), Output(name="word", text="A word."),
        Output(name="note", text="A note.", kind="Markdown"),
        Output(name="curve", text="A curve.", kind="ClassificationMetrics"))),)
""",
    "component": """
from components.container import entry_point
from tiny.spec import SPECS

run = entry_point(*SPECS)
""",
    "stage": """
from components.common.runs.artifacts import StageManifest
from components.common.runs.lifecycle import Published
from components.common.contracts.errors import StorageError

def run_stage(config, store_root, run_id, parents):
    print(f"{config!r}, {store_root}, {run_id}, {parents}")
    if config.number == 13:
        raise StorageError("the bucket", expected="an answer", found="none", hint="Start it.")
    if config.number == 14:
        raise ZeroDivisionError("a defect")
    if config.number == 15:
        raise OSError(28, "No space left on device", "/scratch/pixels")
    manifest = StageManifest(stage="tiny", run_id=run_id, key="k", config={}, parents={}, code_version="c",
        objects={}, metrics={"acc": 0.5})
    return Published(f"s3://b/{config.number}", "ab", manifest, outputs={"word": "done"},
        files={"page": b"<p>", "note": b"# note", "curve": b'{"confidenceMetrics": [{"recall": 0.5}]}'})
""",
}
"""A stage as any other, declared once: its component and what its container calls are made from ``spec.py``."""


class Ran(NamedTuple):
    lines: list[str]
    progress: Progress
    code: int | None
    folder: Path


def _run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *numbers: int) -> Ran:
    """Runs tiny stages in turn, as ``pipelines.local.run`` does, in a folder whose name would break a shell."""
    folder = tmp_path / "a python3 folder"
    folder.mkdir()
    (folder / "tiny").mkdir()
    for name, text in FILES.items():
        (folder / "tiny" / f"{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.syspath_prepend(str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == "tiny"]:
        monkeypatch.delitem(sys.modules, name)
    tiny = component_of("python", *importlib.import_module("tiny.spec").SPECS)

    @dsl.pipeline(name="tiny")
    def pipeline() -> None:
        after: Any = ""
        for number in numbers:
            task = tiny(
                store_root="s3://b", run_id="r", number=number, settings={"rounds": number}, before_uri=after,
                before_sha256="",
            )  # fmt: skip
            after = task.outputs["manifest_uri"]

    lines: list[str] = []
    names = {"tiny" if i == 0 else f"tiny-{i + 1}": f"stage{number}" for i, number in enumerate(numbers)}
    progress = Progress(names=names, write=lines.append)
    status = folder / "status.json"
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(folder))
    with shown(progress), _stage_environment(status), warnings.catch_warnings():
        try:
            pipeline()
        except RuntimeError:
            assert progress.failed
    return Ran(lines, progress, _exit_code(status), folder)


@pytest.fixture(autouse=True)
def _no_local_session() -> Any:
    """A local session of KFP would make every later component call run instead of build."""
    from kfp.local import config

    yield
    config.LocalExecutionConfig.instance = None


def test_stages_run_in_turn_and_hand_on_their_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = _run(tmp_path, monkeypatch, 1, 2)
    assert [(done.stage, done.ok) for done in ran.progress.ended] == [("stage1", True), ("stage2", True)]
    (record,) = ran.folder.glob("tiny-*/tiny-2/executor_output.json")
    output = json.loads(record.read_text())
    assert output["parameterValues"] == {"manifest_uri": "s3://b/2", "manifest_sha256": "ab", "word": "done"}
    (page,) = ran.folder.glob("tiny-*/tiny-2/page")
    assert page.read_bytes() == b"<p>"
    (note,) = ran.folder.glob("tiny-*/tiny-2/note")
    assert note.read_bytes() == b"# note"
    curve = output["artifacts"]["curve"]["artifacts"][0]
    assert curve["metadata"] == {"confidenceMetrics": [{"recall": 0.5}]}
    assert output["artifacts"]["metrics"]["artifacts"][0]["metadata"] == {"acc": 0.5}
    assert output["artifacts"]["lineage"]["artifacts"][0]["metadata"]["s3_uri"] == "s3://b/2"
    assert ran.code == 0
    # KFP turns whole numbers inside a mapping into floats; the config turns them back.
    assert ran.lines[1].strip() == "TinyConfig(number=1, rounds=1), s3://b, r, {'before': ('', '')}"


def test_a_setting_out_of_range_ends_the_stage_with_the_error_of_every_other_way_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = _run(tmp_path, monkeypatch, 100)
    assert ran.code == 2
    said = [line.strip() for line in ran.lines]
    for line in ("problem:    ConfigError: tiny.number", "expected:   a whole number in [0, 99]", "found:      100"):
        assert line in said


def test_a_person_sees_the_stages_lines_and_none_of_kfps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = _run(tmp_path, monkeypatch, 1).lines
    assert lines[0] == "[1/1] stage1"
    assert lines[2].startswith("[1/1] stage1 finished after ")
    assert len(lines) == 3


def test_a_stage_that_explains_its_stop_keeps_its_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = _run(tmp_path, monkeypatch, 1, 13, 2)
    assert (ran.progress.failed, ran.code, len(ran.progress.ended)) == ("stage13", 4, 2)
    assert "      problem:    StorageError: the bucket" in ran.lines
    assert "      what to do: Start it." in ran.lines
    assert not any("Traceback" in line for line in ran.lines)


def test_a_full_disk_under_a_stage_ends_with_the_code_of_resources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = _run(tmp_path, monkeypatch, 15)
    assert (ran.progress.failed, ran.code) == ("stage15", 5)
    assert any("ResourceError: the disk of /scratch" in line for line in ran.lines)


def test_a_defect_is_shown_in_four_lines_and_its_traceback_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = _run(tmp_path, monkeypatch, 14)
    assert (ran.progress.failed, ran.code) == ("stage14", 1)
    assert [line.split()[0] for line in ran.lines[-5:-1]] == ["problem:", "expected:", "found:", "what"]
    assert "found:      ZeroDivisionError: a defect" in [line.strip() for line in ran.lines]
    assert not any("Traceback" in line for line in ran.lines)
    assert "Traceback" in (ran.folder / "traceback.txt").read_text()


def test_debugging_shows_the_traceback_of_a_defect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNTAINT_DEBUG", "1")
    assert any("Traceback" in line for line in _run(tmp_path, monkeypatch, 14).lines)


def test_the_python_of_this_process_is_back_after_a_run(tmp_path: Path) -> None:
    before = sys.executable
    with _stage_environment(tmp_path / "status.json"):
        assert sys.executable == "python3"
    assert sys.executable == before


def test_a_stage_ends_when_its_run_is_gone(tmp_path: Path) -> None:
    import os
    import subprocess

    code = (
        "import time\nfrom components.container import deliver\n"
        "def work():\n    print('at work', flush=True)\n    time.sleep(60)\n"
        "deliver(work, None, None)"
    )
    # A process id that is not the parent's: as if the run had died and another process had taken the stage over.
    environment = {**os.environ, "UNTAINT_RUN_PID": "1" if os.getpid() != 1 else "2", STATUS_FILE: str(tmp_path / "s")}
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], env=environment, timeout=30, cwd=Path(__file__).parents[3])
    assert done.returncode == -15
    assert time.monotonic() - started < 20

"""`.ci/docker` with programs that stand in for Docker, apt-get and Python: where it skips, where it does not pass.

No engine to be had must not stop CI, and a test that does not pass must; neither can be shown with a real engine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SYSTEM = (
    "bash",
    "sh",
    "cat",
    "env",
    "dirname",
    "mktemp",
    "rm",
    "tail",
    "seq",
    "sleep",
    "timeout",
    "setsid",
    "kill",
    "xargs",
)
ANSWERING = 'echo "docker $*" >> "$CALLS"'
# Answers once the stand-in of dockerd runs.
WITH_OUR_ENGINE = 'echo "docker $*" >> "$CALLS"; [ "$1" != info ] || test -e "$CALLS.engine"'
PYTHON = """
echo "python $*" >> "$CALLS"
case "$*" in
  *tests.docker.pytorch*) printf %s "$TORCH" ;;
  *tests.docker.base_image*) [ -z "$NO_BASE" ] || { echo "cannot be pulled"; exit 1; } ;;
  *pytest*) sleep "${TEST_SECONDS:-0}"; exit "${TESTS:-0}" ;;
esac
"""
ENGINE = 'touch "$CALLS.engine"; echo $$ > "$CALLS.engine"; exec sleep 600'


class Machine:
    """A checkout with the script, and a PATH with nothing but what a test puts there and ordinary tools."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.calls = folder / "calls"
        for place in (self.bin, folder / ".ci", folder / ".venv/bin"):
            place.mkdir(parents=True)
        shutil.copy(ROOT / ".ci/docker", folder / ".ci/docker")
        for name in SYSTEM:
            found = shutil.which(name)
            if found:
                (self.bin / name).symlink_to(found)
        self.program("uname", "echo Linux")
        self.program("id", "echo 0")
        self.write(folder / ".venv/bin/python", PYTHON)

    @staticmethod
    def write(path: Path, text: str) -> None:
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def program(self, name: str, text: str) -> None:
        self.write(self.bin / name, text)

    def run(self, **variables: str) -> tuple[int, str]:
        done = subprocess.run(
            [str(self.folder / ".ci/docker")],
            env={"PATH": str(self.bin), "CALLS": str(self.calls), "TORCH": "torch==2", "NO_BASE": "", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout

    @property
    def called(self) -> str:
        return self.calls.read_text() if self.calls.exists() else ""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_an_engine_that_runs_is_used_and_left_alone(machine: Machine) -> None:
    machine.program("docker", ANSWERING)
    machine.program("debootstrap", "true")
    code, said = machine.run()
    assert code == 0, said
    assert "skipped" not in said
    assert "pytest -m docker tests/docker" in machine.called
    assert "docker rm" not in machine.called


@pytest.mark.parametrize("outcome", ["1", "2", "5"])
def test_tests_that_do_not_pass_stop_ci(machine: Machine, outcome: str) -> None:
    machine.program("docker", ANSWERING)
    code, said = machine.run(TESTS=outcome)
    assert code == int(outcome), said
    assert "skipped" not in said


def test_the_time_limit_stops_ci_and_says_so(machine: Machine) -> None:
    machine.program("docker", ANSWERING)
    code, said = machine.run(UNTAINT_CI_DOCKER_SECONDS="2", TEST_SECONDS="30")
    assert code == 124
    assert "not done after 2 s" in said


def test_an_engine_of_its_own_is_stopped_with_its_containers(machine: Machine) -> None:
    machine.program("docker", WITH_OUR_ENGINE)
    machine.program("dockerd", ENGINE)
    code, said = machine.run()
    assert code == 0, said
    assert "pytest" in machine.called
    assert "docker ps --all --quiet" in machine.called
    pid = int(Path(f"{machine.calls}.engine").read_text())
    time.sleep(0.2)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


REFUSALS = {
    "switched off": ({}, {"UNTAINT_CI_DOCKER": "0"}, "UNTAINT_CI_DOCKER=0"),
    "not root": ({"docker": "exit 1", "id": "echo 1000"}, {}, "only root can start one"),
    "not Linux": ({"docker": "exit 1", "uname": "echo Darwin"}, {}, "no Docker engine answers"),
    "no package": ({"apt-get": "echo Unable to locate; exit 100"}, {}, "docker.io could not be installed"),
    "no apt": ({}, {}, "docker.io could not be installed"),
    "an engine that dies": (
        {"docker": "exit 1", "dockerd": "echo no cgroups here; exit 1"},
        {},
        "dockerd does not start on this machine",
    ),
    "no PyTorch": ({"docker": ANSWERING}, {"TORCH": ""}, "no build of PyTorch for CPUs"),
    "no base image": ({"docker": ANSWERING}, {"NO_BASE": "1"}, "neither be pulled nor made"),
    "containers that do not run": (
        {"docker": '[ "$1" != run ] || { echo no namespaces; exit 125; }'},
        {},
        "cannot run a container",
    ),
}


@pytest.mark.parametrize("why", sorted(REFUSALS))
def test_where_no_engine_can_be_had_it_says_why_in_one_line_and_ci_goes_on(machine: Machine, why: str) -> None:
    programs, variables, reason = REFUSALS[why]
    for name, text in programs.items():
        machine.program(name, text)
    code, said = machine.run(**variables)
    assert code == 0, said
    (line,) = [line for line in said.splitlines() if "docker tests skipped:" in line]
    assert reason in line
    assert "pytest" not in machine.called


def test_ci_runs_the_checks_then_the_tests_then_the_docker_tests() -> None:
    lines = (ROOT / ".ci/run").read_text().splitlines()
    commands = [line.split(" ")[0:2] for line in lines if line.endswith("</dev/null")]
    assert commands == [["make", "check"], ["make", "test"], [".ci/docker", "</dev/null"]]
    assert "set -euo pipefail" in lines

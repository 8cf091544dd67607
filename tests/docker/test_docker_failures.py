"""What becomes of a container that does not succeed: KFP's own runner sometimes takes it for a success."""

import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl
from kfp.local import docker_task_handler

from components.common.contracts.errors import ConfigError
from pipelines.images.build import docker
from pipelines.local.docker import containers
from pipelines.local.run import execute

# Making the base image and building take minutes, and count as part of the first test.
pytestmark = [pytest.mark.docker, pytest.mark.timeout(1200)]


def _pipeline(image: str, script: str) -> Any:
    with warnings.catch_warnings():
        # kfp's decorators use what Python 3.11 deprecates.
        warnings.simplefilter("ignore", DeprecationWarning)

        @dsl.container_component
        def stage():
            return dsl.ContainerSpec(image=image, command=["sh", "-c", script])

        @dsl.pipeline(name="one-container")
        def one() -> None:
            stage().set_display_name("stage")

    return one


def _run(image: str, script: str, folder: Path, write: Callable[[str], None] = lambda line: None) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    return execute(_pipeline(image, script), {}, folder, write, partial(containers, images=[image]))


def _left_over(run_id: str) -> str:
    return docker("ps", "--all", "--quiet", "--filter", f"label=untaint.run={run_id}")


def test_a_container_that_ends_with_an_exit_code_always_stops_the_run(base_image: str, tmp_path: Path) -> None:
    # KFP's own way loses about one in nine of these, so twenty in a row would not pass by luck.
    codes = [_run(base_image, "exit 3", tmp_path / f"r{number}") for number in range(20)]
    assert codes == [1] * 20


def test_a_container_that_succeeds_is_a_success(base_image: str, tmp_path: Path) -> None:
    lines: list[str] = []
    assert (
        _run(base_image, "echo said by the container; id -u > /tmp/x && cat /tmp/x", tmp_path / "r", lines.append) == 0
    )
    assert any("said by the container" in line for line in lines)


def test_a_container_killed_from_outside_stops_the_run(base_image: str, tmp_path: Path) -> None:
    def kill() -> None:
        while not (container := _left_over("killed-at-work").strip()):
            time.sleep(0.1)
        docker("kill", container)

    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill)
        assert _run(base_image, "sleep 60", tmp_path / "killed-at-work") == 1
        killed.result()


def test_no_container_is_left_behind(base_image: str, tmp_path: Path) -> None:
    for name, script in (("good", "true"), ("bad", "exit 3")):
        _run(base_image, script, tmp_path / name)
        assert not _left_over(name)


def test_one_left_by_a_killed_run_is_removed_by_the_next_of_that_id(base_image: str, tmp_path: Path) -> None:
    docker("run", "--detach", "--label", "untaint.run=killed", base_image, "sleep", "300")
    assert _left_over("killed")
    _run(base_image, "true", tmp_path / "killed")
    assert not _left_over("killed")


def test_the_disk_is_read_only_but_for_the_runs_folder_and_tmp(base_image: str, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    assert _run(base_image, f"touch {folder}/mine /tmp/mine", folder) == 0
    assert _run(base_image, "touch /usr/mine", folder) == 1
    _run(base_image, f"touch {tmp_path}/mine", folder)
    assert [path.name for path in tmp_path.iterdir()] == ["r"]
    assert (folder / "mine").exists()


def test_only_named_variables_reach_a_container(
    base_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    monkeypatch.setenv("ANOTHER_SECRET", "canary")
    script = 'test "$AWS_SECRET_ACCESS_KEY" = canary && test -z "$ANOTHER_SECRET"'
    assert _run(base_image, script, tmp_path / "r") == 0


def test_a_missing_image_is_told_before_anything_starts(base_image: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="make images"):
        _run("untaint-tests/none:none", "true", tmp_path / "r")


def test_kfps_own_function_is_back_after_a_run(base_image: str, tmp_path: Path) -> None:
    before = docker_task_handler.run_docker_container
    _run(base_image, "true", tmp_path / "r")
    assert docker_task_handler.run_docker_container is before

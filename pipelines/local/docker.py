"""Stages of a local run in their real images, by KFP's ``DockerRunner``."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from components.common.contracts.errors import ConfigError
from components.common.runs.progress_note import PROGRESS_FILE
from components.container import STATUS_FILE

__all__ = ["containers"]

_RUN_LABEL = "untaint.run"
_DATA_DIR = "UNTAINT_DATA_DIR"
# Nothing else of this machine's environment reaches a container. Files that variables name would not be there.
_PASSED_ON = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "NO_PROXY",
    "no_proxy",
    "UNTAINT_LOG_LEVEL",
    "UNTAINT_ALLOW_DOWNLOAD",
    "UNTAINT_PROCESSES",
    "OMP_NUM_THREADS",
    # It lies in the run's folder.
    PROGRESS_FILE,
    _DATA_DIR,
)
_PASSED_ON_PREFIX = "UNTAINT_S3_"


@contextlib.contextmanager
def containers(status: Path, images: list[str], dataset: str = "") -> Iterator[Any]:
    """KFP's runner for stages in containers; one that is at work when the block ends is stopped and removed.

    A container sees the run's folder, a dataset's folder (read only), and the network of this machine, where the
    embedded store listens on loopback; the rest of its disk is read only. Credentials go in as environment variables.

    Args:
        status: Where a stage notes how it ended; in the run's folder, which the containers see.
        images: The images that the run needs.
        dataset: The dataset's name; a local folder in it is mounted.

    Yields:
        The runner.

    Raises:
        ConfigError: No Docker engine, or an image is missing.
    """
    from kfp import local
    from kfp.local import docker_task_handler

    run_id = status.parent.name
    client = _engine()
    try:
        _require(client, images)
        _remove_left_over(client, run_id)
        runner = local.DockerRunner(
            network_mode="host",
            user=f"{os.getuid()}:{os.getgid()}",
            environment=_environment(status),
            labels={_RUN_LABEL: run_id},
            mounts=_mounts(dataset),
            read_only=True,
            tmpfs={"/tmp": "mode=1777"},  # noqa: S108 - the container's own
            shm_size="1g",
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
        )
        theirs = docker_task_handler.run_docker_container
        # KFP starts containers with auto_remove. Docker may remove one before KFP asks how it ended, and then KFP takes
        # it for a success. No setting turns that off, so the one function that starts a container is replaced.
        docker_task_handler.run_docker_container = _run_to_its_end
        try:
            with _ended_properly():
                yield runner
        finally:
            docker_task_handler.run_docker_container = theirs
    finally:
        client.close()


@contextlib.contextmanager
def _ended_properly() -> Iterator[None]:
    """Makes SIGTERM an exception, so that the container at work does not outlive a run that is told to end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run_to_its_end(client: Any, image: str, command: list[str], volumes: dict[str, Any], **arguments: Any) -> int:
    """Runs a container, prints what it prints, and returns its exit code; it is there until that has been read."""
    container = client.containers.create(image=image, command=command, volumes=volumes, **arguments)
    try:
        container.start()
        rest = b""
        for chunk in container.logs(stream=True, follow=True):
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                # By print, and a line at a time: KFP indents what a task prints by replacing that function.
                print(line.decode(errors="replace"))  # noqa: T201
        if rest:
            print(rest.decode(errors="replace"))  # noqa: T201
        return int(container.wait()["StatusCode"])
    finally:
        container.remove(force=True)


def _package() -> Any:
    # By its name: to a type checker, `import docker` is the repository's folder of that name.
    return importlib.import_module("docker")


def _engine() -> Any:
    try:
        docker = _package()
    except ImportError:
        raise ConfigError(
            "running stages in containers",
            expected="the Python package docker",
            found="none",
            hint="Run `make setup`, or `pip install docker`.",
        ) from None
    client = None
    try:
        client = docker.from_env()
        client.ping()
    except (docker.errors.DockerException, OSError) as problem:
        if client is not None:
            client.close()
        raise ConfigError(
            "running stages in containers",
            expected="a Docker engine",
            found=f"none that answers ({type(problem).__name__})",
            hint="Start Docker; `docker info` tells whether it runs and whether you may use it.",
        ) from None
    return client


def _require(client: Any, images: list[str]) -> None:
    for image in images:
        try:
            client.images.get(image)
        except _package().errors.ImageNotFound:
            raise ConfigError(
                f"image {image}",
                expected="it built on this machine",
                found="none",
                hint="Run `make images`; the tag follows the code, so a change of code needs it again.",
            ) from None


def _remove_left_over(client: Any, run_id: str) -> None:
    """Removes containers of a run of the same id that was killed and so could not do it."""
    for container in client.containers.list(all=True, filters={"label": f"{_RUN_LABEL}={run_id}"}):
        container.remove(force=True)


def _environment(status: Path) -> dict[str, str]:
    passed_on: Callable[[str], bool] = lambda name: name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIX)  # noqa: E731
    return {**{name: value for name, value in os.environ.items() if passed_on(name)}, STATUS_FILE: str(status)}


def _mounts(dataset: str) -> list[Any]:
    """The folders of data on this machine that the stages are to read, each under its own path."""
    folders = [os.environ[_DATA_DIR]] if os.environ.get(_DATA_DIR) else []
    kind, _, place = dataset.partition(":")
    if kind == "parquet" and place and "://" not in place:
        folders.append(place)
    absolute = sorted({Path(folder).expanduser().absolute() for folder in folders})
    return [
        _package().types.Mount(target=str(path), source=str(path), type="bind", read_only=True)
        for path in absolute
        # One that is not there is for the stage to tell, in its own words.
        if path.exists()
    ]

"""The engine, the base image and the six images, for all Docker tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import pytest

from pipelines.dag.stages import IMAGES as STAGES
from pipelines.images.build import BuildOptions, build_images, content_tag, docker
from tests.docker.base_image import BASE_IMAGE, ensure_base_image, served_wheels
from tests.docker.pytorch import INDEX, cpu_requirement

REGISTRY = "untaint-tests"


@pytest.fixture(scope="session")
def base_image() -> str:
    """The base image; skips where no engine runs, which `.ci/docker` starts."""
    program = shutil.which("docker")
    if program is None or subprocess.run([program, "info"], capture_output=True).returncode:
        pytest.skip("no Docker engine runs here")
    ensure_base_image()
    return BASE_IMAGE


def options_for(base_image: str) -> BuildOptions:
    """Builds with PyTorch for CPUs throughout; skips where there is none.

    The build for CUDA is gigabytes that no test here would use; that ingest, split and evaluate carry none of it is
    held by the arguments that their targets get, in tests/pipelines/images/test_images.py.
    """
    torch = os.environ.get("UNTAINT_TEST_TORCH") or cpu_requirement()
    if not torch:
        pytest.skip(f"pip finds no build of PyTorch for CPUs; {INDEX} names an index that has one")
    index = os.environ.get(INDEX, "")
    return BuildOptions(
        base_image=base_image,
        torch=torch,
        torch_cpu=torch,
        torchvision="",
        torch_index_url=index,
        torch_cpu_index_url=index,
        network="host",
    )


@pytest.fixture(scope="session")
def build_options(base_image: str) -> BuildOptions:
    """What the six images are built with."""
    return options_for(base_image)


@pytest.fixture(scope="session")
def images(build_options: BuildOptions) -> tuple[str, str]:
    """Registry and tag of the six images, built from this checkout."""
    tag = content_tag(build_options)
    started = time.monotonic()
    with served_wheels():
        build_images(build_options, REGISTRY, tag, lambda line: None, STAGES)
    sys.stdout.write(f"\nsix images with {build_options.torch} built in {time.monotonic() - started:.0f} s\n")
    # Images of earlier code are of no more use; what is heavy in them is shared, and stays.
    for name in docker("images", "--format", "{{.Repository}}:{{.Tag}}", f"{REGISTRY}/*").split():
        if not name.endswith(f":{tag}"):
            docker("rmi", name)
    return REGISTRY, tag

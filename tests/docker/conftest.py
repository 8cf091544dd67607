"""The engine, the base image and the six images, for all Docker tests."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from pipelines.images import BuildOptions, build_images, content_tag
from pipelines.training import STAGES
from tests.docker.base_image import BASE_IMAGE, ensure_base_image, served_wheels

_REGISTRY = "untaint-tests"


@pytest.fixture(scope="session")
def base_image() -> str:
    """The base image; skips where no engine runs, which `.ci/docker` starts."""
    program = shutil.which("docker")
    if program is None or subprocess.run([program, "info"], capture_output=True).returncode:
        pytest.skip("no Docker engine runs here")
    ensure_base_image()
    return BASE_IMAGE


@pytest.fixture(scope="session")
def build_options(base_image: str) -> BuildOptions:
    """Builds with PyTorch for CPUs throughout, unless the environment names another build.

    The build for CUDA is gigabytes that no test here would use; that ingest, split and evaluate carry none of it is
    held by the arguments that their targets get, in tests/unit/test_images.py.
    """
    torch = os.environ.get("UNTAINT_TEST_TORCH", "torch==2.13.0")
    return BuildOptions(base_image=base_image, torch=torch, torch_cpu=torch, torchvision="", network="host")


@pytest.fixture(scope="session")
def images(build_options: BuildOptions) -> tuple[str, str]:
    """Registry and tag of the six images, built from this checkout."""
    tag = content_tag(build_options)
    with served_wheels():
        build_images(build_options, _REGISTRY, tag, lambda line: None, STAGES)
    return _REGISTRY, tag

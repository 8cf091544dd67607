"""Which PyTorch the Docker tests take: ``python -m tests.docker.pytorch`` prints a pip requirement, or nothing.

The first version that pip finds in a build for CPUs. The build for CUDA is gigabytes that no test here would use.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from pipelines.images.build import BuildOptions

__all__ = ["INDEX", "cpu_requirement"]

INDEX = "UNTAINT_TEST_TORCH_INDEX_URL"
"""Environment variable: another index for pip, such as PyTorch's own for CPUs."""
_SECONDS = 180
# The second is for machines that have a build for CPUs, but not of the version in the lock.
_VERSIONS = (BuildOptions().torch, "torch==2.13.0")


def cpu_requirement() -> str:
    """A requirement that pip serves with a build for CPUs; empty if there is none."""
    index = os.environ.get(INDEX, "")
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--ignore-installed", "--quiet"]
    command += ["--disable-pip-version-check", "--report", "-", *(["--extra-index-url", index] if index else [])]
    for requirement in _VERSIONS:
        try:
            done = subprocess.run([*command, requirement], capture_output=True, text=True, timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        if done.returncode:
            continue
        (found,) = json.loads(done.stdout)["install"]
        needs = found["metadata"].get("requires_dist", [])
        if not any(need.startswith(("cuda", "nvidia", "triton")) for need in needs):
            return f"torch=={found['metadata']['version']}" if index else requirement
    return ""


if __name__ == "__main__":
    sys.stdout.write(cpu_requirement())

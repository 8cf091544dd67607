"""The six images: their names, a tag that follows their content, the build, and what they weigh."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from components.common.contracts.errors import ConfigError
from pipelines.dag.stages import IMAGES as STAGES
from pipelines.dag.stages import TASKS

__all__ = ["CPU_STAGES", "STAGES", "BuildOptions", "ImageSize", "build_images", "content_tag", "docker", "sizes"]

CPU_STAGES = tuple(
    stage
    for stage in STAGES
    if not any(spec.resources == "training" for spec in TASKS.values() if stage in (spec.image, spec.folder))
)
"""Stages that take PyTorch's build for CPUs, or none: they train nothing."""
_ROOT = Path(__file__).parents[2]
_TAG_DIGITS = 12
_PACKAGE = "untaint"


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildOptions:
    """What an image is made of besides the code and the lock.

    Attributes:
        base_image: Image with Python 3.11 and pip.
        torch: Requirement of the training stages: the build for CUDA, on Linux.
        torch_cpu: Requirement of ``CPU_STAGES``.
        torchvision: Requirement of ingest, which only the dataset cifar10 needs; may be empty.
        torch_index_url: Another index for ``torch``; may be empty.
        torch_cpu_index_url: Another index for ``torch_cpu`` and ``torchvision``; may be empty.
        network: Network of the build steps, as ``docker build --network``; empty for the engine's own.
    """

    base_image: str = "python:3.11-slim"
    torch: str = "torch==2.14.1"
    torch_cpu: str = "torch==2.14.1+cpu"
    torchvision: str = "torchvision==0.29.1"
    torch_index_url: str = ""
    torch_cpu_index_url: str = ""
    network: str = ""

    def arguments(self, stage: str) -> dict[str, str]:
        """The build arguments of a stage's image; an index may hold a password, so they are not for logs."""
        on_cpu = stage in CPU_STAGES
        return {
            "BASE_IMAGE": self.base_image,
            "TORCH": self.torch_cpu if on_cpu else self.torch,
            "TORCH_INDEX_URL": self.torch_cpu_index_url if on_cpu else self.torch_index_url,
            "TORCHVISION": self.torchvision,
        }


@dataclass(frozen=True, slots=True)
class ImageSize:
    """What an image weighs: all its layers unpacked, and its own code, the part that a change of code pushes."""

    stage: str
    total_bytes: int
    code_bytes: int


def content_tag(options: BuildOptions, root: Path = _ROOT) -> str:
    """The tag of the six images: 12 hex digits that change with code, lock, Dockerfile and options, and nothing else.

    Args:
        options: As for the build.
        root: The checkout.

    Raises:
        ConfigError: No checkout of untaint.
    """
    digest = hashlib.sha256()
    for path in _context(root):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    # Where a package comes from is no content: the requirement names its build.
    content = (options.base_image, options.torch, options.torch_cpu, options.torchvision)
    digest.update(json.dumps(content).encode())
    return digest.hexdigest()[:_TAG_DIGITS]


def build_images(
    options: BuildOptions,
    registry: str,
    tag: str,
    write: Callable[[str], None],
    stages: Iterable[str] = STAGES,
    root: Path = _ROOT,
) -> list[str]:
    """Builds and tags images, one after the other, for they share most layers.

    Args:
        options: What to build with.
        registry: Registry and path, as for ``image_of``.
        tag: The tag, usually ``content_tag``'s.
        write: Takes one line for the user.
        stages: The stages to build.
        root: The checkout.

    Returns:
        The image references, in the order of ``stages``.

    Raises:
        ConfigError: Docker or the checkout is missing, PyTorch for CPUs has no source, or a build stopped.
    """
    if "+cpu" in options.torch_cpu and not options.torch_cpu_index_url:
        raise ConfigError(
            f"PyTorch for CPUs, {options.torch_cpu}",
            expected="the address of the index that has this build",
            found="none",
            hint="Take it from pytorch.org, 'Get started', for pip and CPU, and give it as --torch-cpu-index-url "
            "(make images TORCH_CPU_INDEX_URL=…). On a machine whose usual index has a build for CPUs: "
            "--torch-cpu torch==2.14.1.",
        )
    from pipelines.dag.training import image_of

    _context(root)
    references = []
    for stage in stages:
        reference = image_of(stage, registry, tag)
        write(f"building {reference}")
        arguments = {**options.arguments(stage), "VERSION": _version(root), "REVISION": _revision(root)}
        docker(
            "build",
            *("--file", "docker/Dockerfile", "--target", stage, "--tag", reference),
            *(("--network", options.network) if options.network else ()),
            *(part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")),
            ".",
            what=f"the image of {stage}",
            root=root,
        )
        references.append(reference)
    return references


def sizes(registry: str, tag: str, stages: Iterable[str] = STAGES) -> list[ImageSize]:
    """What the images weigh.

    Raises:
        ConfigError: Docker is missing, or an image is.
    """
    from pipelines.dag.training import image_of

    found = []
    for stage in stages:
        reference = image_of(stage, registry, tag)
        total = docker("image", "inspect", "--format", "{{.Size}}", reference, what=reference)
        history = docker("history", "--no-trunc", "--human=false", "--format", "{{.Size}}\t{{.CreatedBy}}", reference)
        code = 0
        for line in history.splitlines():
            size, _, made_by = line.partition("\t")
            code += int(size)
            # The stage's own layers stand on top, down to the first copy of code.
            if "components/smoke.py" in made_by or "in components/ " in made_by:
                break
        found.append(ImageSize(stage, int(total), code))
    return found


def docker(*arguments: str, what: str = "docker", root: Path = _ROOT) -> str:
    """Calls Docker's command line.

    Args:
        arguments: The command.
        what: The thing at work, for a message.
        root: Working folder.

    Returns:
        Standard output.

    Raises:
        ConfigError: Docker is not installed, its engine is not running, or the command did not succeed.
    """
    try:
        done = subprocess.run(  # noqa: S603 - a list of our own arguments, no shell
            ["docker", *arguments],  # noqa: S607 - wherever the user has it
            cwd=root,
            capture_output=True,
            text=True,
            env=_docker_environment(),
            check=False,
        )
    except FileNotFoundError:
        raise ConfigError(
            what, expected="Docker", found="no program 'docker' on the PATH", hint="Install Docker, and start it."
        ) from None
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise ConfigError(
            what,
            expected=f"`docker {arguments[0]}` to succeed",
            found=f"exit code {done.returncode}; it said: {' | '.join(lines[-6:])[-1500:]}",
            hint="Its last words stand above; `docker info` tells whether the engine runs.",
        )
    return done.stdout


def _docker_environment() -> dict[str, str]:
    """Asks for the legacy builder where the newer one is not installed, for then Docker would only say that."""
    environment = dict(os.environ)
    if "DOCKER_BUILDKIT" not in environment:
        probe = subprocess.run(["docker", "buildx", "version"], capture_output=True, check=False)  # noqa: S607
        if probe.returncode:
            environment["DOCKER_BUILDKIT"] = "0"
    return environment


def _context(root: Path) -> list[Path]:
    """The files that images are made of: what ``.dockerignore`` lets through, and the two files that steer it."""
    fixed = [root / "docker/Dockerfile", root / ".dockerignore", root / "requirements.lock"]
    missing = [path for path in fixed if not path.is_file()]
    if missing:
        raise ConfigError(
            str(missing[0]),
            expected="a checkout of untaint, which images are built from",
            found="no such file",
            hint="Clone the repository and work in it; an installed package has no Dockerfile.",
        )
    code = (
        path
        for path in (root / "components").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in (".pyc", ".md")
    )
    return sorted([*fixed, *(root / "docker/requirements").iterdir(), *code])


def _version(root: Path) -> str:
    import tomllib

    version: str = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    return version


def _revision(root: Path) -> str:
    """The commit, with a mark if files differ from it; ``unknown`` outside of git."""
    done = subprocess.run(  # noqa: S603
        ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--match="],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"

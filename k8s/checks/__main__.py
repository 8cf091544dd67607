"""Checks the manifests without a cluster: `make check-k8s`.

Renders every kustomization, holds it against the strict schemas of two versions of Kubernetes, against the checks of
``manifests.py`` and against checkov's policies, and lints the Dockerfile. Ends with 1 when something is found, and says
what could not be checked here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import yaml

from k8s.checks import manifests
from pipelines.dag.profiles import load_profile

ROOT = Path(__file__).parents[1]
OVERLAYS = {"kind": "cpu", "standalone": "gpu", "profile": "gpu", "eks-irsa": "eks-irsa"}
"""Each overlay to the profile that runs on it."""
VERSIONS = ("1.33", "1.36")
# 2: a stage is a batch job, and whether it is healthy is told by its end, so an image without HEALTHCHECK is meant.
# 7: the base image is an argument, whose default has a tag; checkov sees a name without one.
_SKIPPED_POLICIES = "CKV_DOCKER_2,CKV_DOCKER_7"


def own(folder: Path, overlay: str, profile_name: str = "") -> tuple[list[str], str]:
    """Findings of this project's own checks in an overlay, and what it renders to.

    Args:
        folder: Folder with the kustomization.
        overlay: Its name.
        profile_name: The profile that runs on it; may be left out for one of ``OVERLAYS``.
    """
    try:
        documents = manifests.render(folder)
    except ValueError as problem:
        return [str(problem)], ""
    profile = load_profile(profile_name or OVERLAYS[overlay])
    found = [
        *manifests.labels(documents),
        *manifests.privileges(documents),
        *manifests.secrets(documents),
        *manifests.references(documents, overlay, profile),
        *manifests.network(documents, profile),
        *manifests.ways(documents),
        *manifests.grants(documents, profile),
    ]
    return found, yaml.safe_dump_all(documents)


def schema(tools: Path, file: Path) -> list[str]:
    """What the strict schemas of each version say of a rendered file; an unknown kind counts as a mistake."""
    found = []
    for version in VERSIONS:
        code, text = _run([str(tools / "kubernetes-validate"), "--strict", "-k", version, str(file)])
        lines = [line for line in text.splitlines() if line.strip()]
        # An unknown kind is only warned of, with exit code 0.
        bad = [line for line in lines if not (line.startswith("INFO") and " passed " in line)]
        if code or bad or not lines:
            found += [f"Kubernetes {version}: {line}" for line in bad or [f"exit code {code}, {len(lines)} objects"]]
    return found


def policies(tools: Path, folder: Path) -> list[str]:
    """What checkov's policies for Kubernetes and Dockerfiles say of a folder."""
    options = ["--skip-download", "--compact", "--quiet", "--skip-check", _SKIPPED_POLICIES]
    command = [str(tools / "checkov"), "--framework", "kubernetes", "dockerfile", *options, "--directory", str(folder)]
    code, text = _run(command)
    if code == 0 and "Passed checks: 0," not in text and "Passed checks:" in text:
        return []
    wanted = ("Check:", "FAILED for resource", "File:")
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith(wanted)]
    return lines or [f"checkov ended with {code} and found nothing to check: {text.strip()[-300:]}"]


def dockerfile(tools: Path, file: Path) -> list[str]:
    """What hadolint says of a Dockerfile."""
    code, text = _run([str(tools / "hadolint"), "--no-color", str(file)])
    lines = text.splitlines()
    return lines or ([f"hadolint ended with {code}"] if code else [])


def _run(command: Sequence[str]) -> tuple[int, str]:
    environment = {**os.environ, "LOG_LEVEL": "ERROR", "NO_COLOR": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180, env=environment)  # noqa: S603
    return done.returncode, done.stdout + done.stderr


@click.command()
@click.option(
    "--tools", type=click.Path(file_okay=False, exists=True, path_type=Path), required=True, help="bin folder."
)
@click.option("--overlay", type=click.Path(file_okay=False, exists=True, path_type=Path), help="One of your own.")
@click.option("--profile", default="gpu", show_default=True, help="With --overlay: the profile that runs on it.")
def main(tools: Path, overlay: Path | None, profile: str) -> None:
    """Check the manifests and the Dockerfile."""
    overlays = {name: (ROOT / "overlays" / name, OVERLAYS[name]) for name in OVERLAYS}
    if overlay is not None:
        overlays = {overlay.resolve().name: (overlay, profile)}
    count = 0

    def tell(what: str, found: list[str]) -> None:
        nonlocal count
        count += len(found)
        click.echo(f"{what}: {f'{len(found)} found' if found else 'ok'}")
        for line in found:
            click.echo(f"  {line}")

    tell("kind-cluster.yaml", manifests.kind_config(yaml.safe_load((ROOT / "kind-cluster.yaml").read_text())))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        try:
            for name, (place, its_profile) in overlays.items():
                found, text = own(place, name, its_profile)
                tell(f"overlay {name}", found)
                file = folder / f"{name}.yaml"
                file.write_text(text)
                if text:
                    tell(f"overlay {name}, schemas of {' and '.join(VERSIONS)}", schema(tools, file))
        except manifests.NoRenderer as problem:
            click.echo(f"NOT CHECKED: the manifests; {problem}")
        images = ROOT.parent / "docker" / "Dockerfile"
        if images.exists():
            (folder / "Dockerfile").write_bytes(images.read_bytes())
            tell("docker/Dockerfile, hadolint", dockerfile(tools, images))
        if any(folder.iterdir()):
            tell("policies of checkov", policies(tools, folder))
    sys.exit(1 if count else 0)


if __name__ == "__main__":
    main()

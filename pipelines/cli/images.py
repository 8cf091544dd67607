"""The commands of ``untaint`` around images; ``pipelines.cli.main`` imports them by name."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import reduce
from typing import Any

import click

from pipelines.cli.json_output import json_option, show_json
from pipelines.cli.options import settings_of
from pipelines.cli.run import run_command, start_run
from pipelines.images.build import STAGES, BuildOptions, build_images, content_tag, sizes

__all__ = ["images_group", "run_docker_command"]

_MB = 1e6
_DEFAULT = BuildOptions()
_REGISTRY = click.option(
    "--registry", default="untaint", show_default=True, help="Registry and path of the images; may be empty."
)
_TAG = click.option("--tag", default="", help="Tag of the images; without it, the one that follows their content.")


def _content(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that the tag depends on."""
    options = (
        ("base_image", "Image with Python 3.11 and pip."),
        ("torch", "PyTorch of the training stages, as a pip requirement."),
        ("torch_cpu", "PyTorch of ingest and evaluate."),
        ("torchvision", "torchvision of ingest, for the dataset cifar10; '' leaves it out."),
    )
    return reduce(
        lambda made, option: click.option(
            f"--{option[0].replace('_', '-')}",
            option[0],
            envvar=f"UNTAINT_IMAGE_{option[0].upper()}",
            default=getattr(_DEFAULT, option[0]),
            show_default=True,
            help=option[1],
        )(made),
        reversed(options),
        command,
    )


@click.group("images")
def images_group() -> None:
    """Build the six images, and say what they are called and weigh."""


@images_group.command("build")
@_REGISTRY
@_TAG
@_content
@click.option("--torch-index-url", default="", help="Another index for PyTorch of the training stages.")
@click.option("--torch-cpu-index-url", default="", help="Another index for PyTorch of ingest and evaluate.")
@click.option("--network", default="", help="Network of the build steps, as for `docker build`.")
@click.option("--stage", "stages", multiple=True, type=click.Choice(STAGES), help="Only this one; several times.")
def build_command(registry: str, tag: str, stages: tuple[str, ...], **given: str) -> None:
    """Build the images and tag them by their content.

    \b
    Example:
      untaint images build --registry registry.example/me --torch-cpu-index-url ADDRESS
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    options = BuildOptions(**given)
    tag = tag or content_tag(options)
    started = time.monotonic()
    build_images(options, registry, tag, click.echo, stages or STAGES)
    click.echo(f"done in {time.monotonic() - started:.0f} s")
    _show(registry, tag, stages or STAGES)


@images_group.command("tag")
@_content
def tag_command(**given: str) -> None:
    """Print the tag that follows the content of code, lock, Dockerfile and options."""
    click.echo(content_tag(BuildOptions(**given)))


@images_group.command("list")
@_REGISTRY
@_TAG
@_content
@click.option("--compressed", is_flag=True, help="Also what they weigh in a registry; takes a minute or two.")
@json_option()
def list_command(registry: str, tag: str, compressed: bool, as_json: bool, **given: str) -> None:
    """Print the images of this tag with their sizes."""
    _show(registry, tag or content_tag(BuildOptions(**given)), STAGES, compressed, as_json)


def _show(registry: str, tag: str, stages: tuple[str, ...], compressed: bool = False, as_json: bool = False) -> None:
    from pipelines.dag.training import image_of
    from pipelines.images.sizes import compressed_sizes
    from pipelines.views.summary import table

    unpacked = sizes(registry, tag, stages)
    packed, together = compressed_sizes(registry, tag, stages) if compressed else ({}, 0)
    if as_json:
        images = [
            {
                "image": image_of(size.stage, registry, tag),
                "bytes": size.total_bytes,
                "compressed_bytes": packed.get(size.stage),
                "code_bytes": size.code_bytes,
            }
            for size in unpacked
        ]
        show_json({"images": images, "compressed_bytes_of_all": together if compressed else None})
        return
    rows = [
        (
            image_of(size.stage, registry, tag),
            f"{size.total_bytes / _MB:.0f}",
            *([f"{packed[size.stage] / _MB:.0f}"] if compressed else []),
            f"{size.code_bytes / _MB:.2f}",
        )
        for size in unpacked
    ]
    for line in table(("image", "MB", *(["compressed MB"] if compressed else []), "code MB"), rows):
        click.echo(line)
    if compressed:
        click.echo(f"all of them in a registry, where shared layers lie once: {together / _MB:.0f} MB")


@click.command("run-docker", params=list(run_command.params))
@_REGISTRY
@_TAG
@_content
@click.pass_context
def run_docker_command(
    ctx: click.Context,
    /,
    registry: str,
    tag: str,
    control: bool,
    resume: str,
    run_id: str,
    store: str,
    settings: tuple[str, ...],
    base_image: str,
    torch: str,
    torch_cpu: str,
    torchvision: str,
    **given: Any,
) -> None:
    """Run the whole pipeline on this machine, each stage in its image.

    The images are those of `untaint images build`. All options of `untaint run` are here too.

    \b
    Example:
      untaint run-docker --attack blended
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    options = BuildOptions(base_image=base_image, torch=torch, torch_cpu=torch_cpu, torchvision=torchvision)
    named = settings_of(given, settings)
    start_run(ctx, control, resume, run_id, store, named, (registry, tag or content_tag(options)))

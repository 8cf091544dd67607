"""``untaint export``: a finished run's model as files for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipelines.cli.json_output import json_option, show_json
from pipelines.cli.options import store_option
from pipelines.local.home import home

if TYPE_CHECKING:
    from components.common.runs.artifacts import StageManifest
    from components.common.storage.store import Store

__all__ = ["export_command", "export_options", "write_model"]


def export_options(command: click.decorators.FC) -> click.decorators.FC:
    """``--to``, ``--formats`` and ``--json``, as ``folder``, ``formats`` and ``as_json``."""
    for option in (
        json_option(),
        click.option(
            "--formats",
            default="",
            metavar="NAME,…",
            help="safetensors, pt2, onnx, card. [default: all that the run published]",
        ),
        click.option("--to", "folder", required=True, type=click.Path(file_okay=False), help="The folder to write."),
    ):
        command = option(command)
    return command


@click.command("export")
@click.argument("run", metavar="RUN_ID|s3://…/runs/RUN_ID")
@export_options
@store_option()
def export_command(run: str, folder: str, formats: str, as_json: bool, store: str) -> None:
    """Write the final model of a finished run as files that need no untaint.

    \b
    model.safetensors, config.json   the weights, and how to build the model (safetensors)
    model.pt2                        a torch.export program: images in, logits out (pt2)
    model.onnx                       the same for other runtimes (onnx)
    README.md                        the model card (card)

    \b
    Examples:
      untaint export 20260131-120000-1f2e --to ./model
      untaint export s3://bucket/untaint/runs/20260131-120000-1f2e --to ./model --formats pt2,card
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    from components.common.storage.store import Store
    from pipelines.local.run import opened_store
    from pipelines.local.runs import located
    from pipelines.views.model_files import evaluation_of

    root_of_run, run_id = located(run, store, home())
    with opened_store(root_of_run, home()) as (root, _):
        reached = Store(root)
        write_model(reached, evaluation_of(reached, run_id), folder, formats, as_json=as_json)


def write_model(store: Store, manifest: StageManifest, folder: str, formats: str, *, as_json: bool) -> None:
    """Writes the files of a model and names them.

    Args:
        store: The store.
        manifest: The evaluate stage's manifest.
        folder: Where to.
        formats: Formats with commas between them; empty for all that the run published.
        as_json: Whether the files are named as JSON.
    """
    from components.common.exporters import formats_of
    from pipelines.views.model_files import fetch_model

    paths = fetch_model(store, manifest, Path(folder), formats_of(formats) if formats else None)
    if as_json:
        show_json({"run_id": manifest.run_id, "files": {path.name: str(path.absolute()) for path in paths}})
        return
    for path in paths:
        click.echo(f"wrote {path} ({path.stat().st_size:,} bytes)")

"""The commands of ``untaint`` for one's own data: ``ingest --drop`` and ``suspects show``."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from components.common.contracts.errors import ConfigError
from components.ingest.config import ATTACK_SETTINGS, CANARY_RATIO, IngestConfig
from pipelines.cli.json_output import json_option, show_json
from pipelines.cli.options import (
    control_option,
    name_option,
    parameter_options,
    setting_options,
    settings_of,
    settings_option,
    store_option,
)
from pipelines.dag.parameters import TRAINING
from pipelines.dag.settings import apply_settings, default_parameters, stage_configs
from pipelines.local.home import home
from pipelines.local.screen import Screen

if TYPE_CHECKING:
    from components.common.intake.sources import Folder

__all__ = ["address_of", "ingest_command", "suspects_group"]

# What can be said of somebody's own data: no attack is injected, and the rest are parameters of every training.
_READING = [
    name
    for name in IngestConfig.model_fields
    if name not in ("dataset", "canary_ratio", *ATTACK_SETTINGS)
    and f"ingest.{name}" not in {one.setting for one in TRAINING}
]
_OPTIONS = (
    "holdout",
    "max_rejected_ratio",
    "train_limit",
    "holdout_limit",
    "image_size",
    "seed",
    "image_column",
    "label_column",
)


@click.command("ingest")
@click.option("--drop", required=True, metavar="FOLDER|s3://…", help="The folder or prefix of your images.")
@setting_options("ingest", _READING)
@click.option(
    "--canary",
    "ingest__of__canary_ratio",
    default=str(CANARY_RATIO),
    show_default=True,
    metavar="NUMBER",
    help=IngestConfig.meaning("canary_ratio").partition(" The split")[0],
)
@parameter_options(TRAINING)
@control_option(default=False)
@click.option("--only-check", is_flag=True, help="Only read the drop, and say what is in it and what is wrong.")
@name_option()
@store_option()
@settings_option()
@click.pass_context
def ingest_command(
    ctx: click.Context,
    /,
    drop: str,
    control: bool,
    only_check: bool,
    run_id: str,
    store: str,
    settings: tuple[str, ...],
    **given: Any,
) -> None:
    """Audit your own images: a clean model, and a list of suspects with reasons.

    A drop is a folder or prefix with one folder of images per class, shards (Parquet, Arrow, WebDataset), or a list of
    files and labels (index.csv, metadata.jsonl). No attack is injected.

    \b
    Examples:
      untaint ingest --drop ./photos --image-size 64
      untaint ingest --drop s3://bucket/drops/2026-11-20 --holdout s3://bucket/holdout
      untaint ingest --drop ./photos --only-check
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    from pipelines.local.records import Plan, new_name
    from pipelines.local.run import run

    drop = address_of(drop)
    parameters = {**default_parameters(), "dataset": f"drop:{drop}", "attack": "none"}
    parameters = apply_settings(parameters, settings_of(given, settings))
    own = parameters["ingest_settings"]
    own |= {"holdout": address_of(own["holdout"])} if "holdout" in own else {}
    config = stage_configs(parameters)["ingest"]
    write = Screen(sys.stdout)
    if only_check:
        ctx.exit(_check(config, drop, parameters["model"], store, write))
    run_id = new_name(home(), run_id, "")
    ctx.exit(run(Plan(parameters=parameters, control=control, store=store), run_id, home(), write))


def address_of(text: str) -> str:
    """A folder's absolute path, since stages run elsewhere; an ``s3://`` address or a number as it is.

    Raises:
        ConfigError: No such folder, or an address of another kind.
    """
    from components.common.intake.sources import checked_location

    if not text or checked_location(text).startswith("s3://"):
        return text
    try:
        float(text)
    except ValueError:
        path = Path(text).expanduser().absolute()
    else:
        return text
    # Looked up here, so that a slip of the pen starts no run.
    if not path.is_dir():
        raise ConfigError(
            f"folder {path}",
            expected="a folder of images on this machine, or s3://bucket/prefix",
            found="a file" if path.exists() else "nothing of that name",
            hint="Check the path.",
        )
    return str(path)


def _check(config: IngestConfig, drop: str, model: str, store: str, write: Any) -> int:
    from components.common.contracts.errors import DataError
    from components.common.intake.drop import DropOptions, survey_drop
    from components.common.intake.sources import LocalFolder
    from components.common.intake.store_folder import folders
    from components.common.models.base import check_size
    from components.common.storage.store import Store
    from pipelines.local.run import opened_store
    from pipelines.views.checked import survey_lines

    options = DropOptions(**{name: getattr(config, name) for name in _OPTIONS})
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="untaint-drop-")))
        folder_of: Callable[[str], Folder] = LocalFolder
        if "s3://" in drop + config.holdout:
            root, _ = stack.enter_context(opened_store(store, home()))
            folder_of = folders(Store(root))
        survey = survey_drop(drop, options, folder_of, scratch)
    for line in survey_lines(drop, survey):
        write(line)
    if survey.drop is not None:
        _, height, width = survey.drop.shape
        check_size(model, height, width)
        return 0
    if survey.problem is not None:
        raise survey.problem
    return DataError.exit_code


@click.group("suspects")
def suspects_group() -> None:
    """See which samples a finished run suspects."""


@suspects_group.command("show")
@click.argument("run", metavar="RUN_ID|s3://…/runs/RUN_ID")
@click.option("--top", default=20, show_default=True, type=click.IntRange(1, 1000), help="How many to list.")
@click.option("--sheet", default="", type=click.Path(dir_okay=False), help="The PNG. [default: beside the report]")
@json_option()
@store_option()
def suspects_show_command(run: str, top: int, sheet: str, as_json: bool, store: str) -> None:
    """List the most suspect samples and write a contact sheet of them.

    \b
    Examples:
      untaint suspects show 20260131-120000-1f2e
      untaint suspects show s3://bucket/untaint/runs/20260131-120000-1f2e --top 64 --sheet suspects.png
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    from components.common.storage.store import Store
    from pipelines.local.run import opened_store
    from pipelines.local.runs import located
    from pipelines.views.suspects import contact_sheet, read_images, read_suspects, suspect_lines

    store, run_id = located(run, store, home())
    with opened_store(store, home()) as (root, _):
        reached = Store(root)
        rows, manifest = read_suspects(reached, run_id)
        shown = rows[:top]
        if as_json:
            show_json(
                {"run_id": run_id, "verdict": manifest.facts.get("verdict"), "in_all": len(rows), "suspects": shown}
            )
            return
        click.echo(f"run {run_id}: {len(rows)} suspects, {manifest.facts.get('verdict', '')}")
        if not rows:
            return
        for line in suspect_lines(shown):
            click.echo(line)
        images = read_images(reached, run_id, [int(row["sample_id"]) for row in shown])
    target = Path(sheet) if sheet else home() / "runs" / run_id / "suspects.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(contact_sheet(shown, images))
    click.echo(f"contact sheet: {target}")
    for name in ("suspects", "suspects_csv", "cleaned_index", "cleaned_index_csv"):
        if name in manifest.objects:
            click.echo(f"{name}: {manifest.objects[name].uri}")

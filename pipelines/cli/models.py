"""``untaint models``: which model is in use, and moving that by hand."""

from __future__ import annotations

from dataclasses import asdict

import click

from components.common.contracts.errors import ConfigError
from components.common.contracts.names import checked_model_name, checked_run_id
from components.promote.config import PromoteConfig
from pipelines.cli.data import address_of
from pipelines.cli.export import export_options, write_model
from pipelines.cli.json_output import json_option, show_json
from pipelines.cli.options import store_option
from pipelines.local.home import home

__all__ = ["models_group"]

_store = store_option("Root of runs and models; without it, the embedded store.")


@click.group("models")
def models_group() -> None:
    """See which model is in use, promote a run's model, or go back to an earlier one."""


@models_group.command("list")
@click.argument("name", default="")
@json_option()
@_store
def models_list_command(name: str, as_json: bool, store: str) -> None:
    """List the champions, or the history of the one called NAME."""
    from components.common.storage.store import Store
    from pipelines.local.run import opened_store
    from pipelines.views.champions import entries_of, listed

    if name:
        checked_model_name(name)
    with opened_store(store, home()) as (root, _):
        if as_json:
            show_json([asdict(entry) for entry in entries_of(Store(root), name)])
            return
        for line in listed(Store(root), name):
            click.echo(line)


@models_group.command("promote")
@click.argument("name")
@click.argument("run_id")
@_store
@click.option("--force", is_flag=True, help="Promote although a gate does not hold; the history says so.")
@click.option(
    "--holdout",
    default="",
    metavar="FOLDER|s3://…",
    help="Pin this drop to NAME as its evaluation set: this and all later models of NAME are measured on it too.",
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A limit: max_acc_loss=0.01.")
def models_promote_command(
    name: str, run_id: str, store: str, force: bool, holdout: str, settings: tuple[str, ...]
) -> None:
    """Make the model of the finished run RUN_ID the champion of NAME if the gates hold; ends with 6 if not.

    \b
    Example:
      untaint models promote digits 20260131-120000-1f2e
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    from components.common.storage.store import Store
    from pipelines.dag.settings import value_of
    from pipelines.local.run import opened_store
    from pipelines.views.champions import promote, who

    pairs = [text.partition("=") for text in settings]
    for key, equals, _ in pairs:
        if not equals:
            raise ConfigError(f"--set {key[:80]}", expected="KEY=VALUE", found="no '='", hint="max_acc_loss=0.01")
    values = {key: value_of(PromoteConfig, key, value) for key, _, value in pairs} | {"name": name}
    if holdout:
        values["holdout"] = address_of(holdout)
    config = PromoteConfig(**values)
    with opened_store(store, home()) as (root, _embedded):
        made = promote(Store(root), name, checked_run_id(run_id), config, click.echo, by=who(), force=force)
    click.echo(f"champion {made.number} of {name}: run {made.run_id}, ACC {100 * made.acc:.2f} %, {made.model_uri}")


@models_group.command("rollback")
@click.argument("name")
@click.option("--to", "number", type=int, default=None, help="Number of the champion to go back to; else the last one.")
@_store
def models_rollback_command(name: str, number: int | None, store: str) -> None:
    """Make an earlier champion of NAME the champion again; the history keeps both moves."""
    from components.common.storage.store import Store
    from pipelines.local.run import opened_store
    from pipelines.views.champions import roll_back, who

    with opened_store(store, home()) as (root, _):
        made = roll_back(Store(root), checked_model_name(name), who(), number)
    click.echo(f"champion {made.number} of {name}: run {made.run_id}, ACC {100 * made.acc:.2f} %, {made.model_uri}")


@models_group.command("export")
@click.argument("name")
@export_options
@_store
def models_export_command(name: str, folder: str, formats: str, as_json: bool, store: str) -> None:
    """Write the model that is in use as NAME as files that need no untaint; see `untaint export`.

    \b
    Example:
      untaint models export digits --to ./model
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    from components.common.storage.store import Store
    from pipelines.local.run import opened_store
    from pipelines.views.model_files import read_champion

    with opened_store(store, home()) as (root, _):
        reached = Store(root)
        write_model(reached, read_champion(reached, name), folder, formats, as_json=as_json)

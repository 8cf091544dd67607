"""``untaint schedule``, ``backfill`` and ``deliver``: retraining on new drops, on a cluster and on one machine."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from components.claim.config import ClaimConfig
from components.common.contracts.errors import ConfigError
from pipelines.cli.json_output import json_option, show_json
from pipelines.cli.options import (
    control_option,
    name_option,
    parameter_options,
    resume_option,
    settings_of,
    settings_option,
    store_option,
)
from pipelines.cli.submit import server_options
from pipelines.dag.parameters import INJECTED, TRAINING
from pipelines.dag.stages import TASKS
from pipelines.local.home import home
from pipelines.local.screen import Screen

__all__ = ["backfill_command", "deliver_command", "schedule_group"]

# What the options --drops and --name say, what the claim finds, and the attack, which no drop gets.
_DECIDED = {*(one.setting for one in INJECTED), "claim.name", "claim.drops", "claim.plan", "promote.name"}

_store = store_option(
    "Root of runs and models, reached with the AWS_* variables; without it, on one machine, the embedded store."
)
_name = click.option("--name", default=ClaimConfig().name, show_default=True, help=ClaimConfig.meaning("name"))
_drops = click.option("--drops", required=True, metavar="s3://…", help=ClaimConfig.meaning("drops").replace("``", "`"))
_control = control_option(default=False)
_training = parameter_options(TRAINING)
_holdout = click.option(
    "--holdout",
    default="",
    metavar="s3://…",
    help="Pin this drop to the model's name as its evaluation set: every model of that name is measured on it too.",
)
_settings = settings_option(
    "Any setting of a stage, as in `untaint run`, or of claim and promote: promote.max_acc_loss=0.01."
)


def _parameters(settings: Iterable[str], **given: Any) -> dict[str, Any]:
    """The retraining pipeline's parameters with what the user set."""
    from pipelines.dag.retrain import default_parameters

    return _set({**default_parameters(), **given}, settings)


def _set(parameters: dict[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    from pipelines.dag.settings import apply_settings
    from pipelines.dag.settings import default_parameters as of_training

    for text in settings:
        if text.partition("=")[0].strip() in _DECIDED:
            raise ConfigError(
                f"setting {text[:80]}",
                expected="a setting of a training on drops",
                found="one of an injected attack, or one that --drops, --name or the claim decides",
                hint="Use --drops and --name, and `untaint run` to try attacks.",
            )
    changed = apply_settings({**of_training(), **parameters}, settings, TASKS)
    return {name: changed[name] for name in parameters}


def _pinned(parameters: dict[str, Any], holdout: str) -> dict[str, Any]:
    """The parameters with the evaluation set that is pinned to the model's name."""
    if not holdout:
        return parameters
    from components.common.storage.addresses import parse_uri

    # A stage on a cluster cannot reach a folder of this machine.
    parse_uri(holdout)
    return {**parameters, "promote_settings": {**parameters["promote_settings"], "holdout": holdout}}


def _order(name: str, drops: str, store: str, control: bool, parameters: dict[str, Any]) -> Any:
    from pipelines.local.retrain import Order, check_order

    check_order(name, drops, parameters)
    return Order(name=name, drops=drops, store=store, parameters=parameters, control=control)


@click.group("schedule")
def schedule_group() -> None:
    """Retrain on new drops: on a cluster by the clock, or once on this machine."""


@schedule_group.command("create")
@click.option(
    "--cron", required=True, help='Six fields, seconds first, in UTC: "0 0 3 * * *" is every day at 3:00 UTC.'
)
@_drops
@_name
@_store
@_holdout
@click.option("--registry", default="untaint", show_default=True, help="Registry and path of the images.")
@click.option("--tag", default="dev", show_default=True, help="Tag of the images.")
@click.option("--profile", default="cpu", show_default=True, help="Profile by name, or a YAML file.")
@click.option("--service-account", default="", help="Service account of the pods; default: the profile's.")
@_control
@_training
@_settings
@server_options
def schedule_create_command(
    cron: str,
    drops: str,
    name: str,
    store: str,
    holdout: str,
    registry: str,
    tag: str,
    profile: str,
    service_account: str,
    control: bool,
    settings: tuple[str, ...],
    host: str,
    namespace: str,
    **given: Any,
) -> None:
    """Make a recurring run, or replace the one of the same name.

    It runs one at a time: the first step of each run looks for the oldest drop that nobody has trained, and the run
    ends there if there is none. Of the times that were missed, while it was paused or a run was at work, the last one
    is made up for, and no other. A run at work goes on when its schedule is replaced.

    \b
    Example:
      untaint schedule create --cron "0 0 3 * * *" --drops s3://data/drops --store s3://data/untaint --name digits
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    from components.common.runs.artifacts import digest_of
    from components.common.storage.addresses import parse_uri
    from pipelines.cluster.cron import check_cron
    from pipelines.cluster.pods import check_artifact_secret
    from pipelines.cluster.schedule import Schedules, compiled
    from pipelines.cluster.server import connect
    from pipelines.dag.profiles import load_profile
    from pipelines.local.retrain import check_order

    check_cron(cron)
    if not store:
        raise ConfigError(
            "--store",
            expected="the s3:// root that the cluster's stages can reach",
            found="none",
            hint="Give --store or set UNTAINT_STORE.",
        )
    parse_uri(store)
    parameters = _pinned(_parameters(settings_of(given, settings)), holdout)
    check_order(name, drops, parameters)
    parameters |= {
        "store_root": store.rstrip("/"),
        "name": name,
        "drops": drops.rstrip("/"),
    }
    granted = load_profile(profile)
    # A pod that waits for a node gives no sign of life: the claim lasts as long as the run may.
    decided = {key: value for key, value in parameters.items() if key not in ("claim_settings", "promote_settings")}
    parameters["claim_settings"] = {
        "lease_seconds": float(granted.active_deadline_seconds),
        **parameters["claim_settings"],
        "plan": digest_of([decided, registry, tag, control]),
    }
    with compiled(registry, tag, granted, control=control) as package:
        server = connect(host, namespace)
        check_artifact_secret(server)
        made = Schedules(server).create(
            name, cron, parameters, package, service_account=service_account or granted.service_account
        )
    click.echo(f"schedule {made.name}: {made.cron} (UTC), drops in {made.drops}, id {made.id}")


@schedule_group.command("list")
@json_option()
@server_options
def schedule_list_command(host: str, namespace: str, as_json: bool) -> None:
    """List the schedules."""
    from pipelines.cluster.schedule import Schedules
    from pipelines.cluster.server import connect
    from pipelines.views.summary import table

    found = Schedules(connect(host, namespace)).all()
    if as_json:
        show_json([{"name": s.name, "cron": s.cron, "enabled": s.enabled, "drops": s.drops, "id": s.id} for s in found])
        return
    if not found:
        click.echo("no schedules")
        return
    rows = [(s.name, s.cron, "on" if s.enabled else "paused", s.drops, s.id) for s in found]
    for line in table(("name", "cron (UTC)", "state", "drops", "id"), rows):
        click.echo(line)


def _change(verb: str, done: str, text: str) -> None:
    """Enters a command that does one thing to one schedule."""

    @schedule_group.command(verb, help=text)
    @click.argument("name")
    @server_options
    def command(name: str, host: str, namespace: str) -> None:
        from pipelines.cluster.schedule import Schedules
        from pipelines.cluster.server import connect

        getattr(Schedules(connect(host, namespace)), verb)(name)
        click.echo(f"schedule {name}: {done}")


_change("pause", "paused", "Pause the schedule NAME.")
_change("resume", "on; the last time that was missed is made up for", "Let the paused schedule NAME go on.")
_change("delete", "deleted; its runs stay, one at work too", "Delete the schedule NAME; runs and models stay.")


@schedule_group.command("run-once")
@click.option("--drops", default="", metavar="s3://…", help="Prefix with one folder per drop.")
@_name
@_store
@_holdout
@_control
@_training
@_settings
@resume_option("Go on with this run, which stopped, and with its drop.")
@name_option()
@click.pass_context
def schedule_run_once_command(
    ctx: click.Context,
    /,
    drops: str,
    name: str,
    store: str,
    holdout: str,
    control: bool,
    settings: tuple[str, ...],
    resume: str,
    run_id: str,
    **given: Any,
) -> None:
    """Do on this machine what a schedule does on a cluster, once.

    Ends with 0 if the model was promoted or there is nothing new, and with 6 if the gates kept the champion.

    \b
    Examples:
      untaint schedule run-once --drops s3://untaint/drops --name digits
      untaint schedule run-once --resume 20260131-120000-1f2e
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    from pipelines.local.records import ORDER, new_name, resumed
    from pipelines.local.retrain import Order, check_order, retrain_once

    run_id = new_name(home(), run_id, resume)
    named = settings_of(given, settings)
    if resume:
        before = resumed(home(), resume, ORDER, Order)
        own = {"drops": drops, "name": name, "store": store, "control": control}
        chosen: dict[str, Any] = {
            key: value for key, value in own.items() if ctx.get_parameter_source(key) is not ParameterSource.DEFAULT
        }
        order = replace(before, **chosen, parameters=_pinned(_set(before.parameters, named), holdout))
        check_order(order.name, order.drops, order.parameters)
    else:
        if not drops:
            raise click.UsageError("Missing option '--drops'.")
        order = _order(name, drops, store, control, _pinned(_parameters(named), holdout))
    ctx.exit(retrain_once(order, run_id, home(), Screen(sys.stdout), resume=bool(resume)).code)


@schedule_group.command("retry")
@click.argument("drop", metavar="s3://…")
@_name
@_store
def schedule_retry_command(drop: str, name: str, store: str) -> None:
    """Let the drop s3://… be trained once more whose model was not promoted, or whose trainings died.

    \b
    Example:
      untaint schedule retry s3://untaint/drops/2026-11-20 --name digits
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    from components.common.retraining.claims import reopen
    from components.common.storage.store import Store
    from pipelines.local.run import opened_store

    ClaimConfig(name=name)
    with opened_store(store, home()) as (root, _):
        before = reopen(Store(root), name, drop)
    click.echo(f"{before.drop_uri}: free again, last trained by run {before.holder} ({before.outcome or 'unfinished'})")
    click.echo("The next run of the schedule trains it, or `untaint schedule run-once` does at once.")


@click.command("backfill")
@click.argument("first", metavar="FROM")
@click.argument("last", metavar="TO")
@_drops
@_name
@_store
@_holdout
@_control
@_training
@_settings
@click.pass_context
def backfill_command(
    ctx: click.Context,
    /,
    first: str,
    last: str,
    drops: str,
    name: str,
    store: str,
    holdout: str,
    control: bool,
    settings: tuple[str, ...],
    **given: Any,
) -> None:
    """Train on the drops whose date lies in FROM..TO, oldest first, on this machine.

    The date is the one in the drop's name: .../2026-11-20/ or .../batch-20261120/. Drops that are done stay done.
    Ends with 0 if every model was promoted, and with 6 if the gates kept the champion once or more.

    \b
    Example:
      untaint backfill 2026-11-01 2026-11-20 --drops s3://untaint/drops --name digits
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    from components.claim.algorithm import terms_of
    from pipelines.local.retrain import backfill

    terms_of(ClaimConfig(name=name, since=first, until=last), "backfill")
    parameters = _pinned(_parameters(settings_of(given, settings), since=first, until=last), holdout)
    order = _order(name, drops, store, control, parameters)
    ended = backfill(order, home(), Screen(sys.stdout))
    for one in ended:
        click.echo(f"{one.run_id}: {one.outcome}")
    ctx.exit(ended[-1].code or max(one.code for one in ended))


@click.command("deliver")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("drop", metavar="s3://…")
def deliver_command(folder: Path, drop: str) -> None:
    """Upload FOLDER as a drop: its files first, and then the _READY.json that makes it count.

    Without AWS_ENDPOINT_URL it goes to the embedded store.

    \b
    Example:
      untaint deliver ./pictures s3://untaint/drops/2026-11-20
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    from components.common.retraining.drops import deliver
    from components.common.storage.store import Store
    from pipelines.local.run import opened_store

    with opened_store("", home()) as (root, _):
        done = deliver(Store(root), folder, drop)
    click.echo(f"{done.files} files in {drop.rstrip('/')}, ready")
    if done.left:
        left = ", ".join(f"{count} {reason}" for reason, count in sorted(done.left.items()))
        click.echo(f"left behind as no data by their names: {left}")

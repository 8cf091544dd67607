"""``untaint runs list`` and ``delete``: the runs of this machine and of a Kubeflow Pipelines server."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from components.common.contracts.errors import UntaintError
from pipelines.cli.json_output import json_option, show_json
from pipelines.cli.options import store_option
from pipelines.cli.submit import EXPERIMENT, runs_group, server_options
from pipelines.local.home import home

__all__ = ["runs_group"]


@runs_group.command("list")
@click.option("--experiment", default=EXPERIMENT, show_default=True, help="Of a server; empty for all its runs.")
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="At most so many of each.")
@json_option()
@store_option("A further store whose runs are listed.")
@server_options
def runs_list_command(host: str, namespace: str, experiment: str, limit: int, as_json: bool, store: str) -> None:
    """List the latest runs: of this machine, with verdict and size, and of a Kubeflow Pipelines server.

    A server is queried where --host, KF_PIPELINES_ENDPOINT or a kubectl configuration names one.
    """
    from pipelines.local.runs import list_runs

    here, problems = list_runs(home(), store)
    named = bool(host or os.environ.get("KF_PIPELINES_ENDPOINT"))
    there: list[dict[str, Any]] | None = None
    if named or _kubectl_is_configured():
        try:
            there = _server_runs(host, namespace, experiment, limit)
        except UntaintError as problem:
            if named:
                raise
            problems.append(str(problem))
    for text in problems:
        click.echo(f"not listed: {text}", err=True)
    if as_json:
        show_json(
            [{"where": "here", **asdict(run)} for run in here[:limit]]
            + [{"where": "server", **run} for run in there or []]
        )
        return
    _show(here[:limit], len(here), there, experiment)


def _show(here: list[Any], in_all: int, there: list[dict[str, Any]] | None, experiment: str) -> None:
    from pipelines.views.summary import table

    if here:
        cells = [
            (run.run_id, run.changed, run.state, run.verdict or "-", _mb(run.store_bytes), _mb(run.folder_bytes))
            for run in here
        ]
        click.echo(f"In {home()}:" if there is None else f"On this machine, in {home()}:")
        for line in table(("run", "changed", "state", "verdict", "store MB", "folder MB"), cells):
            click.echo(line)
        if in_all > len(here):
            click.echo(f"… and {in_all - len(here)} more; --limit shows them")
    elif there is None:
        click.echo(f"No runs in {home()}.")
    if there:
        if here:
            click.echo("\nOn Kubeflow Pipelines:")
        rows = [(run["run_id"], run["started"] or "-", run["state"] or "-", run["name"]) for run in there]
        for line in table(("run", "started", "state", "name"), rows):
            click.echo(line)
    elif there is not None:
        click.echo(f"No runs in {f'experiment {experiment}' if experiment else 'any experiment'}.")


def _server_runs(host: str, namespace: str, experiment: str, limit: int) -> list[dict[str, Any]]:
    from pipelines.cluster.server import connect
    from pipelines.cluster.submit import list_runs

    return [
        {
            "run_id": str(run.run_id),
            "started": f"{run.created_at:%Y-%m-%d %H:%M:%S}" if run.created_at else None,
            "state": str(run.state).lower() if run.state else None,
            "name": run.display_name,
        }
        for run in list_runs(connect(host, namespace), experiment, limit)
    ]


def _kubectl_is_configured() -> bool:
    named = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube/config")
    return any(Path(part).is_file() for part in named.split(os.pathsep) if part)


def _mb(size: int | None) -> str:
    return "?" if size is None else f"{size / 1e6:.1f}"


@runs_group.command("delete")
@click.argument("run", metavar="RUN_ID|s3://…/runs/RUN_ID")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Delete the run of a former champion too; no rollback to it afterwards.")
@store_option()
def runs_delete_command(run: str, yes: bool, force: bool, store: str) -> None:
    """Delete a run: its objects in the store, and its folder on this machine.

    A run that a champion, a claim or the run itself still needs is not deleted.

    \b
    Example:
      untaint runs delete 20260131-120000-1f2e
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    from pipelines.local.runs import delete_local_run, located

    root, run_id = located(run, store, home())
    if not yes:
        where = root or f"the default store of {home()}"
        click.confirm(f"Delete run {run_id} from {where}, and its folder on this machine?", abort=True)
    freed = delete_local_run(run_id, root, home(), force=force)
    click.echo(f"deleted run {run_id}: {freed / 1e6:.1f} MB")

"""``untaint store gc``: frees what nothing needs."""

from __future__ import annotations

import click

from pipelines.cli.json_output import json_option, show_json
from pipelines.cli.options import store_option
from pipelines.local.home import home

__all__ = ["store_gc_command"]


@click.command("gc")
@click.option(
    "--older-than",
    "days",
    type=click.FloatRange(min=0),
    default=None,
    metavar="DAYS",
    help="Also whole runs that nothing needs and that nobody wrote to for so many days. [default: none]",
)
@click.option("--delete", is_flag=True, help="Delete. Without it, what would be deleted is listed, and nothing more.")
@json_option()
@store_option()
def store_gc_command(days: float | None, delete: bool, as_json: bool, store: str) -> None:
    """List, or delete, objects that nothing needs: what unfinished attempts left behind, and on request old runs.

    Runs of champions, present and former, of claims under way and runs at work stay whatever their age.

    \b
    Examples:
      untaint store gc
      untaint store gc --older-than 30
      untaint store gc --older-than 30 --delete --store s3://bucket/untaint
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    from components.common.retraining.space import find_garbage, free
    from components.common.storage.compaction import compact
    from components.common.storage.store import Store
    from pipelines.local.run import opened_store
    from pipelines.views.summary import table

    with opened_store(store, home()) as (root, embedded):
        reached = Store(root)
        found = find_garbage(reached, days)
        freed = [free(reached, one) for one in found] if delete else [one.size_bytes for one in found]
        if delete and embedded:
            compact(home() / "store")
    if as_json:
        show_json(
            {
                "deleted": delete,
                "bytes": sum(freed),
                "garbage": [
                    {
                        "run_id": one.run_id,
                        "reason": one.reason,
                        "whole_run": one.whole,
                        "bytes": size,
                        "objects": [entry.uri for entry in one.objects],
                    }
                    for one, size in zip(found, freed, strict=True)
                ],
            }
        )
        return
    if not found:
        click.echo(f"Nothing to free in {root}.")
        return
    rows = [
        (one.run_id, str(len(one.objects)), f"{size / 1e6:.1f}", one.reason)
        for one, size in zip(found, freed, strict=True)
    ]
    for line in table(("run", "objects", "MB", "why"), rows):
        click.echo(line)
    done = "deleted" if delete else "would be freed; nothing was deleted, --delete does it"
    click.echo(f"{sum(freed) / 1e6:.1f} MB {done}")

"""``untaint``: the one entry to everything, also as ``python -m pipelines.cli.main``.

Nothing heavy is imported before a command needs it, so that ``untaint --help`` answers at once.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import click

from components.common.contracts.errors import ConfigError, UntaintError, defect
from components.common.contracts.os_errors import explained
from pipelines.cli.json_output import json_option, show_json
from pipelines.local.home import home

__all__ = ["Told", "cli", "main"]

# Given by name and imported when they are called: `untaint --help` then loads neither KFP nor PyTorch.
_COMMANDS = {
    "run": "pipelines.cli.run:run_command",
    "compile": "pipelines.cli.run:compile_command",
    "report": "pipelines.cli.run:report_command",
    "images": "pipelines.cli.images:images_group",
    "run-docker": "pipelines.cli.images:run_docker_command",
    "ingest": "pipelines.cli.data:ingest_command",
    "suspects": "pipelines.cli.data:suspects_group",
    "submit": "pipelines.cli.submit:submit_command",
    "runs": "pipelines.cli.runs:runs_group",
    "run-local": "pipelines.cli.kind:run_local_command",
    "run-local-down": "pipelines.cli.kind:run_local_down_command",
    "schedule": "pipelines.cli.schedule:schedule_group",
    "backfill": "pipelines.cli.schedule:backfill_command",
    "deliver": "pipelines.cli.schedule:deliver_command",
    "models": "pipelines.cli.models:models_group",
    "export": "pipelines.cli.export:export_command",
    "predict": "pipelines.cli.predict:predict_command",
}


class Told(click.ClickException):
    """An UntaintError as the user sees it: problem, expected, found, what to do; and its exit code."""

    def __init__(self, problem: UntaintError) -> None:
        super().__init__(str(problem))
        self.problem = problem
        # click declares a class variable, and reads it from the instance as its own subclasses set it.
        setattr(self, "exit_code", problem.exit_code)  # noqa: B010

    def show(self, file: Any = None) -> None:
        """Prints the four lines to standard error."""
        for line in self.problem.lines():
            click.echo(line, file=file, err=file is None)


class _Commands(click.Group):
    """A group that imports a command's module when the command is called, and explains what goes wrong."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_COMMANDS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return super().get_command(ctx, cmd_name)
        module, _, name = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as problem:
            # A closed pipe, which click ends quietly.
            if os.environ.get("UNTAINT_DEBUG") == "1" or isinstance(problem, BrokenPipeError):
                raise
            raise Told(explained(problem) or defect(problem)) from problem


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("untaint")
    except PackageNotFoundError:
        raise ConfigError(
            "the package untaint",
            expected="it installed",
            found="only its source on the import path",
            hint="Run `make setup`, or `pip install -e . --no-deps`.",
        ) from None


def _show_version(ctx: click.Context, _: click.Parameter, given: bool) -> None:
    if given and not ctx.resilient_parsing:
        click.echo(_version())
        ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version, help="Print the version."
)
def cli() -> None:
    """Train a clean image classifier from a dataset that may be poisoned.

    \b
    Examples:
      untaint run                                    5,000 digits, a BadNets attack, defended and undefended
      untaint run --attack blended --poison-rate 0.05
      untaint run --resume 20260131-120000-1f2e      go on with a run that stopped
      untaint report 20260131-120000-1f2e            show its result again
      untaint compile --registry ghcr.io/me --tag v1 --output training.yaml
    """  # noqa: D301 - click reads the backspace as "do not wrap"


@cli.command("version")
def version_command() -> None:
    """Print the version; `untaint --version` does the same."""
    click.echo(_version())


_NAMED = {
    "architectures": ("components.common.models.base", "MODELS"),
    "attacks": ("components.common.attacks.base", "ATTACKS"),
    "datasets": ("components.common.datasets.base", "DATASETS"),
}
_FORMERLY = {"models": "architectures"}


class _Kind(click.Choice[str]):
    """What can be listed; a former word is taken too, and the new one said."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value in _FORMERLY:
            new = _FORMERLY[value]
            click.echo(f"`untaint list {new}` is the new name; trained models: `untaint {value} list`.", err=True)
            value = new
        return super().convert(value, param, ctx)


@cli.command("list")
@click.argument("kind", type=_Kind(list(_NAMED)))
@json_option()
def list_command(kind: str, as_json: bool) -> None:
    """List the ARCHITECTURES, ATTACKS or DATASETS that can be named.

    The models that were trained and put to use are listed by `untaint models list`.

    \b
    Example:
      untaint list attacks
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    from components.common.contracts.registry import Registry
    from components.common.intake.names import OWN

    module, name = _NAMED[kind]
    registry: Registry[Any] = getattr(importlib.import_module(module), name)
    said = {
        name: " ".join((registry[name].__doc__ or "").strip().partition("\n\n")[0].split()).partition(". ")[0]
        for name in registry
    }
    options = {name: getattr(registry[name], "options", {}) for name in registry}
    if kind == "datasets":
        said |= {f"{name}:FOLDER": meaning.partition(". ")[0] for name, meaning in OWN.items()}
    if as_json:
        show_json(
            [
                {
                    "name": name,
                    "about": said[name].rstrip("."),
                    "options": {
                        key: {"default": one.default, "low": one.low, "high": one.high, "meaning": one.meaning}
                        for key, one in options.get(name, {}).items()
                    },
                }
                for name in said
            ]
        )
        return
    width = max(len(name) for name in said)
    for name in said:
        click.echo(f"{name:<{width}}  {said[name].rstrip('.')}".rstrip())
        for key, option in options.get(name, {}).items():
            bounds = f"{option.default:g} ({option.low:g} to {option.high:g})"
            click.echo(f"{'':<{width}}  - {key} {bounds}: {option.meaning}")
    if kind == "attacks":
        click.echo("Set them as in --set ingest.attack_options=alpha=0.1.")


class _Store(click.Group):
    """The group of the store, with one command that is imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), "gc"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name != "gc":
            return super().get_command(ctx, cmd_name)
        from pipelines.cli.gc import store_gc_command

        return store_gc_command


@cli.group("store", cls=_Store)
def store_group() -> None:
    """Start an object store on this machine, try one out, or free space in it."""


@store_group.command("start")
@click.option("--bucket", default="untaint", show_default=True, help="Bucket to make.")
def store_start_command(bucket: str) -> None:
    """Run the embedded object store until Ctrl-C.

    The variables that are printed hold its secret key: they are for this machine's shells.
    """
    import shlex
    import threading

    from components.common.storage.embedded import EmbeddedStore

    with EmbeddedStore(home() / "store", bucket=bucket) as store:
        click.echo(f"# {'Found' if store.attached else 'Started'} at {store.url}; objects are in {store.data_dir}.")
        click.echo("# Paste this into the shells that shall use it:")
        for variable, value in store.environment().items():
            click.echo(f"export {variable}={shlex.quote(value)}")
        click.echo(f"export UNTAINT_STORE={store.root}")
        click.echo("# It runs until Ctrl-C here, and as long as runs use it.")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            click.echo("# Stopping.")


@store_group.command("probe")
@click.option("--store", "root", envvar="UNTAINT_STORE", default="s3://untaint", show_default=True, help="Root URI.")
@json_option()
@click.pass_context
def store_probe_command(ctx: click.Context, root: str, as_json: bool) -> None:
    """Try every operation that untaint needs of an S3 store, and say what works.

    Without AWS_ENDPOINT_URL this is Amazon S3; the embedded store is reached with the variables of `store start`.

    \b
    Example:
      untaint store probe --store s3://my-bucket/untaint
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    from components.common.contracts.errors import StorageError
    from components.common.storage.probe import probe
    from components.common.storage.store import Store

    report = probe(Store(root))
    if as_json:
        checks = [
            {"name": check.name, "needed_for": check.needed_for, "ok": check.ok, "detail": check.detail}
            for check in report.checks
        ]
        show_json({"root": report.root, "endpoint": report.endpoint, "checks": checks, "ok": report.ok})
        ctx.exit(0 if report.ok else StorageError.exit_code)
    click.echo(f"{report.root} at {report.endpoint}")
    for check in report.checks:
        click.echo(f"  {'yes' if check.ok else 'NO ':<3}  {check.name:<18} for {check.needed_for}")
        if check.detail:
            click.echo(f"       {check.detail}")
    ctx.exit(0 if report.ok else StorageError.exit_code)


def main() -> None:
    """The entry point of the command line."""
    cli(prog_name="untaint")


if __name__ == "__main__":
    main()

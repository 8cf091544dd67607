"""The commands of ``untaint`` that run or compile pipelines; ``pipelines.cli.main`` imports them by name."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, NoReturn

import click
from click.core import ParameterSource

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
from pipelines.dag.parameters import INJECTED, TRAINING
from pipelines.dag.settings import apply_settings, default_parameters
from pipelines.local.home import home

__all__ = ["compile_command", "report_command", "run_command", "start_run"]


@click.command("run")
@parameter_options((*INJECTED, *TRAINING))
@control_option()
@resume_option()
@name_option()
@store_option()
@settings_option()
@click.pass_context
def run_command(
    ctx: click.Context,
    /,
    control: bool,
    resume: str,
    run_id: str,
    store: str,
    settings: tuple[str, ...],
    **given: Any,
) -> None:
    """Run the whole pipeline on this machine.

    \b
    Examples:
      untaint run
      untaint run --attack wanet --poison-rate 0.05 --seed 1
      untaint run --dataset parquet:s3://bucket/images --attack none --store s3://bucket/untaint
      untaint run --set warmup.epochs=3 --set split.isolation_ratio=0.01
      untaint run --resume 20260131-120000-1f2e
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    start_run(ctx, control, resume, run_id, store, settings_of(given, settings))


def start_run(
    ctx: click.Context,
    control: bool,
    resume: str,
    run_id: str,
    store: str,
    settings: Iterable[str],
    images: tuple[str, str] | None = None,
) -> NoReturn:
    """Puts a run's plan together from its options and those that it was started with, runs it and exits.

    Args:
        ctx: The command's context, which knows what the user gave.
        control: Whether the undefended model is trained.
        resume: The run to go on with; empty for a new one.
        run_id: Name of the new run; empty for one made up.
        store: Root URI of the user's store, or empty.
        settings: ``stage.key=value`` texts.
        images: Registry and tag of the images in which the stages run; None runs them as processes.
    """
    from pipelines.local.records import PLAN, Plan, new_name, resumed
    from pipelines.local.run import run
    from pipelines.local.screen import Screen

    run_id = new_name(home(), run_id, resume)
    before = resumed(home(), resume, PLAN, Plan) if resume else None
    chosen = {name for name in ctx.params if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT}
    parameters = {**default_parameters(), **(before.parameters if before else {})}
    plan = Plan(
        parameters=apply_settings(parameters, settings),
        control=before.control if before and "control" not in chosen else control,
        store=before.store if before and "store" not in chosen else store,
    )
    ctx.exit(run(plan, run_id, home(), Screen(sys.stdout), images, resume=bool(resume)))


@click.command("report")
@click.argument("run_id")
@json_option()
@store_option()
def report_command(run_id: str, as_json: bool, store: str) -> None:
    """Show the result of the finished run RUN_ID again, and fetch its report."""
    from components.common.storage.store import Store
    from pipelines.local.records import load_plan
    from pipelines.local.run import opened_store
    from pipelines.views.summary import show, summary_of

    plan = load_plan(home(), run_id)
    if plan is None and not store:
        raise ConfigError(
            f"run {run_id}",
            expected=f"a run that was started here, in {home() / 'runs'}",
            found="none",
            hint="Go to the folder where it was started, or name the store with --store.",
        )
    with opened_store(store or (plan.store if plan else ""), home()) as (root, _):
        if as_json:
            show_json(summary_of(Store(root), run_id))
            return
        show(Store(root), run_id, home() / "runs" / run_id, click.echo)


@click.command("compile")
@click.option("--registry", default="untaint", show_default=True, help="Registry and path of the images; may be empty.")
@click.option("--tag", default="dev", show_default=True, help="Tag of the images. It must change with the code.")
@click.option("--output", default="training.yaml", show_default=True, type=click.Path(dir_okay=False), help="The file.")
@click.option("--profile", default="", help="What a cluster grants each stage: cpu, gpu, eks-irsa or a YAML file.")
@control_option()
def compile_command(registry: str, tag: str, output: str, profile: str, control: bool) -> None:
    """Compile the pipeline to the YAML that a Kubeflow Pipelines server takes.

    \b
    Example:
      untaint compile --registry ghcr.io/me --tag v1 --profile gpu --output training.yaml
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    from pipelines.dag.profiles import load_profile
    from pipelines.dag.training import compile_pipeline

    if not output.endswith((".yaml", ".yml")):
        raise ConfigError(
            f"--output {output}", expected="a name that ends in .yaml", found="another", hint="Rename the file."
        )
    compile_pipeline(output, registry, tag, load_profile(profile) if profile else None, control=control)
    click.echo(f"wrote {output}")

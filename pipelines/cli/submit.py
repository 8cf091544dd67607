"""The commands of ``untaint`` that run the pipeline on a cluster: ``submit`` and ``runs``."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from components.common.contracts.errors import ConfigError
from components.common.storage.addresses import parse_uri
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

__all__ = ["EXPERIMENT", "parameters_of", "run_options", "runs_group", "server_options", "submit_command"]

EXPERIMENT = "untaint"
"""Experiment of the runs, unless another is named."""
_NOT_SUCCEEDED = 1
_INTERRUPTED = 130


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that say which Kubeflow Pipelines server is meant."""
    for option in (
        click.option(
            "--namespace",
            envvar="KFP_NAMESPACE",
            default="",
            help="Namespace of the run, where the server has several users.",
        ),
        click.option(
            "--host",
            envvar=["KF_PIPELINES_ENDPOINT", "KFP_ENDPOINT"],
            default="",
            metavar="URL",
            help="Kubeflow Pipelines; without it, the cluster of the current kubectl context. A token is taken from "
            "KFP_EXISTING_TOKEN, never from an option.",
        ),
    ):
        command = option(command)
    return command


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that decide what a run computes: the pipeline's parameters, ``control`` and ``settings``."""
    for option in (settings_option(), control_option(), parameter_options((*INJECTED, *TRAINING))):
        command = option(command)
    return command


def parameters_of(given: dict[str, Any], settings: tuple[str, ...]) -> dict[str, Any]:
    """The pipeline's parameters as checked from the values of ``run_options``.

    Raises:
        ConfigError: A setting or name that does not exist, a value out of its range, a model for larger images, or a
            dataset that no pod could reach.
    """
    from pipelines.local.preflight import check_names

    parameters = apply_settings(default_parameters(), settings_of(given, settings))
    check_names(parameters)
    source, colon, place = str(parameters["dataset"]).partition(":")
    if colon and not place.startswith("s3://"):
        raise ConfigError(
            f"dataset '{source[:40]}:{place[:80]}'",
            expected=f"{source[:40]}:s3://BUCKET/PREFIX, in the store that the pods reach",
            found="a folder of this machine",
            hint="Copy it to S3 first.",
        )
    return parameters


@click.command("submit")
@click.option("--package", type=click.Path(dir_okay=False, exists=True), help="A compiled pipeline; default: compile.")
@click.option("--registry", default="untaint", show_default=True, help="Registry and path of the images.")
@click.option("--tag", default="dev", show_default=True, help="Tag of the images.")
@click.option("--profile", default="cpu", show_default=True, help="Profile by name, or a YAML file.")
@store_option("Store of the run data, as the cluster sees it; its keys are in the secret that the profile names.")
@click.option("--experiment", default=EXPERIMENT, show_default=True, help="Experiment; made if it is not there.")
@click.option("--service-account", default="", help="Service account of the pods; default: the profile's.")
@resume_option("Go on with this run: a new run on the server, which keeps what is finished; give its options again.")
@name_option()
@click.option("--wait/--no-wait", default=False, show_default=True, help="Follow the run to its end.")
@click.option("--timeout", type=click.IntRange(min=1), help="With --wait: seconds after which to stop following.")
@run_options
@server_options
@click.pass_context
def submit_command(
    ctx: click.Context,
    /,
    host: str,
    namespace: str,
    package: str | None,
    registry: str,
    tag: str,
    profile: str,
    store: str,
    experiment: str,
    service_account: str,
    resume: str,
    run_id: str,
    wait: bool,
    timeout: int | None,
    control: bool,
    settings: tuple[str, ...],
    **given: Any,
) -> None:
    """Run the pipeline on a Kubeflow Pipelines server.

    \b
    Examples:
      untaint submit --registry ghcr.io/me --tag v1 --profile gpu --store s3://bucket/untaint --wait
      untaint submit --package build/training.yaml --store s3://bucket/untaint --attack none \\
        --dataset parquet:s3://bucket/images
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    from pipelines.cluster.pods import check_artifact_secret
    from pipelines.cluster.server import connect
    from pipelines.cluster.submit import check_name, follow, start, task_names, upload
    from pipelines.dag.profiles import load_profile
    from pipelines.dag.training import PIPELINE_NAME, compile_pipeline
    from pipelines.local.records import chosen_name
    from pipelines.views.summary import summary_uri

    if not store:
        raise ConfigError(
            "the store of the run",
            expected="s3://BUCKET/PREFIX, as the cluster sees it",
            found="none",
            hint="Give it with --store, or set UNTAINT_STORE.",
        )
    parse_uri(store)
    parameters = parameters_of(given, settings)
    granted = load_profile(profile)
    write = partial(click.echo, file=sys.stdout)
    named = resume or run_id
    run_id = chosen_name(run_id, resume)
    if package and ctx.get_parameter_source("control") is not ParameterSource.DEFAULT:
        raise ConfigError(
            "--control", expected="no --package beside it", found="both", hint="It is decided when compiling."
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(package) if package else Path(folder) / "training.yaml"
        if not package:
            compile_pipeline(path, registry, tag, granted, control=control)
        names = task_names(path)
        server = connect(host, namespace)
        if named:
            check_name(server, f"{PIPELINE_NAME} {run_id}", run_id, "submit", resume=bool(resume))
        check_artifact_secret(server)
        pipeline, version, new = upload(server, path, PIPELINE_NAME)
    write(f"pipeline {PIPELINE_NAME}, version {version} ({'uploaded' if new else 'already there'})")
    kfp_run = start(
        server,
        (pipeline, version),
        f"{PIPELINE_NAME} {run_id}",
        {**parameters, "store_root": store, "run_id": run_id},
        experiment=experiment,
        service_account=service_account or granted.service_account,
    )
    write(f"run {kfp_run}, data in {store.rstrip('/')}/runs/{run_id}")
    write(f"UI: {server.link(kfp_run)}")
    if not wait:
        write(f"To follow it: untaint runs show {kfp_run}")
        return
    try:
        state = follow(server, kfp_run, names, write, limit_seconds=timeout or float("inf"))
    except KeyboardInterrupt:
        write(f"Interrupted. The run goes on; to end it: untaint runs stop {kfp_run}")
        ctx.exit(_INTERRUPTED)
    if state == "SUCCEEDED":
        write(f"summary: {summary_uri(store, run_id)}")
    ctx.exit(0 if state == "SUCCEEDED" else _NOT_SUCCEEDED)


@click.group("runs")
def runs_group() -> None:
    """List and delete runs; show and stop those of a Kubeflow Pipelines server, and read their logs."""


@runs_group.command("show")
@click.argument("run_id")
@json_option()
@server_options
def runs_show_command(host: str, namespace: str, run_id: str, as_json: bool) -> None:
    """Show the state of the run RUN_ID and of its tasks."""
    from pipelines.cluster.server import connect
    from pipelines.cluster.submit import STOPPED, get_run, tasks_of, was_stopped
    from pipelines.views.summary import table

    server = connect(host, namespace)
    run = get_run(server, run_id)
    if as_json:
        tasks = [{"name": task.name, "state": task.state.lower(), "seconds": task.seconds} for task in tasks_of(run)]
        shown = {"run_id": str(run.run_id), "state": str(run.state or "pending").lower(), "name": run.display_name}
        show_json({**shown, "started": _time(run.created_at), "tasks": tasks, "link": server.link(run_id)})
        return
    stopped = f", for {STOPPED}" if was_stopped(run) else ""
    click.echo(f"run {run.run_id}: {str(run.state or 'pending').lower()}{stopped}")
    click.echo(f"name {run.display_name}, started {_time(run.created_at)}")
    rows = [
        (task.name, task.state.lower(), "-" if task.seconds is None else f"{task.seconds:.0f}")
        for task in tasks_of(run)
    ]
    if rows:
        click.echo("")
        for line in table(("task", "state", "seconds"), rows):
            click.echo(line)
    click.echo(f"UI: {server.link(run_id)}")


@runs_group.command("logs")
@click.argument("run_id")
@click.argument("task", required=False)
@server_options
def runs_logs_command(host: str, namespace: str, run_id: str, task: str | None) -> None:
    """Print what the stages of the run RUN_ID said; of one TASK only, if one is named (see `untaint runs show`).

    The log of a stage at work is read from its pod, which needs a kubeconfig; that of one that has ended also from the
    archive of Kubeflow Pipelines.
    """
    from pipelines.cluster.logs import logs_of
    from pipelines.cluster.server import connect

    problem = None
    for log in logs_of(connect(host, namespace), run_id, task or ""):
        if task is None:
            click.echo(f"== {log.task}, {log.origin}")
        problem = problem or log.problem
        if log.text:
            click.echo(log.text.rstrip("\n"))
    if problem is not None:
        raise problem


@runs_group.command("stop")
@click.argument("run_id")
@server_options
def runs_stop_command(host: str, namespace: str, run_id: str) -> None:
    """End the run RUN_ID; finished stages are kept, and `untaint submit --resume` goes on from them."""
    from pipelines.cluster.server import connect
    from pipelines.cluster.submit import ENDED, get_run, stop

    server = connect(host, namespace)
    state = str(get_run(server, run_id).state)
    if state in ENDED:
        click.echo(f"run {run_id} has ended already: {state.lower()}")
        return
    stop(server, run_id)
    click.echo(f"run {run_id} is being stopped")


def _time(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"

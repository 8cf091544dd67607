"""The commands of ``untaint`` that run the pipeline on Kubernetes on this machine."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from pipelines.cli.options import name_option, resume_option
from pipelines.cli.submit import parameters_of, run_options
from pipelines.local.home import home

__all__ = ["run_local_command", "run_local_down_command"]

_REGISTRY = "untaint-kind"
"""Not the registry of `untaint images build`, so that `run-local-down` can delete what is its own."""
_STORE = "s3://mlpipeline/untaint"
_NOT_SUCCEEDED = 1
_INTERRUPTED = 130


@click.command("run-local")
@resume_option("Go on with this run in the cluster that is there; give its options again.")
@name_option()
@click.option("--profile", default="cpu", show_default=True, help="Profile by name, or a YAML file.")
@click.option("--node-image", default="", help="Node image of kind, with tag and digest.")
@click.option(
    "--wait-seconds", type=click.IntRange(min=1), default=900, show_default=True, help="For the installation."
)
@click.option("--torch-cpu", default="", help="PyTorch in all images, as a pip requirement.")
@click.option("--torch-cpu-index-url", default="", help="Another index for it; see `untaint images build --help`.")
@click.option("--base-image", default="", help="Base image with Python 3.11 and pip.")
@click.option("--network", default="", help="Network of the build steps, as for `docker build`.")
@run_options
@click.pass_context
def run_local_command(
    ctx: click.Context,
    /,
    resume: str,
    run_id: str,
    profile: str,
    node_image: str,
    wait_seconds: int,
    control: bool,
    settings: tuple[str, ...],
    **given: Any,
) -> None:
    """Run the pipeline on Kubernetes on this machine: kind, Kubeflow Pipelines and the six images.

    Each step that is done already is left as it is, so it can be called again at any time. Needs docker, kind and
    kubectl, and 8 GiB of memory and 4 CPUs for Docker. `untaint run-local-down` removes everything.
    """
    from pipelines.cluster import kind as cluster
    from pipelines.dag.profiles import load_profile
    from pipelines.images.build import BuildOptions, build_images, content_tag
    from pipelines.local.records import chosen_name

    write = partial(click.echo, file=sys.stdout)
    names = ("base_image", "torch_cpu", "torch_cpu_index_url", "network")
    build = {name: value for name in names if (value := given.pop(name))}
    # A node of kind has no GPU, and PyTorch for CUDA would be gigabytes on it.
    on_cpu = BuildOptions(**build)
    options = replace(on_cpu, torch=on_cpu.torch_cpu, torch_index_url=on_cpu.torch_cpu_index_url)
    parameters = parameters_of(given, settings)
    granted = load_profile(profile)
    named = resume or run_id
    run_id = chosen_name(run_id, resume)
    try:
        cluster.check_machine(write)
        cluster.create(write, node_image or cluster.NODE_IMAGE)
        cluster.install_pipelines(write, limit_seconds=wait_seconds)
        tag = content_tag(options)
        cluster.load_images(build_images(options, _REGISTRY, tag, write), write)
        keys = cluster.store_keys()
        cluster.apply_overlay(keys, write)
        state = _submit_and_follow(tag, granted, control, parameters, run_id, write, resume if named else None)
        if state == "SUCCEEDED":
            _show(keys, run_id, write)
    except KeyboardInterrupt:
        write("Interrupted. The cluster stays. To go on: the same command, or once the run is there, untaint run-local")
        write(f"    with its options and --resume {run_id}")
        ctx.exit(_INTERRUPTED)
    if state != "SUCCEEDED":
        write(f"To go on after mending it: untaint run-local --resume {run_id}, with its options")
    write(f"UI: kubectl --context {cluster.CONTEXT} -n {cluster.NAMESPACE} port-forward svc/ml-pipeline-ui 8080:80")
    write("    and then http://127.0.0.1:8080. To remove everything: make run-local-down")
    ctx.exit(0 if state == "SUCCEEDED" else _NOT_SUCCEEDED)


def _submit_and_follow(
    tag: str, granted: Any, control: bool, parameters: dict[str, Any], run_id: str, write: Any, resume: str | None
) -> str:
    """The state in which the run ended; ``resume`` is None where its id was made up, and no run can have it."""
    from pipelines.cluster import kind as cluster
    from pipelines.cluster.server import connect
    from pipelines.cluster.submit import check_name, follow, start, task_names, upload
    from pipelines.dag.training import PIPELINE_NAME, compile_pipeline

    with cluster.forwarded("ml-pipeline", 8888) as port, tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "training.yaml"
        compile_pipeline(package, _REGISTRY, tag, granted, control=control)
        server = connect(f"http://127.0.0.1:{port}", context=cluster.CONTEXT)
        if resume is not None:
            check_name(server, f"{PIPELINE_NAME} {run_id}", run_id, "run-local", resume=bool(resume))
        pipeline, version, _ = upload(server, package, PIPELINE_NAME)
        run = start(
            server,
            (pipeline, version),
            f"{PIPELINE_NAME} {run_id}",
            {**parameters, "store_root": _STORE, "run_id": run_id},
            experiment="untaint",
            service_account=granted.service_account,
        )
        write(f"run {run}, data in {_STORE}/runs/{run_id}")
        return follow(server, run, task_names(package), write)


def _show(keys: dict[str, str], run_id: str, write: Any) -> None:
    """The table of `untaint run`, and the report, from the store in the cluster."""
    from components.common.storage.store import Store
    from pipelines.cluster import kind as cluster
    from pipelines.views.summary import show

    with cluster.forwarded("seaweedfs", 9000) as port:
        reach = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": keys["accesskey"],
            "AWS_SECRET_ACCESS_KEY": keys["secretkey"],
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        before = dict(os.environ)
        for name in ("AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
            os.environ.pop(name, None)
        os.environ.update(reach)
        try:
            show(Store(_STORE), run_id, home() / "runs" / run_id, write)
        finally:
            os.environ.clear()
            os.environ.update(before)


@click.command("run-local-down")
def run_local_down_command() -> None:
    """Delete the cluster of run-local with all its data, and the images that were built for it.

    The node image of kind stays, for other clusters may use it.
    """
    from pipelines.cluster.kind import delete

    delete(_REGISTRY, partial(click.echo, file=sys.stdout))

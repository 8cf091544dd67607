"""A stage for Kubeflow Pipelines, made from its declaration: its component, and what its container calls."""

import contextlib
import hashlib
import importlib
import inspect
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections import namedtuple
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, get_origin

from kfp import dsl

from components.common.contracts.errors import ConfigError, defect
from components.common.contracts.os_errors import explained
from components.common.contracts.spec import StageSpec
from components.common.runs.artifacts import StageManifest

__all__ = ["RUN_PID", "STATUS_FILE", "Published", "component_of", "deliver", "described", "entry_point"]

STATUS_FILE = "UNTAINT_STATUS_FILE"
"""Environment variable: where a stage of a local run notes its process id and how it ended, as JSON.

KFP's local runner drops the exit code of a task, and the process id, which is needed to stop one.
"""
RUN_PID = "UNTAINT_RUN_PID"
"""Environment variable: process id of the local run; a stage ends when that process is gone."""
_PARENT_POLL_SECONDS = 0.5

# kfp.dsl.executor_main is KFP's own runtime: it parses the executor input, calls `run` with typed inputs and outputs
# and writes parameters, artifacts and metrics as the launcher wants them. A container component that starts it runs
# unchanged as a subprocess, in Docker and on a cluster. The module's file is looked up where the code runs, since an
# image and a checkout hold it in different places.
_START = (
    'module_file=$(python3 -c "import importlib.util,sys;print(importlib.util.find_spec(sys.argv[1]).origin)" "$0") '
    "&& export _KFP_RUNTIME=true && exec python3 -m kfp.dsl.executor_main "
    '--component_module_path "$module_file" --function_to_execute run --executor_input "$1"'
)


class Published(Protocol):
    """A stage's result as ``stage.py`` returns it; ``lifecycle`` has the class, which is too heavy to import here."""

    @property
    def uri(self) -> str:
        """Where the stage's manifest lies."""
        ...

    @property
    def sha256(self) -> str:
        """Hex sha256 of that manifest's bytes."""
        ...

    @property
    def manifest(self) -> StageManifest:
        """The manifest."""
        ...

    @property
    def outputs(self) -> Mapping[str, str]:
        """What the stage hands on besides, by the name of its output."""
        ...

    @property
    def files(self) -> Mapping[str, bytes]:
        """Content of its further artifacts, by the name of their output."""
        ...


def described(*specs: StageSpec) -> dict[str, tuple[Any, str, bool]]:
    """What a component takes and gives, in order: name to KFP type, meaning, and whether it is an output.

    Args:
        specs: The tasks of one folder. Of several, the input ``role`` says which is meant.
    """
    first = specs[0]
    table: dict[str, tuple[Any, str, bool]] = {
        "store_root": (str, "``s3://bucket/prefix`` of the run data.", False),
        "run_id": (str, "Identifier of the run; its results lie under ``<store_root>/runs/<run_id>/``.", False),
    }
    if len(specs) > 1:
        table["role"] = (str, f"Which of {', '.join(f'``{spec.name}``' for spec in specs)}.", False)
    for name in first.inputs:
        kind = first.config.model_fields[name].annotation
        table[name] = (str if get_origin(kind) is Literal else kind, first.config.meaning(name), False)
    table["settings"] = (
        dict[str, Any], "Further settings of the stage by name; what is left out has its default.", False
    )  # fmt: skip
    for parent in first.parents:
        table[f"{parent}_uri"] = (str, f"Manifest of {parent}; empty in a run without it.", False)
        table[f"{parent}_sha256"] = (str, "Hex sha256 of that manifest.", False)
    if first.after:
        # Downloaded by KFP before the code runs, so it is small: data go by the manifests.
        table[f"{first.after}_lineage"] = (
            dsl.Input[dsl.Artifact],
            f"The result of {first.after} in the run graph.",
            False,
        )
    lineage = dsl.Dataset if first.lineage == "Dataset" else dsl.Model
    table["lineage"] = (
        dsl.Output[lineage], "The stage's result in the run graph: store address, digest, rows.", True
    )  # fmt: skip
    table["metrics"] = (dsl.Output[dsl.Metrics], "The stage's figures.", True)
    for output in first.outputs:
        if output.kind != "text":
            table[output.name] = (dsl.Output[getattr(dsl, output.kind)], output.text, True)
    table["manifest_uri"] = (dsl.OutputPath(str), "Where the stage's manifest lies.", True)
    # A parameter, so that KFP's cache keys follow the content of the store.
    table["manifest_sha256"] = (dsl.OutputPath(str), "Hex sha256 of that manifest.", True)
    for output in first.outputs:
        if output.kind == "text":
            table[output.name] = (dsl.OutputPath(str), output.text, True)
    return table


def component_of(image: str, *specs: StageSpec) -> Any:
    """The KFP component of a folder's tasks.

    Args:
        image: Full image reference. KFP's cache key does not include the code, so the tag must change with it.
        specs: The tasks of the folder.
    """
    table = described(*specs)

    def component(*_: Any) -> Any:
        return dsl.ContainerSpec(
            image=image, command=["sh", "-ec", _START], args=[f"{specs[0].package}.component", "{{$}}"]
        )

    lines = "\n".join(f"    {name}: {meaning}" for name, (_, meaning, _) in table.items())
    component.__name__ = specs[0].folder
    component.__doc__ = f"{specs[0].summary}\n\nArgs:\n{lines}\n"
    _sign(component, {name: kind for name, (kind, _, _) in table.items()}, dsl.ContainerSpec)
    return dsl.container_component(component)


def entry_point(*specs: StageSpec) -> Callable[..., Any]:
    """The function that KFP's executor calls in the container: it builds the config, runs the stage and delivers.

    ``run_stage`` of the folder's ``stage.py`` is called with the config, ``store_root``, ``run_id`` and, if the stage
    has parents, with parent name to (URI, hex sha256); it returns a ``Published``.

    Args:
        specs: The tasks of the folder.
    """
    kinds = {name: kind for name, (kind, _, _) in described(*specs).items()}
    texts = [name for name, kind in kinds.items() if isinstance(kind, dsl.OutputPath)]
    artifacts = [output.name for output in specs[0].outputs if output.kind != "text"]
    # Its fields are known at run time alone.
    result: Any = namedtuple("Outputs", texts)  # type: ignore[misc]
    result.__annotations__ = dict.fromkeys(texts, str)

    def work(given: Mapping[str, Any]) -> Published:
        spec = _chosen(specs, given.get("role", specs[0].name))
        config = spec.config(**{**given["settings"], **{name: given[name] for name in spec.inputs}})
        arguments = [config, given["store_root"], given["run_id"]]
        if spec.parents:
            arguments.append({name: (given[f"{name}_uri"], given[f"{name}_sha256"]) for name in spec.parents})
        # After KFP's executor has started, and never in the process that compiles the pipeline.
        published: Published = importlib.import_module(f"{spec.package}.stage").run_stage(*arguments)
        return published

    def run(**given: Any) -> Any:
        published = deliver(lambda: work(given), given["lineage"], given["metrics"])
        for name in artifacts:
            with open(given[name].path, "wb") as file:
                file.write(published.files[name])
            if isinstance(given[name], dsl.ClassificationMetrics):
                # The graph draws these from their metadata; the file is there for whoever opens it.
                given[name].metadata.update(json.loads(published.files[name]))
            else:
                given[name].metadata.update(_origin(published.manifest, published.files[name]))
        own = {"manifest_uri": published.uri, "manifest_sha256": published.sha256}
        return result(**{**published.outputs, **own})

    _sign(run, {name: kind for name, kind in kinds.items() if name not in texts}, result)
    return run


def _origin(manifest: StageManifest, data: bytes) -> dict[str, str]:
    """Where the store has an artifact's content too: nothing of what the stage did not publish."""
    sha256 = hashlib.sha256(data).hexdigest()
    return next(
        ({"s3_uri": ref.uri, "sha256": sha256} for ref in manifest.objects.values() if ref.sha256 == sha256), {}
    )


def _chosen(specs: tuple[StageSpec, ...], role: str) -> StageSpec:
    for spec in specs:
        if spec.name == role:
            return spec
    known = ", ".join(spec.name for spec in specs)
    raise ConfigError("role", expected=f"one of {known}", found=repr(role)[:80], hint="Wire the task with its name.")


def _sign(function: Any, kinds: Mapping[str, Any], returned: Any) -> None:
    """Gives a function the signature that KFP reads."""
    own = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, own, annotation=kind) for name, kind in kinds.items()]
    function.__signature__ = inspect.Signature(parameters, return_annotation=returned)
    function.__annotations__ = {**kinds, "return": returned}


def deliver(work: Callable[[], Published], lineage: Any, metrics: Any) -> Published:
    """Runs a stage and shows its result in the run graph.

    An error ends the process with its own exit code and four readable lines. Of a defect, which nothing explains, the
    traceback is kept too: in a local run, in the run's folder; elsewhere in the log, which is all that is left there.

    Args:
        work: The stage.
        lineage: The stage's Dataset or Model artifact; gets flat metadata and a small JSON file.
        metrics: The stage's Metrics artifact.
    """
    _end_with_the_run()
    logging.basicConfig(
        level=os.environ.get("UNTAINT_LOG_LEVEL", "INFO"), format="%(message)s", stream=sys.stdout, force=True
    )
    logging.getLogger("botocore").setLevel(logging.WARNING)
    try:
        _note(exit_code=None)
        published = _shown(work(), lineage, metrics)
    except Exception as problem:
        known = explained(problem)
        reported = known or defect(problem)
        if known is None or os.environ.get("UNTAINT_DEBUG") == "1":
            _keep_traceback()
        for line in reported.lines():
            logging.getLogger(__name__).error("%s", line)
        _note(exit_code=reported.exit_code)
        sys.exit(reported.exit_code)
    except BaseException:
        _note(exit_code=1)
        raise
    _note(exit_code=0)
    return published


def _shown(published: Published, lineage: Any, metrics: Any) -> Published:
    manifest = published.manifest
    lineage.metadata.update(
        {
            "s3_uri": published.uri,
            "sha256": published.sha256,
            "stage": manifest.stage,
            "key": manifest.key,
            "rows": max((ref.rows or 0 for ref in manifest.objects.values()), default=0),
        }
    )
    with open(lineage.path, "wb") as file:
        file.write(manifest.to_bytes())
    for name, value in sorted(manifest.metrics.items()):
        metrics.log_metric(name, float(value))
    return published


def _keep_traceback() -> None:
    target = os.environ.get(STATUS_FILE)
    if not target or os.environ.get("UNTAINT_DEBUG") == "1":
        traceback.print_exc(file=sys.stdout)
        return
    with contextlib.suppress(OSError):
        Path(target).with_name("traceback.txt").write_text(traceback.format_exc())


def _note(exit_code: int | None) -> None:
    """Notes this process and, once known, how it ended; a no-op outside of local runs."""
    target = os.environ.get(STATUS_FILE)
    if not target:
        return
    draft = Path(f"{target}.draft")
    try:
        draft.write_text(json.dumps({"pid": os.getpid(), "exit_code": exit_code}))
        draft.replace(target)
    except OSError:
        # A disk that is full must not hide what went wrong before; at the start, it is the problem.
        if exit_code is None:
            raise


def _end_with_the_run() -> None:
    """Ends this process when the local run that started it is gone; a no-op outside of local runs.

    A run that is killed cannot stop its stage, and a stage that goes on alone would train for hours for nobody.
    """
    run = os.environ.get(RUN_PID)
    if not run:
        return

    def watch() -> None:
        while os.getppid() == int(run):
            time.sleep(_PARENT_POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="end-with-the-run", daemon=True).start()

"""What the six stages share with Kubeflow Pipelines: how a container starts, and how results reach the run graph."""

import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from kfp import dsl

from components.common.contracts.errors import defect
from components.common.contracts.os_errors import explained
from components.common.runs.artifacts import StageManifest

__all__ = ["RUN_PID", "STATUS_FILE", "Outputs", "Published", "deliver", "stage_container"]

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


class Outputs(NamedTuple):
    """What every stage hands on: where its manifest lies, and the digest of that manifest's bytes.

    The digest is a parameter so that KFP's cache keys follow the content of the store.
    """

    manifest_uri: str
    manifest_sha256: str


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


def stage_container(stage: str, image: str) -> Any:
    """The container of a stage.

    Args:
        stage: Stage name; ``components/<stage>/component.py`` holds its ``run``.
        image: Full image reference. KFP's cache key does not include the code, so the tag must change with it.
    """
    return dsl.ContainerSpec(
        image=image, command=["sh", "-ec", _START], args=[f"components.{stage}.component", "{{$}}"]
    )


def deliver(work: Callable[[], Published], lineage: Any, metrics: Any) -> Outputs:
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
        outputs = _shown(work(), lineage, metrics)
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
    return outputs


def _shown(published: Published, lineage: Any, metrics: Any) -> Outputs:
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
    return Outputs(manifest_uri=published.uri, manifest_sha256=published.sha256)


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

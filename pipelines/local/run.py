"""A run on this machine: the compiled pipeline under ``kfp.local``, on the embedded object store or one of the user's.

A run's folder, ``<home>/runs/<run_id>/``, holds its parameters (``plan.json``), KFP's own outputs and the report. The
data are in the store. A run that is resumed goes on where it stopped: stages that are done see their manifest and end.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from components.common.contracts.errors import ConfigError, GateError, ResourceError
from components.common.contracts.names import checked_run_id
from components.common.contracts.os_errors import full_disk, room
from components.container import RUN_PID, STATUS_FILE
from pipelines.local.records import PLAN, Plan, keep_record, require_unused

__all__ = ["INTERRUPTED", "Engine", "execute", "interrupted", "is_embedded", "opened_store", "run"]

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells use it."""
_DEFAULT_ROOT = "s3://untaint"
_STOP_SECONDS = 5.0
_FULL_BYTES = 1 << 20

Engine = Callable[[Path], AbstractContextManager[Any]]
"""Makes KFP's local runner for the time of a run, from the path of the file in which stages note how they end."""


def is_embedded(root: str) -> bool:
    """Whether a run with that root, which may be empty, keeps its data in the embedded store."""
    return not (root or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"))


@contextlib.contextmanager
def opened_store(root: str, home: Path) -> Iterator[tuple[str, bool]]:
    """The store of a run; inside the block, the process's environment reaches it.

    Args:
        root: ``s3://…`` of the user's store, or empty.
        home: Folder of the embedded store, which serves when neither a root nor an endpoint is given.

    Yields:
        Root URI, and whether the store is the embedded one.
    """
    if not is_embedded(root):
        yield root or _DEFAULT_ROOT, False
        return
    from components.common.storage.embedded import EmbeddedStore

    with EmbeddedStore(home / "store") as store, _environment(store.environment()):
        yield store.root, True


def run(
    plan: Plan,
    run_id: str,
    home: Path,
    write: Callable[[str], None],
    images: tuple[str, str] | None = None,
    *,
    resume: bool = False,
) -> int:
    """Runs the pipeline on this machine and shows its progress and result.

    Args:
        plan: What to do. It is kept with the run as soon as everything that can be checked is checked.
        run_id: The run's id.
        home: Folder of what untaint keeps on this machine.
        write: Takes one line for the user.
        images: Registry and tag of the images in which the stages run; None runs them as processes of this machine.
        resume: Whether the run is there already and goes on.

    Returns:
        0; the failed stage's exit code where it reported one, else 1; 130 after Ctrl-C.

    Raises:
        ConfigError: A setting, the home, the run id or the place of Python cannot be used, Docker or an image is
            missing, or what is finished of the run was made with other settings.
        ResourceError: A disk has less room than the run takes.
        StorageError: The store cannot be reached, or lacks something that untaint needs.
    """
    from components.common.storage.probe import probe, require
    from components.common.storage.store import Store
    from pipelines.local.preflight import check_agreement, check_images, check_machine, check_names

    checked_run_id(run_id)
    again = f"untaint {'run-docker' if images else 'run'} --resume {run_id}"
    accepted = False
    check_names(plan.parameters)
    check_machine(plan.parameters, home, embedded=is_embedded(plan.store))
    try:
        with opened_store(plan.store, home) as (root, embedded):
            store = Store(root)
            require(probe(store))
            if resume:
                check_agreement(store, run_id, plan.parameters)
            else:
                require_unused(store, run_id)
            check_images(store, run_id, plan.parameters)
            folder = keep_record(home, run_id, PLAN, plan)
            accepted = True
            write(f"run {run_id}, data in {root} ({'embedded store' if embedded else 'your store'})")
            code = _pipeline(plan, run_id, root, folder, write, images)
            if code in (0, GateError.exit_code):
                from pipelines.views.summary import show

                show(store, run_id, folder, write)
    except KeyboardInterrupt:
        write(interrupted(again) if accepted or resume else "Interrupted. Nothing was started.")
        return INTERRUPTED
    if code:
        write(f"To go on after mending it: {again}")
    return code


def interrupted(again: str) -> str:
    """What is said after Ctrl-C, with the command that goes on."""
    return f"Interrupted. Finished stages are kept. To go on: {again}"


@contextlib.contextmanager
def processes(status: Path) -> Iterator[Any]:
    """KFP's runner for stages as processes of this machine; their images must say ``python-of-this-machine``.

    Raises:
        ConfigError: The place of Python cannot be used.
    """
    from kfp import local

    with _stage_environment(status):
        try:
            yield local.SubprocessRunner(use_venv=False)
        except KeyboardInterrupt:
            _stop_stage(status)
            raise


def execute(
    pipeline: Any,
    arguments: Mapping[str, Any],
    folder: Path,
    write: Callable[[str], None],
    engine: Engine = processes,
) -> int:
    """Runs a pipeline under ``kfp.local`` and shows its progress.

    Args:
        pipeline: The pipeline.
        arguments: Its arguments.
        folder: Where KFP's own outputs go; it exists.
        write: Takes one line for the user; a ``Screen`` also shows a bar on a terminal.
        engine: What runs the stages.

    Returns:
        0; the failed stage's exit code where it reported one, else 1.

    Raises:
        ConfigError: The engine cannot run here.
    """
    from kfp import local
    from kfp.local.config import LocalExecutionConfig

    from pipelines.local.progress import Progress, shown
    from pipelines.local.screen import Screen

    progress = Progress(names=_leaves(pipeline.pipeline_spec), write=write)
    followed = (
        write.following(progress, folder / "progress.json") if isinstance(write, Screen) else contextlib.nullcontext()
    )
    status = folder / "status.json"
    status.unlink(missing_ok=True)
    try:
        # Before the engine, which takes the environment of now for its containers.
        with followed, engine(status) as runner, shown(progress), warnings.catch_warnings():
            local.init(runner=runner, pipeline_root=str(folder))
            warnings.filterwarnings("ignore", message=r".*have no effect in the current local runner", module="kfp")
            pipeline(**arguments)
    except RuntimeError:
        # kfp.local raises nothing more telling; anything before a stage ended is a defect.
        if not progress.failed:
            raise
        code = _exit_code(status)
        if not code or code == 1:
            # A stage on a disk that is full may fail to note even that.
            if room(folder) < _FULL_BYTES:
                for line in full_disk(folder, f"room for stage {progress.failed}").lines():
                    write(line)
                return ResourceError.exit_code
        silent = (
            "its message stands above"
            if code is not None
            else ("it was ended from outside, which without Ctrl-C mostly means that memory ran out")
        )
        write(f"Stage {progress.failed} stopped the run: {silent}.")
        return code or 1
    finally:
        # A session left open makes every later call of a component run it instead of building a pipeline.
        LocalExecutionConfig.instance = None
    return 0


def _pipeline(
    plan: Plan,
    run_id: str,
    root: str,
    folder: Path,
    write: Callable[[str], None],
    images: tuple[str, str] | None,
) -> int:
    from pipelines.dag.stages import IMAGES
    from pipelines.dag.training import build, image_of

    arguments = {"store_root": root, "run_id": run_id, **plan.parameters}
    if images is None:
        # kfp.local looks for this word in the image's name before it runs a component without the image.
        return execute(build("", "python-of-this-machine", control=plan.control), arguments, folder, write)
    from pipelines.local.docker import containers

    needed = [image_of(stage, *images) for stage in IMAGES]
    engine = partial(containers, images=needed, dataset=str(plan.parameters["dataset"]))
    return execute(build(*images, control=plan.control), arguments, folder, write, engine)


def _leaves(spec: Any) -> dict[str, str]:
    """Task name to display name of all tasks that run a container, at any depth of the DAG."""
    names: dict[str, str] = {}
    for dag in (spec.root.dag, *(component.dag for component in spec.components.values())):
        for name, task in dag.tasks.items():
            if spec.components[task.component_ref.name].executor_label:
                names[name] = task.task_info.name
    return names


def _exit_code(status: Path) -> int | None:
    """The exit code that the stage noted; 1 if it ended before it could note one, None if it was killed at work."""
    noted = _noted(status)
    return noted.get("exit_code", 1) if noted else 1


def _noted(status: Path) -> dict[str, Any]:
    try:
        noted: dict[str, Any] = json.loads(status.read_bytes())
    except (OSError, ValueError):
        return {}
    return noted


def _stop_stage(status: Path) -> None:
    """Ends the stage at work. One that has not noted itself yet sees that this process is gone, and ends by itself."""
    noted = _noted(status)
    if noted.get("exit_code", 0) is not None:
        return
    pid = noted["pid"]
    deadline = time.monotonic() + _STOP_SECONDS
    for order in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, order)
            while time.monotonic() < deadline:
                if os.waitpid(pid, os.WNOHANG)[0] == pid:
                    return
                time.sleep(0.05)


@contextlib.contextmanager
def _stage_environment(status: Path) -> Iterator[None]:
    """What the stages' processes need: this Python by the name ``python3``, this package, and a line to this run."""
    here = Path(sys.executable)
    named = here.with_name("python3")
    if not (named.exists() and named.samefile(here)):
        raise ConfigError(
            f"Python {here}",
            expected="the same Python beside it under the name python3, as in every virtual environment",
            found="another one" if named.exists() else "none",
            hint="Use the virtual environment that `make setup` makes.",
        )
    changes = {
        "PATH": os.pathsep.join((str(here.parent), os.environ.get("PATH", os.defpath))),
        "PYTHONPATH": os.pathsep.join(
            part for part in (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")) if part
        ),
        "PYTHONUNBUFFERED": "1",
        STATUS_FILE: str(status),
        RUN_PID: str(os.getpid()),
    }
    # KFP puts sys.executable, unquoted, wherever a task's arguments say python3: into the shell command, which a path
    # with a space breaks, and into data alike. With this name it changes nothing, and PATH decides.
    sys.executable = "python3"
    try:
        with _environment(changes):
            yield
    finally:
        sys.executable = str(here)


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

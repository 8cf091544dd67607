"""The runs of this machine: found by their folders and in the stores that they used, measured and deleted."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from components.common.contracts.errors import ConfigError, StorageError
from components.common.contracts.names import checked_run_id
from components.common.storage.store import Store
from pipelines.local.records import load_plan
from pipelines.local.run import opened_store

__all__ = ["LocalRun", "delete_local_run", "list_runs", "located"]

# Stages at work note their progress several times a second.
_QUIET_SECONDS = 120.0
_HOW_TO_STOP = "Stop it with Ctrl-C first; after it was killed, wait two minutes."
FINISHED, RUNNING, STOPPED, UNKNOWN = "finished", "running", "stopped", "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalRun:
    """A run as this machine sees it.

    Attributes:
        run_id: The run.
        state: ``finished``, ``running``, ``stopped``, or ``unknown`` where its store does not answer.
        verdict: What it found; empty before its end.
        changed: When something of it was last written, ISO 8601 in UTC.
        folder_bytes: Size of its folder on this machine.
        store_bytes: Size of its objects; None where its store does not answer.
        store: Root of its store; empty for the embedded one.
    """

    run_id: str
    state: str
    verdict: str
    changed: str
    folder_bytes: int
    store_bytes: int | None
    store: str


def located(run: str, store: str, home: Path) -> tuple[str, str]:
    """Root of the store that has a run, empty for the default one, and the run's id.

    Args:
        run: A run id, or ``s3://…/runs/RUN_ID``.
        store: The store that the user gave, or empty.
        home: Folder of what untaint keeps on this machine.

    Raises:
        ConfigError: Neither a run id nor such an address.
    """
    from pipelines.views.suspects import run_of

    if run.startswith("s3://"):
        return run_of(run)
    if store:
        return store, checked_run_id(run)
    plan = load_plan(home, run)
    return (plan.store if plan else ""), run


def list_runs(home: Path, store: str = "") -> tuple[list[LocalRun], list[str]]:
    """The runs of this machine, the latest first, and why some stores could not be read.

    Args:
        home: Folder of what untaint keeps on this machine.
        store: A further store whose runs are wanted, or empty.
    """
    folders = {path.name: path for path in sorted((home / "runs").glob("*")) if path.is_dir()}
    store_of: dict[str, str] = {}
    problems: dict[str, str] = {}
    for run_id in list(folders):
        try:
            plan = load_plan(home, run_id)
        except ConfigError as problem:
            # No run's name, or a plan that is damaged: that hides no other run.
            problems[f"runs/{run_id}"] = str(problem)
            del folders[run_id]
            continue
        if plan is not None:
            store_of[run_id] = plan.store
    runs: dict[str, LocalRun] = {}
    roots = [*([store] if store else []), *store_of.values()]
    # Looking at what there is must not start a store where none has been, nor ask one that nobody used.
    if (home / "store").is_dir() and not _endpoint():
        roots.append("")
    for root in dict.fromkeys(roots):
        try:
            for found in _of_store(root, home):
                if store_of.get(found.run_id, root) == root:
                    runs[found.run_id] = found
        except (StorageError, ConfigError) as problem:
            problems[root] = str(problem)
    for run_id, path in folders.items():
        if run_id not in runs:
            root = store_of.get(run_id, "")
            reached = root not in problems
            runs[run_id] = LocalRun(
                run_id=run_id,
                state=_state(path, finished=False) if reached else UNKNOWN,
                verdict="",
                changed=_stamp(datetime.fromtimestamp(path.stat().st_mtime, UTC)),
                folder_bytes=_size(path),
                store_bytes=0 if reached else None,
                store=root,
            )
    return sorted(runs.values(), key=lambda run: (run.changed, run.run_id), reverse=True), list(problems.values())


def delete_local_run(run_id: str, store: str, home: Path, *, force: bool) -> int:
    """Deletes a run's objects, and then its folder on this machine.

    Args:
        run_id: The run.
        store: Root of its store; empty for the default one.
        home: Folder of what untaint keeps on this machine.
        force: Delete the run of a former champion too.

    Returns:
        Bytes freed.

    Raises:
        ConfigError: Something needs the run, or there is no such run.
        StorageError: The store cannot answer, or refuses.
    """
    from components.common.retraining.space import QUIET_SECONDS, delete_run
    from components.common.storage.compaction import compact

    folder = home / "runs" / checked_run_id(run_id)
    here = folder.is_dir()
    if here and _state(folder, finished=False) == RUNNING:
        raise ConfigError(f"run {run_id}", expected="a run that does not run", found="one at work", hint=_HOW_TO_STOP)
    with opened_store(store, home) as (root, embedded):
        # A run of this machine is known not to run; of others, silence is all the evidence there is.
        known = here and load_plan(home, run_id) is not None
        freed = delete_run(Store(root), run_id, force=force, quiet_seconds=0 if known else QUIET_SECONDS)
        if not freed and not here:
            raise ConfigError(
                f"run {run_id}",
                expected=f"a run in {root} or in {home / 'runs'}",
                found="none",
                hint="`untaint runs list` shows those that there are.",
            )
        if freed and embedded:
            compact(home / "store")
    if here:
        freed += _size(folder)
        shutil.rmtree(folder)
    return freed


def _of_store(root: str, home: Path) -> Iterator[LocalRun]:
    from components.common.runs.inventory import inventory

    with opened_store(root, home) as (address, _):
        reached = Store(address)
        for run_id, run in inventory(reached).items():
            folder = home / "runs" / run_id
            manifest = run.evaluation(reached)
            yield LocalRun(
                run_id=run_id,
                state=_state(folder, finished=manifest is not None),
                verdict="" if manifest is None else str(manifest.facts.get("verdict", "")),
                changed=_stamp(run.changed),
                folder_bytes=_size(folder),
                store_bytes=run.size_bytes,
                store=root,
            )


def _state(folder: Path, *, finished: bool) -> str:
    if finished:
        return FINISHED
    try:
        noted = json.loads((folder / "status.json").read_bytes())
        if noted["exit_code"] is None:
            os.kill(int(noted["pid"]), 0)
            return RUNNING
    except ProcessLookupError:
        # A container's processes have numbers of their own; what it writes to the folder shows it at work.
        latest = max(path.stat().st_mtime for path in folder.iterdir())
        return RUNNING if time.time() - latest < _QUIET_SECONDS else STOPPED
    except (OSError, ValueError, KeyError, TypeError):
        return STOPPED
    return STOPPED


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def _stamp(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"

"""What runs on this machine were started with: one JSON file in each run's folder, found by the run's id."""

from __future__ import annotations

import difflib
import json
import secrets
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from components.common.contracts.errors import ConfigError
from components.common.contracts.names import checked_run_id

if TYPE_CHECKING:
    from components.common.storage.store import Store

__all__ = [
    "ORDER",
    "PLAN",
    "Plan",
    "chosen_name",
    "keep_record",
    "load_plan",
    "new_name",
    "new_run_id",
    "read_record",
    "require_unused",
    "resumed",
    "resuming",
]

PLAN = "plan.json"
"""File of a run's folder: what `untaint run` and `untaint ingest` started it with."""
ORDER = "order.json"
"""File of a run's folder: what `untaint schedule run-once` started it with."""
_COMMANDS = {PLAN: "run", ORDER: "schedule run-once"}

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a run does; kept with the run, so that its id alone continues it.

    Attributes:
        parameters: The pipeline's parameters without ``store_root`` and ``run_id``.
        control: Whether the undefended model is trained for comparison.
        store: Root URI of the user's store; empty for the embedded one, or ``AWS_ENDPOINT_URL`` with its default root.
    """

    parameters: dict[str, Any]
    control: bool = True
    store: str = ""


def new_run_id() -> str:
    """A run id that sorts by time: ``YYYYmmdd-HHMMSS-<4 hex>``, local time."""
    return f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def load_plan(home: Path, run_id: str) -> Plan | None:
    """The plan of a run that was started in this folder, or None.

    Raises:
        ConfigError: The run id cannot be one, or its plan is not readable.
    """
    return read_record(home, run_id, PLAN, Plan)


def read_record(home: Path, run_id: str, name: str, kind: type[T]) -> T | None:
    """What a run was started with, or None if it was not started in this folder, or not that way.

    Args:
        home: Folder of what untaint keeps on this machine.
        run_id: The run.
        name: ``PLAN`` or ``ORDER``.
        kind: The dataclass that the file holds.

    Raises:
        ConfigError: The run id cannot be one, or the file is not readable.
    """
    path = _folder(home, run_id) / name
    try:
        return kind(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as problem:
        raise ConfigError(
            str(path),
            expected="what the run was started with",
            found=f"{type(problem).__name__}",
            hint="Start a new run: give the options again, without --resume.",
        ) from None


def keep_record(home: Path, run_id: str, name: str, record: Any) -> Path:
    """Writes down what a run is started with, whole or not at all, and gives the run's folder."""
    folder = _folder(home, run_id)
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{name}.draft"
    draft.write_text(json.dumps(asdict(record), indent=2) + "\n")
    draft.replace(folder / name)
    return folder


def resumed(home: Path, run_id: str, name: str, kind: type[T]) -> T:
    """What the run to resume was started with; arguments as for ``read_record``.

    Raises:
        ConfigError: No such run, with the names that come near; or one of another command.
    """
    found = read_record(home, run_id, name, kind)
    if found is not None:
        return found
    if _started(home, run_id):
        raise ConfigError(
            f"--resume {run_id}",
            expected=f"a run of `untaint {_COMMANDS[name]}`",
            found=f"one of `untaint {_COMMANDS[PLAN if name == ORDER else ORDER]}`",
            hint=f"`{resuming(home, run_id)}` goes on with it.",
        )
    near = difflib.get_close_matches(run_id, _names(home), n=3, cutoff=0.6)
    elsewhere = "Go to the folder where it was started, or set UNTAINT_HOME."
    hint = f"Did you mean {' or '.join(near)}?" if near else elsewhere
    raise ConfigError(
        f"--resume {run_id}",
        expected=f"a run that was started here, in {home / 'runs'}",
        found="none of that name",
        hint=f"{hint} A new run of a name of your own: --run-id.",
    )


def chosen_name(run_id: str, resume: str) -> str:
    """The id of the run: the one to resume, the one that the user chose for a new run, or one made up.

    Raises:
        ConfigError: Both were given, or the name cannot be one.
    """
    if run_id and resume:
        raise ConfigError(
            "--run-id and --resume",
            expected="one of them",
            found="both",
            hint="--resume goes on with a run, --run-id names a new one.",
        )
    return checked_run_id(run_id or resume or new_run_id())


def new_name(home: Path, run_id: str, resume: str) -> str:
    """As ``chosen_name``; the name of a new run is one that no run of this machine has.

    Raises:
        ConfigError: As ``chosen_name``, or a run has that name.
    """
    name = chosen_name(run_id, resume)
    if run_id and _started(home, name):
        raise _taken(run_id, f"one that was started here, in {home / 'runs'}", resuming(home, run_id))
    return name


def require_unused(store: Store, run_id: str) -> None:
    """Checks that a new run's name has no results in the store, which would be taken for its own.

    Raises:
        ConfigError: It has.
    """
    from components.common.storage.addresses import join

    prefix = f"{join(store.root, 'runs', run_id)}/"
    if next(iter(store.list(prefix)), None) is not None:
        raise _taken(run_id, f"results of one in {prefix}", "")


def _taken(run_id: str, found: str, command: str) -> ConfigError:
    hint = f"`{command}` goes on with it; or choose" if command else "Choose"
    return ConfigError(
        f"--run-id {run_id}", expected="the name of a new run", found=found, hint=f"{hint} another name for a new run."
    )


def resuming(home: Path, run_id: str) -> str:
    """The command that goes on with a run."""
    return f"untaint {_COMMANDS[ORDER if (_folder(home, run_id) / ORDER).exists() else PLAN]} --resume {run_id}"


def _started(home: Path, run_id: str) -> bool:
    return any((_folder(home, run_id) / name).exists() for name in _COMMANDS)


def _names(home: Path) -> list[str]:
    return sorted(path.parent.name for name in _COMMANDS for path in (home / "runs").glob(f"*/{name}"))


def _folder(home: Path, run_id: str) -> Path:
    return home / "runs" / checked_run_id(run_id)

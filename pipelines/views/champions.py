"""What can be done with champions by hand: show them, promote a run, go back."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Callable
from dataclasses import asdict, replace

from components.common.contracts.errors import ConfigError, GateError
from components.common.retraining.champions import champion_of, history, model_names, move, roll_back
from components.common.retraining.records import KEPT_CHAMPION, Champion
from components.common.storage.store import Store
from components.promote.config import PromoteConfig

__all__ = ["entries_of", "listed", "promote", "roll_back", "who"]


def who() -> str:
    """Who is at work, ``user@host``, for records of what was done by hand."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # A container's user need not have a name.
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def listed(store: Store, name: str = "") -> list[str]:
    """All champions as lines of a table, or the history of one name.

    Raises:
        ConfigError: No champion of that name.
        StorageError: The store cannot answer.
    """
    from pipelines.views.summary import table

    entries = entries_of(store, name)
    if not entries:
        return ["no champions"]
    present = {entry.name: entry.number for entry in entries}
    rows = [
        (
            f"{'*' if present[entry.name] == entry.number else ' '} {entry.name}",
            str(entry.number),
            f"{100 * entry.acc:.2f}",
            f"{100 * entry.suspect_share:.2f}",
            entry.promoted_at,
            entry.run_id,
            entry.manner,
        )
        for entry in entries
    ]
    return table(("  name", "number", "ACC %", "suspects %", "since", "run", "how"), rows)


def entries_of(store: Store, name: str = "") -> list[Champion]:
    """All champions, or the history of one name.

    Raises:
        ConfigError: No champion of that name.
        StorageError: The store cannot answer.
    """
    if not name:
        found = [champion_of(store, each) for each in model_names(store)]
        return [each[0] for each in found if each is not None]
    entries = history(store, name)
    if not entries:
        raise ConfigError(
            f"model {name}",
            expected="a champion",
            found="none",
            hint="`untaint models list` shows the names that have one.",
        )
    return entries


def promote(
    store: Store, name: str, run_id: str, config: PromoteConfig, write: Callable[[str], None], *, by: str, force: bool
) -> Champion:
    """Makes the model of a finished run the champion if the gates hold, or, by force, whatever they say.

    Args:
        store: The store at the root of the run data.
        name: Model name.
        run_id: The run.
        config: The limits.
        write: Takes one line for the user.
        by: Who asks for it.
        force: Promote although a gate does not hold; the record keeps how the gates came out.

    Raises:
        ConfigError: The run is not finished.
        ConflictError: Another promotion was first.
        GateError: A gate does not hold; the champion stays.
        StorageError: The store cannot serve.
    """
    from components.promote.evidence import read_candidate
    from components.promote.stage import consider, evaluate_gates

    found = read_candidate(store, name, run_id)
    present = champion_of(store, name)
    asked = evaluate_gates(store, found, present[0] if present else None, config)
    candidate = replace(found.record, by=by)
    lost = [gate for gate in asked if not gate.passed]
    if force and lost:
        for gate in asked:
            write(f"gate {gate.name}: {'held' if gate.passed else 'DID NOT HOLD'}; found {gate.found}")
        kept = [asdict(gate) for gate in asked]
        return move(store, replace(candidate, how="by hand", forced=True, gates=kept), present)
    outcome, standing = consider(store, candidate, asked, present)
    if outcome == KEPT_CHAMPION or standing is None:
        raise GateError(
            f"run {run_id} as champion of {name}",
            expected="; ".join(f"{gate.name}: {gate.expected}" for gate in lost),
            found="; ".join(f"{gate.name}: {gate.found}" for gate in lost),
            hint=(f"The champion stays: run {present[0].run_id}. " if present else "There is no champion yet. ")
            + "--force promotes nevertheless and keeps that on record.",
        )
    return standing

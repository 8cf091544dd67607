"""What can be done with champions by hand: show them, promote a run, go back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace

from components.common.contracts.errors import ConfigError, GateError
from components.common.retraining.champions import champion_of, history, model_names, move, roll_back
from components.common.retraining.records import KEPT_CHAMPION, Champion
from components.common.storage.store import Store
from components.promote.config import PromoteConfig

__all__ = ["listed", "promote", "roll_back"]


def listed(store: Store, name: str = "") -> list[str]:
    """All champions as lines of a table, or the history of one name.

    Raises:
        ConfigError: No champion of that name.
        StorageError: The store cannot answer.
    """
    from pipelines.views.summary import table

    if name:
        entries = history(store, name)
        if not entries:
            raise ConfigError(
                f"model {name}",
                expected="a champion",
                found="none",
                hint="`untaint models list` shows the names that have one.",
            )
    else:
        found = [champion_of(store, each) for each in model_names(store)]
        entries = [each[0] for each in found if each is not None]
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
            entry.how,
            entry.run_id,
        )
        for entry in entries
    ]
    return table(("  name", "number", "ACC %", "suspects %", "since", "how", "run"), rows)


def promote(
    store: Store, name: str, run_id: str, config: PromoteConfig, write: Callable[[str], None], *, force: bool
) -> Champion:
    """Makes the model of a finished run the champion if the gates hold, or, by force, whatever they say.

    Args:
        store: The store at the root of the run data.
        name: Model name.
        run_id: The run.
        config: The limits.
        write: Takes one line for the user.
        force: Promote although a gate does not hold; the record keeps how the gates came out.

    Raises:
        ConfigError: The run is not finished.
        ConflictError: Another promotion was first.
        GateError: A gate does not hold; the champion stays.
        StorageError: The store cannot serve.
    """
    from components.promote.algorithm import gates
    from components.promote.evidence import read_evidence
    from components.promote.stage import consider

    candidate, evidence, _ = read_evidence(store, name, run_id)
    present = champion_of(store, name)
    asked = gates(evidence, present[0] if present else None, config)
    if force:
        for gate in asked:
            write(f"gate {gate.name}: {'held' if gate.passed else 'DID NOT HOLD'}; found {gate.found}")
        return move(store, replace(candidate, how="by hand", gates=[asdict(gate) for gate in asked]), present)
    outcome, standing = consider(store, candidate, asked, present)
    if outcome == KEPT_CHAMPION or standing is None:
        lost = [gate for gate in asked if not gate.passed]
        raise GateError(
            f"run {run_id} as champion of {name}",
            expected="; ".join(f"{gate.name}: {gate.expected}" for gate in lost),
            found="; ".join(f"{gate.name}: {gate.found}" for gate in lost),
            hint=(f"The champion stays: run {present[0].run_id}. " if present else "There is no champion yet. ")
            + "--force promotes nevertheless and keeps that on record.",
        )
    return standing

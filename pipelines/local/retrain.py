"""Retraining on one machine: the same pipeline as on a cluster, under ``kfp.local``, once or over a range of dates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.claim.config import ClaimConfig
from components.common.contracts.errors import ConfigError, GateError
from components.common.retraining.records import NOTHING_NEW, PROMOTED
from components.common.storage.addresses import join, parse_uri

__all__ = ["STOPPED", "Ended", "Order", "backfill", "check_order", "retrain_once"]

STOPPED = "stopped"
"""Outcome of a run that did not reach its end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What to retrain.

    Attributes:
        name: Name of the model.
        drops: ``s3://bucket/prefix`` with one folder per drop.
        store: Root URI of the user's store; empty as in ``pipelines.local.run.Plan``.
        parameters: The retraining pipeline's further parameters, as from ``pipelines.dag.retrain.default_parameters``.
        control: Whether the undefended model is trained for comparison.
    """

    name: str
    drops: str
    store: str
    parameters: dict[str, Any]
    control: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How one retraining ended.

    Attributes:
        run_id: The run.
        outcome: ``promoted``, ``kept champion``, ``nothing new`` or ``stopped``.
        code: Exit code: 0, 6 when the gates did not hold, else that of the stage that stopped.
    """

    run_id: str
    outcome: str
    code: int


def check_order(name: str, drops: str, parameters: Mapping[str, Any]) -> None:
    """Builds every step's config as the steps will, so that a wrong setting stops before anything starts.

    Raises:
        ConfigError: An unknown setting, a value of another type or out of range, not an S3 URI, or a gate that asks
            for a canary that the run would not plant.
    """
    from components.promote.config import PromoteConfig
    from pipelines.dag.settings import check_parameters
    from pipelines.dag.settings import default_parameters as of_training

    parse_uri(drops)
    own = {"name": name, "drops": drops, "since": parameters["since"], "until": parameters["until"]}
    ClaimConfig(**{**parameters["claim_settings"], **own})
    gates = PromoteConfig(**parameters["promote_settings"], name=name)
    if gates.require_canary and not parameters["ingest_settings"].get("canary_ratio"):
        raise ConfigError(
            "ingest.canary_ratio",
            expected="a share above 0, since promote.require_canary asks for a canary",
            found="0",
            hint="Set promote.require_canary=false to promote models without one.",
        )
    known = of_training()
    given = {name: value for name, value in parameters.items() if name in known}
    check_parameters({**known, **given, "dataset": f"drop:{drops}", "attack": "none"})


def retrain_once(order: Order, run_id: str, home: Path, write: Callable[[str], None]) -> Ended:
    """Trains on the oldest drop that is ready and not trained, if there is one.

    Args:
        order: What to retrain.
        run_id: The run; one that was stopped goes on with its drop.
        home: Folder of what untaint keeps on this machine.
        write: Takes one line for the user.

    Raises:
        ConfigError: The run id or the place of Python cannot be used.
        StorageError: The store lacks something that untaint needs.
    """
    from components.common.contracts.names import checked_run_id
    from components.common.runs.publish import find_manifest
    from components.common.storage.probe import probe, require
    from components.common.storage.store import Store
    from pipelines.dag.retrain import build
    from pipelines.local.run import execute, opened_store
    from pipelines.views.summary import show

    folder = home / "runs" / checked_run_id(run_id)
    folder.mkdir(parents=True, exist_ok=True)
    pipeline = build("", "python-of-this-machine", control=order.control)
    with opened_store(order.store, home) as (root, embedded):
        store = Store(root)
        require(probe(store))
        write(f"run {run_id}, data in {root} ({'embedded store' if embedded else 'your store'})")
        arguments = {
            "store_root": root,
            "run_id": run_id,
            "name": order.name,
            "drops": order.drops.rstrip("/"),
            **order.parameters,
        }
        code = execute(pipeline, arguments, folder, write)
        if code:
            write(f"To go on after mending it: the same command with --run-id {run_id}")
            return Ended(run_id=run_id, outcome=STOPPED, code=code)
        decided = find_manifest(store, join(root, "runs", run_id, "promote"))
        if decided is None:
            write("nothing new")
            return Ended(run_id=run_id, outcome=NOTHING_NEW, code=0)
        show(store, run_id, folder, write)
        facts = decided[2].facts
        write("")
        for gate in facts["gates"]:
            mark = "held" if gate["passed"] else "DID NOT HOLD"
            write(f"gate {gate['name']}: {mark}; expected {gate['expected']}; found {gate['found']}")
        outcome = str(facts["outcome"])
        standing = f"champion {facts['champion']}, run {facts['champion_run_id']}" if facts["champion"] else "none"
        write(f"{outcome}: {order.name} is {standing}")
        return Ended(run_id=run_id, outcome=outcome, code=0 if outcome == PROMOTED else GateError.exit_code)


def backfill(order: Order, home: Path, write: Callable[[str], None]) -> list[Ended]:
    """Retrains drop by drop, oldest first, until nothing is left in the order's dates or a run stops.

    Args:
        order: What to retrain; its parameters hold the dates.
        home: Folder of what untaint keeps on this machine.
        write: Takes one line for the user.

    Returns:
        How each run ended; the last one is ``nothing new`` or ``stopped``.
    """
    from pipelines.local.run import new_run_id

    ended: list[Ended] = []
    while not ended or ended[-1].outcome not in (NOTHING_NEW, STOPPED):
        ended.append(retrain_once(order, new_run_id(), home, write))
    return ended

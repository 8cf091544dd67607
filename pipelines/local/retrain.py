"""Retraining on one machine: the same pipeline as on a cluster, under ``kfp.local``, once or over a range of dates."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.claim.config import ClaimConfig
from components.common.contracts.errors import ConfigError, GateError, StorageError
from components.common.retraining.records import NOTHING_NEW, PROMOTED
from components.common.storage.addresses import join, parse_uri

if TYPE_CHECKING:
    from components.common.storage.store import Store

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
        ConfigError: An unknown setting or name, a value of another type or out of range, not an S3 URI, or a gate that
            asks for a canary that the run would not plant.
    """
    from components.promote.config import PromoteConfig
    from pipelines.local.preflight import check_names

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
    check_names(training_of(drops, parameters))


def training_of(drops: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of the training within a retraining, on the drops as a whole or on a claimed one."""
    from pipelines.dag.settings import default_parameters

    known = default_parameters()
    given = {name: value for name, value in parameters.items() if name in known}
    return {**known, **given, "dataset": f"drop:{drops}", "attack": "none"}


def retrain_once(order: Order, run_id: str, home: Path, write: Callable[[str], None], *, resume: bool = False) -> Ended:
    """Trains on the oldest drop that is ready and not trained, if there is one.

    A drop is free again when the run that claimed it stops before it trains; a run that is resumed takes it back.

    Args:
        order: What to retrain. It is kept with the run as soon as everything that can be checked is checked.
        run_id: The run.
        home: Folder of what untaint keeps on this machine.
        write: Takes one line for the user.
        resume: Whether the run is there already and goes on with its drop.

    Raises:
        ConfigError: A setting, the home, the run id or the place of Python cannot be used.
        ResourceError: A disk has less room than the run takes.
        StorageError: The store cannot be reached, or lacks something that untaint needs.
    """
    from components.common.contracts.names import checked_run_id
    from components.common.storage.probe import probe, require
    from components.common.storage.store import Store
    from pipelines.dag.retrain import build
    from pipelines.local.preflight import check_images, check_machine, check_names
    from pipelines.local.records import ORDER, keep_record, require_unused
    from pipelines.local.run import INTERRUPTED, execute, interrupted, is_embedded, opened_store

    checked_run_id(run_id)
    training = training_of(order.drops, order.parameters)
    check_names(training)
    check_machine(training, home, embedded=is_embedded(order.store))
    again = f"untaint schedule run-once --resume {run_id}"
    pipeline = build("", "python-of-this-machine", control=order.control)
    with opened_store(order.store, home) as (root, embedded):
        store = Store(root)
        require(probe(store))
        if resume:
            _check_resumable(store, run_id, order)
        else:
            require_unused(store, run_id)
        check_images(store, run_id, training)
        folder = keep_record(home, run_id, ORDER, order)
        write(f"run {run_id}, data in {root} ({'embedded store' if embedded else 'your store'})")
        arguments = {
            "store_root": root,
            "run_id": run_id,
            "name": order.name,
            "drops": order.drops.rstrip("/"),
            **order.parameters,
        }
        try:
            code = execute(pipeline, arguments, folder, write)
        except KeyboardInterrupt:
            write(interrupted(again))
            code = INTERRUPTED
        if code:
            _release_untrained(store, order.name, run_id, write)
            if code != INTERRUPTED:
                write(f"To go on after mending it: {again}")
            return Ended(run_id=run_id, outcome=STOPPED, code=code)
        return _decided(store, run_id, order.name, folder, write)


def _decided(store: Store, run_id: str, name: str, folder: Path, write: Callable[[str], None]) -> Ended:
    """Shows what a run that reached its end came to."""
    from components.common.runs.publish import find_manifest
    from pipelines.views.summary import show

    decided = find_manifest(store, join(store.root, "runs", run_id, "promote"))
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
    write(f"{outcome}: {name} is {standing}")
    return Ended(run_id=run_id, outcome=outcome, code=0 if outcome == PROMOTED else GateError.exit_code)


def _check_resumable(store: Store, run_id: str, order: Order) -> None:
    from components.common.runs.publish import find_manifest
    from pipelines.local.preflight import check_agreement

    claimed = find_manifest(store, join(store.root, "runs", run_id, "claim"))
    if claimed is not None:
        training = training_of(order.drops, order.parameters)
        check_agreement(store, run_id, {**training, "dataset": claimed[2].facts["dataset"]})


def _release_untrained(store: Store, name: str, run_id: str, write: Callable[[str], None]) -> None:
    """Frees the drop of a run that stopped before it trained, so that another run can have it at once."""
    from components.common.retraining.claims import release
    from components.common.retraining.records import Claim
    from components.common.runs.publish import find_manifest

    # A store that is gone must not hide why the run stopped; the lease frees the drop later.
    with contextlib.suppress(StorageError):
        claimed = find_manifest(store, join(store.root, "runs", run_id, "claim"))
        if claimed is None:
            return
        claim = Claim(**claimed[2].facts["claim"])
        if next(iter(store.list(f"{join(store.root, 'runs', claim.data_run_id, 'warmup')}/")), None):
            return
        if release(store, name, claim):
            write(f"drop {claimed[2].facts['drop_uri']} is free again: the run stopped before it trained")


def backfill(order: Order, home: Path, write: Callable[[str], None]) -> list[Ended]:
    """Retrains drop by drop, oldest first, until nothing is left in the order's dates or a run stops.

    Args:
        order: What to retrain; its parameters hold the dates.
        home: Folder of what untaint keeps on this machine.
        write: Takes one line for the user.

    Returns:
        How each run ended; the last one is ``nothing new`` or ``stopped``.
    """
    from pipelines.local.records import new_run_id

    ended: list[Ended] = []
    while not ended or ended[-1].outcome not in (NOTHING_NEW, STOPPED):
        ended.append(retrain_once(order, new_run_id(), home, write))
    return ended

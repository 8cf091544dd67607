"""Freeing space in a store: which runs something still needs, what of the others is garbage, and deleting it.

A run is needed by a model name whose champion it is or was, by a claim whose training is under way, and by itself while
it runs. A run at work shows by its signs of life, as for a claim: everything that its stages write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from components.common.contracts.errors import ConfigError
from components.common.retraining.champions import champion_of, history
from components.common.retraining.records import CLAIMED, Claim
from components.common.runs.inventory import StoredRun, inventory, objects_of
from components.common.runs.publish import MANIFEST_NAME, read_manifest
from components.common.storage.addresses import ObjectInfo, join
from components.common.storage.store import Store

__all__ = ["QUIET_SECONDS", "Garbage", "delete_run", "find_garbage", "free", "needed_runs"]

QUIET_SECONDS = 3600.0
"""Seconds without a written object after which an unfinished run counts as not running: the lease of a claim."""
_CHAMPION, _FORMER, _CLAIM, _RUNNING = "champion", "former champion", "claim", "running"


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """Why a run must stay.

    Attributes:
        kind: ``champion``, ``former champion``, ``claim`` or ``running``.
        text: The same for people.
    """

    kind: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Garbage:
    """Objects of one run that nothing needs.

    Attributes:
        run_id: The run.
        reason: What they are.
        objects: The objects.
        whole: Whether this is all of the run.
    """

    run_id: str
    reason: str
    objects: list[ObjectInfo]
    whole: bool

    @property
    def size_bytes(self) -> int:
        """Bytes that are freed."""
        return sum(one.size_bytes for one in self.objects)


def needed_runs(
    store: Store,
    runs: Mapping[str, StoredRun],
    now: datetime | None = None,
    *,
    quiet_seconds: float = QUIET_SECONDS,
) -> dict[str, Need]:
    """Run id to why it must stay, for every run that something needs.

    Args:
        store: The store at the root of the run data.
        runs: The runs to decide on.
        now: The present time, with a time zone.
        quiet_seconds: Seconds without a written object after which an unfinished run does not run any more.

    Raises:
        ContractError: A champion or a claim is not readable; nothing may be deleted on a guess.
        StorageError: The store cannot answer.
    """
    moment = now or datetime.now(UTC)
    needed: dict[str, Need] = {}
    for run_id, run in runs.items():
        if not run.finished and moment - run.changed < timedelta(seconds=quiet_seconds):
            needed[run_id] = Need(kind=_RUNNING, text="it wrote something within the last hour and has not ended")
    prefix = join(store.root, "models") + "/"
    names = set()
    for info in store.list(prefix):
        name, _, rest = info.uri[len(prefix) :].partition("/")
        names.add(name)
        if rest.startswith("claims/"):
            claim = Claim.from_bytes(store.get(info.uri), info.uri)
            if claim.state == CLAIMED:
                # A takeover resumes from the data of the training that died.
                for run_id in (claim.holder, claim.data_run_id):
                    needed[run_id] = Need(kind=_CLAIM, text=f"its drop is claimed for the model {name}")
    for name in sorted(names):
        present = champion_of(store, name)
        for entry in history(store, name):
            if present is not None and entry.run_id == present[0].run_id:
                needed[entry.run_id] = Need(kind=_CHAMPION, text=f"its model is the champion of {name}")
            elif needed.get(entry.run_id, Need(kind=_FORMER, text="")).kind == _FORMER:
                text = f"its model was champion {entry.number} of {name}, and a rollback would need it"
                needed[entry.run_id] = Need(kind=_FORMER, text=text)
    return needed


def find_garbage(store: Store, older_than_days: float | None = None, now: datetime | None = None) -> list[Garbage]:
    """What can be freed: what complete stages left over, and whole runs that nobody needs and that are old enough.

    Args:
        store: The store at the root of the run data.
        older_than_days: Days since a run's last change from which it is garbage as a whole; None for no run.
        now: The present time, with a time zone.

    Raises:
        ContractError: A manifest, a champion or a claim is not readable.
        StorageError: The store cannot answer.
    """
    moment = now or datetime.now(UTC)
    runs = inventory(store)
    needed = needed_runs(store, runs, moment)
    found = []
    for run_id in sorted(runs):
        run = runs[run_id]
        age = (moment - run.changed).total_seconds() / 86_400
        if older_than_days is not None and run_id not in needed and age >= older_than_days:
            objects = [one for stage in run.objects.values() for one in stage]
            found.append(Garbage(run_id=run_id, reason=f"not needed, {age:.0f} days old", objects=objects, whole=True))
        elif left := _left_over(store, run, moment):
            reason = "left over by attempts that did not end"
            found.append(Garbage(run_id=run_id, reason=reason, objects=left, whole=False))
    return found


def free(store: Store, garbage: Garbage, now: datetime | None = None) -> int:
    """Deletes what was found to be garbage, unless something has come to need it; gives the bytes freed.

    Manifests go first: a stage without one has not happened, while one whose objects are gone would be broken.

    Args:
        store: The store at the root of the run data.
        garbage: As ``find_garbage`` gave it.
        now: The present time, with a time zone.

    Raises:
        ContractError: As ``needed_runs``.
        StorageError: The store refuses.
    """
    if garbage.whole:
        run = objects_of(store, garbage.run_id)
        if run is None or garbage.run_id in needed_runs(store, {garbage.run_id: run}, now):
            return 0
    for one in sorted(garbage.objects, key=lambda one: not one.uri.endswith(f"/{MANIFEST_NAME}")):
        store.delete(one.uri)
    return garbage.size_bytes


def delete_run(store: Store, run_id: str, *, force: bool = False, quiet_seconds: float = QUIET_SECONDS) -> int:
    """Deletes a run's objects.

    Args:
        store: The store at the root of the run data.
        run_id: The run.
        force: Delete the run of a former champion too; a rollback to it is then not possible.
        quiet_seconds: As for ``needed_runs``; 0 where it is known that the run does not run.

    Returns:
        Bytes freed; 0 where the store has nothing of the run.

    Raises:
        ConfigError: A champion, a claim or the run itself still needs it.
        StorageError: The store cannot answer, or refuses.
    """
    run = objects_of(store, run_id)
    if run is None:
        return 0
    need = needed_runs(store, {run_id: run}, quiet_seconds=quiet_seconds).get(run_id)
    if need is not None and not (force and need.kind == _FORMER):
        raise ConfigError(
            f"run {run_id}",
            expected="a run that nothing needs",
            found=need.text,
            hint={
                _CHAMPION: "Promote another run first, or roll back.",
                _FORMER: "With --force it is deleted nevertheless, and cannot be rolled back to.",
                _CLAIM: "Wait for its end; a training that died is taken over by the next one.",
                _RUNNING: "Stop it, or wait an hour after it was stopped.",
            }[need.kind],
        )
    objects = [one for stage in run.objects.values() for one in stage]
    garbage = Garbage(run_id=run_id, reason="deleted", objects=objects, whole=False)
    return free(store, garbage)


def _left_over(store: Store, run: StoredRun, now: datetime) -> list[ObjectInfo]:
    """Objects of complete stages that their manifests do not name; fresh ones may belong to an attempt at work."""
    left = []
    for stage, uri in run.manifests.items():
        named = {ref.uri for ref in read_manifest(store, uri).objects.values()} | {uri}
        left += [
            one
            for one in run.objects[stage]
            if one.uri not in named and now - one.last_modified >= timedelta(seconds=QUIET_SECONDS)
        ]
    return left

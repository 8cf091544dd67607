"""What a store holds of its runs: their objects, their sizes, how far they came."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from components.common.runs.artifacts import StageManifest
from components.common.runs.publish import MANIFEST_NAME, read_manifest
from components.common.storage.addresses import ObjectInfo, join
from components.common.storage.store import Store

__all__ = ["LAST_STAGE", "StoredRun", "inventory", "objects_of"]

# The last stage of a training; what comes after it, promote, is no training's.
LAST_STAGE = "evaluate"


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredRun:
    """A run's objects in a store.

    Attributes:
        run_id: The run.
        objects: All objects below its prefix, by stage.
    """

    run_id: str
    objects: dict[str, list[ObjectInfo]] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Bytes of all objects."""
        return sum(one.size_bytes for stage in self.objects.values() for one in stage)

    @property
    def changed(self) -> datetime:
        """When the latest of them was written, with a time zone."""
        return max(one.last_modified for stage in self.objects.values() for one in stage)

    @property
    def manifests(self) -> dict[str, str]:
        """Stage to the address of its manifest, for the stages that are complete."""
        found = ((stage, one.uri) for stage, objects in self.objects.items() for one in objects)
        return {stage: uri for stage, uri in found if uri.endswith(f"/{stage}/{MANIFEST_NAME}")}

    @property
    def finished(self) -> bool:
        """Whether the run was evaluated."""
        return LAST_STAGE in self.manifests

    def evaluation(self, store: Store) -> StageManifest | None:
        """The manifest of its evaluation; None before its end.

        Raises:
            ContractError: It is not readable.
            StorageError: The store cannot serve.
        """
        return read_manifest(store, self.manifests[LAST_STAGE]) if self.finished else None


def inventory(store: Store) -> dict[str, StoredRun]:
    """All runs of a store by run id, from one listing.

    Raises:
        StorageError: The store cannot answer.
    """
    return _grouped(store, store.list(join(store.root, "runs") + "/"))


def objects_of(store: Store, run_id: str) -> StoredRun | None:
    """One run, or None where the store has nothing of it.

    Raises:
        StorageError: The store cannot answer.
    """
    return _grouped(store, store.list(join(store.root, "runs", run_id) + "/")).get(run_id)


def _grouped(store: Store, found: Iterable[ObjectInfo]) -> dict[str, StoredRun]:
    start = len(join(store.root, "runs")) + 1
    runs: dict[str, StoredRun] = {}
    for one in found:
        run_id, _, rest = one.uri[start:].partition("/")
        runs.setdefault(run_id, StoredRun(run_id=run_id)).objects.setdefault(rest.partition("/")[0], []).append(one)
    return runs

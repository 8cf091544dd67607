"""A stage's life: check the inputs, skip what is done, go on from what is half done, publish the manifest last."""

from __future__ import annotations

import hashlib
import io
import logging
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.common.contracts.config import Config
from components.common.contracts.errors import ContractError
from components.common.contracts.names import checked_run_id
from components.common.runs.artifacts import StageManifest, digest_of, stage_key
from components.common.runs.progress_note import note_progress
from components.common.runs.publish import (
    LocalObject,
    drop_partial,
    find_manifest,
    load_partial,
    object_uri,
    publish,
    read_manifest,
    save_partial,
)
from components.common.storage.addresses import join
from components.common.storage.folder import open_store
from components.common.tables.checks import check_origin
from components.common.tables.gate import QualityGate, shared_gate
from components.common.tables.parquet import decode_table, encode_table
from components.common.tables.streaming import write_parts
from components.common.tables.tables import TableSpec

__all__ = ["Parent", "Published", "StageRun", "code_version"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_SAY_EVERY_SECONDS = 30.0
_SAY_EVERY_SHARE = 0.05
_SAVE_EVERY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Published:
    """A published stage, as it is handed on.

    Attributes:
        uri: Where its manifest lies.
        sha256: Hex sha256 of the manifest's bytes.
        manifest: The manifest.
        outputs: What the stage hands on besides, by the name of its output.
        files: Content of its further artifacts, by the name of their output.
    """

    uri: str
    sha256: str
    manifest: StageManifest
    outputs: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


Parent = Published


# Settings are part of a stage's key by their values; these files say no more than what they may be and mean.
_NO_CODE = ("config.py", "spec.py")


@cache
def code_version(folder: str, root: Path = Path(__file__).parents[2]) -> str:
    """Hex sha256 over what a stage runs, so that a result of other code is not taken for this code's.

    That is its own folder and ``common``, without the files that declare and describe settings: another stage's code or
    a help text makes no result stale, and orphans no run that is half done.

    Args:
        folder: Folder of the stage's code.
        root: The package ``components``.
    """
    digest = hashlib.sha256()
    for path in sorted(path for part in (folder, "common") for path in (root / part).rglob("*.py")):
        if path.name not in _NO_CODE:
            digest.update(f"{path.relative_to(root)}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


class StageRun:
    """One run of one stage, as a context manager.

    Make it before importing torch: it starts the process that validates tables, which imports its libraries at the
    same time. It also is the ``Watch`` of the stage's training loops.

    Args:
        stage: Name of the stage, the folder of its results.
        config: The stage's settings.
        store_root: ``s3://bucket/prefix``, or ``file:///folder``.
        run_id: The run, as ``checked_run_id`` takes it.
        parents: Parent name to (manifest URI, hex sha256); pairs of empty strings are left out.
        withheld: Settings that the manifest must not show, since stages that read it must not know them.
        gate: A gate to share; by default that of ``sharing_gate``, else a gate of its own.

    Raises:
        ConfigError: An unusable run id.
        ContractError: A parent's manifest is not what its digest says, or belongs to another run.
        StorageError: The store cannot serve.
    """

    def __init__(
        self,
        stage: str,
        config: Config,
        store_root: str,
        run_id: str,
        parents: Mapping[str, tuple[str, str]],
        *,
        withheld: tuple[str, ...] = (),
        gate: QualityGate | None = None,
    ) -> None:
        self._started = time.perf_counter()
        self.stage = stage
        self.run_id = checked_run_id(run_id)
        self.store = open_store(store_root)
        self.uri = join(store_root, "runs", run_id, stage)
        settings = config.model_dump()
        self._config = {name: value for name, value in settings.items() if name not in withheld}
        fields = type(config).model_fields
        self.changed = {name: value for name, value in self._config.items() if value != fields[name].default}
        standing = gate or shared_gate()
        self._owns_gate = standing is None
        self.gate = standing or QualityGate()
        try:
            self.parents = {
                name: Parent(uri, sha256, read_manifest(self.store, uri, sha256))
                for name, (uri, sha256) in parents.items()
                if uri
            }
        except BaseException:
            if self._owns_gate:
                self.gate.close()
            raise
        # components.<folder>.config: ingest also publishes the truth, and warmup trains the control.
        self._code = code_version(type(config).__module__.split(".")[-2])
        self.key = stage_key(
            stage, settings, {name: parent.sha256 for name, parent in self.parents.items()}, self._code
        )
        self._files: dict[str, LocalObject] = {}
        self._phases: dict[str, float] = {}
        self._training: set[str] = set()
        self._said: dict[str, tuple[float, float]] = {}
        self._saved = time.monotonic()
        self._resumed: dict[str, bytes] | None = None
        self._kept: dict[str, bytes] = {}
        self._read: dict[tuple[str, ...], Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._owns_gate:
            self.gate.__exit__(kind, problem, trace)

    def finished(self) -> Published | None:
        """This stage's result for the same config, parents and code, if it is there already.

        Raises:
            ContractError: The run holds a result of this stage that was made otherwise.
        """
        found = find_manifest(self.store, self.uri)
        if found is None:
            return None
        uri, sha256, manifest = found
        if manifest.key != self.key:
            changed = [
                name
                for name, differs in (
                    ("config", manifest.config != self._config),
                    ("parents", manifest.parents != {n: p.sha256 for n, p in self.parents.items()}),
                    ("code", manifest.code_version != self._code),
                )
                if differs
            ]
            raise ContractError(
                uri,
                expected="no result yet, or one of the same config, inputs and code",
                found=f"a result that differs in its {' and '.join(changed) or 'attack'}",
                hint="Start a new run; results of a run are never replaced.",
            )
        logger.info("stage %s: already complete in run %s, nothing to do", self.stage, self.run_id)
        return Published(uri, sha256, manifest)

    def once(self, key: tuple[str, ...], make: Callable[[], T]) -> T:
        """What ``make`` gives; made when it is first asked for, and the same object for the rest of the stage.

        Args:
            key: What it is.
            make: Makes it.
        """
        if key not in self._read:
            self._read[key] = make()
        made: T = self._read[key]
        return made

    def read_table(self, parent: str, name: str, spec: TableSpec, ids: pa.Array | None = None) -> pa.Table:
        """Reads a parent's table, once in the stage's life.

        Its values were checked in full when it was written, and its digest says that it is that table. So it is checked
        that it is the table of that contract and version, whole, and of the samples that are asked for.

        Args:
            parent: Parent name.
            name: Object name in the parent's manifest.
            spec: The contract of the table.
            ids: sample_ids that the table must hold, in that order, as often as it has rows for each.

        Raises:
            ContractError: Another table, a damaged one, or one of other samples.
        """
        origin = self.parents[parent]
        ref = origin.manifest.object(name, origin.uri)
        table: pa.Table = self.once(
            ("table", parent, name),
            lambda: decode_table(self.store.get(ref.uri, ref.sha256), spec, subject=ref.uri),
        )
        check_origin(table, spec, subject=ref.uri, rows=ref.rows, ids=ids)
        return table

    def read_array(self, parent: str, name: str) -> npt.NDArray[Any]:
        """Reads a parent's array, once in the stage's life; its digest is checked."""
        origin = self.parents[parent]
        ref = origin.manifest.object(name, origin.uri)
        array = self.once(
            ("array", parent, name),
            lambda: np.load(io.BytesIO(self.store.get(ref.uri, ref.sha256)), allow_pickle=False),
        )
        if len(array) != ref.rows:
            raise ContractError(
                ref.uri,
                expected=f"an array of {ref.rows} rows",
                found=f"{len(array)}",
                hint=f"Run the {parent} stage again under a new run id.",
            )
        return np.asarray(array)

    def read_bytes(self, parent: str, name: str) -> bytes:
        """Reads a parent's object; its digest is checked."""
        origin = self.parents[parent]
        ref = origin.manifest.object(name, origin.uri)
        return self.store.get(ref.uri, ref.sha256)

    def add_table(self, name: str, table: pa.Table, spec: TableSpec, ids: pa.Array | None = None) -> None:
        """Checks a table of this stage's own and keeps it for publishing.

        Raises:
            ContractError: The stage made a table that breaks its contract.
        """
        table = table.cast(spec.schema)
        self.gate.check(table, spec, subject=join(self.uri, name), ids=ids)
        parents = {n: p.sha256 for n, p in self.parents.items()}
        data = encode_table(table, spec, config_digest=digest_of(self._config), parents=parents)
        self._files[name] = LocalObject(suffix=".parquet", kind="table", data=data, rows=table.num_rows)

    def add_array(self, name: str, array: npt.NDArray[Any]) -> None:
        """Keeps an array for publishing, as ``.npy``."""
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        self._files[name] = LocalObject(suffix=".npy", kind="array", data=buffer.getvalue(), rows=len(array))

    def add_file(self, name: str, path: Path, *, suffix: str, kind: str, rows: int | None = None) -> None:
        """Keeps a file for publishing, where it lies; it must stay until then. ``kind`` as in ``ObjectRef``."""
        self._files[name] = LocalObject(suffix=suffix, kind=kind, path=path, rows=rows)

    def add_table_parts(self, name: str, parts: Iterable[pa.Table], spec: TableSpec, scratch: Path) -> None:
        """Checks a table of this stage's own part by part and keeps it, as a file below ``scratch``, for publishing.

        Raises:
            ContractError: The stage made a table that breaks its contract.
        """
        path = scratch / f"{name}.parquet"
        rows = write_parts(
            path,
            parts,
            spec,
            config_digest=digest_of(self._config),
            parents={n: p.sha256 for n, p in self.parents.items()},
            check=lambda part: self.gate.check_async(part, spec, subject=join(self.uri, name)),
        )
        self.add_file(name, path, suffix=".parquet", kind="table", rows=rows)

    def address_of(self, name: str, data: bytes, suffix: str) -> str:
        """Where an object of that content will lie once it is published."""
        return object_uri(self.uri, name, hashlib.sha256(data).hexdigest(), suffix)

    @property
    def config(self) -> dict[str, Any]:
        """The stage's settings as its manifest shows them."""
        return dict(self._config)

    @property
    def elapsed(self) -> float:
        """Seconds since the stage started."""
        return time.perf_counter() - self._started

    def address(self, name: str) -> str | None:
        """Where an object that this stage keeps for publishing will lie; None if it keeps none of that name."""
        kept = self._files.get(name)
        return None if kept is None else object_uri(self.uri, name, kept.digest()[0], kept.suffix)

    def add_bytes(self, name: str, data: bytes, *, suffix: str, kind: str, rows: int | None = None) -> None:
        """Keeps an object for publishing; ``kind`` as in ``ObjectRef``."""
        self._files[name] = LocalObject(suffix=suffix, kind=kind, data=data, rows=rows)

    def publish(self, facts: Mapping[str, Any], metrics: Mapping[str, float]) -> Published:
        """Uploads what was kept and then, last, the manifest."""
        total = time.perf_counter() - self._started
        seconds = {"total": round(total, 3), "train": round(sum(self._phases.values()), 3)}
        seconds |= {f"train.{name}": round(value, 3) for name, value in self._phases.items()}
        draft = StageManifest(
            stage=self.stage,
            run_id=self.run_id,
            key=self.key,
            config=self._config,
            parents={name: parent.sha256 for name, parent in self.parents.items()},
            code_version=self._code,
            objects={},
            # What the command that makes the run again has to name.
            facts={**facts, "changed": self.changed, "peak_mib": _peak_mib()},
            metrics={name: float(value) for name, value in metrics.items()},
            seconds=seconds,
        )
        uri, sha256, manifest = publish(self.store, self.uri, draft, self._files)
        if self._resumed is not None or self._kept:
            drop_partial(self.store, self.uri, self.key)
        logger.info("stage %s: done in %.1f s, %.1f s of it training", self.stage, total, seconds["train"])
        return Published(uri, sha256, manifest)

    def timed(self, phase: str) -> _Timer:
        """Counts the time of a ``with`` block as training of that phase, not as the stage's overhead."""
        return _Timer(self._phases, phase)

    def progress(self, phase: str, step: int, total: int, figures: Mapping[str, float]) -> None:
        """One plain line every 30 s or 5 %, whichever comes later, and the last; part of ``Watch``."""
        note_progress(phase, step, total, " ".join(f"{name} {value:.3f}" for name, value in figures.items()))
        now = time.monotonic()
        said_at, said_share = self._said.get(phase, (now - _SAY_EVERY_SECONDS / 2, 0.0))
        due = now - said_at >= _SAY_EVERY_SECONDS and step / total - said_share >= _SAY_EVERY_SHARE
        if due or step == total:
            text = " ".join(f"{name} {value:.4f}" for name, value in figures.items())
            logger.info("%s: step %d of %d (%d %%) %s", phase, step, total, 100 * step // total, text)
            self._said[phase] = (now, step / total)

    def wants_state(self, phase: str) -> bool:
        """Every minute; part of ``Watch``."""
        return time.monotonic() - self._saved >= _SAVE_EVERY_SECONDS

    def save(self, phase: str, state: bytes) -> None:
        """Keeps the state of a phase in the store; part of ``Watch``. Later phases replace earlier ones."""
        self._kept = {phase: state}
        save_partial(self.store, self.uri, self.key, phase.encode() + b"\n" + state)
        self._saved = time.monotonic()

    def restore(self, phase: str) -> bytes | None:
        """The kept state of that phase of this very work; part of ``Watch``."""
        if self._resumed is None:
            self._resumed = {}
            data = load_partial(self.store, self.uri, self.key)
            if data is not None:
                name, _, state = data.partition(b"\n")
                self._resumed[name.decode()] = state
        state_of_phase = self._resumed.get(phase)
        if state_of_phase is not None:
            logger.info("%s: going on from the state of an earlier attempt", phase)
        return state_of_phase


class _Timer:
    def __init__(self, phases: dict[str, float], phase: str) -> None:
        self._phases = phases
        self._phase = phase
        self._start = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._phases[self._phase] = self._phases.get(self._phase, 0.0) + time.perf_counter() - self._start


def _peak_mib() -> float:
    """Largest resident set of this process so far, MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss: Linux hands it down to a new program, so it may be the peak of who started this one.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return round(int(line.split()[1]) / 1024, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Bytes on macOS, kibibytes elsewhere.
    return round(peak / (1024**2 if sys.platform == "darwin" else 1024), 1)

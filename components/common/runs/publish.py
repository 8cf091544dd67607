"""Publishing a stage's results: data under content-addressed names first, the manifest last, by one atomic write.

A manifest means complete; no manifest means nothing happened. What an attempt that died left behind is either the very
object that the next attempt needs, or an orphan that no manifest names.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from components.common.contracts.errors import ConfigError, ContractError, StorageError
from components.common.runs.artifacts import ObjectRef, StageManifest
from components.common.storage.addresses import join
from components.common.storage.store import Store

__all__ = [
    "MANIFEST_NAME",
    "LocalObject",
    "drop_partial",
    "find_manifest",
    "finished_stage",
    "load_partial",
    "object_uri",
    "publish",
    "read_manifest",
    "save_partial",
]

MANIFEST_NAME = "manifest.json"
_DIGEST_CHARS = 64
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalObject:
    """A result that waits for its upload: a file or bytes, one of the two.

    Attributes:
        suffix: End of the object's name, with its dot (".parquet").
        kind: As in ``ObjectRef``: ``table``, ``array``, ``checkpoint`` or ``document``.
        path: The file.
        data: The bytes.
        rows: Rows of a table, first dimension of an array, else None.
    """

    suffix: str
    kind: str
    path: Path | None = None
    data: bytes | None = None
    rows: int | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.data is None):
            raise ValueError("a LocalObject holds either a path or data")

    def digest(self) -> tuple[str, int]:
        """Hex sha256 and length in bytes."""
        if self.data is not None:
            return hashlib.sha256(self.data).hexdigest(), len(self.data)
        assert self.path is not None  # noqa: S101 - held by __post_init__
        with self.path.open("rb") as source:
            digest = hashlib.file_digest(source, "sha256").hexdigest()
            return digest, source.tell()


def publish(
    store: Store, stage_uri: str, manifest_draft: StageManifest, files: Mapping[str, LocalObject]
) -> tuple[str, str, StageManifest]:
    """Uploads a stage's results and then, last, its manifest.

    Args:
        store: The store.
        stage_uri: ``s3://…/runs/<run_id>/<stage>``.
        manifest_draft: The manifest without these objects; objects that it names already stay.
        files: Object name to what is to be uploaded.

    Returns:
        The manifest's URI, the hex sha256 of its bytes, and the manifest that stands in the store: the one of another
        attempt at the same work, if that one was first.

    Raises:
        ContractError: This run holds another result of the stage already, or an object's name is taken.
        StorageError: The store cannot take an object.
    """
    refs = dict(manifest_draft.objects)
    for name, local in files.items():
        if name in refs:
            raise ContractError(
                f"object '{name}' of stage {manifest_draft.stage}",
                expected="a name of its own",
                found="it in the draft already",
                hint="Give the object another name.",
            )
        refs[name] = _upload(store, stage_uri, name, local)
    manifest = replace(manifest_draft, objects=refs)
    uri = join(stage_uri, MANIFEST_NAME)
    data = manifest.to_bytes()
    if store.put_if_absent(uri, data):
        _log.info("published %s", uri)
        return uri, hashlib.sha256(data).hexdigest(), manifest
    standing, _ = store.get_with_etag(uri)
    other = StageManifest.from_bytes(standing, uri)
    if other.key != manifest.key:
        raise ContractError(
            uri,
            expected=f"no result yet, or one of key {manifest.key}",
            found=f"the result of key {other.key}",
            hint=f"Run id '{manifest.run_id}' already holds another result of stage {manifest.stage}: "
            "choose another run id.",
        )
    _log.info("adopted %s, which another attempt at the same work published first", uri)
    return uri, hashlib.sha256(standing).hexdigest(), other


def object_uri(stage_uri: str, name: str, sha256: str, suffix: str) -> str:
    """Address of a published object: its name, the first 16 characters of its hex sha256, its suffix."""
    return join(stage_uri, f"{name}.{sha256[:16]}{suffix}")


def _upload(store: Store, stage_uri: str, name: str, local: LocalObject) -> ObjectRef:
    sha256, size = local.digest()
    uri = object_uri(stage_uri, name, sha256, local.suffix)
    present = store.head(uri)
    # S3 shows whole objects only, so the same digest in the name and the same size mean the same object.
    if present is None or present.size_bytes != size:
        if local.data is not None:
            store.put(uri, local.data)
        elif local.path is not None:
            store.upload_file(uri, local.path)
    return ObjectRef(uri=uri, sha256=sha256, size_bytes=size, kind=local.kind, rows=local.rows)


def read_manifest(store: Store, uri: str, sha256: str | None = None) -> StageManifest:
    """Reads a manifest, and checks its bytes against a digest when one is given.

    Raises:
        ContractError: The digest differs, or it is not a manifest of this version.
        StorageError: No such object, or the store cannot serve it.
    """
    return StageManifest.from_bytes(store.get(uri, sha256), uri)


def find_manifest(store: Store, stage_uri: str) -> tuple[str, str, StageManifest] | None:
    """URI, hex sha256 and manifest of a stage, or None when it has published nothing.

    Raises:
        ContractError: What lies there is not a manifest of this version.
        StorageError: The bucket is missing, or the store cannot answer.
    """
    uri = join(stage_uri, MANIFEST_NAME)
    found = store.find(uri)
    if found is None:
        return None
    return uri, hashlib.sha256(found[0]).hexdigest(), StageManifest.from_bytes(found[0], uri)


def finished_stage(store: Store, run_id: str, stage: str, hint: str) -> tuple[str, str, StageManifest]:
    """URI, hex sha256 and manifest of a run's stage that must have come to its end.

    Args:
        store: The store.
        run_id: The run.
        stage: Name of the stage.
        hint: What to do where it has not.

    Raises:
        ConfigError: It has published nothing.
        ContractError: What lies there is not a manifest of this version.
        StorageError: The bucket is missing, or the store cannot answer.
    """
    uri = join(store.root, "runs", run_id, stage)
    found = find_manifest(store, uri)
    if found is None:
        raise ConfigError(f"run {run_id}", expected=f"a finished {stage} stage at {uri}", found="none", hint=hint)
    return found


def save_partial(store: Store, stage_uri: str, key: str, data: bytes) -> None:
    """Keeps the state of unfinished work, replacing the one before.

    The digest stands before the data in the same object, for one object changes as a whole, while a digest beside it
    could belong to the state before.

    Args:
        store: The store.
        stage_uri: ``s3://…/runs/<run_id>/<stage>``.
        key: The stage key of the work.
        data: The state.

    Raises:
        StorageError: The store cannot take it.
    """
    store.put(_partial_uri(stage_uri, key), _state_digest(key, data) + data)


def load_partial(store: Store, stage_uri: str, key: str) -> bytes | None:
    """The kept state of this very work, or None when there is none or it is damaged.

    Raises:
        StorageError: The bucket is missing, or the store cannot answer.
    """
    uri = _partial_uri(stage_uri, key)
    found = store.find(uri)
    if found is None:
        return None
    head, data = found[0][:_DIGEST_CHARS], found[0][_DIGEST_CHARS:]
    if head != _state_digest(key, data):
        _log.warning("%s is damaged or belongs to other work: the stage starts from its beginning", uri)
        return None
    return data


def drop_partial(store: Store, stage_uri: str, key: str) -> None:
    """Deletes the kept state after publishing; a store that refuses is only logged, for the result stands."""
    uri = _partial_uri(stage_uri, key)
    try:
        store.delete(uri)
    except StorageError as problem:
        _log.warning("%s stays behind: %s", uri, problem)


def _partial_uri(stage_uri: str, key: str) -> str:
    return join(stage_uri, "partial", f"{key[:16]}.state")


def _state_digest(key: str, data: bytes) -> bytes:
    # The whole key takes part, as the object's name holds only its first characters.
    digest = hashlib.sha256(key.encode() + b"\n")
    digest.update(data)
    return digest.hexdigest().encode()

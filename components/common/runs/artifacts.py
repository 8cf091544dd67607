"""The JSON records that stages leave in the store: the manifest that makes a stage's outputs complete."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from components.common.contracts.errors import ContractError

__all__ = ["MANIFEST_VERSION", "ObjectRef", "StageManifest", "canonical_json", "digest_of", "stage_key"]

MANIFEST_VERSION = 1


def canonical_json(value: object) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces, so that equal values have equal bytes. NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_of(value: object) -> str:
    """Hex sha256 of the canonical JSON of a value."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def stage_key(stage: str, config: Mapping[str, Any], parents: Mapping[str, str], code_version: str) -> str:
    """What a stage's result depends on: its config, the manifests it reads and its code."""
    return digest_of(
        {"stage": stage, "config": dict(config), "parents": dict(parents), "code_version": code_version},
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectRef:
    """One published object.

    Attributes:
        uri: Where it lies, ``s3://bucket/key``.
        sha256: Hex digest of the object's bytes, checked at every reading.
        size_bytes: Length of the object.
        kind: ``table``, ``array``, ``checkpoint``, ``model``, ``images`` or ``document``.
        rows: Rows of a table, first dimension of an array, else None.
    """

    uri: str
    sha256: str
    size_bytes: int
    kind: str
    rows: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class StageManifest:
    """What a stage published. It is written last: a manifest means complete, no manifest means nothing happened.

    Attributes:
        stage: Name of the stage ("warmup"); the control model is stage "control".
        run_id: The run it belongs to.
        key: ``stage_key`` of the work; an equal key means the work need not be done again.
        config: The stage's whole configuration.
        parents: Parent stage name to the sha256 of that parent's manifest.
        code_version: Digest of the package's sources.
        objects: Name to published object.
        facts: Small facts that later stages need (class names, image shape, verdict).
        metrics: Finite figures for people and KFP.
        seconds: Wall-clock time by phase, in seconds ("total", "train", …).
        version: Version of this record's format.
    """

    stage: str
    run_id: str
    key: str
    config: dict[str, Any]
    parents: dict[str, str]
    code_version: str
    objects: dict[str, ObjectRef]
    facts: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    version: int = MANIFEST_VERSION

    def to_bytes(self) -> bytes:
        """Canonical JSON bytes."""
        return canonical_json(asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes, uri: str) -> StageManifest:
        """Parses a manifest.

        Args:
            data: The object's bytes.
            uri: Where they came from, for messages.

        Raises:
            ContractError: Not JSON, not a manifest, or of another format version.
        """
        hint = "Read it with the untaint version that wrote it, or run the stage again under a new run id."
        try:
            record = json.loads(data)
            found = record["version"] if isinstance(record, dict) else f"a JSON {type(record).__name__}"
        except (ValueError, KeyError) as problem:
            raise ContractError(
                uri, expected="a stage manifest", found=f"{type(problem).__name__}: {problem}", hint=hint
            ) from None
        if found != MANIFEST_VERSION:
            raise ContractError(uri, expected=f"manifest version {MANIFEST_VERSION}", found=str(found), hint=hint)
        known = {f.name for f in fields(cls)}
        if set(record) != known:
            difference = sorted(set(record) ^ known)
            raise ContractError(
                uri, expected=f"the fields {sorted(known)}", found=f"difference in {difference}", hint=hint
            )
        record["objects"] = {name: ObjectRef(**ref) for name, ref in record["objects"].items()}
        return cls(**record)

    def object(self, name: str, uri: str) -> ObjectRef:
        """The published object of that name.

        Args:
            name: Object name.
            uri: The manifest's own address, for messages.

        Raises:
            ContractError: The stage published no such object.
        """
        try:
            return self.objects[name]
        except KeyError:
            raise ContractError(
                f"{uri} (stage {self.stage})",
                expected=f"an object named '{name}'",
                found=f"only {', '.join(sorted(self.objects)) or 'nothing'}",
                hint="Wire the right stage's manifest, or run that stage again with this version.",
            ) from None

"""The JSON records of retraining: what a drop holds, who is training it, and which model is in use."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from datetime import date
from typing import Any, Self

from components.common.contracts.errors import ContractError
from components.common.runs.artifacts import canonical_json, digest_of

__all__ = [
    "CLAIMED",
    "DONE",
    "KEPT_CHAMPION",
    "NOTHING_NEW",
    "PROMOTED",
    "REOPENED",
    "Champion",
    "Claim",
    "Gate",
    "Pinned",
    "ReadyFile",
    "Search",
    "Terms",
    "drop_digest",
]

CLAIMED = "claimed"
"""State of a claim whose training is under way, and outcome of a claim step that has found a drop."""
DONE = "done"
"""State of a claim whose drop has been trained."""
REOPENED = "reopened"
"""State of a claim whose drop was trained, and is to be trained once more."""
NOTHING_NEW = "nothing new"
"""Outcome of a claim step that has found no drop to train."""
PROMOTED = "promoted"
"""Outcome of a promotion that has moved the champion."""
KEPT_CHAMPION = "kept champion"
"""Outcome of a promotion whose candidate did not pass the gates."""

_RECORD_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadyFile:
    """One file of a drop, as its producer declares it.

    Attributes:
        key: Key below the drop's prefix, without a slash in front and without ``..``.
        size_bytes: Length of the file.
        sha256: Hex digest of the file.
    """

    key: str
    size_bytes: int
    sha256: str


def drop_digest(files: Iterable[ReadyFile]) -> str:
    """Hex sha256 over keys, sizes and digests, in the order of the keys: equal drops have equal digests anywhere."""
    return digest_of([[file.key, file.size_bytes, file.sha256] for file in sorted(files, key=lambda f: f.key)])


class _Record:
    """To and from canonical JSON; a record of another format is refused and not guessed at.

    A field with a default may be missing: the version that wrote the record did not have it yet.
    """

    __slots__ = ()

    def to_bytes(self) -> bytes:
        """Canonical JSON bytes."""
        return canonical_json({**asdict(self), "version": _RECORD_VERSION})  # type: ignore[call-overload]

    @classmethod
    def from_bytes(cls, data: bytes, uri: str) -> Self:
        """Parses a record.

        Args:
            data: The object's bytes.
            uri: Where they came from, for messages.

        Raises:
            ContractError: Not JSON, not such a record, or of another version.
        """
        known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        # A field with a default is newer than some records.
        required = {
            f.name
            for f in fields(cls)  # type: ignore[arg-type]
            if f.default is MISSING and f.default_factory is MISSING
        }
        try:
            values = json.loads(data)
            version = values.pop("version")
            found = f"version {version}" if version != _RECORD_VERSION else f"the fields {sorted(values)}"
            usable = version == _RECORD_VERSION and required <= set(values) <= known
        except (ValueError, KeyError, AttributeError, TypeError) as problem:
            usable, found = False, f"{type(problem).__name__}"
        if not usable:
            raise ContractError(
                uri,
                expected=f"a {cls.__name__.lower()} record of version {_RECORD_VERSION}",
                found=found,
                hint="Read it with the untaint version that wrote it.",
            )
        return cls(**values)


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim(_Record):
    """Who is training a drop, or who has: one object a model name and content.

    Attributes:
        content: ``drop_digest`` of the drop.
        drop_uri: ``s3://…`` of the drop.
        ready_etag: ETag of its ``_READY.json`` when it was claimed.
        holder: Run id of the training.
        epoch: 1 for the first claim, one more for every takeover. A holder of an older epoch has lost the drop.
        since: When it was claimed, seconds since 1970, by the holder's clock.
        lease_seconds: Seconds without a sign of life after which another run may take over.
        state: ``claimed``, ``done`` or ``reopened``.
        outcome: How a done one ended: ``promoted`` or ``kept champion``; empty before.
        run_id: Id of the run below which the data of the training are; empty for the holder's own.
        plan: Digest of what is done with the drop; a takeover of the same plan resumes from these data.
    """

    content: str
    drop_uri: str
    ready_etag: str
    holder: str
    epoch: int
    since: float
    lease_seconds: float
    state: str = CLAIMED
    outcome: str = ""
    run_id: str = ""
    plan: str = ""

    @property
    def data_run_id(self) -> str:
        """The run below which the data of the training are kept."""
        return self.run_id or self.holder


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """One condition of a promotion and how it came out.

    Attributes:
        name: Name of the gate.
        passed: Whether it held.
        expected: What had to be true.
        found: What was seen.
    """

    name: str
    passed: bool
    expected: str
    found: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Champion(_Record):
    """The model that is in use under a name: ``models/<name>/champion.json`` and every entry of its history.

    Attributes:
        name: Name of the model.
        number: 1 for the first champion, one more for every move of the pointer, a rollback's too.
        run_id: The run that trained it.
        model_uri: The checkpoint.
        model_sha256: Hex digest of the checkpoint.
        model_bytes: Its length.
        evaluation_uri: Manifest of the run's evaluate stage.
        evaluation_sha256: Hex digest of that manifest.
        acc: Accuracy on the trusted rows of the run's holdout, in [0, 1].
        holdout_sha256: Digest of that holdout's images and labels.
        suspect_share: Suspects as a share of the training set, in [0, 1].
        drop_uri: The drop that it was trained on; empty for a run outside the schedule.
        promoted_at: When the pointer was moved, ISO 8601 in UTC.
        how: ``gates``, ``by hand`` or ``rollback``.
        gates: The gates as they came out, as mappings; empty if none were asked.
        forced: Whether it was promoted although a gate did not hold.
        by: Who moved the pointer: ``user@host``, or the run whose promote step did.
    """

    name: str
    number: int
    run_id: str
    model_uri: str
    model_sha256: str
    model_bytes: int
    evaluation_uri: str
    evaluation_sha256: str
    acc: float
    holdout_sha256: str
    suspect_share: float
    drop_uri: str
    promoted_at: str
    how: str
    gates: list[dict[str, Any]] = field(default_factory=list)
    forced: bool = False
    by: str = ""

    @property
    def manner(self) -> str:
        """How it became the champion, in words: what was overridden and by whom."""
        lost = [gate["name"] for gate in self.gates if not gate["passed"]]
        words = self.how
        if self.forced:
            words = f"{'rollback to one ' if self.how == 'rollback' else ''}FORCED against {', '.join(lost)}"
        return f"{words}, by {self.by}" if self.by else words


@dataclass(frozen=True, kw_only=True, slots=True)
class Pinned(_Record):
    """The evaluation set of a model's name: ``models/<name>/holdout.json``.

    Attributes:
        location: ``s3://bucket/prefix`` of its images, in any form that a drop may have.
        content: Hex sha256 over its images' digests and labels.
        rows: Number of images.
    """

    location: str
    content: str
    rows: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """On what terms a drop is claimed.

    Attributes:
        name: Name of the model.
        holder: Run id of the training.
        lease_seconds: Seconds without a sign of life after which another run may take over.
        attempts: Trainings of one drop that may die before it is left alone.
        since: First date of the drops to take, by their names; None for no bound.
        until: Last date, inclusive; None for no bound. With a bound, drops without a date are passed over.
        plan: Digest of what is to be done with the drop, code included; empty for one that is like no other.
    """

    name: str
    holder: str
    lease_seconds: float
    attempts: int = 3
    since: date | None = None
    until: date | None = None
    plan: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """What looking for a drop came to.

    Attributes:
        claim: The claim, or None when there is nothing to train.
        refused: One message for each drop that is not what its ``_READY.json`` says.
        passed: How many drops were passed over, by reason.
    """

    claim: Claim | None
    refused: list[str] = field(default_factory=list)
    passed: Mapping[str, int] = field(default_factory=dict)

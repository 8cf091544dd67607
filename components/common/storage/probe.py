"""Asks a store, by doing it, whether it offers every operation that untaint relies on."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from components.common.contracts.errors import ConflictError, StorageError, UntaintError
from components.common.storage.addresses import join
from components.common.storage.store import MULTIPART_BYTES, Store

__all__ = ["ProbeCheck", "ProbeReport", "probe", "require"]

_log = logging.getLogger(__name__)
_SMALL = bytes(range(256))


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeCheck:
    """One operation that was tried.

    Attributes:
        name: The operation.
        needed_for: What untaint does with it.
        ok: Whether it works.
        detail: What was seen instead, empty if it works.
        problem: The error that it ended with, or None.
    """

    name: str
    needed_for: str
    ok: bool
    detail: str = ""
    problem: UntaintError | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeReport:
    """What a store can do.

    Attributes:
        root: The root URI that was tried.
        endpoint: Host and port of the store.
        checks: One entry per operation, in the order of trying.
    """

    root: str
    endpoint: str
    checks: tuple[ProbeCheck, ...]

    @property
    def ok(self) -> bool:
        """Whether every operation works."""
        return all(check.ok for check in self.checks)


def _bucket(store: Store, base: str) -> str:
    # Before any write: SeaweedFS answers a write into a missing bucket by creating it, which would hide a wrong name.
    return "" if next(store.list(base + "/"), None) is None else "objects under a prefix that was made up just now"


def _put(store: Store, base: str) -> str:
    store.put(join(base, "small"), _SMALL)
    return ""


def _get(store: Store, base: str) -> str:
    return "" if store.get(join(base, "small")) == _SMALL else "other bytes came back"


def _list(store: Store, base: str) -> str:
    found = [entry.uri for entry in store.list(base + "/")]
    return "" if found == [join(base, "small")] else f"{len(found)} objects instead of the 1 just written"


def _ranged(store: Store, base: str) -> str:
    return "" if store.get_range(join(base, "small"), 100, 50) == _SMALL[100:150] else "other bytes came back"


def _multipart(store: Store, base: str) -> str:
    # The smallest file that really travels in two parts.
    data = _SMALL * (MULTIPART_BYTES // len(_SMALL)) + b"tail"
    uri = join(base, "parts")
    with tempfile.TemporaryDirectory(prefix="untaint-probe-") as folder:
        path = Path(folder) / "parts"
        path.write_bytes(data)
        store.upload_file(uri, path)
    return "" if store.get(uri) == data else f"not sha256 {hashlib.sha256(data).hexdigest()[:16]} after joining"


def _if_absent(store: Store, base: str) -> str:
    uri = join(base, "once")
    if not store.put_if_absent(uri, b"first"):
        return "refused although nothing was there"
    if store.put_if_absent(uri, b"second"):
        return "accepted a second write of the same key"
    return "" if store.get(uri) == b"first" else "refused the second write and yet took it"


def _if_match(store: Store, base: str) -> str:
    uri = join(base, "pointer")
    store.put(uri, b"1")
    _, etag = store.get_with_etag(uri)
    store.put_if_match(uri, b"2", etag)
    try:
        store.put_if_match(uri, b"3", etag)
    except ConflictError:
        return "" if store.get(uri) == b"2" else "refused the stale write and yet took it"
    return "accepted a write with a stale ETag"


_CHECKS: tuple[tuple[str, str, Callable[[Store, str], str]], ...] = (
    ("bucket", "holding everything", _bucket),
    ("put", "writing results", _put),
    ("get", "reading what an earlier stage wrote", _get),
    ("list", "finding the images of a drop", _list),
    ("ranged get", "reading parts of large objects", _ranged),
    ("multipart upload", "uploading objects above 8 MiB", _multipart),
    ("put If-None-Match", "publishing a manifest exactly once", _if_absent),
    ("put If-Match", "moving the pointer to the promoted model", _if_match),
)


def probe(store: Store) -> ProbeReport:
    """Tries every operation under a prefix of its own below the store's root, and cleans up.

    When the bucket is not there or not even a put works, the rest is not tried: it would wait for the same time-out.
    """
    base = join(store.root, f"probe-{uuid.uuid4().hex}")
    checks: list[ProbeCheck] = []
    for name, needed_for, attempt in _CHECKS:
        broken = [check.name for check in checks[:2] if not check.ok]
        problem: UntaintError | None = None
        if broken:
            detail = f"not tried without {broken[0]}"
        else:
            try:
                detail = attempt(store, base)
            except UntaintError as raised:
                detail, problem = str(raised), raised
        checks.append(ProbeCheck(name=name, needed_for=needed_for, ok=not detail, detail=detail, problem=problem))
    if all(check.ok for check in checks[:2]):
        for leaf in ("small", "parts", "once", "pointer"):
            with contextlib.suppress(StorageError):
                store.delete(join(base, leaf))
    return ProbeReport(root=store.root, endpoint=store.endpoint, checks=tuple(checks))


def require(report: ProbeReport) -> None:
    """Accepts only a store that can do everything.

    Raises:
        UntaintError: The one cause, if the store cannot be reached, or lacks the bucket, or takes nothing.
        StorageError: Else: names each operation that does not work, what was seen, and what untaint needs it for.
    """
    missing = [check for check in report.checks if not check.ok]
    if not missing:
        _log.info("%s at %s offers all that untaint needs", report.root, report.endpoint)
        return
    # The rest was not tried, and would only bury the cause.
    cause = next((check.problem for check in report.checks[:2] if check.problem is not None), None)
    if cause is not None:
        raise cause
    raise StorageError(
        f"{report.root} at {report.endpoint}",
        expected=", ".join(check.name for check in report.checks),
        found="no working " + "; no working ".join(f"{check.name} ({check.detail})" for check in missing),
        hint="untaint needs " + "; ".join(f"{check.name} for {check.needed_for}" for check in missing) + ".",
    )

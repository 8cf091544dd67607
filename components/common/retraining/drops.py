"""Drops of a producer: folders of files in S3 that count once their ``_READY.json`` is there.

``_READY.json`` names every file of the drop with its size and sha256, either itself or by way of a manifest::

    {"version": 1, "files": [{"key": "cat/1.png", "size": 5120, "sha256": "…"}, …]}
    {"version": 1, "manifest": {"key": "_files.jsonl", "size": 700, "sha256": "…"}}

A manifest holds one such file entry per line. Litter, hidden files and notes are no part of the data: see
``components/common/intake/names.py``.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import Counter
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from components.common.contracts.errors import ConfigError, ContractError, DataError
from components.common.intake.names import aside, unsafe
from components.common.retraining.records import ReadyFile
from components.common.runs.artifacts import canonical_json
from components.common.storage._failures import translated
from components.common.storage.addresses import join, parse_uri
from components.common.storage.store import Store

__all__ = ["READY_NAME", "Delivered", "Drop", "check_files", "date_of", "deliver", "find_drops", "read_ready"]

READY_NAME = "_READY.json"
_VERSION = 1
_HEX64 = re.compile(r"[0-9a-f]{64}")
_DATE = re.compile(r"(?<!\d)(\d{4})-?(\d{2})-?(\d{2})(?!\d)")
_MANIFEST_MAX_BYTES = 1 << 30
_NAMED = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Drop:
    """A drop that its producer has declared complete.

    Attributes:
        uri: ``s3://bucket/prefix`` without a slash at its end.
        name: Last part of the prefix.
        ready_etag: ETag of its ``_READY.json``; changes when the producer declares the drop anew.
        ready_at: When that was written, with a time zone, by the store's clock.
    """

    uri: str
    name: str
    ready_etag: str
    ready_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivered:
    """A folder that was uploaded.

    Attributes:
        files: How many files are in the drop.
        left: How many stayed behind, by reason.
    """

    files: int
    left: dict[str, int]


def date_of(name: str) -> date | None:
    """The date in a drop's name, as YYYY-MM-DD or YYYYMMDD, or None."""
    for year, month, day in _DATE.findall(name):
        try:
            return date(int(year), int(month), int(day))
        except ValueError:
            continue
    return None


def find_drops(store: Store, drops_uri: str) -> list[Drop]:
    """The drops below a prefix that are ready, oldest first: by the date in the name, else by that of ``_READY.json``.

    Args:
        store: The store.
        drops_uri: Prefix with one folder per drop, or a drop itself.

    Raises:
        ConfigError: Not an S3 URI.
        StorageError: The store cannot answer.
    """
    root = drops_uri.rstrip("/")
    drops = []
    for uri in [root, *_folders(store, root)]:
        if not parse_uri(uri)[1]:
            # A whole bucket is a place for drops, never one itself.
            continue
        ready = store.head(join(uri, READY_NAME))
        if ready is not None:
            name = uri.rpartition("/")[2]
            drops.append(Drop(uri=uri, name=name, ready_etag=ready.etag, ready_at=ready.last_modified))
    return sorted(drops, key=lambda drop: (date_of(drop.name) or drop.ready_at.date(), drop.ready_at, drop.name))


def read_ready(store: Store, drop: Drop) -> list[ReadyFile]:
    """What a drop's producer declares: its files, in the order of their keys.

    Raises:
        DataError: ``_READY.json`` or its manifest is torn, or names files that cannot be.
        StorageError: The store cannot answer.
    """
    uri = join(drop.uri, READY_NAME)
    record = _json(store.get(uri), uri)
    if not isinstance(record, dict) or record.get("version") != _VERSION:
        raise _refused(uri, f"a JSON object with version {_VERSION}", f"{str(record)[:80]}")
    if "manifest" in record:
        listed = _file(record["manifest"], uri)
        _check_range(listed, uri)
        address = join(drop.uri, listed.key)
        found = store.find(address)
        if found is None:
            raise _refused(uri, f"its manifest {listed.key} in the drop", "no such object")
        if len(found[0]) != listed.size_bytes or hashlib.sha256(found[0]).hexdigest() != listed.sha256:
            raise _refused(
                address, f"{listed.size_bytes} bytes of sha256 {listed.sha256}", f"{len(found[0])} bytes of another"
            )
        entries: Any = [_json(line, address) for line in found[0].splitlines() if line.strip()]
    else:
        entries = record.get("files")
        if not isinstance(entries, list):
            raise _refused(uri, "a list 'files', or a 'manifest'", f"only {', '.join(sorted(record))}")
    files = sorted((_file(entry, uri) for entry in entries), key=lambda file: file.key)
    if not files:
        raise _refused(uri, "at least one file", "none")
    for one, other in itertools.pairwise(files):
        if one.key == other.key:
            raise _refused(uri, "every file once", f"{one.key} twice")
    return files


def check_files(store: Store, drop: Drop, files: list[ReadyFile]) -> None:
    """Compares what a drop's producer declares with what lies there: names and sizes.

    Digests are the producer's word: they tell equal drops from others, and are not computed again here, for that would
    read the whole drop twice.

    Raises:
        DataError: A file is missing, has another size, or is not declared; the message names the first few.
        StorageError: The store cannot answer.
    """
    missing = {file.key: file.size_bytes for file in files}
    wrong: list[str] = []
    for info in store.list(f"{drop.uri}/"):
        key = info.uri[len(drop.uri) + 1 :]
        if key in missing:
            size = missing.pop(key)
            if info.size_bytes != size:
                wrong.append(f"{key} has {info.size_bytes} bytes and not {size}")
        elif not key.endswith("/") and aside(key) is None:
            wrong.append(f"{key} is not declared")
    wrong += [f"{key} is missing" for key in missing]
    if wrong:
        more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise _refused(join(drop.uri, READY_NAME), "exactly the files that it names", ", ".join(wrong[:_NAMED]) + more)


def deliver(store: Store, folder: Path, drop_uri: str) -> Delivered:
    """Uploads a folder as a drop: the files first, ``_READY.json`` last.

    Args:
        store: The store.
        folder: The folder; what is no data by its name stays behind.
        drop_uri: ``s3://bucket/prefix`` of the new drop.

    Raises:
        ConfigError: Not a folder, an empty one or one with links, or the drop is there already.
        StorageError: The store cannot take it.
    """
    uri = drop_uri.rstrip("/")
    seen = [(path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*"))]
    why = {key: aside(f"{key}/" if path.is_dir() else key) for key, path in seen}
    found = [(key, path) for key, path in seen if why[key] is None]
    unfit = [key for key, path in found if path.is_symlink() or unsafe(key) is not None]
    if unfit:
        raise ConfigError(
            f"{folder}, {len(unfit)} entries",
            expected="names without control characters, and no links, which could lead out of the folder",
            found=ascii(unfit[0])[:200],
            hint="Put copies in the place of links, rename the others, or take them away.",
        )
    kept = [(key, path) for key, path in found if path.is_file()]
    if not kept:
        raise ConfigError(str(folder), expected="a folder with files", found="none", hint="Check the path.")
    if store.exists(join(uri, READY_NAME)):
        raise ConfigError(
            uri, expected="a drop that is not there yet", found="one that is complete", hint="Choose another name."
        )
    entries = []
    for key, path in kept:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
        store.upload_file(join(uri, key), path)
        entries.append({"key": key, "size": size, "sha256": digest})
    store.put(join(uri, READY_NAME), canonical_json({"version": _VERSION, "files": entries}))
    left = Counter(reason for key, path in seen if (reason := why[key]) is not None and not path.is_dir())
    return Delivered(files=len(entries), left=dict(left))


def _folders(store: Store, uri: str) -> list[str]:
    """The folders right below a prefix, without listing what is in them."""
    bucket, key = parse_uri(uri)
    prefix = f"{key}/" if key else ""
    found: list[str] = []
    with translated(store.endpoint, "list", uri):
        pages = store._client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
        for page in pages:
            found += [f"s3://{bucket}/{entry['Prefix'].rstrip('/')}" for entry in page.get("CommonPrefixes", ())]
    return found


def _json(data: bytes, uri: str) -> Any:
    try:
        return json.loads(data)
    except ValueError as problem:
        raise _refused(uri, "JSON", f"{type(problem).__name__}: {str(problem)[:80]}") from None


def _file(entry: Any, uri: str) -> ReadyFile:
    if not isinstance(entry, dict) or set(entry) != {"key", "size", "sha256"}:
        raise _refused(uri, "file entries of key, size and sha256", str(entry)[:80])
    key, size, sha256 = entry["key"], entry["size"], entry["sha256"]
    parts = key.split("/") if isinstance(key, str) else []
    if not parts or "\x00" in key or any(part in ("", ".", "..") for part in parts):
        raise _refused(uri, "keys below the drop, without '..' and empty parts", repr(key)[:80])
    if type(size) is not int or size < 0 or not isinstance(sha256, str) or not _HEX64.fullmatch(sha256):
        raise _refused(uri, f"a size in bytes and 64 hex digits for {key[:80]}", f"{size!r} and {str(sha256)[:70]!r}")
    return ReadyFile(key=key, size_bytes=size, sha256=sha256)


def _check_range(listed: ReadyFile, uri: str) -> None:
    if listed.size_bytes > _MANIFEST_MAX_BYTES:
        raise _refused(uri, f"a manifest of at most {_MANIFEST_MAX_BYTES} bytes", str(listed.size_bytes))


def _refused(uri: str, expected: str, found: str) -> DataError:
    return ContractError(
        uri, expected=expected, found=found, hint="Mend the drop and write its _READY.json again, last of all."
    )

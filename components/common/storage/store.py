"""Objects in S3 with digests and conditional writes: the one door to the object store.

boto3 is imported at the first request, never with this module: it costs a third of a second that most commands of the
command line do not need.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from components.common.contracts.errors import ConfigError, ConflictError, ContractError, StorageError
from components.common.contracts.os_errors import full_disk
from components.common.storage._clients import Clients
from components.common.storage._failures import DISK_RESERVE, code_of, translated
from components.common.storage.addresses import ObjectInfo, join, parse_uri
from components.common.storage.settings import S3Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef

__all__ = ["MULTIPART_BYTES", "ObjectInfo", "Store", "join", "parse_uri"]

MULTIPART_BYTES = 8 * 1024 * 1024
"""Objects above this size travel in parts of this size."""

_CONCURRENCY = 4
_STREAM_BYTES = 1024 * 1024
_BODY_ATTEMPTS = 3
_CONFLICT_ATTEMPTS = 5
_WRITER = "untaint-writer"
_log = logging.getLogger(__name__)

T = TypeVar("T")


class Store:
    """Objects under ``s3://`` URIs. Every method takes full URIs and may be called from several threads.

    Args:
        root: ``s3://bucket`` or ``s3://bucket/prefix`` under which this project's objects lie. Reading elsewhere is
            allowed: an owner's images are used where they are.
        settings: Client settings; read from the environment by default.

    Raises:
        ConfigError: The root is not an S3 URI, or a setting is not usable.
    """

    def __init__(self, root: str, settings: S3Settings | None = None) -> None:
        parse_uri(root)
        self.root = root.rstrip("/")
        self.settings = settings or S3Settings.from_environment()
        self._clients = Clients(self.settings, self.root)

    def __repr__(self) -> str:
        return f"Store({self.root!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Clients and locks do not travel to worker processes; they make their own.
        return Store, (self.root, self.settings)

    @property
    def endpoint(self) -> str:
        """Host and port that requests go to, without credentials."""
        address = urlsplit(self._client().meta.endpoint_url)
        return f"{address.hostname}:{address.port}" if address.port else str(address.hostname)

    def get(self, uri: str, sha256: str | None = None) -> bytes:
        """The bytes of an object.

        Args:
            uri: The object.
            sha256: Hex digest that the bytes must have; None to take them as they are.

        Raises:
            ContractError: The digest differs.
            StorageError: No such object, or the store cannot serve it.
        """
        data, _ = self.get_with_etag(uri)
        if sha256 is not None:
            _check_digest(uri, sha256, hashlib.sha256(data).hexdigest())
        return data

    def get_with_etag(self, uri: str) -> tuple[bytes, str]:
        """The bytes of an object and its ETag, for a later ``put_if_match``.

        Raises:
            StorageError: No such object, or the store cannot serve it.
        """
        found = self.find(uri)
        if found is None:
            raise StorageError(
                uri,
                expected="an object",
                found=f"none at {self.endpoint}",
                hint="Check the URI; the object was never published, or it was deleted.",
            )
        return found

    def find(self, uri: str) -> tuple[bytes, str] | None:
        """Bytes and ETag of an object, or None when the bucket has no such key.

        Raises:
            StorageError: The bucket is missing, or the store cannot serve the object.
        """

        def consume(answer: GetObjectOutputTypeDef) -> tuple[bytes, str]:
            return answer["Body"].read(), answer["ETag"]

        return self._absent_is_none("get", uri, lambda: self._read("get", uri, consume))

    def get_range(self, uri: str, start: int, length: int) -> bytes:
        """Exactly ``length`` bytes from offset ``start``.

        Raises:
            ContractError: The object ends before, or the store ignored the range.
            StorageError: No such object, or the store cannot serve it.
        """
        if start < 0 or length < 1:
            raise ConfigError(
                f"range of {uri}",
                expected="start >= 0 and length >= 1",
                found=f"{start} and {length}",
                hint="Ask for at least one byte.",
            )
        quick = self._clients.quick().read(*self._locate(uri), start, length)
        if quick is not None:
            return quick
        span = f"bytes={start}-{start + length - 1}"

        def consume(answer: GetObjectOutputTypeDef) -> bytes:
            # One byte more than asked shows a store that ignored the range, without reading the whole object.
            return answer["Body"].read(length + 1)

        data = self._read("get range of", uri, consume, Range=span)
        if len(data) != length:
            raise ContractError(
                f"{uri} {span}",
                expected=f"{length} bytes",
                found=f"{len(data)} or more" if len(data) > length else str(len(data)),
                hint="The object is shorter than its manifest says, or the store ignores Range.",
            )
        return data

    def head(self, uri: str) -> ObjectInfo | None:
        """Size, ETag and age of an object, or None when there is no such object.

        A missing bucket looks like a missing object here, for S3 answers HEAD without a body.

        Raises:
            StorageError: The store cannot answer.
        """
        bucket, key = self._locate(uri)
        answer = self._absent_is_none("head", uri, lambda: self._client().head_object(Bucket=bucket, Key=key))
        if answer is None:
            return None
        return ObjectInfo(
            uri=uri, size_bytes=answer["ContentLength"], etag=answer["ETag"], last_modified=answer["LastModified"]
        )

    def exists(self, uri: str) -> bool:
        """Whether there is such an object. Raises StorageError when the store cannot answer."""
        return self.head(uri) is not None

    def put(self, uri: str, data: bytes) -> None:
        """Writes an object as a whole; the last writer stays.

        Raises:
            StorageError: The store cannot take it.
        """
        bucket, key = self._locate(uri)
        with translated(self.endpoint, "put", uri):
            self._client().put_object(Bucket=bucket, Key=key, Body=data)

    def put_if_absent(self, uri: str, data: bytes) -> bool:
        """Writes an object unless one is there, atomically (``If-None-Match: *``).

        Returns:
            True if this call created the object.

        Raises:
            StorageError: The store cannot take it.
        """
        try:
            self._conditional_put(uri, data, "put if absent", IfNoneMatch="*")
        except ConflictError:
            return False
        return True

    def put_if_match(self, uri: str, data: bytes, etag: str) -> None:
        """Replaces an object that still has this ETag, atomically (``If-Match``).

        Raises:
            ConflictError: It changed, or it is gone.
            StorageError: The store cannot take it.
        """
        self._conditional_put(uri, data, "put if match", IfMatch=etag)

    def upload_file(self, uri: str, path: Path) -> None:
        """Uploads a file, above 8 MiB in parts of 8 MiB, four at a time.

        Raises:
            StorageError: The store cannot take it.
        """
        from boto3.s3.transfer import TransferConfig

        bucket, key = self._locate(uri)
        config = TransferConfig(
            multipart_threshold=MULTIPART_BYTES, multipart_chunksize=MULTIPART_BYTES, max_concurrency=_CONCURRENCY
        )
        with translated(self.endpoint, "upload", uri):
            self._client().upload_file(str(path), bucket, key, Config=config)

    def download_file(self, uri: str, path: Path, sha256: str | None = None, size_bytes: int | None = None) -> None:
        """Streams an object into a file that appears only when it is whole.

        Args:
            uri: The object.
            path: The file to write; its folder must exist. An existing file is replaced.
            sha256: Hex digest that the bytes must have, or None.
            size_bytes: Length that the object must have, or None.

        Raises:
            ContractError: Size or digest differ.
            ResourceError: The disk has no room for it.
            StorageError: No such object, or the store cannot serve it.
        """
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")

        def consume(answer: GetObjectOutputTypeDef) -> str:
            size = answer["ContentLength"]
            if size_bytes is not None and size != size_bytes:
                raise ContractError(uri, expected=f"{size_bytes} bytes", found=f"{size} bytes", hint=_CHANGED)
            _check_room(path.parent, size, uri)
            digest = hashlib.sha256()
            with part.open("wb") as out:
                for chunk in answer["Body"].iter_chunks(_STREAM_BYTES):
                    digest.update(chunk)
                    out.write(chunk)
            return digest.hexdigest()

        try:
            found = self._read("download", uri, consume)
            if sha256 is not None:
                _check_digest(uri, sha256, found)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def list(self, prefix_uri: str) -> Iterator[ObjectInfo]:
        """The objects whose URI starts with this text, in the order of their keys; fetched page by page.

        Raises:
            StorageError: The bucket is missing, or the store cannot answer; while iterating.
        """
        bucket, prefix = parse_uri(prefix_uri)
        pages = iter(self._client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix))
        while True:
            with translated(self.endpoint, "list", prefix_uri):
                page = next(pages, None)
            if page is None:
                return
            for entry in page.get("Contents", ()):
                yield ObjectInfo(
                    uri=f"s3://{bucket}/{entry['Key']}",
                    size_bytes=entry["Size"],
                    etag=entry["ETag"],
                    last_modified=entry["LastModified"],
                )

    def delete(self, uri: str) -> None:
        """Deletes an object; a missing one is no problem. Raises StorageError when the store refuses."""
        bucket, key = self._locate(uri)
        with translated(self.endpoint, "delete", uri):
            self._client().delete_object(Bucket=bucket, Key=key)

    def _client(self) -> S3Client:
        return self._clients.client()

    def _locate(self, uri: str) -> tuple[str, str]:
        bucket, key = parse_uri(uri)
        if not key or key.endswith("/"):
            raise ConfigError(
                f"URI '{uri}'", expected="an object's URI", found="no object name", hint="Append the object's name."
            )
        return bucket, key

    def _absent_is_none(self, operation: str, uri: str, call: Callable[[], T]) -> T | None:
        from botocore.exceptions import ClientError

        try:
            with translated(self.endpoint, operation, uri):
                return call()
        except StorageError as problem:
            cause = problem.__cause__
            if isinstance(cause, ClientError) and code_of(cause)[0] == 404 and code_of(cause)[1] != "NoSuchBucket":
                return None
            raise

    def _read(self, operation: str, uri: str, consume: Callable[[GetObjectOutputTypeDef], T], **request: Any) -> T:
        """Gets an object; a body that breaks off, which boto3's retries do not cover, is asked for again."""
        from botocore import exceptions as b

        bucket, key = self._locate(uri)
        for attempt in range(1, _BODY_ATTEMPTS + 1):
            with translated(self.endpoint, operation, uri):
                answer = self._client().get_object(Bucket=bucket, Key=key, **request)
                try:
                    return consume(answer)
                except (b.IncompleteReadError, b.ResponseStreamingError, b.ReadTimeoutError, b.FlexibleChecksumError):
                    if attempt == _BODY_ATTEMPTS:
                        raise
                    _log.warning("%s %s broke off, attempt %d of %d", operation, uri, attempt, _BODY_ATTEMPTS)
        raise AssertionError("the loop returns or raises")

    def _conditional_put(self, uri: str, data: bytes, operation: str, **condition: Any) -> None:
        from botocore.exceptions import ClientError

        bucket, key = self._locate(uri)
        writer = uuid.uuid4().hex
        for attempt in range(1, _CONFLICT_ATTEMPTS + 1):
            try:
                with translated(self.endpoint, operation, uri):
                    self._client().put_object(
                        Bucket=bucket, Key=key, Body=data, Metadata={_WRITER: writer}, **condition
                    )
                return
            except ConflictError as problem:
                cause = problem.__cause__
                status = code_of(cause)[0] if isinstance(cause, ClientError) else 0
                # S3 answers 409 when two writes meet in flight: undecided, ask again.
                if status == 409 and attempt < _CONFLICT_ATTEMPTS:
                    time.sleep(0.05 * 2**attempt)
                    continue
                # An answer that got lost makes boto3's retry meet our own object.
                if self._wrote(bucket, key, writer):
                    return
                raise
            except StorageError as problem:
                cause = problem.__cause__
                if "IfMatch" in condition and isinstance(cause, ClientError) and code_of(cause)[1] == "NoSuchKey":
                    raise ConflictError(uri, expected="the object", found="none", hint="It was deleted.") from problem
                raise

    def _wrote(self, bucket: str, key: str, writer: str) -> bool:
        answer = self._absent_is_none(
            "head", f"s3://{bucket}/{key}", lambda: self._client().head_object(Bucket=bucket, Key=key)
        )
        return answer is not None and answer.get("Metadata", {}).get(_WRITER) == writer


_CHANGED = "The object is damaged or was replaced: run the stage that made it again under a new run id."


def _check_digest(uri: str, expected: str, found: str) -> None:
    if found != expected:
        raise ContractError(uri, expected=f"sha256 {expected}", found=f"sha256 {found}", hint=_CHANGED)


def _check_room(folder: Path, size: int, uri: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < size + DISK_RESERVE:
        raise full_disk(folder, f"room for {uri} ({size} bytes and {DISK_RESERVE} in reserve)", f"{free} bytes free")

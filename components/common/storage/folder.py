"""A folder of this machine in the place of an object store: for one process that must not need a server."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.common.contracts.errors import ConfigError, ConflictError, ContractError, StorageError
from components.common.storage.addresses import ObjectInfo
from components.common.storage.store import Store

__all__ = ["FolderStore", "open_store"]

_SCHEME = "file://"


def open_store(root: str) -> Store:
    """The store at a root: a folder for ``file:///folder``, else one that talks S3.

    Raises:
        ConfigError: The root is neither.
    """
    return FolderStore(root) if root.startswith(_SCHEME) else Store(root)


class FolderStore(Store):
    """Objects as files below a folder, with the methods of ``Store``. Every write is atomic, as in S3.

    Args:
        root: ``file:///folder``; the folder is made when something is written.

    Raises:
        ConfigError: Not such a root.
    """

    def __init__(self, root: str) -> None:
        if not root.startswith(f"{_SCHEME}/"):
            raise ConfigError(
                f"store '{root[:200]}'",
                expected="file:// and an absolute path",
                found="another form",
                hint="Write file:///path/to/folder.",
            )
        self.root = root.rstrip("/")

    def __repr__(self) -> str:
        return f"FolderStore({self.root!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return FolderStore, (self.root,)

    @property
    def endpoint(self) -> str:
        """Where objects are."""
        return "this machine"

    def find(self, uri: str) -> tuple[bytes, str] | None:
        """As ``Store.find``."""
        info = self.head(uri)
        return None if info is None else (_path(uri).read_bytes(), info.etag)

    def get_range(self, uri: str, start: int, length: int) -> bytes:
        """As ``Store.get_range``."""
        if self.head(uri) is None:
            raise StorageError(uri, expected="an object", found="none", hint="Check the URI.")
        with _path(uri).open("rb") as file:
            file.seek(start)
            data = file.read(length)
        if len(data) != length:
            raise ContractError(
                uri, expected=f"{length} bytes from {start}", found=f"{len(data)}", hint="The file was changed."
            )
        return data

    def head(self, uri: str) -> ObjectInfo | None:
        """As ``Store.head``."""
        try:
            return _info(uri, _path(uri).stat())
        except (FileNotFoundError, NotADirectoryError):
            return None

    def put(self, uri: str, data: bytes) -> None:
        """As ``Store.put``."""
        draft = _draft(uri)
        draft.write_bytes(data)
        draft.replace(_path(uri))

    def put_if_absent(self, uri: str, data: bytes) -> bool:
        """As ``Store.put_if_absent``."""
        draft = _draft(uri)
        draft.write_bytes(data)
        try:
            # A link is refused where a name is taken, which a renaming is not.
            os.link(draft, _path(uri))
        except FileExistsError:
            return False
        finally:
            draft.unlink()
        return True

    def put_if_match(self, uri: str, data: bytes, etag: str) -> None:
        """As ``Store.put_if_match``, for one process: two that do it at once may both succeed."""
        info = self.head(uri)
        if info is None or info.etag != etag:
            raise ConflictError(uri, expected=f"ETag {etag}", found=str(info and info.etag), hint="It was changed.")
        self.put(uri, data)

    def upload_file(self, uri: str, path: Path) -> None:
        """As ``Store.upload_file``."""
        draft = _draft(uri)
        shutil.copyfile(path, draft)
        draft.replace(_path(uri))

    def download_file(self, uri: str, path: Path, sha256: str | None = None, size_bytes: int | None = None) -> None:
        """As ``Store.download_file``."""
        data = self.get(uri, sha256)
        if size_bytes is not None and len(data) != size_bytes:
            raise ContractError(
                uri, expected=f"{size_bytes} bytes", found=f"{len(data)} bytes", hint="The file was changed."
            )
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")
        part.write_bytes(data)
        part.replace(path)

    def list(self, prefix_uri: str) -> Iterator[ObjectInfo]:
        """As ``Store.list``."""
        folder = _path(prefix_uri if prefix_uri.endswith("/") else prefix_uri.rpartition("/")[0])
        for path in sorted(folder.rglob("*")):
            uri = f"{_SCHEME}{path}"
            if uri.startswith(prefix_uri) and path.is_file() and not path.name.startswith(".draft-"):
                yield _info(uri, path.stat())

    def delete(self, uri: str) -> None:
        """As ``Store.delete``."""
        _path(uri).unlink(missing_ok=True)


def _path(uri: str) -> Path:
    return Path(uri.removeprefix(_SCHEME))


def _draft(uri: str) -> Path:
    """A file of its own beside the object's, whose folder is made."""
    path = _path(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".draft-{uuid.uuid4().hex}")


def _info(uri: str, seen: os.stat_result) -> ObjectInfo:
    return ObjectInfo(
        uri=uri,
        size_bytes=seen.st_size,
        etag=f'"{seen.st_mtime_ns:x}-{seen.st_size:x}"',
        last_modified=datetime.fromtimestamp(seen.st_mtime, UTC),
    )

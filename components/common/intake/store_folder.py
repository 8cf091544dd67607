"""The objects below a prefix of a store as a drop; it travels to worker processes."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from components.common.contracts.errors import ContractError, StorageError
from components.common.intake.sources import Folder, LocalFolder
from components.common.storage.addresses import parse_uri
from components.common.storage.store import Store

__all__ = ["StoreFolder", "folders"]


def folders(store: Store) -> Callable[[str], Folder]:
    """Makes the folder of a location: of this store for ``s3://``, else of this machine."""
    return lambda location: StoreFolder(store, location) if location.startswith("s3://") else LocalFolder(location)


class StoreFolder:
    """The objects below a prefix as a drop.

    Args:
        store: The store.
        location: ``s3://bucket/prefix``.

    Raises:
        ConfigError: Not an S3 URI.
    """

    def __init__(self, store: Store, location: str) -> None:
        parse_uri(location)
        self._store = store
        self._location = location.rstrip("/")

    @property
    def location(self) -> str:
        """``s3://bucket/prefix``, without a slash at its end."""
        return self._location

    def entries(self) -> Iterator[tuple[str, int]]:
        """As ``Folder.entries``."""
        # With the slash: a listing of drops/a must not show drops/ab.
        start = f"{self._location}/"
        for info in self._store.list(start):
            key = info.uri[len(start) :]
            # Consoles make objects that end in a slash, and are empty, to show a folder.
            if key:
                yield key, info.size_bytes

    def read(self, key: str, size: int) -> bytes | None:
        """As ``Folder.read``. A range, so that an object that has grown since the listing costs no more memory."""
        uri = f"{self._location}/{key}"
        try:
            return self._store.get_range(uri, 0, size)
        except ContractError:
            return None
        except StorageError:
            if self._store.head(uri) is None:
                return None
            raise

    def fetch(self, key: str, scratch: Path) -> Path:
        """As ``Folder.fetch``: a copy."""
        path = scratch / f"{uuid.uuid4().hex}{Path(key).suffix}"
        self._store.download_file(f"{self._location}/{key}", path)
        return path

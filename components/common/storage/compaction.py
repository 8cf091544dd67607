"""Gives the disk space of deleted objects back: the embedded store marks them as deleted, and keeps their bytes."""

from __future__ import annotations

import json
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from components.common.contracts.errors import StorageError

__all__ = ["compact"]

_HOST = "127.0.0.1"
# Share of deleted bytes from which a volume is written anew: any.
_THRESHOLD = "0.0001"
_SECONDS = 600.0


def compact(data_dir: Path) -> None:
    """Writes the volumes of a running embedded store anew, without what was deleted.

    Args:
        data_dir: The folder of the ``EmbeddedStore``, which runs.

    Raises:
        StorageError: The server does not answer, or refuses.
    """
    hint = "The objects are deleted; the server gives their space back by itself, after a while at work."
    try:
        port = int(json.loads((data_dir / "state.json").read_bytes())["master"])
        connection = HTTPConnection(_HOST, port, timeout=_SECONDS)
        try:
            connection.request("GET", f"/vol/vacuum?garbageThreshold={_THRESHOLD}")
            status = connection.getresponse().status
        finally:
            connection.close()
    except (OSError, ValueError, KeyError, HTTPException) as problem:
        raise StorageError(
            f"the embedded store in {data_dir}",
            expected="its space given back",
            found=f"{type(problem).__name__}: {problem}",
            hint=hint,
        ) from None
    if status != 200:
        raise StorageError(
            f"the embedded store in {data_dir}", expected="its space given back", found=f"HTTP {status}", hint=hint
        )

"""Where a drop lies: a folder whose files have relative keys, sizes and bytes; and which keys are safe to follow."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from components.common.contracts.errors import DataError

__all__ = ["LINK", "MAX_KEY_BYTES", "Folder", "LocalFolder", "printable", "unsafe"]

LINK = -1
"""Size of an entry that is a symbolic link, which could lead out of the folder."""

MAX_KEY_BYTES = 1024
"""Longest key, as in S3."""


class Folder(Protocol):
    """A drop's files. It travels to worker processes, so it pickles."""

    @property
    def location(self) -> str:
        """The folder's path or ``s3://`` prefix, without a slash at its end."""
        ...

    def entries(self) -> Iterator[tuple[str, int]]:
        """Relative key and size in bytes of each file, ``LINK`` for a link, at any depth, in any order."""
        ...

    def read(self, key: str, size: int) -> bytes | None:
        """The first ``size`` bytes of a listed file, or None if it has gone or shrunk since or cannot be read."""
        ...

    def fetch(self, key: str, scratch: Path) -> Path:
        """A local file with the content of a listed one, below ``scratch`` if it had to be copied."""
        ...


class LocalFolder:
    """A folder of this machine.

    Args:
        location: Its path.
    """

    def __init__(self, location: str) -> None:
        self._root = Path(location).expanduser().absolute()

    @property
    def location(self) -> str:
        """The absolute path."""
        return str(self._root)

    def entries(self) -> Iterator[tuple[str, int]]:
        """As ``Folder.entries``.

        Raises:
            DataError: The folder, or one below it, is not there or cannot be read.
        """
        for base, folders, names in os.walk(self._root, onerror=_unreadable):
            folders.sort()
            for name in sorted(names + [folder for folder in folders if os.path.islink(os.path.join(base, folder))]):
                path = Path(base, name)
                try:
                    seen = path.lstat()
                except FileNotFoundError:
                    continue
                # Pipes and devices would block a reader for ever.
                yield path.relative_to(self._root).as_posix(), seen.st_size if stat.S_ISREG(seen.st_mode) else LINK

    def read(self, key: str, size: int) -> bytes | None:
        """As ``Folder.read``."""
        try:
            with Path(self._root, key).open("rb") as file:
                data = file.read(size)
        # Also one that its owner has closed to others: it costs a sample, and not the drop.
        except OSError:
            return None
        return data if len(data) == size else None

    def fetch(self, key: str, scratch: Path) -> Path:
        """As ``Folder.fetch``: the file itself."""
        return self._root / key


def _unreadable(problem: OSError) -> None:
    """Stops a walk that would pass over a folder without a word: nobody knows how many samples it holds."""
    raise DataError(
        f"drop folder {printable(os.fsdecode(problem.filename))}",
        expected="a folder that can be read",
        found=problem.strerror or type(problem).__name__,
        hint="Check the path and who may read it.",
    ) from problem


def unsafe(key: str) -> str | None:
    """Why a key must not be followed, or None.

    Args:
        key: A key relative to the drop, as listed or as a list of labels names it.
    """
    if not key:
        return "empty"
    if not key.isprintable():
        return "control characters, or text that is not UTF-8"
    if len(key.encode()) > MAX_KEY_BYTES:
        return f"longer than {MAX_KEY_BYTES} bytes"
    if key.startswith("/") or "://" in key or (len(key) > 1 and key[1] == ":"):
        return "an absolute address; keys are relative to the drop"
    if "\\" in key:
        return "a backslash"
    if not {"", ".", ".."}.isdisjoint(key.split("/")):
        return "a component that is empty, '.' or '..'"
    return None


def printable(text: str, limit: int = 300) -> str:
    """Text for a table that people read: control characters escaped, shortened."""
    if len(text) <= limit and text.isprintable():
        return text
    clean = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: limit + 1])
    return clean if len(clean) <= limit else clean[:limit] + "…"

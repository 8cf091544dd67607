"""Where a drop is: a folder whose files have relative keys, sizes and bytes."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from components.common.contracts.errors import ConfigError, DataError

__all__ = ["LINK", "Folder", "LocalFolder", "checked_location", "printable"]

LINK = -1
"""Size of an entry that is a symbolic link, which could lead out of the folder."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class Folder(Protocol):
    """A drop's files. It travels to worker processes, so it pickles."""

    @property
    def location(self) -> str:
        """The folder's path or ``s3://`` prefix, without a slash at its end."""
        ...

    def entries(self) -> Iterator[tuple[str, int]]:
        """Relative key and size in bytes of each file, at any depth, in any order.

        ``LINK`` is the size of a link. An empty folder, and a link to a folder, has a key with a slash at its end.
        """
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
            below = Path(base).relative_to(self._root)
            if not folders and not names and base != str(self._root):
                yield f"{below.as_posix()}/", 0
            for name in folders:
                if os.path.islink(os.path.join(base, name)):
                    yield f"{(below / name).as_posix()}/", LINK
            for name in sorted(names):
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


def checked_location(location: str) -> str:
    """The address of a drop as it came, if it can be one.

    Raises:
        ConfigError: Empty, or an address of another kind than a folder's path or ``s3://``.
    """
    scheme = _SCHEME.match(location)
    if not location.strip("/ ") or "\x00" in location:
        found, hint = f"'{printable(location)}'", "For example drop:/data/pets or drop:s3://bucket/drops/pets."
    elif scheme and scheme[1].lower() in ("s3a", "s3n", "s3"):
        if scheme[0] == "s3://":
            return location
        found, hint = scheme[0], f"Write s3://{printable(location[scheme.end() :], 80)} instead."
    elif scheme:
        found, hint = scheme[0], "Copy the files into a folder of this machine, or into a bucket."
    else:
        return location
    raise ConfigError(
        "address of a drop", expected="a folder of this machine or s3://bucket/prefix", found=found, hint=hint
    )


def printable(text: str, limit: int = 300) -> str:
    """Text for a table that people read: control characters escaped, shortened."""
    if len(text) <= limit and text.isprintable():
        return text
    clean = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: limit + 1])
    return clean if len(clean) <= limit else clean[:limit] + "…"

"""Reads one tar shard in the form of WebDataset: files of one sample have one name and different endings."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from components.common.contracts.errors import DataError
from components.common.intake.names import aside

__all__ = ["Sample", "samples"]

_IMAGES = frozenset(("jpg", "jpeg", "png", "webp", "gif", "bmp", "img", "image"))
_MAX_LABEL_BYTES = 64 * 1024
_MAX_HEADER_BYTES = 1024 * 1024
_BLOCK = 512


class Sample(NamedTuple):
    """One sample of a shard: its name, where its image begins and how long it is (-1 without one), and its label."""

    name: str
    start: int
    size: int
    label: Any


class _Capped:
    """A file of which no header asks for more than a bounded part at once."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)

    def seek(self, position: int, whence: int = 0) -> int:
        return self._file.seek(position, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


def samples(path: Path, label: str) -> Iterator[Sample]:
    """The samples of a shard, in its order.

    A label is a file ``NAME.cls`` (also ``NAME.label``), or the field of that name in ``NAME.json``.

    Args:
        path: The shard.
        label: Name of the label, as the user gives it; empty to guess.

    Raises:
        DataError: The shard is damaged, or a header or label is too long.
    """
    endings = (label,) if label else ("cls", "label", "cls.txt", "label.txt")
    fields = (label,) if label else ("label", "cls", "class", "target")
    with _opened(path) as (archive, file):
        name, start, size, found, end = "", -1, -1, None, 0
        while (member := archive.next()) is not None:
            # Otherwise each member stays in memory.
            archive.members = []  # type: ignore[attr-defined]
            end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
            if not member.isreg() or aside(member.name) is not None:
                continue
            folder, slash, last = member.name.rpartition("/")
            stem, _, ending = last.partition(".")
            ending = ending.lower()
            if folder + slash + stem != name:
                if name:
                    yield Sample(name, start, size, found)
                name, start, size, found = folder + slash + stem, -1, -1, None
            if ending in _IMAGES:
                start, size = member.offset_data, member.size
            elif ending in endings or ending == "json":
                if member.size > _MAX_LABEL_BYTES:
                    raise tarfile.ReadError(f"a label of {member.size} bytes")
                place = file.tell()
                file.seek(member.offset_data)
                text = file.read(member.size).decode()
                file.seek(place)
                if ending != "json":
                    found = text
                elif found is None:
                    record = json.loads(text)
                    known = [key for key in fields if key in record] if isinstance(record, dict) else []
                    found = record[known[0]] if known and isinstance(record[known[0]], str | int | float) else None
        if name:
            yield Sample(name, start, size, found)
        # tarfile takes a file that was cut off for one that ends.
        file.seek(end)
        if file.read(_BLOCK) != bytes(_BLOCK):
            raise tarfile.ReadError("no end of the archive: the file was cut off")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[tarfile.TarFile, _Capped]]:
    file = _Capped(path)
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:  # type: ignore[call-overload]
            yield archive, file
    # A number of 4,300 digits is a ValueError, lists in lists a RecursionError.
    except (tarfile.TarError, OSError, ValueError, RecursionError, EOFError) as problem:
        raise DataError(
            str(path),
            expected="a whole tar file, not compressed, of images with their labels (NAME.jpg, NAME.cls)",
            found=f"{type(problem).__name__}: {str(problem)[:200]}",
            hint="Write the file again, or unpack it into one folder per class.",
        ) from problem
    finally:
        file.close()

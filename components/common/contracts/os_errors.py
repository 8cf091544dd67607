"""What the operating system refuses, as errors that name the object and the next step."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from components.common.contracts.errors import ConfigError, ResourceError, UntaintError

__all__ = ["explained", "full_disk", "room"]

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_FOLDER = (errno.ENOTDIR, errno.EEXIST)
_BROKEN = (errno.EIO, errno.ESTALE)
_OUT_OF = {errno.ENOMEM: "memory", errno.EMFILE: "open files", errno.ENFILE: "open files", errno.EAGAIN: "processes"}
_NO_TEMPORARY_FOLDER = "No usable temporary directory"


def explained(problem: BaseException) -> UntaintError | None:
    """The error that a user understands for one of the operating system; None if the problem is of another kind.

    An error of untaint's own comes back as it is. Of any other, the causes are looked through too, since libraries wrap
    what happened to them.
    """
    seen: set[int] = set()
    cause: BaseException | None = problem
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        found = cause if isinstance(cause, UntaintError) else _explained(cause)
        if found is not None:
            return found
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return None


def full_disk(folder: Path, expected: str = "room to write", found: str = "") -> ResourceError:
    """The error for a disk without room.

    Args:
        folder: A folder on that disk; the nearest one above that exists is measured.
        expected: What there had to be room for.
        found: What was seen; by default, the free space of now.
    """
    return ResourceError(
        f"the disk of {folder}",
        expected=expected,
        found=found or f"{room(folder) / 2**20:.0f} MiB free",
        hint="Free some space, or move what is written: UNTAINT_HOME for runs and the store, TMPDIR for scratch files.",
    )


def room(folder: Path) -> int:
    """Free bytes on the disk of a folder, which need not exist yet; 0 if nothing of its path does."""
    for place in (folder, *folder.parents):
        if place.exists():
            return shutil.disk_usage(place).free
    return 0


def _explained(problem: BaseException) -> UntaintError | None:
    if isinstance(problem, MemoryError):
        return _out_of("memory", str(problem) or "none left")
    if not isinstance(problem, OSError):
        return None
    path = Path(os.fsdecode(problem.filename)) if isinstance(problem.filename, str | bytes) else None
    said = problem.strerror or type(problem).__name__
    if problem.errno in _FULL:
        # Without a name it was a file that was open already: scratch, most likely.
        return full_disk(path.parent if path else Path(tempfile.gettempdir()), found=said)
    if _NO_TEMPORARY_FOLDER in said:
        return ResourceError(
            "a folder for scratch files",
            expected="one with room that this user may write into",
            found=said,
            hint="Free some space, or set TMPDIR.",
        )
    if problem.errno in _OUT_OF:
        return _out_of(_OUT_OF[problem.errno], said)
    if problem.errno in _BROKEN:
        return ResourceError(
            f"the disk of {path.parent if path else tempfile.gettempdir()}",
            expected="a disk that reads and writes",
            found=said,
            hint="Check the disk and its mount.",
        )
    return _unusable(path, problem.errno or 0, said) if path is not None else None


def _unusable(path: Path, number: int, said: str) -> ConfigError | None:
    """The error for a path that cannot be used as it is; None for a file that is not there, which is no explanation."""
    expected, found, hint = "", said, ""
    if number in _REFUSED:
        expected, hint = "a path that this user may read and write", "Change its owner or mode, or choose another place"
    elif number in _NO_FOLDER:
        expected, found = "a folder, or a place for one", "a file in its place"
        hint = "Move the file away, or choose another place"
    elif number == errno.EISDIR:
        expected, found, hint = "a file", "a folder", "Name a file in it, or choose another place"
    elif number == errno.ENAMETOOLONG:
        expected, hint = "a name that the disk can hold", "Choose a shorter one, or another place"
    elif number == errno.ENOENT and not path.parent.exists():
        expected, found = "a path in a folder that is there", f"no folder {path.parent}"
        hint = "Make the folder, or choose another place"
    else:
        return None
    return ConfigError(
        str(path), expected=expected, found=found, hint=f"{hint}; UNTAINT_HOME is that of runs and the embedded store."
    )


def _out_of(what: str, found: str) -> ResourceError:
    return ResourceError(
        what,
        expected="enough of it",
        found=found,
        hint="End other programs, or raise the limit of this one."
        if what != "memory"
        else "End other programs, take fewer samples (--train-limit), or a machine with more memory.",
    )

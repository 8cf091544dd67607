"""Errors as users see them: four lines, and those of the operating system by their cause."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from components.common.contracts.errors import ConfigError, ResourceError, StorageError, UntaintError, defect
from components.common.contracts.os_errors import explained


def raised(problem: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise problem from cause
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    ("problem", "kind", "subject"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), ResourceError, "the disk of /data"),
        (OSError(errno.ENOSPC, "No space left on device"), ResourceError, "the disk of"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/data/x"), ResourceError, "the disk of /data"),
        (OSError(errno.EMFILE, "Too many open files"), ResourceError, "open files"),
        (MemoryError(), ResourceError, "memory"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"), ResourceError, "scratch"),
        (PermissionError(errno.EACCES, "Permission denied", "/data/x"), ConfigError, "/data/x"),
        (OSError(errno.EROFS, "Read-only file system", "/data/x"), ConfigError, "/data/x"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/data/x"), ConfigError, "/data/x"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/data"), ConfigError, "/data"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/no/such/folder/x"), ConfigError, "/no/such/folder/x"),
        (OSError(errno.EIO, "Input/output error", "/data/x"), ResourceError, "the disk of /data"),
        (FileExistsError(errno.EEXIST, "File exists", "/data/x"), ConfigError, "/data/x"),
    ],
)
def test_errors_of_the_operating_system_name_the_object_and_the_cause(
    problem: BaseException, kind: type[UntaintError], subject: str
) -> None:
    found = explained(raised(problem))
    assert type(found) is kind
    assert subject in found.subject
    assert found.hint
    # The libraries between the disk and untaint wrap it.
    wrapped = explained(raised(RuntimeError("writer failed"), raised(problem)))
    assert type(wrapped) is kind


def test_an_error_of_untaints_own_stays_as_it_is() -> None:
    own = StorageError("a", expected="b", found="c", hint="d")
    assert explained(raised(own, OSError(errno.ENOSPC, "full"))) is own


def test_a_file_that_is_not_there_is_a_defect_like_any_other(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "nothing").read_text()
    assert explained(caught.value) is None
    lines = defect(caught.value).lines()
    assert [line[:12].strip() for line in lines] == ["problem:", "expected:", "found:", "what to do:"]
    assert "tests/components/common/contracts/test_errors.py, line " in lines[0]
    assert "FileNotFoundError" in lines[2]

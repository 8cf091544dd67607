"""The one exception tree of untaint.

::

    UntaintError              exit 1   anything untaint can explain
    ├── ConfigError           exit 2   a parameter, name or environment setting is not usable
    ├── DataError             exit 3   the input data cannot be used as they are
    │   └── ContractError     exit 3   an object between two stages is not what its contract says
    ├── StorageError          exit 4   the object store cannot be reached, refuses or lacks an operation
    │   └── ConflictError     exit 4   a conditional write lost against another writer
    ├── ResourceError         exit 5   memory, disk or device capacity ran out
    └── GateError             exit 6   the run is complete, and its result did not pass a gate

Every error names the object, what was expected, what was found and what to do next; the exit codes let a
scheduler tell bad data from a bad cluster without reading logs.
"""

from __future__ import annotations

import traceback
from pathlib import Path

__all__ = [
    "ConfigError",
    "ConflictError",
    "ContractError",
    "DataError",
    "GateError",
    "ResourceError",
    "StorageError",
    "UntaintError",
    "defect",
]


_OWN = ("components", "pipelines", "benchmarks", "tests")
"""Folders of this project, beside which an installation has those of every library."""


class UntaintError(Exception):
    """An error that untaint can explain.

    Args:
        subject: The object it is about: a parameter, a URI, a table and column.
        expected: What had to be true of it.
        found: What was seen instead. Never a secret; callers truncate long values.
        hint: What the user can do next.
    """

    exit_code = 1

    def __init__(self, subject: str, *, expected: str, found: str, hint: str) -> None:
        self.subject = subject
        self.expected = expected
        self.found = found
        self.hint = hint
        super().__init__(f"{subject}: expected {expected}; found {found}. {hint}")

    def lines(self) -> list[str]:
        """The four lines that a user sees: problem, expected, found, what to do."""
        return [
            f"{label + ':':<12}{text}"
            for label, text in (
                ("problem", f"{type(self).__name__}: {self.subject}"),
                ("expected", self.expected),
                ("found", self.found),
                ("what to do", self.hint),
            )
        ]


class ConfigError(UntaintError):
    """A parameter, a registry name or an environment setting is not usable."""

    exit_code = 2


class DataError(UntaintError):
    """The input data cannot be used as they are."""

    exit_code = 3


class ContractError(DataError):
    """An object that one stage handed to another is not what its contract says."""


class StorageError(UntaintError):
    """The object store cannot be reached, refuses, or lacks an operation."""

    exit_code = 4


class ConflictError(StorageError):
    """A conditional write lost against another writer."""


class ResourceError(UntaintError):
    """Memory, disk or device capacity ran out."""

    exit_code = 5


class GateError(UntaintError):
    """The run is complete, and its result did not pass a gate."""

    exit_code = 6


def defect(problem: BaseException) -> UntaintError:
    """An error that nothing explains, in the same four lines: where it was raised, and how to see more."""
    root = Path(__file__).parents[3]
    frames = [
        (path.relative_to(root), frame.lineno)
        for frame in traceback.extract_tb(problem.__traceback__)
        if (path := Path(frame.filename)).is_relative_to(root) and path.relative_to(root).parts[0] in _OWN
    ]
    at = f"{frames[-1][0]}, line {frames[-1][1]}" if frames else "a library that it calls"
    return UntaintError(
        f"a defect of untaint in {at}",
        expected="no such problem, or one that is explained",
        found=" ".join(f"{type(problem).__name__}: {problem}".split())[:500],
        hint="UNTAINT_DEBUG=1 shows the traceback; please report it.",
    )

"""Runs what reads hostile files in a process of its own, so that a file that brings it down costs that file alone.

A damaged Parquet file can end a process with no exception to catch, and so can memory that runs out.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, Self

from components.common.contracts import errors

__all__ = ["Apart", "EndedError", "carried", "prepare", "unpacked"]


class EndedError(Exception):
    """The process ended at what it was given."""


class Apart:
    """One process that does one thing after the other and is replaced when it dies; use it as a context manager."""

    def __init__(self) -> None:
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function of a module gives there; its arguments and its result travel.

        Raises:
            EndedError: The process ended.
            UntaintError: As the function.
        """
        if self._executor is None:
            # Spawned, not forked: the parent may hold threads and locks of libraries.
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(1, context, initializer=prepare, initargs=(os.getpid(),))
        try:
            return unpacked(self._executor.submit(_work, function, arguments).result())
        except BrokenProcessPool:
            self._close()
            raise EndedError from None

    def _close(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
        self._executor = None


def prepare(parent: int) -> None:
    """Readies a worker process, which ends with its parent."""
    # Libraries warn of much that is odd in hostile files; what matters is found otherwise.
    warnings.simplefilter("ignore")

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    # A parent that is killed cannot stop its workers.
    threading.Thread(target=watch, daemon=True).start()


def carried(problem: errors.UntaintError) -> dict[str, str]:
    """A problem as it travels: exceptions with keyword arguments do not."""
    return {
        "kind": next(k.__name__ for k in type(problem).__mro__ if hasattr(errors, k.__name__)),
        "subject": problem.subject,
        "expected": problem.expected,
        "found": problem.found,
        "hint": problem.hint,
    }


def unpacked(result: Any) -> Any:
    """What a worker process gave; a problem that travelled is raised again."""
    if not isinstance(result, dict):
        return result
    kind: type[errors.UntaintError] = getattr(errors, result["kind"])
    raise kind(result["subject"], expected=result["expected"], found=result["found"], hint=result["hint"])


def _work(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments)
    except errors.UntaintError as problem:
        return carried(problem)

"""Validation in a child process, so that a stage imports torch while the child imports Great Expectations."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from components.common.contracts.errors import ContractError, ResourceError
from components.common.tables.checks import validate
from components.common.tables.frames import read_frame, write_frame
from components.common.tables.quoting import quote
from components.common.tables.suites import Outcome, Rule
from components.common.tables.tables import TableSpec

__all__ = ["PendingCheck", "QualityGate", "shared_gate", "sharing_gate"]

logger = logging.getLogger(__name__)

_SUBJECT = "the table validation process"
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
_TAIL_BYTES = 600


_shared: ContextVar[QualityGate | None] = ContextVar("shared quality gate", default=None)


def shared_gate() -> QualityGate | None:
    """The gate of the ``sharing_gate`` block around the caller, or None."""
    return _shared.get()


@contextlib.contextmanager
def sharing_gate() -> Iterator[None]:
    """One gate for all stages that run in this process inside the block, since starting one takes seconds."""
    with QualityGate() as gate:
        token = _shared.set(gate)
        try:
            yield
        finally:
            _shared.reset(token)


class PendingCheck:
    """A check that runs while the stage does something else. Made by ``QualityGate.check_async``."""

    def __init__(self, future: Future[None]) -> None:
        self._future = future
        self.retrieved = False

    def result(self) -> None:
        """Waits for the check.

        Raises:
            ContractError: As ``QualityGate.check``.
            ResourceError: As ``QualityGate.check``.
        """
        self.retrieved = True
        self._future.result()


class QualityGate:
    """Checks tables against their contracts, with Great Expectations in a child process.

    The child starts at once: make the gate before importing torch. Use it as a context manager; leaving the block
    waits for checks that are still pending and raises what an unread one found, so none is lost. Threads may share
    a gate; their checks queue.

    Args:
        timeout_seconds: How long the child may take to start and answer one check.

    Raises:
        ResourceError: The child cannot be started.
    """

    def __init__(self, *, timeout_seconds: float = 120.0) -> None:
        self._timeout = timeout_seconds
        self._lock = threading.Lock()
        self._ready = False
        self._expired = False
        self._closed = False
        self._pending: list[PendingCheck] = []
        try:
            # Also the child's HOME: Great Expectations needs one, and may write to it.
            self._folder = tempfile.TemporaryDirectory(prefix="untaint-quality-")
            self._stderr = Path(self._folder.name) / "stderr.txt"
            self._process = self._start()
        except OSError as problem:
            raise ResourceError(
                _SUBJECT,
                expected="a temporary folder and a new process",
                found=quote(str(problem), 200),
                hint="Mount a writable temporary folder (TMPDIR) and allow the container another process.",
            ) from None
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="quality-gate")

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def check(
        self,
        table: pa.Table,
        spec: TableSpec,
        *,
        subject: str,
        rows: int | None = None,
        ids: pa.ChunkedArray | pa.Array | None = None,
    ) -> None:
        """Checks a table; arguments as for ``checks.check_table``.

        Raises:
            ContractError: A rule is broken, or could not be evaluated.
            ResourceError: The child died or gave no answer in time.
            ValueError: ``rows`` is below ``spec.min_rows``, or ``ids`` is given for a table without ``sample_id``.
            RuntimeError: The gate is closed.
        """
        started = time.perf_counter()

        def runner(part: pa.Table, rules: Sequence[Rule], fewest: int, most: int) -> Sequence[Outcome]:
            return self._validate(part, rules, fewest, most, f"table '{spec.name}' in {subject}")

        validate(table, spec, subject=subject, rows=rows, ids=ids, runner=runner)
        logger.info(
            "table %s: %d rows keep its contract (%.2f s)", spec.name, table.num_rows, time.perf_counter() - started
        )

    def check_async(
        self,
        table: pa.Table,
        spec: TableSpec,
        *,
        subject: str,
        rows: int | None = None,
        ids: pa.ChunkedArray | pa.Array | None = None,
    ) -> PendingCheck:
        """Starts ``check`` in the background; ``.result()`` waits for it and raises what it found."""
        future = self._executor.submit(self.check, table, spec, subject=subject, rows=rows, ids=ids)
        pending = PendingCheck(future)
        self._pending.append(pending)
        return pending

    def close(self) -> None:
        """Ends the child. Checks that still run are refused with a ``ResourceError`` of their own."""
        self._closed = True
        if self._process.poll() is None:
            # It holds no state, so there is nothing to wait for.
            self._process.kill()
        self._process.wait()
        self._executor.shutdown(wait=True, cancel_futures=True)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                _close_quietly(pipe)
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                for pending in self._pending:
                    if not pending.retrieved:
                        pending.result()
        finally:
            self.close()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._stderr.open("wb") as stderr:
            return subprocess.Popen(
                [sys.executable, "-P", "-W", "ignore", "-m", "components.common.tables.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=_environment(self._folder.name),
            )

    def _validate(
        self, table: pa.Table, rules: Sequence[Rule], fewest: int, most: int, where: str
    ) -> Sequence[Outcome]:
        header = {"rules": [asdict(rule) for rule in rules], "fewest_rows": fewest, "most_rows": most}
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        reply = self._exchange(json.dumps(header).encode(), sink.getvalue())
        if "outcomes" not in reply:
            raise ContractError(
                where,
                expected="a validation of every rule",
                found=f"that the validation run stopped: {quote(reply.get('problem'), 300)}",
                hint="Look for values in this table that its rules do not foresee.",
            )
        return [Outcome(**{**outcome, "positions": tuple(outcome["positions"])}) for outcome in reply["outcomes"]]

    def _exchange(self, header: bytes, stream: pa.Buffer) -> dict[str, Any]:
        with self._lock:
            if self._closed:
                raise RuntimeError("the quality gate is closed")
            requests, replies = self._process.stdin, self._process.stdout
            if requests is None or replies is None:
                raise RuntimeError("the quality gate has no pipes")
            # Killing the child is what ends a blocked read or write of its pipes.
            watchdog = threading.Timer(self._timeout, self._expire)
            watchdog.daemon = True
            watchdog.start()
            try:
                if not self._ready:
                    started = _message(read_frame(replies))
                    self._ready = True
                    logger.debug("validation process ready after %.2f s", started["ready_seconds"])
                write_frame(requests, header)
                write_frame(requests, stream)
                return _message(read_frame(replies))
            except (OSError, EOFError, ValueError) as problem:
                raise self._death(problem) from None
            finally:
                watchdog.cancel()

    def _expire(self) -> None:
        self._expired = True
        self._process.kill()

    def _death(self, problem: Exception) -> ResourceError:
        # A pipe that broke means the child is gone or going; one that talks nonsense is of no more use.
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        if self._expired:
            found = f"none within {self._timeout:g} s"
        elif self._closed:
            found = "the gate closed while it ran"
        elif code < 0:
            found = f"it ended by {signal.Signals(-code).name}"
        else:
            found = f"it ended with exit code {code} ({type(problem).__name__})"
        with self._stderr.open("rb") as log:
            log.seek(max(0, self._stderr.stat().st_size - _TAIL_BYTES))
            tail = log.read().decode(errors="replace").strip()
        return ResourceError(
            _SUBJECT,
            expected="an answer",
            found=f"{found}; its last words: {quote(tail, _TAIL_BYTES)}" if tail else found,
            hint="SIGKILL usually means that memory ran out: give the stage more memory, then start it again.",
        )


def _environment(home: str) -> dict[str, str]:
    """The child reads hostile data, so it gets no credentials: only what an interpreter needs."""
    # The parent's own module path, so that both run the same code whatever the working folder is.
    root = str(Path(__file__).parents[3])
    path = [root, *(entry for entry in sys.path if entry and entry != root)]
    return {
        **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        "HOME": home,
        "PYTHONPATH": os.pathsep.join(path),
        "GX_ANALYTICS_ENABLED": "false",
        # The suite is no work for a pool of threads, and the stage needs the cores.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _message(frame: bytes | None) -> dict[str, Any]:
    if frame is None:
        raise EOFError("the process closed its output")
    message = json.loads(frame)
    if not isinstance(message, dict):
        raise ValueError("the process answered with something other than a record")
    return message


def _close_quietly(pipe: Any) -> None:
    try:
        pipe.close()
    except OSError:
        # Bytes that the dead child never read.
        logger.debug("a pipe to the validation process was broken already")

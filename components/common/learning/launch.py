"""Trains on every device of this machine: one process per device, and this process looks after them.

The processes meet through a file and talk over the loopback interface: no port is open to others. They die with this
process, and when one of them ends early, so do all.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, multiprocessing, nn

from components.common.contracts import errors
from components.common.contracts.errors import ResourceError, UntaintError
from components.common.learning.devices import PROCESSES, pick_device, process_count
from components.common.learning.distributed import process_group
from components.common.learning.seeding import make_deterministic
from components.common.learning.watch import NullWatch, Watch

__all__ = ["Training", "train_on_devices"]

logger = logging.getLogger(__name__)

Training = Callable[[nn.Module, Mapping[str, Tensor], Watch], dict[str, Any]]
"""From a model on its device, tensors on the CPU and a watch to nested dicts of tensors and plain values."""

# How long the messages of dying processes are awaited, so that the first cause is told and not its consequences.
_LAST_WORDS_SECONDS = 1.0
# Until all have met: they import torch at the same time, which takes 5 to 60 s. What takes longer stands still.
_MEETING_SECONDS = 240.0
# For taking leave of each other once the result is there.
_FAREWELL_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    train: Training
    build: Callable[[], nn.Module]
    folder: str
    processes: int
    seed: int
    threads: int
    parent: int


def train_on_devices(
    train: Training,
    build: Callable[[], nn.Module],
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    watch: Watch,
    *,
    seed: int,
) -> dict[str, Any]:
    """Runs a training here, or in one process per device where ``process_count`` is above one.

    Args:
        train: The training. Picklable, as is ``build``: functions of modules, or ``functools.partial`` of them.
        build: Makes a model of the architecture of ``model``.
        model: Has the weights to start from.
        tensors: What is trained on.
        watch: Progress and resumable state; called in this process.
        seed: Of ``make_deterministic`` in the processes.

    Returns:
        What ``train`` returned in rank 0; on the CPU if it came from another process.

    Raises:
        UntaintError: What the training raised.
        ResourceError: A process was killed, or they did not all meet.
        RuntimeError: A defect; holds the traceback of the process.
    """
    processes = process_count()
    if processes == 1:
        return train(model.to(pick_device()), tensors, watch)
    logger.info("training in %d processes", processes)
    # A file and not shared memory, of which containers have 64 MiB unless told otherwise.
    with tempfile.TemporaryDirectory(prefix="untaint-train-") as folder:
        torch.save({"weights": model.state_dict(), "tensors": dict(tensors)}, Path(folder, "given.pt"))
        threads = max(1, torch.get_num_threads() // processes)
        job = _Job(
            train=train,
            build=build,
            folder=folder,
            processes=processes,
            seed=seed,
            threads=threads,
            parent=os.getpid(),
        )
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in range(processes)]
        started = multiprocessing.start_processes(  # type: ignore[attr-defined,no-untyped-call]
            _work, (job, [there for _, there in pipes]), nprocs=processes, join=False, daemon=True, start_method="spawn"
        )
        try:
            _look_after(started.processes, [here for here, _ in pipes], watch)
        finally:
            for process in started.processes:
                process.kill()
                process.join()
            for pipe in pipes:
                pipe[0].close()
                pipe[1].close()
        result = torch.load(Path(folder, "result.pt"), map_location="cpu", weights_only=True)
    return dict(result)


class _Patience:
    """How long the next word is waited for: until all have met, and from the result on; without end in between."""

    def __init__(self, processes: int) -> None:
        self.missing = set(range(processes))
        self._until = time.monotonic() + _MEETING_SECONDS

    def met(self, rank: int) -> None:
        """Takes note that a process is there. Where the result was quicker than that word, it no longer matters."""
        if self.missing:
            self.missing.discard(rank)
            self._until = self._until if self.missing else math.inf

    def done(self) -> None:
        """Takes note that the result is there."""
        self.missing.clear()
        self._until = time.monotonic() + _FAREWELL_SECONDS

    @property
    def seconds(self) -> float | None:
        """What is left; None for no end."""
        return None if self._until == math.inf else max(0.0, self._until - time.monotonic())


def _look_after(processes: list[Any], connections: list[Connection], watch: Watch) -> None:
    """Answers rank 0 until all processes have ended; raises as soon as one ended badly.

    What is bounded is what takes long only when it stands still: meeting, and parting once the result is there.
    """
    patience = _Patience(len(processes))
    while True:
        # Asked for once in a round: who ended between two questions would be waited for without a sentinel, for ever.
        codes = [process.exitcode for process in processes]
        if any(codes):
            raise _cause(processes, _last_words(connections))
        living = [process.sentinel for process, code in zip(processes, codes, strict=True) if code is None]
        if not living and not connections[0].poll():
            return
        waited_for = wait([*connections, *living], timeout=patience.seconds)
        if not waited_for:
            if patience.missing:
                raise _not_met(patience.missing, len(processes))
            logger.warning("the training is done; its processes did not end by themselves and are stopped")
            return
        for ready in waited_for:
            if isinstance(ready, Connection):
                kind, *content = ready.recv()
                if kind == "call":
                    name, arguments = content
                    ready.send(getattr(watch, name)(*arguments))
                elif kind == "log":
                    name, level, text = content
                    logging.getLogger(name).log(level, "%s", text)
                elif kind == "met":
                    patience.met(connections.index(ready))
                elif kind == "done":
                    patience.done()
                else:
                    raise _cause(processes, [(kind, *content), *_last_words(connections)])


def _not_met(missing: set[int], processes: int) -> ResourceError:
    ranks = ", ".join(str(rank) for rank in sorted(missing))
    return ResourceError(
        "training on several devices",
        expected=f"all {processes} processes to meet within {_MEETING_SECONDS:g} s",
        found=f"still missing: {ranks}",
        hint=f"Run the stage again. If it happens again, set {PROCESSES}=1, or look at what holds the machine up.",
    )


def _last_words(connections: list[Connection]) -> list[tuple[Any, ...]]:
    said, until = [], time.monotonic() + _LAST_WORDS_SECONDS
    while ready := wait(connections, timeout=max(0.0, until - time.monotonic())):
        messages = [connection.recv() for connection in ready if isinstance(connection, Connection)]
        said += [message for message in messages if message[0] in ("problem", "defect")]
    return said


def _cause(processes: list[Any], said: list[tuple[Any, ...]]) -> Exception:
    codes = [process.exitcode or 0 for process in processes]
    # A process that was killed says nothing; what the others then say is that they lost it.
    if min(codes) < 0 or not said:
        rank = codes.index(min(codes)) if min(codes) < 0 else codes.index(max(codes))
        return _killed(rank, len(processes), codes[rank])
    return _first_cause(said)


def _first_cause(said: list[tuple[Any, ...]]) -> Exception:
    kind, _, *content = min(said, key=lambda message: message[1])
    if kind == "problem":
        name, subject, expected, found, hint = content
        problem: UntaintError = getattr(errors, name)(subject, expected=expected, found=found, hint=hint)
        return problem
    return RuntimeError(f"a training process raised:\n{content[0]}")


def _killed(rank: int, processes: int, exit_code: int) -> ResourceError:
    how = f"signal {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"
    return ResourceError(
        "training on several devices",
        expected=f"all {processes} processes to finish",
        found=f"process {rank} ended with {how} and said nothing",
        hint=f"SIGKILL mostly means that the machine ran out of memory: allow more, or lower {PROCESSES}.",
    )


class _FarWatch:
    """The parent's watch, seen from rank 0."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def _call(self, name: str, *arguments: object) -> Any:
        self._connection.send(("call", name, arguments))
        return self._connection.recv()

    def progress(self, phase: str, step: int, total: int, figures: Mapping[str, float]) -> None:
        self._call("progress", phase, step, total, dict(figures))

    def wants_state(self, phase: str) -> bool:
        return bool(self._call("wants_state", phase))

    def save(self, phase: str, state: bytes) -> None:
        self._call("save", phase, state)

    def restore(self, phase: str) -> bytes | None:
        state: bytes | None = self._call("restore", phase)
        return state


class _FarLog(logging.Handler):
    """Hands log lines to the parent, whose logging is set up."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        self._connection.send(("log", record.name, record.levelno, record.getMessage()))


def _work(rank: int, job: _Job, connections: list[Connection]) -> None:
    # start_processes lets the kernel send SIGINT when the parent is gone. Python would notice it only after the
    # operation it is waiting in; the system's own handling ends the process at once.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if os.getppid() != job.parent:
        sys.exit(1)
    connection = connections[rank]
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(job.processes))
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    os.environ.update(GLOO_SOCKET_IFNAME=loopback, NCCL_SOCKET_IFNAME=loopback)
    if rank == 0:
        package = logging.getLogger("components")
        package.setLevel(logging.INFO)
        package.addHandler(_FarLog(connection))
    try:
        torch.set_num_threads(job.threads)
        make_deterministic(job.seed)
        device = pick_device()
        with process_group(device, f"file://{job.folder}/rendezvous"):
            connection.send(("met",))
            given = torch.load(Path(job.folder, "given.pt"), map_location="cpu", mmap=True, weights_only=True)
            model = job.build()
            model.load_state_dict(given["weights"])
            watch: Watch = _FarWatch(connection) if rank == 0 else NullWatch()
            result = job.train(model.to(device), given["tensors"], watch)
            if rank == 0:
                torch.save(result, Path(job.folder, "result.pt"))
                connection.send(("done",))
    except UntaintError as problem:
        content = (type(problem).__name__, problem.subject, problem.expected, problem.found, problem.hint)
        connection.send(("problem", time.monotonic(), *content))
        sys.exit(problem.exit_code)
    except Exception:
        connection.send(("defect", time.monotonic(), traceback.format_exc()))
        sys.exit(1)

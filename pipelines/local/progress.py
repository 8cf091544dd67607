"""What a person sees of a run under ``kfp.local``: one line per start and end of a stage, and the stage's own lines.

KFP's local runner reports through the root logger and prints the output of tasks, indented, to standard output. Both
are taken where Python lets one take them, by a filter on the root logger and by redirecting standard output, so nothing
of KFP is replaced.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

__all__ = ["Progress", "StageTime", "shown"]

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_START = re.compile(r"Executing task '([^']+)'")
_END = re.compile(r"Task '([^']+)' finished with status (\w+)")
# kfp.local indents what a task prints by this much.
_INDENT = "    "
_RULE = re.compile(r"-{20,}")
# What KFP's executor says in the stage's process; warnings of other libraries come in the same form and stay.
_EXECUTOR = re.compile(r"\[KFP Executor [^\]]* INFO\]: |Wrote executor output file to ")
_EXECUTOR_INPUT = "Got executor_input:"


@dataclass(frozen=True, slots=True)
class StageTime:
    """A stage that ended: its name, wall-clock seconds with start-up, and whether it succeeded."""

    stage: str
    seconds: float
    ok: bool


@dataclass(slots=True)
class Progress:
    """The state of a run, and where its lines go.

    Attributes:
        names: KFP task name to the stage's name for people, for all tasks of the DAG.
        write: Takes one line of text without its end. Not by way of ``sys.stdout``, which is redirected meanwhile.
        ended: The stages that ended, in order.
        current: The stage at work, empty between stages.
    """

    names: Mapping[str, str]
    write: Callable[[str], None]
    ended: list[StageTime] = field(default_factory=list)
    current: str = ""
    _since: float = 0.0
    _in_input: bool = False

    @property
    def failed(self) -> str:
        """The stage that stopped the run, empty if none did."""
        return next((done.stage for done in self.ended if not done.ok), "")

    def line(self, text: str) -> None:
        """One line that a stage printed."""
        if self._in_input or text.endswith(_EXECUTOR_INPUT):
            # The input is indented JSON, so only its end stands at the start of a line.
            self._in_input = text != "}"
            return
        if text.strip() and not _RULE.fullmatch(text.strip()) and not _EXECUTOR.match(text):
            self.write(f"      {text}" if self.current else text)

    def message(self, text: str) -> None:
        """One message of KFP's own."""
        plain = _ANSI.sub("", text)
        if started := _START.match(plain):
            self.current = self.names.get(started[1], started[1])
            self._since = time.monotonic()
            self._in_input = False
            self.write(f"[{len(self.ended) + 1}/{len(self.names)}] {self.current}")
        elif ended := _END.match(plain):
            seconds = time.monotonic() - self._since
            ok = ended[2] == "SUCCESS"
            self.write(
                f"[{len(self.ended) + 1}/{len(self.names)}] {self.current} "
                f"{'finished' if ok else 'stopped'} after {seconds:.1f} s"
            )
            self.ended.append(StageTime(self.current, seconds, ok))
            self.current = ""


class _Lines(io.TextIOBase):
    """Standard output for the time of the run: whole lines, without KFP's indentation, go to the progress."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._rest = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *whole, self._rest = (self._rest + text).split("\n")
        for line in whole:
            self._progress.line(line.removeprefix(_INDENT).rstrip("\r"))
        return len(text)


@contextlib.contextmanager
def shown(progress: Progress) -> Iterator[None]:
    """Sends everything that ``kfp.local`` says and prints inside the block through the progress."""

    def take(record: logging.LogRecord) -> bool:
        if PurePath(record.pathname).parts[-3:-1] not in (("kfp", "local"), ("local", "orchestrator")):
            return True
        progress.message(record.getMessage())
        return False

    root = logging.getLogger()
    root.addFilter(take)
    try:
        with contextlib.redirect_stdout(_Lines(progress)):
            yield
    finally:
        root.removeFilter(take)

"""Where the lines of a local run go; on a terminal also a table below them of the stages and how far they are."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from components.common.runs.progress_note import PROGRESS_FILE, read_progress, time_left

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from pipelines.local.progress import Progress

__all__ = ["Screen"]

_BAR_COLUMNS = 20
_PER_SECOND = 5


class Screen:
    """Writes lines to a stream. Off a terminal that is all it does.

    Args:
        stream: The stream as it is now; during a run, ``sys.stdout`` is what the stages print.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live: Live | None = None

    def __call__(self, line: str) -> None:
        """Writes one line, without its end."""
        if self._live is None:
            click.echo(line, file=self._stream)
        else:
            self._live.console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)

    @contextlib.contextmanager
    def following(self, progress: Progress, note: Path) -> Iterator[None]:
        """Shows the table inside the block, if the stream is a terminal; stages that start inside note their steps.

        Args:
            progress: The state of the run.
            note: File in which the stages note their steps; it is deleted at the end.
        """
        if not self._stream.isatty() or os.environ.get("TERM", "dumb") == "dumb":
            yield
            return
        # Here, not above: most commands do without it.
        from rich.console import Console
        from rich.live import Live

        note.unlink(missing_ok=True)
        before = os.environ.get(PROGRESS_FILE)
        os.environ[PROGRESS_FILE] = str(note)
        board = _Board(progress, note)
        live = Live(
            get_renderable=board.render,
            console=Console(file=self._stream),
            refresh_per_second=_PER_SECOND,
            transient=True,
            # Standard output is redirected already, and its lines come by way of this object.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        try:
            with live:
                self._live = live
                try:
                    yield
                finally:
                    self._live = None
        finally:
            if before is None:
                os.environ.pop(PROGRESS_FILE, None)
            else:
                os.environ[PROGRESS_FILE] = before
            note.unlink(missing_ok=True)


class _Board:
    """The table at the bottom: the stages that ended, and of the one at work bar, time left and last figure."""

    def __init__(self, progress: Progress, note: Path) -> None:
        self._progress = progress
        self._note = note
        self._stage = ""
        self._since = time.monotonic()
        self._figures: dict[str, str] = {}

    def render(self) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        stage, total = self._progress.current, len(self._progress.names)
        if stage != self._stage:
            self._stage, self._since = stage, time.monotonic()
            self._note.unlink(missing_ok=True)
        board = Table.grid(padding=(0, 2))
        for _ in range(4):
            board.add_column(no_wrap=True)
        for number, ended in enumerate(self._progress.ended, start=1):
            board.add_row(
                Text(f"[{number}/{total}] {ended.stage}", style="dim"),
                ProgressBar(total=1, completed=1, width=_BAR_COLUMNS),
                Text(f"{'done' if ended.ok else 'stopped'}, {_clock(ended.seconds)}", style="dim"),
                Text(self._figures.get(ended.stage, ""), style="dim"),
            )
        if not stage and len(self._progress.ended) == total:
            return board
        noted = read_progress(self._note)
        said = [_clock(time.monotonic() - self._since)]
        if noted:
            self._figures[stage] = noted.figure
            said.append(f"{noted.phase}: step {noted.step} of {noted.total} ({100 * noted.step // noted.total} %)")
            if noted.seconds_left is not None and noted.step < noted.total:
                said.append(time_left(noted.seconds_left))
        board.add_row(
            Text(f"[{min(len(self._progress.ended) + 1, total)}/{total}] {stage or 'starting'}"),
            ProgressBar(total=noted.total if noted else None, completed=noted.step if noted else 0, width=_BAR_COLUMNS),
            Text(", ".join(said)),
            Text(noted.figure if noted else ""),
        )
        return board


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"

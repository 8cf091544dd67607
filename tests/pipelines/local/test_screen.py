"""What a terminal shows during a run, on a real pseudo-terminal; and that nothing of it shows elsewhere."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.common.runs.progress_note import PROGRESS_FILE, note_progress, read_progress, time_left
from pipelines.local.progress import Progress
from pipelines.local.screen import Screen

ROOT = Path(__file__).parents[3]
NAMES = {"ingest": "ingest", "warmup": "warmup"}


class Terminal:
    """A pseudo-terminal and everything that was written to it."""

    def __init__(self) -> None:
        self._leader, follower = os.openpty()
        self.stream = os.fdopen(follower, "w")
        self.shown = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._leader, 65536)
            except OSError:  # Linux's way to say that the other end was closed.
                return
            if not data:
                return
            self.shown += data.decode()

    def wait_for(self, pattern: str) -> None:
        deadline = time.monotonic() + 10
        while not re.search(pattern, self.shown):
            assert time.monotonic() < deadline, f"{pattern} is not in {self.shown[-2000:]!r}"
            time.sleep(0.02)

    def close(self) -> None:
        if not self.stream.closed:
            self.stream.close()
            self._reader.join(5)
            os.close(self._leader)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    found = Terminal()
    yield found
    found.close()


def test_a_terminal_shows_the_stage_its_phase_and_its_share_below_the_lines(terminal: Terminal, tmp_path: Path) -> None:
    screen = Screen(terminal.stream)
    progress = Progress(names=NAMES, write=screen)
    note = tmp_path / "progress.json"
    with screen.following(progress, note):
        progress.message("Executing task 'ingest'")
        terminal.wait_for(r"\[1/2\] ingest .*0:0\d")
        progress.message("Task 'ingest' finished with status SUCCESS")
        progress.message("Executing task 'warmup'")
        terminal.wait_for(r"\[2/2\] warmup .*0:0\d")
        note_progress("mixing", 3, 12)
        terminal.wait_for(r"\[2/2\] warmup .*mixing: step 3 of 12 \(25 %\)")
        progress.line("table split: 4000 rows keep its contract")
        progress.message("Task 'warmup' finished with status SUCCESS")
    screen("run done")
    terminal.close()
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.shown).replace("\r", "\n").splitlines()
    # Each line stands on its own, as it does off a terminal.
    for wanted in ("[1/2] ingest", "      table split: 4000 rows keep its contract", "run done"):
        assert wanted in [line.rstrip() for line in lines]
    # The cursor, hidden under the bar, is back.
    assert terminal.shown.rfind("\x1b[?25h") > terminal.shown.rfind("\x1b[?25l")
    assert not note.exists()
    assert PROGRESS_FILE not in os.environ


def test_a_step_of_the_stage_before_is_not_shown_for_the_next(terminal: Terminal, tmp_path: Path) -> None:
    screen = Screen(terminal.stream)
    progress = Progress(names=NAMES, write=screen)
    with screen.following(progress, tmp_path / "progress.json"):
        progress.message("Executing task 'ingest'")
        terminal.wait_for(r"\[1/2\] ingest ")
        note_progress("one", 12, 12)
        terminal.wait_for(r"\[1/2\] ingest .*step 12 of 12")
        progress.message("Task 'ingest' finished with status SUCCESS")
        progress.message("Executing task 'warmup'")
        terminal.wait_for(r"\[2/2\] warmup .*0:0\d")
    last = terminal.shown[terminal.shown.rindex("[2/2] warmup") :]
    assert "step 12" not in last


@pytest.mark.parametrize("kind", ["a pipe", "a dumb terminal"])
def test_elsewhere_there_are_lines_only(
    kind: str, terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = io.StringIO()
    if kind == "a dumb terminal":
        monkeypatch.setenv("TERM", "dumb")
    screen = Screen(terminal.stream if kind == "a dumb terminal" else pipe)
    progress = Progress(names=NAMES, write=screen)
    with screen.following(progress, tmp_path / "progress.json"):
        assert PROGRESS_FILE not in os.environ
        note_progress("one", 1, 2)
        progress.message("Executing task 'ingest'")
        progress.line("[green] 3 :smile:")
    terminal.close()
    said = pipe.getvalue() or terminal.shown.replace("\r\n", "\n")
    assert said == "[1/2] ingest\n      [green] 3 :smile:\n"
    assert not list(tmp_path.iterdir())


def test_what_looks_like_markup_is_shown_as_it_is(terminal: Terminal, tmp_path: Path) -> None:
    screen = Screen(terminal.stream)
    with screen.following(Progress(names=NAMES, write=screen), tmp_path / "progress.json"):
        screen("[red]step[/red] :smile: " + "x" * 200)
    terminal.close()
    assert "[red]step[/red] :smile: " + "x" * 200 in terminal.shown


@pytest.mark.parametrize(
    ("began_at", "step", "total", "elapsed", "left"),
    [
        (0, 10, 100, 20.0, 180.0),
        # An earlier attempt did 50 steps in no time of this process.
        (50, 60, 100, 20.0, 80.0),
        (0, 100, 100, 20.0, 0.0),
        (0, 10, 100, 0.5, None),
        (0, 0, 100, 20.0, None),
    ],
)
def test_the_time_left_follows_from_the_steps_of_this_process(
    began_at: int, step: int, total: int, elapsed: float, left: float | None, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv(PROGRESS_FILE, str(tmp_path / "note"))
    now = 1000.0
    monkeypatch.setattr("components.common.runs.progress_note.time.monotonic", lambda: now)
    note_progress(f"phase {began_at} {step} {elapsed}", began_at, total)
    now += elapsed
    note_progress(f"phase {began_at} {step} {elapsed}", step, total)
    noted = read_progress(tmp_path / "note")
    assert noted is not None
    assert noted.seconds_left == (left if left is None else pytest.approx(left))


def test_the_bar_shows_the_time_left(terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(terminal.stream)
    progress = Progress(names=NAMES, write=screen)
    with screen.following(progress, tmp_path / "progress.json"):
        progress.message("Executing task 'warmup'")
        terminal.wait_for(r"\[1/2\] warmup ")
        (tmp_path / "progress.json").write_text('{"phase": "unlearn", "step": 3, "total": 12, "seconds_left": 241.0}')
        terminal.wait_for(r"unlearn: step 3 of 12 \(25 %\), about 4 min left")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "about 5 s left"), (41, "about 40 s left"), (100, "about 2 min left"), (7800, "about 2 h 10 min left")],
)
def test_the_time_left_is_rounded_as_people_say_it(seconds: float, text: str) -> None:
    assert time_left(seconds) == text


@pytest.mark.parametrize("content", ["", "{", "[1]", '["a", "b", 3]', "null", '{"phase": "a", "step": 1}'])
def test_a_note_that_cannot_be_read_is_none(content: str, tmp_path: Path) -> None:
    (tmp_path / "note").write_text(content)
    assert read_progress(tmp_path / "note") is None


def test_a_disk_that_takes_no_note_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROGRESS_FILE, str(tmp_path / "nowhere" / "note"))
    note_progress("one", 2, 2)
    assert not list(tmp_path.iterdir())


def test_untaint_run_has_a_bar_on_a_terminal(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.parquet").write_text("no Parquet")
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli.main", "run", "--dataset", f"parquet:{tmp_path}/data"],
        cwd=ROOT,
        # Not the store of the other tests, which their environment points at.
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
            "UNTAINT_HOME": str(tmp_path / "home"),
        },
        stdout=terminal.stream,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )
    terminal.close()
    assert done.returncode == 3, terminal.shown
    assert "Stage ingest stopped the run" in terminal.shown
    assert re.search(r"\r\x1b\[2K.*\[1/7\] ingest ", terminal.shown), terminal.shown

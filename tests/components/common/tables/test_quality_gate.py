"""The validation process: whatever happens to it, a check ends with a right answer or an explained error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from components.common.contracts.errors import ContractError, ResourceError
from components.common.tables.gate import QualityGate
from components.common.tables.tables import POISON_TRUTH, SAMPLE_INDEX, TRACES
from tests.components.common.tables.quality_samples import ROWS, SPLIT, planted, table_of

GOOD = table_of(SAMPLE_INDEX)
BAD = planted(SAMPLE_INDEX, "given_label", 3, -1)


@pytest.fixture(scope="module")
def gate():
    with QualityGate() as gate:
        yield gate


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_it_goes_on_after_a_breach(gate):
    for _ in range(2):
        with pytest.raises(ContractError, match="row 3 = -1"):
            gate.check(BAD, SAMPLE_INDEX, subject="here")
        gate.check(GOOD, SAMPLE_INDEX, subject="here")


def test_two_gates_in_two_threads_answer_for_their_own_tables():
    start = threading.Barrier(2)

    def work(bad_row: int) -> list[str]:
        found = []
        with QualityGate() as own:
            start.wait()
            for turn in range(6):
                table = planted(SAMPLE_INDEX, "subset", bad_row, "x") if turn % 2 else GOOD
                try:
                    own.check(table, SAMPLE_INDEX, subject="here")
                    found.append("good")
                except ContractError as problem:
                    found.append(problem.found)
        return found

    with ThreadPoolExecutor(2) as pool:
        for bad_row, found in zip((4, 9), pool.map(work, (4, 9)), strict=True):
            assert found == ["good", f"1 bad row of {ROWS}: row {bad_row} = 'x'"] * 3


def test_threads_share_a_gate_without_mixing_answers(gate):
    def work(row: int) -> str:
        try:
            gate.check(planted(POISON_TRUTH, "true_label", row, -1), POISON_TRUTH, subject="here")
        except ContractError as problem:
            return problem.found
        return "good"

    with ThreadPoolExecutor(8) as pool:
        for row, found in zip(range(16), pool.map(work, range(16)), strict=True):
            assert found == f"1 bad row of {ROWS}: row {row} = -1"


def test_a_pending_check_raises_its_breach_when_read(gate):
    pending = gate.check_async(BAD, SAMPLE_INDEX, subject="here")
    gate.check_async(GOOD, SAMPLE_INDEX, subject="here").result()
    with pytest.raises(ContractError, match="row 3 = -1"):
        pending.result()


def test_a_breach_that_nobody_read_is_raised_at_the_end():
    own = QualityGate()
    own.check_async(GOOD, SAMPLE_INDEX, subject="here")
    own.check_async(BAD, SAMPLE_INDEX, subject="here")
    with pytest.raises(ContractError, match="row 3 = -1"), own:
        pass


def test_a_breach_does_not_hide_the_stages_own_trouble():
    own = QualityGate()
    own.check_async(BAD, SAMPLE_INDEX, subject="here")
    with pytest.raises(ZeroDivisionError), own:
        raise ZeroDivisionError


@pytest.mark.parametrize("when", ["starting", "ready"])
def test_a_killed_worker_is_reported_at_every_later_check(when):
    with QualityGate() as own:
        if when == "ready":
            own.check(GOOD, SAMPLE_INDEX, subject="here")
        os.kill(own.pid, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(ResourceError, match="it ended by SIGKILL"):
                own.check(GOOD, SAMPLE_INDEX, subject="here")


def test_a_worker_that_cannot_start_is_quoted(tmp_path, monkeypatch):
    (tmp_path / "great_expectations.py").write_text("raise ImportError('half an installation')")
    monkeypatch.syspath_prepend(tmp_path)
    with (
        QualityGate() as own,
        pytest.raises(ResourceError, match=r"exit code 1.*last words.*half an installation"),
    ):
        own.check(GOOD, SAMPLE_INDEX, subject="here")


def test_a_worker_that_hangs_runs_into_the_time_limit():
    with QualityGate(timeout_seconds=0.5) as own:
        os.kill(own.pid, signal.SIGSTOP)
        with pytest.raises(ResourceError, match=r"expected an answer; found none within 0\.5 s"):
            own.check(GOOD, SAMPLE_INDEX, subject="here")


def test_a_hung_worker_is_noticed_even_while_a_large_table_is_sent(gate):
    # Larger than any pipe buffer, so that the write itself blocks.
    rows = 200_000
    columns = {"sample_id": range(rows), "is_poisoned": [False] * rows, "true_label": [0] * rows}
    large = pa.table(columns, schema=POISON_TRUTH.schema)
    gate.check(large, POISON_TRUTH, subject="here", rows=rows)
    with QualityGate(timeout_seconds=20) as own:
        own.check(GOOD, SAMPLE_INDEX, subject="here")
        own._timeout = 0.5
        os.kill(own.pid, signal.SIGSTOP)
        with pytest.raises(ResourceError, match="none within"):
            own.check(large, POISON_TRUTH, subject="here")


def test_no_process_and_no_folder_stay_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with QualityGate() as own:
        own.check(GOOD, SAMPLE_INDEX, subject="here")
        pid = own.pid
        assert list(tmp_path.iterdir())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError, match="closed"):
        own.check(GOOD, SAMPLE_INDEX, subject="here")


def test_the_worker_ends_when_its_parent_is_killed(tmp_path):
    program = (
        "import time; from components.common.tables.gate import QualityGate; g = QualityGate();"
        "print(g.pid, flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    deadline = time.monotonic() + 30
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(pid)


def test_it_works_without_home_from_another_folder_and_prints_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    monkeypatch.chdir(tmp_path)
    with QualityGate() as own:
        own.check(table_of(SPLIT), SPLIT, subject="here")
        own.check(table_of(TRACES), TRACES, subject="here")
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads the environment through /proc")
def test_the_worker_that_reads_hostile_data_gets_no_credentials(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-for-the-worker")
    with QualityGate() as own:
        # An answer shows that the child runs: while the kernel still loads the program, the file reads as empty.
        own.check(GOOD, SAMPLE_INDEX, subject="here")
        environment = Path(f"/proc/{own.pid}/environ").read_bytes()
    assert b"PYTHONPATH=" in environment
    assert b"not-for-the-worker" not in environment


def test_no_temporary_folder_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(ResourceError, match="Mount a writable temporary folder"):
        QualityGate()

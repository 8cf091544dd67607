"""The child process of a ``QualityGate``: ``python -m components.common.tables.worker``.

It imports Great Expectations at once, says that it is ready, then answers requests until its input ends, which is
also what it sees when its parent dies. A request is two messages: a JSON header (rules, row bounds) and the table as
an Arrow IPC stream. A reply is one JSON message: ``{"outcomes": […]}``, or ``{"problem": "…"}`` if the validation run
itself raised.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
import traceback
from dataclasses import asdict
from typing import BinaryIO

__all__ = ["main"]


def main() -> int:
    """Serves requests from standard input to standard output; returns the exit code."""
    # Ctrl-C reaches the whole group; the parent decides when the worker goes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    started = time.perf_counter()
    # The real standard output carries replies alone: what a library prints must not mix with them.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # The collector runs hundreds of times during this import and finds nothing: 15 % of its time.
    gc.disable()
    from components.common.tables.suites import import_great_expectations

    import_great_expectations()
    gc.freeze()
    gc.enable()
    from components.common.tables.frames import read_frame, write_frame

    write_frame(replies, json.dumps({"ready_seconds": time.perf_counter() - started}).encode())
    requests: BinaryIO = sys.stdin.buffer
    while (header := read_frame(requests)) is not None:
        table = read_frame(requests)
        if table is None:
            break
        write_frame(replies, json.dumps(_answer(header, table)).encode())
    return 0


def _answer(header: bytes, stream: bytes) -> dict[str, object]:
    import pyarrow as pa

    from components.common.tables.suites import Rule, run_rules

    try:
        request = json.loads(header)
        rules = [Rule(**rule) for rule in request["rules"]]
        table = pa.ipc.open_stream(pa.py_buffer(stream)).read_all()
        outcomes = run_rules(table, rules, fewest_rows=request["fewest_rows"], most_rows=request["most_rows"])
    except MemoryError:
        # Die: what is left of this process is not to be trusted, and the parent tells a dead worker from bad data.
        raise
    except Exception as problem:
        traceback.print_exc()
        return {"problem": f"{type(problem).__name__}: {problem}"}
    return {"outcomes": [asdict(outcome) for outcome in outcomes]}


if __name__ == "__main__":
    sys.exit(main())

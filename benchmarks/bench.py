"""Runs a matrix of attacks, rates, seeds and methods, and writes the tables of docs/RESULTS.md.

    python -m benchmarks.bench benchmarks/matrices/quick.yaml --only attack=badnets,seed=40 --jobs 2
    make bench MATRIX=quick FILTER=attack=badnets,seed=40

Cells that are measured with the same settings are left as they are; delete their JSON, or say --again, to measure them
anew. A run that was interrupted is gone on with as long as the code is the same.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from benchmarks.collect import render
from benchmarks.group import stop_on_signals
from benchmarks.matrix import MATRICES, Cell, load_matrix, parse_filter, selected
from components.common.contracts.errors import UntaintError
from components.common.storage.embedded import EmbeddedStore
from pipelines.local.home import home

__all__ = ["main"]

_POLL_SECONDS = 0.5
_STOP_SECONDS = 20.0
# For glibc: keep what a step frees for the next one. A quarter of a small network's time went into asking the kernel
# for the same memory again (755,000 against 133,000 page faults in two epochs); the results are the same bits.
_QUICKER = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**33), "MALLOC_TOP_PAD_": str(2**28)}


@dataclass(kw_only=True)
class Group:
    """Cells of one poisoned dataset, which one process measures."""

    cells: list[Cell]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0

    @property
    def name(self) -> str:
        """Attack, rate, seed and methods."""
        cell = self.cells[0]
        methods = ", ".join(cell.method for cell in self.cells)
        return f"{cell.attack.name} {100 * cell.attack.poison_rate:g} %, seed {cell.seed}: {methods}"

    def start(self, matrix: Path, keep_runs: bool, environment: dict[str, str]) -> None:
        """Starts the process; its words go to the log."""
        first = self.cells[0]
        words = [str(matrix), first.attack.name, str(first.seed), *(cell.method for cell in self.cells)]
        command = [sys.executable, "-m", "benchmarks.group", *words, *(["--keep-runs"] if keep_runs else [])]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.started = time.monotonic()
        # Appended, since what an earlier attempt said may be why there is another.
        with self.log.open("ab") as log:
            # In a group of its own: at Ctrl-C this process asks it, once, to stop. Not in a session of its own, which
            # Linux may schedule with another weight than what was started beside it (sched_autogroup).
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, process_group=0
            )


def groups_of(cells: Iterable[Cell], again: bool) -> list[Group]:
    """What there is to measure, in the order given. Raises ConfigError where a setting is wrong."""
    groups = []
    for (attack, seed), members in groupby(cells, key=lambda cell: (cell.attack, cell.seed)):
        todo = [cell for cell in members if again or cell.state() != "measured"]
        if todo:
            # A wrong setting is told now and not by every process.
            todo[0].digest()
            log = home() / "bench" / "logs" / todo[0].matrix.name / f"{attack.name}-{attack.poison_rate}-{seed}.log"
            groups.append(Group(cells=todo, log=log))
    return groups


def work_off(groups: list[Group], matrix: Path, jobs: int, keep_runs: bool) -> list[Group]:
    """Measures all groups, that many at once; gives those that lack a cell."""
    folder = home() / "bench"
    waiting, running, bad = list(groups), [], []
    begun = time.monotonic()
    with EmbeddedStore(folder / "store") as store:
        environment = {**_QUICKER, **os.environ, **store.environment(), "UNTAINT_HOME": str(folder)}
        # One thread each: two jobs of one thread are done much sooner than one of two, which waits at every operation.
        environment["OMP_NUM_THREADS"] = "1"
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    running.append(waiting.pop(0))
                    running[-1].start(matrix, keep_runs, environment)
                time.sleep(_POLL_SECONDS)
                for group in [one for one in running if one.process and one.process.poll() is not None]:
                    running.remove(group)
                    done = len(groups) - len(waiting) - len(running)
                    if group.process and group.process.returncode:
                        bad.append(group)
                    left = (time.monotonic() - begun) / done * (len(groups) - done)
                    print(f"[{done}/{len(groups)}] {_told(group)}; about {left / 60:.0f} min left", flush=True)
        finally:
            for group in running:
                if group.process:
                    group.process.send_signal(signal.SIGINT)
            for group in running:
                if group.process:
                    with suppress(subprocess.TimeoutExpired):
                        group.process.wait(_STOP_SECONDS)
                    group.process.kill()
    return bad


def _told(group: Group) -> str:
    figures = []
    for cell in group.cells:
        found = cell.measured()
        if found is None or cell.state() != "measured":
            figures.append(f"{cell.method} not measured")
            continue
        success = "" if found["asr"] is None else f" / {100 * found['asr']:.1f}"
        figures.append(f"{cell.method} {100 * found['acc']:.1f}{success} ({found['seconds']:.0f} s)")
    first = group.cells[0]
    seconds = time.monotonic() - group.started
    return f"{first.attack.name}, seed {first.seed}, {seconds:.0f} s; ACC / ASR %: {', '.join(figures)}"


def main() -> int:
    """Runs a matrix; 0, or 1 if a cell could not be measured, or the exit code of what is wrong with the matrix."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("matrix", help="a YAML file, or the name of one in benchmarks/matrices")
    parser.add_argument("--only", nargs="+", default=[], metavar="KEY=VALUE", help="attack=, seed=, method=; see above")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="datasets at once (the cores)")
    parser.add_argument("--again", action="store_true", help="measure anew what is measured")
    parser.add_argument("--keep-runs", action="store_true", help="leave the runs in the store")
    parser.add_argument("--list", action="store_true", help="say what there is to do, and do nothing")
    parser.add_argument("--render", action="store_true", help="write docs/RESULTS.md afterwards")
    given = parser.parse_args()
    stop_on_signals()
    path = Path(given.matrix) if given.matrix.endswith((".yaml", ".yml")) else MATRICES / f"{given.matrix}.yaml"
    try:
        matrix = load_matrix(path)
        cells = list(selected(matrix, parse_filter(given.only)))
        groups = groups_of(cells, given.again)
    except UntaintError as problem:
        print(problem, file=sys.stderr)
        return problem.exit_code
    states = Counter(cell.state() for cell in cells)
    print(f"matrix {matrix.name}: {len(cells)} cells, of them " + ", ".join(f"{n} {s}" for s, n in states.items()))
    if given.list:
        for group in groups:
            print(f"  {group.name}")
        return 0
    bad = work_off(groups, path, max(1, given.jobs), given.keep_runs) if groups else []
    if given.render:
        render()
    for group in bad:
        print(f"not measured: {group.name}; see {group.log}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on.", file=sys.stderr)
        sys.exit(130)

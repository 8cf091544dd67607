"""Measures the cells of one poisoned dataset: ``python -m benchmarks.group MATRIX.yaml ATTACK SEED METHOD …``.

Started by the benchmark in a process of its own, with the store's address in its environment. Every cell is written as
soon as it is measured. A cell that cannot be measured leaves its traceback here and the exit code 1, and the others go
on.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
import traceback
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.cells import write
from benchmarks.collect import cells_of, commit
from benchmarks.matrix import Cell, load_matrix, selected
from components.common.runs.artifacts import digest_of
from components.common.runs.lifecycle import code_version
from components.common.storage.addresses import join
from components.common.storage.store import Store
from pipelines.dag.stages import TRAINING, folders_of
from pipelines.local.home import home
from pipelines.local.records import Plan, load_plan
from pipelines.local.run import INTERRUPTED, run

__all__ = ["main", "run_id_of", "share", "stop_on_signals"]

_ROOT = "s3://untaint"
_SHARED = {"undefended_asr": ("undefended", "asr"), "oracle_acc": ("oracle", "acc")}


def run_id_of(cell: Cell) -> str:
    """The run of a cell's dataset; the same settings and code have the same, so that an unfinished one goes on."""
    code = [code_version(folder) for folder in folders_of(TRAINING)]
    digest = digest_of([cell.matrix.parameters(cell.attack, cell.seed), code])[:10]
    return f"{cell.matrix.name}-{cell.attack.name}-{cell.seed}-{digest}"[-63:].lstrip("-_.")


def _pipeline(cell: Cell, store: Store, run_id: str) -> dict[str, Any]:
    plan = Plan(parameters=cell.matrix.parameters(cell.attack, cell.seed), control=False)
    # Bound to the stream of now: during the run, standard output is what the stages print.
    started = load_plan(home(), run_id) is not None
    code = run(plan, run_id, home(), partial(print, file=sys.stdout, flush=True), resume=started)
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        raise RuntimeError(f"the pipeline ended with exit code {code}; its messages stand above")
    return cells_of(store, run_id, cell.matrix.name)[0]


def _comparator(cell: Cell, case: Any) -> dict[str, Any]:
    from benchmarks.case import measured, peak_mib, restart_peak

    restart_peak()
    known = "undefended" in vars(case)
    start = time.perf_counter()
    outcome = import_module(f"benchmarks.comparators.{cell.method}").defend(case)
    # The undefended model counts for whoever needs it, whether it was trained now or before.
    seconds = time.perf_counter() - start + (outcome.seconds if known else 0.0)
    return {
        **measured(case, outcome),
        "matrix": cell.matrix.name,
        "train_samples": len(case.train.labels),
        "model": case.recipe.model,
        "attack": cell.attack.name,
        "poison_rate": cell.attack.poison_rate,
        "seed": cell.seed,
        "method": cell.method,
        "undefended_asr": None,
        "oracle_acc": None,
        "verdict": None,
        "seconds": round(seconds, 1),
        "peak_mib": peak_mib(),
        "commit": commit(),
    }


def stop_on_signals() -> None:
    """Lets SIGINT, also where the shell ignores it for what runs in the background, and SIGTERM end this as Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def share(cells: list[Cell]) -> None:
    """Enters the undefended ASR and the oracle's ACC in all measured cells of one dataset."""
    by_method = {cell.method: figures for cell in cells if (figures := cell.measured())}
    for figures in by_method.values():
        before = dict(figures)
        for name, (method, figure) in _SHARED.items():
            if method in by_method:
                figures[name] = by_method[method][figure]
        if figures != before:
            write(figures)


def main() -> int:
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("matrix", type=Path)
    parser.add_argument("attack")
    parser.add_argument("seed")
    parser.add_argument("methods", nargs="+")
    parser.add_argument("--keep-runs", action="store_true")
    given = parser.parse_args()
    stop_on_signals()
    matrix = load_matrix(given.matrix)
    cells = list(selected(matrix, {"attack": {given.attack}, "seed": {given.seed}}))
    store, run_id, case, problems = Store(_ROOT), run_id_of(cells[0]), None, 0
    for cell in (cell for cell in cells if cell.method in given.methods):
        print(f"== {cell.name}", flush=True)
        try:
            if cell.method == "untaint":
                figures = _pipeline(cell, store, run_id)
            else:
                from benchmarks.case import load_case

                case = case or load_case(store, run_id, matrix.parameters(cell.attack, cell.seed))
                figures = _comparator(cell, case)
            named = {
                "dataset": matrix.dataset_label or matrix.dataset,
                "poison_rate": cell.attack.poison_rate,
                "attack_options": cell.attack.options,
                "config_digest": cell.digest(),
            }
            write({**figures, **named})
            share(cells)
        except Exception:
            traceback.print_exc()
            problems += 1
    if not problems and not given.keep_runs:
        for entry in list(store.list(join(store.root, "runs", run_id) + "/")):
            store.delete(entry.uri)
        shutil.rmtree(home() / "runs" / run_id, ignore_errors=True)
    return min(1, problems)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)

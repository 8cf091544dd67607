"""The measured cells: one file of JSON lines per matrix in ``docs/results``, a line per cell, sorted by name."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["RESULTS", "measured", "name_of", "read_cells", "write"]

# Another folder for trials, whose cells are not to replace the committed ones.
RESULTS = Path(os.environ.get("UNTAINT_BENCH_RESULTS") or Path(__file__).parents[1] / "docs" / "results")


def name_of(cell: dict[str, Any]) -> str:
    """What tells a cell from the others of its matrix."""
    return "{dataset}-{attack}-{poison_rate}-{seed}-{method}".format(**cell).replace(":", "-")


def read_cells(matrix: str) -> list[dict[str, Any]]:
    """The cells of a matrix, by name; empty if none was measured."""
    return list(_read(RESULTS / f"{matrix}.jsonl").values())


def measured(matrix: str, name: str) -> dict[str, Any] | None:
    """The cell of that name, or None."""
    return _read(RESULTS / f"{matrix}.jsonl").get(name)


def write(cell: dict[str, Any]) -> None:
    """Enters a cell in its matrix's file, in place of one of the same name; several processes may do so at once."""
    path = RESULTS / f"{cell['matrix']}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.with_suffix(".lock")):
        cells = {**_read(path), name_of(cell): cell}
        draft = path.with_suffix(".draft")
        draft.write_text("".join(f"{json.dumps(cells[name], sort_keys=True)}\n" for name in sorted(cells)))
        draft.replace(path)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    return {name_of(cell): cell for cell in map(json.loads, path.read_text().splitlines())}


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

"""One committed cell of the benchmark is measured again: the figures in docs/RESULTS.md are the code's."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cells import name_of, read_cells
from benchmarks.matrix import MATRICES, Cell, load_matrix, selected

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
METHODS = ("undefended", "untaint")
# Other processors round otherwise, and training amplifies that: what seeds of one cell differ by is what is allowed,
# and never less than this, which is ten of the thousand holdout digits.
LEAST = {"acc": 0.01, "asr": 0.02}


def committed() -> dict[str, Cell]:
    """The first seed's cells of the first attack that all methods have measured with the settings of now."""
    matrix = load_matrix(MATRICES / "quick.yaml")
    groups: dict[tuple[str, int], dict[str, Cell]] = {}
    for cell in selected(matrix, {"method": set(METHODS)}):
        if cell.attack.name != "none" and cell.state() == "measured":
            groups.setdefault((cell.attack.name, cell.seed), {})[cell.method] = cell
    for cells in groups.values():
        if set(cells) == set(METHODS):
            return cells
    pytest.skip("no cell of the quick matrix is committed that undefended and untaint have both measured")


def spread(figures: dict, name: str) -> float:
    """Three standard deviations over the seeds that are committed, at least what one holdout digit more or less is."""
    same = ("attack", "poison_rate", "method")
    values = [
        c[name] for c in read_cells("quick") if all(c[key] == figures[key] for key in same) and c[name] is not None
    ]
    return max(LEAST[name], 3 * statistics.stdev(values) if len(values) > 1 else 0.0)


@pytest.mark.timeout(3600)
def test_a_committed_cell_comes_out_again_within_its_spread(tmp_path: Path) -> None:
    cells = committed()
    one = cells["untaint"]
    filters = [f"attack={one.attack.name}", f"seed={one.seed}", f"method={','.join(METHODS)}"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench", "quick", "--jobs", "1", "--only", *filters],
        cwd=ROOT,
        env={**os.environ, "UNTAINT_HOME": str(tmp_path), "UNTAINT_BENCH_RESULTS": str(tmp_path / "results")},
        capture_output=True,
        text=True,
    )
    logs = "".join(path.read_text() for path in (tmp_path / "bench" / "logs").rglob("*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs[-4000:]
    lines = (tmp_path / "results" / "quick.jsonl").read_text().splitlines()
    again = {name_of(one): one for one in map(json.loads, lines)}
    for method, cell in cells.items():
        before, now = cell.measured(), again[cell.name]
        assert before["config_digest"] == now["config_digest"], "the committed cell has other settings: make bench"
        for name in LEAST:
            assert now[name] == pytest.approx(before[name], abs=spread(before, name)), (method, name)
        assert now["verdict"] == before["verdict"]

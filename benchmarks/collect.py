"""Turns finished runs into cells, and cells into the tables of docs/RESULTS.md.

    python -m benchmarks.collect first RUN_ID ...       # reads runs from the store, writes cells
    python -m benchmarks.collect --render               # writes the tables from the committed cells

A cell that is committed is what was measured: rendering computes nothing that is not in it.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
from collections import defaultdict
from pathlib import Path

from benchmarks.cells import RESULTS, name_of, read_cells, write
from benchmarks.tables import spread, summary
from components.common.runs.publish import find_manifest
from components.common.storage.addresses import join
from components.common.storage.store import Store
from pipelines.local.home import home
from pipelines.local.records import load_plan
from pipelines.local.run import opened_store

PAGE = Path(__file__).parents[1] / "docs" / "RESULTS.md"
START, END = "<!-- cells: {} -->", "<!-- end of cells -->"


def commit() -> str:
    """The commit of this checkout, with a plus where files differ from it."""
    root = Path(__file__).parents[1]

    def ask(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    code = ("components", "pipelines", "benchmarks")
    return ask("rev-parse", "--short=10", "HEAD") + ("+" if ask("status", "--porcelain", "-uno", "--", *code) else "")


def cells_of(store: Store, run_id: str, matrix: str) -> list[dict]:
    """The cells of one run: the defended model, and the control if there is one."""
    found = {}
    for stage in ("ingest", "truth", "warmup", "control", "finetune", "evaluate"):
        manifest = find_manifest(store, join(store.root, "runs", run_id, stage))
        found[stage] = manifest[2] if manifest else None
    evaluate = found["evaluate"]
    if evaluate is None:
        raise SystemExit(f"run {run_id} has no result in {store.root}: let it finish first")
    figures, facts = evaluate.metrics, evaluate.facts
    ingest, truth, warmup = found["ingest"], found["truth"], found["warmup"]
    attack = truth.facts["attack"] if truth else {}
    name = ingest.config["dataset"]
    common = {
        "matrix": matrix,
        # A folder's name says nothing about this machine.
        "dataset": f"parquet:{Path(name.partition(':')[2]).name}" if name.startswith("parquet:") else name,
        "train_samples": int(ingest.metrics["train_samples"]),
        "model": warmup.config["model"],
        "attack": attack.get("name", "none"),
        "poison_rate": attack.get("poison_rate", 0.0),
        "seed": ingest.config["seed"],
        "undefended_asr": figures.get("control_asr"),
        "oracle_acc": None,
        "commit": commit(),
    }
    stages = {stage["stage"]: stage for stage in facts["stages"]}
    shared = {"config_digest": evaluate.key}
    defended = [stage for name, stage in stages.items() if name != "control"]
    cells = [
        {
            **common,
            **shared,
            "method": "untaint",
            "acc": figures["acc"],
            "asr": figures.get("asr"),
            "auroc": figures.get("auroc"),
            "tpr_at_1pct_fpr": figures.get("tpr_at_1pct_fpr"),
            "flagged_clean": figures.get("flagged_clean", figures["suspects"] / common["train_samples"]),
            "verdict": facts["verdict"],
            "seconds": round(sum(stage["seconds"] for stage in defended), 1),
            "peak_mib": max(stage["peak_mib"] for stage in defended),
        }
    ]
    if "control_acc" in figures:
        cells.append(
            {
                **common,
                **shared,
                "method": "undefended",
                "acc": figures["control_acc"],
                "asr": figures.get("control_asr"),
                "auroc": None,
                "tpr_at_1pct_fpr": None,
                "flagged_clean": None,
                "verdict": None,
                "seconds": stages["control"]["seconds"],
                "peak_mib": stages["control"]["peak_mib"],
            }
        )
    return cells


def table(matrix: str) -> str:
    """The Markdown table of a matrix: a line per dataset, attack, rate and method, over the seeds."""
    groups = defaultdict(list)
    for cell in read_cells(matrix):
        groups[(cell["dataset"], cell["attack"], cell["poison_rate"], cell["method"])].append(cell)
    lines = [
        "| dataset | attack | rate | method | seeds | ACC % | ASR % | worst ASR % | lowest AUROC | clean flagged % "
        "| verdict | seconds | commit |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (dataset, attack, rate, method), cells in sorted(groups.items()):
        rates = [cell["asr"] for cell in cells if cell["asr"] is not None]
        area = [cell["auroc"] for cell in cells if cell["auroc"] is not None]
        verdicts = sorted({cell["verdict"] for cell in cells if cell["verdict"]})
        lines.append(
            f"| {dataset} | {attack} | {100 * rate:g} % | {method} | "
            f"{', '.join(str(cell['seed']) for cell in sorted(cells, key=lambda c: c['seed']))} | "
            f"{spread([c['acc'] for c in cells])} | {spread([c['asr'] for c in cells])} | "
            f"{f'{100 * max(rates):.1f}' if rates else '-'} | "
            f"{f'{min(area):.4f}' if area else '-'} | {spread([c['flagged_clean'] for c in cells])} | "
            f"{', '.join(verdicts) or '-'} | {statistics.mean(c['seconds'] for c in cells):.0f} | "
            f"{', '.join(sorted({c['commit'] for c in cells}))} |"
        )
    return "\n".join(lines)


def render() -> None:
    """Writes every matrix that the page has a place for."""
    page = PAGE.read_text()
    for path in sorted(RESULTS.glob("*.jsonl")):
        name = path.stem
        head, mark, rest = page.partition(START.format(name))
        if mark:
            of_bench = (Path(__file__).parent / "matrices" / f"{name}.yaml").exists()
            text = summary(read_cells(name)) if of_bench else table(name)
            page = f"{head}{mark}\n{text}\n{END}{rest.partition(END)[2]}"
    PAGE.write_text(page)


def main() -> None:
    """Collects or renders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--render", action="store_true", help="write the tables of docs/RESULTS.md")
    parser.add_argument("matrix", nargs="?", help="matrix that the cells belong to")
    parser.add_argument("run_ids", nargs="*", help="finished runs of this machine (UNTAINT_HOME)")
    given = parser.parse_args()
    for run_id in given.run_ids:
        plan = load_plan(home(), run_id)
        with opened_store(plan.store if plan else "", home()) as (root, _):
            for cell in cells_of(Store(root), run_id, given.matrix):
                write(cell)
                print(name_of(cell))
    if given.render:
        render()


if __name__ == "__main__":
    main()

"""What a finished run shows on the terminal: the verdict, one table, and where things are; all on one screen."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.common.contracts.errors import ContractError
from components.common.runs.artifacts import StageManifest
from components.common.runs.publish import finished_stage
from components.common.storage.addresses import join
from components.common.storage.store import Store
from pipelines.views.model_files import take_home

__all__ = ["SUMMARY", "lines_of", "read_summary", "show", "summary_of", "summary_uri", "table"]

SUMMARY = "summary.json"
"""Name of the file for programs, in a run's folder on this machine and in the store."""
_WIDTH = 100
_MODELS = {"warmup": "warm-up", "unlearn": "unlearned", "final": "final", "undefended": "undefended"}


def show(store: Store, run_id: str, folder: Path, write: Callable[[str], None]) -> None:
    """Shows the result of a run, and writes its report and ``summary.json`` into a folder; its path is the last line.

    Args:
        store: The store at the run's root.
        run_id: The run.
        folder: The folder; made if it is not there.
        write: Takes one line for the user.

    Raises:
        ConfigError: The run has not reached its end.
        ContractError: The report or the summary is damaged.
        StorageError: The store cannot serve.
    """
    uri, manifest = _evaluation(store, run_id)
    summary = read_summary(store, uri, manifest)
    for line in lines_of(manifest, summary):
        write(line)
    folder.mkdir(parents=True, exist_ok=True)
    report = manifest.object("report", uri)
    store.download_file(report.uri, folder / "report.html", report.sha256, report.size_bytes)
    write(f"report: {folder / 'report.html'}")
    ref = manifest.object("summary", uri)
    store.download_file(ref.uri, folder / SUMMARY, ref.sha256, ref.size_bytes)
    take_home(store, run_id, manifest, folder, write)
    if summary["split"]["suspects"]:
        write(f"suspects, with a contact sheet: untaint suspects show {run_id}")
    if manifest.facts.get("canary"):
        write(f"to put the model to use, if the gates hold: untaint models promote NAME {run_id}")
    write(f"summary: {folder / SUMMARY}")


def summary_of(store: Store, run_id: str) -> dict[str, Any]:
    """The mapping of ``summary.json`` of a finished run.

    Raises:
        ConfigError: The run has not reached its end.
        ContractError: The summary is damaged.
        StorageError: The store cannot serve.
    """
    return read_summary(store, *_evaluation(store, run_id))


def _evaluation(store: Store, run_id: str) -> tuple[str, StageManifest]:
    hint = f"Finish it with `untaint run --resume {run_id}`, or name the store with --store."
    uri, _, manifest = finished_stage(store, run_id, "evaluate", hint)
    return uri, manifest


def summary_uri(root: str, run_id: str) -> str:
    """Where in a store the summary of a run is.

    Args:
        root: ``s3://bucket/prefix`` of the run data.
        run_id: The run.
    """
    return join(root, "runs", run_id, SUMMARY)


def read_summary(store: Store, uri: str, manifest: StageManifest) -> dict[str, Any]:
    """The mapping of ``summary.json``.

    Args:
        store: The store.
        uri: Address of the evaluate stage's manifest.
        manifest: That manifest.

    Raises:
        ContractError: There is none, or it is damaged.
        StorageError: The store cannot serve.
    """
    ref = manifest.object("summary", uri)
    try:
        summary: dict[str, Any] = json.loads(store.get(ref.uri, ref.sha256))
    except ValueError:
        raise ContractError(
            ref.uri, expected="a summary as JSON", found="something else", hint="Run the evaluate stage again."
        ) from None
    return summary


def lines_of(manifest: StageManifest, summary: Mapping[str, Any]) -> list[str]:
    """The result as lines; what is not known is left out.

    Args:
        manifest: The evaluate stage's manifest.
        summary: Its ``summary.json``. Shares are fractions in [0, 1]; shown are per cent.
    """
    facts = manifest.facts
    lines = ["", *_folded(f"{summary['verdict']}: {facts['sentence']}")]
    for text in (summary.get("reason"), summary.get("checked")):
        if text:
            lines += _folded(text)
    if facts["next_steps"]:
        lines += _folded(f"next: {facts['next_steps'][0]}")
    for text in facts["caveats"]:
        lines += _folded(f"note: {text}")
    split = summary["split"]
    measured = [
        f"{split['suspects']:,} suspects",
        *(
            f"{name} {_percent(split[key])} %"
            for name, key in (("TPR", "tpr"), ("FPR", "fpr"), ("TPR at 1 % FPR", "tpr_at_1pct_fpr"))
            if split[key] is not None
        ),
        *([f"AUROC {split['auroc']:.4f}"] if split["auroc"] is not None else []),
    ]
    where = summary.get("acc_measured_on")
    return [
        *lines,
        "",
        *_beside(_times(facts, summary), _models(summary)),
        "",
        f"split: {', '.join(measured)}",
        *(_folded(f"ACC: on {where}") if where else []),
    ]


def _models(summary: Mapping[str, Any]) -> list[str]:
    rows = [
        (_MODELS[name], _percent(figures["acc"]), _percent(figures["asr"]))
        for name, figures in summary["stages"].items()
        if figures["acc"] is not None or figures["asr"] is not None
    ]
    # Without an attack of the run's own there is no success rate to show, not even an empty one.
    shown = 3 if any(row[2] != "-" for row in rows) else 2
    return table(("model", "ACC %", "ASR %")[:shown], [row[:shown] for row in rows]) if rows else []


def _times(facts: Mapping[str, Any], summary: Mapping[str, Any]) -> list[str]:
    ordinary, measured = facts["ordinary"]
    rows = [
        (
            entry["stage"],
            f"{summary['seconds'][entry['stage']]:.1f}",
            f"{entry['train_seconds']:.1f}",
            _ratio(summary["seconds"][entry["stage"]], ordinary),
            f"{entry['peak_mib']:.0f}",
        )
        for entry in facts["stages"]
    ]
    total = sum(summary["seconds"].values())
    defended = summary["cost"]["defended_training_seconds"]
    # What the defence costs: its trainings against one ordinary training.
    rows.append(("defence", f"{total - summary['seconds'].get('control', 0.0):.1f}", f"{defended:.1f}", "", ""))
    rows[-1] = (*rows[-1][:3], _ratio(defended, ordinary), "")
    return table(("stage", "seconds", "training", "x ordinary" if measured else "~x ordinary", "peak MiB"), rows)


def _ratio(seconds: float, ordinary: float | None) -> str:
    return f"{seconds / ordinary:.2f}" if ordinary else "-"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines of text, the first column to the left and the others to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = []
    for row in (head, ["-" * width for width in widths], *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return lines


def _beside(left: Sequence[str], right: Sequence[str]) -> list[str]:
    """Two blocks of lines next to each other."""
    width = max(map(len, left), default=0) + 6
    height = max(len(left), len(right))
    pairs = zip([*left, *[""] * (height - len(left))], [*right, *[""] * (height - len(right))], strict=True)
    return [f"{one:<{width}}{other}".rstrip() for one, other in pairs]


def _folded(text: str) -> list[str]:
    plain = "".join(c if c.isprintable() else "?" for c in text)
    return textwrap.wrap(plain, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"

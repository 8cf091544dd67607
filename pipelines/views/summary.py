"""What a finished run shows: the result table, the stages' times and where the report lies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from components.common.runs.artifacts import StageManifest
from components.common.runs.publish import finished_stage
from components.common.storage.store import Store
from components.promote.config import PromoteConfig
from pipelines.views.model_files import take_home

__all__ = ["lines_of", "show", "table"]


def show(store: Store, run_id: str, folder: Path, write: Callable[[str], None]) -> None:
    """Shows the result of a run and downloads its report to ``<folder>/report.html``.

    Args:
        store: The store at the run's root.
        run_id: The run.
        folder: Folder for the report; made if it is not there.
        write: Takes one line for the user.

    Raises:
        ConfigError: The run has not reached its end.
        ContractError: The report is damaged.
        StorageError: The store cannot serve.
    """
    hint = f"Finish it with `untaint run --run-id {run_id}`, or name the store with --store."
    _, _, manifest = finished_stage(store, run_id, "evaluate", hint)
    for line in lines_of(manifest):
        write(line)
    report = manifest.objects.get("report")
    if report is not None:
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / "report.html"
        store.download_file(report.uri, target, report.sha256, report.size_bytes)
        write(f"report: {target}")
    take_home(store, run_id, manifest, folder, write)


def lines_of(manifest: StageManifest) -> list[str]:
    """The result as lines; what the manifest does not tell is left out.

    Args:
        manifest: The evaluate stage's manifest. Its metrics are fractions in [0, 1]; shown are per cent.
    """
    metrics, facts = manifest.metrics, manifest.facts
    rows = [
        (label, _percent(metrics.get(acc)), _percent(metrics.get(asr)))
        for label, acc, asr in (("defended", "acc", "asr"), ("undefended", "control_acc", "control_asr"))
        if acc in metrics or asr in metrics
    ]
    # Without an attack of the run's own there is no success rate to show, not even an empty one.
    shown = 3 if any(row[2] != "-" for row in rows) else 2
    lines = ["", *table(("model", "ACC %", "ASR %")[:shown], [row[:shown] for row in rows])] if rows else [""]
    for label, text in (
        ("verdict", facts.get("verdict")),
        ("suspects", _count(metrics.get("suspects"))),
        ("clean samples flagged, %", _share(metrics.get("flagged_clean"))),
        ("poisoned samples flagged, %", _share(metrics.get("flagged_poisoned"))),
        ("split AUROC", _figure(metrics.get("auroc"))),
        ("split TPR at 1 % FPR", _figure(metrics.get("tpr_at_1pct_fpr"))),
    ):
        if text is not None:
            lines.append(f"{label}: {text}")
    if facts.get("canary"):
        told = facts["canary"]
        lines.append(
            f"canary: {_percent(told['caught'])} % of {told['planted']} planted samples caught, the trigger fires on "
            f"{_percent(told['fired'])} % (this trigger was tested, no other)"
        )
        if told["caught"] < PromoteConfig().min_canary_caught:
            lines.append("The canary was not caught: that no poison was found says little. Ask again without a canary.")
    return [*lines, *_times(facts.get("stages") or [])]


def _times(stages: Sequence[dict[str, Any]]) -> list[str]:
    if not stages:
        return []
    total = sum(float(entry.get("seconds", 0.0)) for entry in stages)
    rows = [
        (
            str(entry.get("stage", "?")),
            *(_seconds(entry.get(name)) for name in ("seconds", "train_seconds", "overhead_seconds")),
            "" if entry.get("peak_mib") is None else f"{float(entry['peak_mib']):.0f}",
        )
        for entry in stages
    ]
    head = ("stage", "seconds", "training", "overhead", "peak MiB")
    return ["", *table(head, [*rows, ("total", _seconds(total), "", "", "")])]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines of text, the first column to the left and the others to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = []
    for row in (head, ["-" * width for width in widths], *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return lines


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _share(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.2f}"


def _count(value: float | None) -> str | None:
    return None if value is None else f"{value:.0f}"


def _figure(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"


def _seconds(value: Any) -> str:
    return "" if value is None else f"{float(value):.1f}"

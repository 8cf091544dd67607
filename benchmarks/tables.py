"""Tables of a benchmark's cells, as Markdown: models by method, and how well the poison was found."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

__all__ = ["SCORED_FROM", "spread", "summary"]

SCORED_FROM = 0.7
"""Least ASR of the undefended model of that cell; below it, there is no backdoor to defend against."""
_ORDER = ("undefended", "oracle", "untaint", "abl", "spectral")
_FOUND = (("auroc", 1.0, ".4f"), ("tpr_at_1pct_fpr", 100.0, ".1f"), ("flagged_clean", 100.0, ".2f"))


def spread(values: Sequence[float | None], scale: float = 100.0) -> str:
    """Mean ± sample standard deviation; the value alone if it is one, a dash where nothing was measured."""
    known = [scale * value for value in values if value is not None]
    if not known:
        return "-"
    if len(known) == 1:
        return f"{known[0]:.1f}"
    return f"{statistics.mean(known):.1f} ± {statistics.stdev(known):.1f}"


def is_scored(cell: dict) -> bool:
    """Whether the cell's ASR counts."""
    return cell["asr"] is not None and (cell["undefended_asr"] or 0.0) >= SCORED_FROM


def summary(cells: Sequence[dict]) -> str:
    """Both tables of a matrix and what the lines say, from all its cells."""
    if not cells:
        return "No cell yet."
    methods = [method for method in _ORDER if any(cell["method"] == method for cell in cells)]
    kinds = list(dict.fromkeys((cell["attack"], cell["poison_rate"]) for cell in sorted(cells, key=_attack_order)))
    blocks = [
        "ACC / ASR in % (worst ASR of the seeds in brackets):",
        _models(cells, methods, kinds),
        "What was found (AUROC and TPR at 1 % FPR of the score that ranks the training samples, mean over the seeds; "
        "clean flagged: share of the clean samples that lost their label, or were removed or isolated):",
        _found(cells, methods, kinds),
        _origin(cells),
    ]
    return "\n\n".join(blocks)


def _attack_order(cell: dict) -> tuple[bool, float, str]:
    return (cell["attack"] != "none", -cell["poison_rate"], cell["attack"])


def _models(cells: Sequence[dict], methods: Sequence[str], kinds: Sequence[tuple[str, float]]) -> str:
    lines = [_row("attack", "seeds", *methods), _row(*["---"] * (2 + len(methods)))]
    for attack, rate in kinds:
        mine = [cell for cell in cells if (cell["attack"], cell["poison_rate"]) == (attack, rate)]
        seeds = sorted({cell["seed"] for cell in mine})
        columns = [_pair([cell for cell in mine if cell["method"] == method]) for method in methods]
        lines.append(_row(_name(attack, rate, mine), ", ".join(map(str, seeds)), *columns))
    totals = [_total([cell for cell in cells if cell["method"] == method]) for method in methods]
    scored = {(cell["attack"], cell["poison_rate"], cell["seed"]) for cell in cells if is_scored(cell)}
    lines.append(_row("**mean over scored cells**", str(len(scored)), *totals))
    return "\n".join(lines)


def _name(attack: str, rate: float, cells: Sequence[dict]) -> str:
    if attack == "none":
        return "none"
    weak = {cell["seed"]: cell["undefended_asr"] for cell in cells if not is_scored(cell) and cell["undefended_asr"]}
    shown = f"{attack} {100 * rate:g} %"
    if options := next((cell["attack_options"] for cell in cells if cell.get("attack_options")), ""):
        shown += f", {options.replace(',', ', ').replace('=', ' ')}"
    if not weak:
        return shown
    seeds = len({cell["seed"] for cell in cells})
    which = "" if len(weak) == seeds else f" in {len(weak)} of {seeds} seeds"
    return f"{shown} (undefended {spread(list(weak.values()))} %{which}, not scored)"


def _pair(cells: Sequence[dict]) -> str:
    if not cells:
        return "-"
    rates = [cell["asr"] for cell in cells if is_scored(cell)]
    success = f"{spread(rates)} ({100 * max(rates):.1f})" if rates else "-"
    return f"{spread([cell['acc'] for cell in cells])} / {success}"


def _total(cells: Sequence[dict]) -> str:
    scored = [cell for cell in cells if is_scored(cell)]
    if not scored:
        return "-"
    acc = statistics.mean(cell["acc"] for cell in scored)
    rates = [cell["asr"] for cell in scored]
    return f"{100 * acc:.1f} / {100 * statistics.mean(rates):.1f} ({100 * max(rates):.1f})"


def _found(cells: Sequence[dict], methods: Sequence[str], kinds: Sequence[tuple[str, float]]) -> str:
    ranked = [m for m in methods if any(c["method"] == m and c["flagged_clean"] is not None for c in cells)]
    heads = [f"{method}: {name}" for method in ranked for name in ("AUROC", "TPR %", "clean flagged %")]
    lines = [_row("attack", "verdicts of untaint", *heads), _row(*["---"] * (2 + len(heads)))]
    for attack, rate in kinds:
        mine = [cell for cell in cells if (cell["attack"], cell["poison_rate"]) == (attack, rate)]
        verdicts = Counter(cell["verdict"] for cell in mine if cell["verdict"])
        said = ", ".join(f"{verdict} ({count})" for verdict, count in sorted(verdicts.items())) or "-"
        columns = []
        for method in ranked:
            for figure, scale, form in _FOUND:
                known = [c[figure] for c in mine if c["method"] == method and c[figure] is not None]
                columns.append(format(scale * statistics.mean(known), form) if known else "-")
        lines.append(_row(attack if attack == "none" else f"{attack} {100 * rate:g} %", said, *columns))
    return "\n".join(lines)


def _origin(cells: Sequence[dict]) -> str:
    """Time, memory and commits, by method."""
    parts = []
    for method in dict.fromkeys(cell["method"] for cell in cells):
        mine = [cell for cell in cells if cell["method"] == method]
        seconds = statistics.mean(cell["seconds"] for cell in mine)
        peak = max((cell["peak_mib"] for cell in mine if cell["peak_mib"]), default=0)
        parts.append(f"{method} {seconds:.0f} s, {peak:.0f} MiB")
    commits = ", ".join(sorted({cell["commit"] for cell in cells}))
    data = ", ".join(sorted({f"{cell['dataset']} ({cell['train_samples']:,} samples)" for cell in cells}))
    models = ", ".join(sorted({cell["model"] for cell in cells}))
    return (
        f"{len(cells)} cells; {data}, model {models}. Mean time and largest memory of a cell: {'; '.join(parts)}. "
        f"Commits: {commits}."
    )


def _row(*columns: str) -> str:
    return f"| {' | '.join(columns)} |"

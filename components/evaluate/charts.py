"""The charts of the report as inline SVG, drawn by matplotlib.

A chart has no colours of its own: the figure is drawn in placeholder colours, which become CSS variables of the page,
so that one drawing is readable on white, on black and on paper. Text stays text, in the page's font. The same figures
give the same bytes: no date, no random ids, and ids that are unique on the page.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

__all__ = [
    "class_chart",
    "confusion_chart",
    "history_chart",
    "roc_chart",
    "stage_chart",
    "suspicion_chart",
    "time_chart",
]

INK, SOFT, LINE, PAPER = "#00f0a1", "#00f0a2", "#00f0a3", "#00f0a4"
ACC, POISON, SUSPECT, CLEAN, OTHER = "#00f0b1", "#00f0b2", "#00f0b3", "#00f0b4", "#00f0b5"
_VARIABLES = {
    INK: "--ink",
    SOFT: "--soft",
    LINE: "--line",
    PAPER: "--paper",
    ACC: "--acc",
    POISON: "--poison",
    SUSPECT: "--suspect",
    CLEAN: "--clean",
    OTHER: "--other",
}
# Any: matplotlib types the keys one by one, as literals.
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "untaint",
    # A dollar sign in the name of a class starts no formula.
    "text.parse_math": False,
    "font.size": 11.0,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "ytick.major.size": 0.0,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "figure.constrained_layout.use": True,
}
_MOST_CLASSES = 20
_MOST_CELLS = 30
_NAME = 18
_SCALE = 1.22


@contextmanager
def _drawing(width: float, height: float) -> Iterator[Figure]:
    """A figure of so many inches in the report's style."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # The page's font draws the names of classes, not matplotlib's, which lacks many scripts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        yield Figure(figsize=(width, height))


def _svg(figure: Figure, name: str, title: str) -> str:
    """A figure as an SVG element that takes its colours and its font from the page.

    Args:
        figure: The figure.
        name: Unique on the page; before every id of the element.
        title: What a screen reader says of it; plain words of this module, not of the data.
    """
    sink = io.StringIO()
    none = {"Date": None, "Creator": None, "Format": None, "Type": None}
    FigureCanvasSVG(figure).print_svg(sink, metadata=none)  # type: ignore[no-untyped-call]
    text = sink.getvalue()
    body = text[text.index(">", text.index("<svg")) + 1 :]
    body = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    # Only what is referred to needs an id.
    used = set(re.findall(r'(?:url\(|href=")#([\w.-]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", body)
    body = re.sub(r'(url\(|href=")#', rf"\g<1>#{name}-", body)
    body = re.sub(r" font-family: [^;\"]*;?", "", body)
    body = re.sub(r' transform="rotate\(-0 [^"]*\)"', "", body)
    body = re.sub(r"\s*\n\s*", " ", body).replace("xlink:href", "href")
    width, height = (round(72 * inches) for inches in figure.get_size_inches())
    # As wide as makes its text as large as that of the page.
    style = f"max-width: {round(width * _SCALE)}px"
    return f'<svg class="chart" role="img" aria-label="{title}" viewBox="0 0 {width} {height}" style="{style}">{body}'


def _short(name: str) -> str:
    plain = "".join(c if c.isprintable() else "?" for c in name)
    return plain if len(plain) <= _NAME else f"{plain[: _NAME - 1]}…"


def _per_cent(axes: Axes, axis: str = "y") -> None:
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    getattr(axes, f"set_{axis}ticks")(ticks, [f"{100 * tick:.0f} %" for tick in ticks])


def stage_chart(rows: Sequence[tuple[str, float | None, float | None]]) -> str:
    """ACC and ASR stage by stage.

    Args:
        rows: Name of the stage, ACC and ASR in [0, 1] or None.
    """
    with _drawing(7.0, 3.3) as figure:
        axes = figure.add_subplot()
        both = any(asr is not None for _, _, asr in rows)
        width = 0.36 if both else 0.5
        for offset, column, colour in ((-width / 2, 1, ACC), (width / 2, 2, POISON)) if both else ((0.0, 1, ACC),):
            for place, row in enumerate(rows):
                value: Any = row[column]
                if value is None:
                    axes.text(place + offset, 0.02, "not measured", ha="center", color=SOFT, fontsize=9, rotation=90)
                    continue
                axes.bar(place + offset, value, width * 0.94, color=colour)
                axes.text(place + offset, value + 0.02, f"{100 * value:.1f}", ha="center", color=INK, fontsize=10)
        axes.set_xticks(range(len(rows)), [name for name, _, _ in rows], color=INK)
        axes.set_xlim(-0.6, len(rows) - 0.4)
        axes.set_ylim(0, 1.09)
        axes.tick_params(axis="x", length=0)
        _per_cent(axes)
        if both:
            handles = [Patch(color=ACC, label="ACC, high is good"), Patch(color=POISON, label="ASR, low is good")]
            figure.legend(handles=handles, loc="outside upper left", ncols=2, fontsize=10)
        return _svg(figure, "stages", "Accuracy and attack success rate of the model after each stage")


def suspicion_chart(groups: Mapping[str, npt.NDArray[np.float32]], threshold: float | None) -> str:
    """Histogram of the suspicion of all training images, counts on a logarithmic axis.

    Args:
        groups: ``clean`` and ``poisoned`` where the truth is known, else ``kept`` and ``suspect``: float32 in [0, 1].
        threshold: Lowest suspicion among the suspects; None without any.
    """
    colours = {"clean": CLEAN, "kept": CLEAN, "poisoned": POISON, "suspect": SUSPECT}
    with _drawing(11.6, 3.2) as figure:
        axes = figure.add_subplot()
        edges = np.linspace(0, 1, 51)
        counts = {name: np.histogram(values, bins=edges)[0] for name, values in groups.items()}
        for name, heights in counts.items():
            bars = axes.bar(edges[:-1], heights, 0.0184, align="edge", color=colours[name])
            for bar, height in zip(bars, heights, strict=True):
                # Where both kinds share a bin the smaller count stands before the larger.
                bar.set_zorder(3.0 - float(height) / (1 + sum(map(len, groups.values()))))
                bar.set_visible(bool(height))
        axes.set_yscale("log")
        axes.set_yticks([1, 10, 100, 1000, 10_000, 100_000], ["1", "10", "100", "1,000", "10,000", "100,000"])
        axes.minorticks_off()
        largest = max(int(heights.max()) for heights in counts.values())
        axes.set_ylim(0.7, 2.2 * max(largest, 2))
        axes.set_xlim(-0.01, 1.01)
        axes.set_xlabel("suspicion")
        axes.set_ylabel("training images")
        if threshold is not None:
            axes.axvline(threshold, color=INK, linestyle=(0, (4, 3)), linewidth=1.2)
            left = threshold > 0.75
            axes.text(
                threshold + (-0.008 if left else 0.008),
                1.5 * max(largest, 2),
                f"lowest suspect, {threshold:.2f}",
                ha="right" if left else "left",
                va="center",
                fontsize=10,
                color=INK,
            )
        handles = [Patch(color=colours[name], label=f"{name} ({len(values):,})") for name, values in groups.items()]
        figure.legend(handles=handles, loc="outside upper left", ncols=2, fontsize=10)
        return _svg(figure, "suspicion", "Histogram of the suspicion of the training images")


def roc_chart(
    curve: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]], area: float, point: tuple[float, float]
) -> str:
    """Receiver operating characteristic of the suspicion.

    Args:
        curve: False and true positive rates, float64 [m] each, in [0, 1].
        area: Area under it.
        point: False and true positive rate of the split that was used.
    """
    with _drawing(5.2, 4.3) as figure:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=LINE, linewidth=1, linestyle=(0, (4, 3)))
        axes.plot(*curve, color=ACC, linewidth=2, label=f"suspicion, AUROC {area:.3f}", clip_on=False)
        axes.plot(*point, "o", color=POISON, markersize=7, label="the split", clip_on=False)
        for axis in ("x", "y"):
            _per_cent(axes, axis)
        axes.set_xlim(-0.02, 1)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("clean images flagged")
        axes.set_ylabel("poisoned images flagged")
        axes.legend(loc="lower right", fontsize=10)
        return _svg(figure, "roc", "Receiver operating characteristic of the suspicion")


def class_chart(names: Sequence[str], flagged: Sequence[int], total: Sequence[int]) -> str:
    """Suspects of each class, those with the most on top.

    Args:
        names: Class names.
        flagged: Suspects of each class.
        total: Training images of each class.
    """
    order = sorted(range(len(names)), key=lambda k: (-flagged[k], k))[:_MOST_CLASSES]
    with _drawing(5.4, max(1.8, 0.31 * len(order) + 0.8)) as figure:
        axes = figure.add_subplot()
        places = range(len(order))
        shares = [flagged[k] / total[k] if total[k] else 0.0 for k in order]
        axes.barh(places, shares, 0.66, color=SUSPECT)
        for place, k in enumerate(order):
            axes.text(
                shares[place] + 0.015, place, f"{flagged[k]:,} of {total[k]:,}", va="center", fontsize=9.5, color=INK
            )
        axes.set_yticks(places, [_short(names[k]) for k in order], color=INK)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.3)
        _per_cent(axes, "x")
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        axes.set_xlabel("share of the class that is suspect")
        return _svg(figure, "classes", "Suspects of each class")


def confusion_chart(matrix: npt.NDArray[np.int64], names: Sequence[str]) -> str:
    """Confusion matrix: rows are given labels, columns are predictions.

    Args:
        matrix: int64 [k, k], counts.
        names: Class names. Of many, those with the lowest recall are shown.
    """
    totals = matrix.sum(axis=1)
    if len(names) > _MOST_CELLS:
        recall = np.where(totals > 0, matrix.diagonal() / np.maximum(totals, 1), 2.0)
        shown = np.sort(np.argsort(recall, kind="stable")[:_MOST_CELLS])
    else:
        shown = np.arange(len(names))
    size = len(shown)
    side = max(3.2, min(9.0, 0.42 * size + 1.2))
    with _drawing(side + 0.4, side) as figure:
        axes = figure.add_subplot()
        for i, given in enumerate(shown):
            for j, guess in enumerate(shown):
                count, share = int(matrix[given, guess]), matrix[given, guess] / max(1, totals[given])
                if count == 0:
                    continue
                colour = ACC if given == guess else POISON
                axes.add_patch(
                    Rectangle((j - 0.46, i - 0.46), 0.92, 0.92, facecolor=colour, alpha=0.12 + 0.78 * float(share))
                )
                if size <= _MOST_CLASSES:
                    dark = share > 0.45
                    axes.text(j, i, f"{count}", ha="center", va="center", fontsize=9, color=PAPER if dark else INK)
        axes.set_xlim(-0.5, size - 0.5)
        axes.set_ylim(size - 0.5, -0.5)
        axes.set_aspect("equal")
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        labels = [_short(names[k]) for k in shown]
        upright = any(len(label) > 2 for label in labels)
        axes.set_xticks(range(size), labels, rotation=90 if upright else 0, color=INK, fontsize=10)
        axes.set_yticks(range(size), labels, color=INK, fontsize=10)
        axes.tick_params(length=0)
        axes.set_xlabel("the final model says")
        axes.set_ylabel("given label")
        return _svg(figure, "confusion", "Confusion matrix of the final model on the holdout")


def history_chart(histories: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Loss and accuracy of every training by epoch.

    Args:
        histories: Name of the training to ``loss`` and, where it was measured, ``acc``, one value per epoch.
    """
    colours = {"warm-up": SUSPECT, "unlearned": OTHER, "final": ACC, "undefended": POISON}
    with _drawing(5.2, 5.0) as figure:
        for place, (key, title) in enumerate((("loss", "mean training loss"), ("acc", "ACC on the holdout")), start=1):
            axes = figure.add_subplot(2, 1, place)
            longest = 1
            for name, values in histories.items():
                series = values.get(key) or ()
                if not series:
                    continue
                longest = max(longest, len(series))
                epochs = range(1, len(series) + 1)
                marker = "o" if len(series) < 15 else ""
                axes.plot(epochs, series, marker=marker, markersize=3.5, linewidth=1.8, color=colours.get(name, SOFT))
            axes.set_title(title, loc="left", fontsize=10.5, color=INK)
            axes.set_xlabel("epoch" if key == "acc" else "")
            step = max(1, -(-longest // 8))
            axes.set_xticks(range(step, longest + 1, step))
            if key == "acc":
                axes.set_ylim(0, 1.02)
                _per_cent(axes)
            else:
                axes.set_ylim(bottom=0)
        handles = [Line2D([], [], color=colours.get(name, SOFT), linewidth=2, label=name) for name in histories]
        figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), fontsize=10)
        return _svg(figure, "history", "Training loss and accuracy of all trainings by epoch")


def time_chart(stages: Sequence[tuple[str, float, float]], ordinary: float | None) -> str:
    """Wall-clock time of every stage, training apart from the rest.

    Args:
        stages: Name, seconds of training, further seconds.
        ordinary: Seconds that ordinary training takes; None where nobody knows.
    """
    with _drawing(11.6, 0.36 * len(stages) + 1.2) as figure:
        axes = figure.add_subplot()
        places = range(len(stages))
        axes.barh(places, [train for _, train, _ in stages], 0.62, color=ACC, label="training")
        rest = [other for _, _, other in stages]
        axes.barh(places, rest, 0.62, left=[train for _, train, _ in stages], color=CLEAN, label="all else")
        longest = max((train + other for _, train, other in stages), default=1.0)
        for place, (_, train, other) in enumerate(stages):
            axes.text(train + other + 0.01 * longest, place, f"{train + other:.0f} s", va="center", fontsize=9.5)
        if ordinary is not None:
            axes.axvline(
                ordinary, color=INK, linestyle=(0, (4, 3)), linewidth=1.2, label=f"ordinary training, {ordinary:.0f} s"
            )
        axes.set_yticks(places, [name for name, _, _ in stages], color=INK)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.1 * max(longest, ordinary or 0.0))
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        axes.set_xlabel("seconds")
        figure.legend(loc="outside upper left", ncols=3, fontsize=10)
        return _svg(figure, "time", "Wall-clock time of every stage")

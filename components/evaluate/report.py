"""The report: one self-contained page, readable without JavaScript, every value escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2
from markupsafe import Markup

from components.evaluate.gallery import Difference
from components.evaluate.wording import Candidate, Detector

__all__ = ["Card", "Figure", "Report", "Time", "render"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """One image of the gallery.

    Attributes:
        sample_id: The sample.
        picture: The image as a data URI.
        label: Its given label, by name.
        predicted: What the final model takes it for, by name.
        suspicion: In [0, 1].
        reasons: Names of the detectors that fired.
        key: Where the image is, in the drop or in the store.
        flagged: Whether it lost its label.
        poisoned: Whether it is poisoned by the truth; None where nobody knows.
    """

    sample_id: int
    picture: str
    label: str
    predicted: str
    suspicion: float
    reasons: Sequence[str]
    key: str
    flagged: bool
    poisoned: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A headline figure: what it is, its value as text, and one line about it."""

    name: str
    value: str
    note: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Time:
    """What one stage took: seconds in all and in training, MiB at its peak, and the share of ordinary training."""

    stage: str
    seconds: float
    train_seconds: float
    peak_mib: float
    ratio: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All that the page shows.

    Attributes:
        summary: As ``summary.summarise`` makes it; every figure of a table comes from there.
        title: What was looked at, a few words.
        colour: ``red``, ``amber`` or ``green``.
        sentence: The verdict in a sentence.
        next_steps: What to do now.
        caveats: What limits verdict and figures.
        headline: The two figures at the top.
        charts: Name of a chart to its SVG element, made by ``charts``.
        suspects: The most suspect images.
        clean: Clean images of ``gallery_class``.
        gallery_class: Class that dominates the suspects, by name.
        differences: Mean difference images, the class with the most suspects first.
        classes: Per class ``name``, ``train``, ``suspects``, and where they are known ``acc``, ``recall``, ``finding``.
        detectors: What each detector found.
        probes: Every candidate that was forgotten on trial, for the details.
        times: What the stages took.
        ordinary: Seconds of ordinary training, and whether they were measured.
        counts: Number of training images by what became of them.
        attack: What was injected; empty when nothing was.
        provenance: Name to value.
        command: What makes the run again.
        settings: Stage name to its settings.
    """

    summary: Mapping[str, Any]
    title: str
    colour: str
    sentence: str
    next_steps: Sequence[str]
    caveats: Sequence[str]
    headline: Sequence[Figure]
    charts: Mapping[str, str]
    suspects: Sequence[Card]
    clean: Sequence[Card]
    gallery_class: str
    differences: Sequence[Difference]
    classes: Sequence[Mapping[str, Any]]
    detectors: Sequence[Detector]
    probes: Sequence[Candidate]
    times: Sequence[Time]
    ordinary: tuple[float | None, bool]
    counts: Mapping[str, int]
    provenance: Mapping[str, str]
    command: str
    attack: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


MODELS = {
    "warmup": "warm-up",
    "unlearn": "unlearned",
    "final": "final",
    "undefended": "undefended",
}
"""Name of a model in the summary to its name for people."""


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"  # noqa: RUF001 - a dash is what a table shows for nothing


def _seconds(value: float) -> str:
    if value < 90:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 5400 else f"{value / 3600:.1f} h"


def render(report: Report) -> bytes:
    """The page as UTF-8 HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("components.evaluate"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "seconds": _seconds}
    # Ours alone: text of the data inside a chart was escaped when it was drawn.
    charts = {name: Markup(svg) for name, svg in report.charts.items()}  # noqa: S704
    return environment.get_template("report.html").render(report=report, charts=charts, models=MODELS).encode()

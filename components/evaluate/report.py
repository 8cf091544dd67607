"""The report: one self-contained page, readable without JavaScript, every value escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["Report", "SuspectRow", "picture", "render"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SuspectRow:
    """One line of the list of suspects.

    Attributes:
        sample_id: The sample.
        label: Its given label, by name.
        predicted: What the clean model takes it for, by name.
        suspicion: In [0, 1].
        reasons: Names of the signals that fired.
        picture: The image as a data URI.
        uri: Where the encoded image lies.
    """

    sample_id: int
    label: str
    predicted: str
    suspicion: float
    reasons: Sequence[str]
    picture: str
    uri: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All that the page shows.

    Attributes:
        run_id: The run.
        dataset: Name of the dataset.
        verdict: ``poison found`` or ``no poison found``.
        models: Rows of the result: name to figures ``acc`` and ``asr`` in [0, 1] or None.
        found: Figures of the split against the truth, by label; empty when there is no truth.
        attack: What was injected; empty when nothing was.
        canary: How the planted trigger fared (``planted``, ``label``, ``caught``, ``fired``); empty without one.
        probes: What forgetting each proposal did.
        mixed_classes: Classes that hold samples of all others.
        mapping: What samples look like to the label that they were given by rule; empty without a rule.
        stages: Seconds and peak memory of each stage.
        suspects: Most suspect first.
        counts: Number of samples by assignment.
        settings: Stage name to its settings.
    """

    run_id: str
    dataset: str
    verdict: str
    models: Mapping[str, Mapping[str, float | None]]
    found: Mapping[str, float]
    attack: Mapping[str, Any]
    probes: Sequence[Mapping[str, Any]]
    stages: Sequence[Mapping[str, Any]]
    suspects: Sequence[SuspectRow]
    counts: Mapping[str, int]
    mixed_classes: Sequence[str] = ()
    mapping: Mapping[str, str] = field(default_factory=dict)
    canary: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def picture(image: npt.NDArray[np.uint8]) -> str:
    """An image, uint8 [c, h, w], as a PNG data URI made anew from its pixels."""
    buffer = io.BytesIO()
    pixels = image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"  # noqa: RUF001 - a dash is what a table shows for nothing


def render(report: Report) -> bytes:
    """The page as UTF-8 HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("components.evaluate"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["percent"] = _percent
    return environment.get_template("report.html").render(report=report).encode()

"""What an audit or a defence came to."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from components.common.classifier import Classifier

__all__ = ["Result"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """The outcome of ``defend`` or ``audit``.

    Attributes:
        verdict: What was found in the data: ``poison found``, ``label errors found``, ``no poison found`` or
            ``inconclusive``.
        reason: Why, in a sentence.
        acc: Accuracy of the model on the holdout, in [0, 1].
        suspects: The suspect images, the most suspect first: ``row`` (of the arrays) or ``key`` (of the folder),
            ``label``, ``predicted_label``, ``suspicion`` in [0, 1], ``reasons`` and ``subset``, train or holdout. Those
            of train lost their label. A pyarrow table, since that is what the stages exchange;
            ``suspects.to_pandas()`` makes it a data frame.
        model: The clean model.
        report_html: The report, one self-contained page.
    """

    verdict: str
    reason: str
    acc: float | None
    suspects: pa.Table
    model: Classifier
    report_html: str

    def save(self, folder: Path | str, formats: Sequence[str] | None = None) -> list[Path]:
        """Writes the model's files into a folder.

        Args:
            folder: Where to; made if it is not there. Files of the same names are replaced.
            formats: ``safetensors``, ``pt2``, ``onnx`` and ``card``; by default all that can be written here.

        Raises:
            ConfigError: An unknown format, or one whose packages are not installed.
        """
        from components.common.exporters import save

        return save(self.model, Path(folder), formats)

    def __repr__(self) -> str:
        figures = "" if self.acc is None else f", ACC {100 * self.acc:.2f} %"
        return f"Result({self.verdict}: {len(self.suspects)} suspects{figures})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the verdict and the report, in a frame of its own that runs no script."""
        title = html.escape(repr(self))
        page = html.escape(self.report_html, quote=True)
        return (
            f"<p><b>{title}</b> {html.escape(self.reason)}</p>"
            f'<iframe sandbox srcdoc="{page}" style="width:100%;height:40em;border:1px solid #8888"></iframe>'
        )

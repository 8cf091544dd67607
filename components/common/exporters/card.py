"""``README.md``: the model card, with the front matter that Hugging Face's hub reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from components.common.exporters.base import EXPORTERS, Exporter

if TYPE_CHECKING:
    from components.common.classifier import Classifier

__all__ = ["markdown_text"]

_MAX_NAMES = 200
_HARMLESS = frozenset(" -.,;%")
# The owner's to choose: what may be done with a model depends on the data, which only the owner knows.
_LICENCE = "# license: yours to choose before you publish, by its identifier on the hub"


def markdown_text(text: str, limit: int = 1000) -> str:
    """A text of unknown origin, as Markdown that shows it and does nothing else.

    All but letters, digits and a few harmless signs become numeric references, which no reader of Markdown takes for
    syntax; what cannot be shown becomes a replacement character.

    Args:
        text: The text.
        limit: Most characters that are shown.
    """
    shown = text if len(text) <= limit else f"{text[:limit]}…"
    escaped = "".join(_escaped(char) for char in shown)
    # GitHub's and the hub's Markdown make links of what begins like this.
    return re.sub(r"(?i)(?<=www)\.", "&#46;", escaped)


def _escaped(char: str) -> str:
    if char.isalnum() or char in _HARMLESS:
        return char
    return f"&#{ord(char)};" if char.isprintable() else "\N{REPLACEMENT CHARACTER}"


class _Safe(str):
    """Text that a filter of the template made, of numbers alone."""

    __slots__ = ()


def _finalize(value: object) -> str:
    """Escapes whatever the template shows, unless one of its filters made it."""
    return value if isinstance(value, _Safe) else markdown_text(str(value))


def _percent(value: float) -> _Safe:
    return _Safe(f"{100 * value:.2f} %")


def _write(classifier: Classifier) -> Mapping[str, bytes]:
    import jinja2
    import yaml

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("components.common", "exporters"),
        finalize=_finalize,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - this is Markdown, and _finalize escapes every value
        keep_trailing_newline=True,
    )
    environment.filters["percent"] = _percent
    body = environment.get_template("card.md.j2").render(
        model=classifier, origin=classifier.provenance, most_names=_MAX_NAMES
    )
    front = yaml.safe_dump(_front_matter(classifier), sort_keys=False)
    return {"model_card": f"---\n{_LICENCE}\n{front}---\n\n{body}".encode()}


def _front_matter(classifier: Classifier) -> dict[str, Any]:
    origin = classifier.provenance
    front: dict[str, Any] = {
        "library_name": "pytorch",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "untaint", "data-poisoning", "backdoor-defense", classifier.architecture],
    }
    if origin.acc is not None:
        data = origin.dataset or "unnamed"
        measured = {"type": "accuracy", "value": round(origin.acc, 6), "name": "accuracy on the holdout"}
        result = {
            "task": {"type": "image-classification"},
            "dataset": {"name": data, "type": data},
            "metrics": [measured],
        }
        front["model-index"] = [{"name": f"untaint {origin.run_id}".strip(), "results": [result]}]
    return front


EXPORTERS.register("card")(Exporter(files={"model_card": "README.md"}, write=_write))

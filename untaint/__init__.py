"""untaint as a library: a clean image classifier from data that may be poisoned, in a notebook or a script.

``defend`` takes arrays, ``audit`` a folder of images; both give a ``Result`` with the verdict, the suspects, the clean
model and the report. ``load`` reads an exported model. Nothing is sent anywhere, and no server is started: what the
stages exchange goes through a temporary folder.

The stages log their progress under the logger ``components``: ``logging.basicConfig(level="INFO")`` shows it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from components.common.classifier import Classifier, load
    from untaint.defence import audit, defend
    from untaint.result import Result

__all__ = ["Classifier", "Result", "audit", "defend", "load"]

_FROM = {
    "Classifier": "components.common.classifier",
    "Result": "untaint.result",
    "audit": "untaint.defence",
    "defend": "untaint.defence",
    "load": "components.common.classifier",
}


def __getattr__(name: str) -> Any:
    """Imports a name when it is first used: ``import untaint`` alone does not wait for PyTorch."""
    from importlib import import_module
    from importlib.metadata import version

    if name == "__version__":
        return version("untaint")
    if name not in _FROM:
        raise AttributeError(f"module 'untaint' has no attribute '{name}'")
    return getattr(import_module(_FROM[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])

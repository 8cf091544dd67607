"""The versions that a result was made with."""

from __future__ import annotations

import platform
from importlib import metadata

__all__ = ["versions"]

_PACKAGES = ("untaint", "torch", "numpy", "pyarrow", "kfp")


def versions() -> dict[str, str]:
    """Name to version of Python, of this package and of what computes; what is not installed here is left out.

    Images hold this project's code without having it installed.
    """
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found

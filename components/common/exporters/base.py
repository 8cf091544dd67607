"""The registry of model formats, and the one way to write some of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.common.contracts.errors import ConfigError
from components.common.contracts.registry import Registry

if TYPE_CHECKING:
    from components.common.classifier import Classifier

__all__ = ["EXPORTERS", "Exporter", "export", "formats_of", "save"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Exporter:
    """A format.

    Attributes:
        files: Name of the published object to name of the file, for every file that the format consists of.
        write: Makes the files' bytes, by name of the object. Equal classifiers give equal bytes.
        packages: What must be installed besides the package's own dependencies.
        extra: The optional extra that brings them.
    """

    files: Mapping[str, str]
    write: Callable[[Classifier], Mapping[str, bytes]]
    packages: tuple[str, ...] = ()
    extra: str = ""

    @property
    def missing(self) -> list[str]:
        """The packages that are not installed here."""
        return [name for name in self.packages if importlib.util.find_spec(name) is None]


EXPORTERS: Registry[Exporter] = Registry("format", "components.common.exporters")


def formats_of(text: str) -> list[str]:
    """Formats from a list with commas; empty for all.

    Raises:
        ConfigError: An unknown format; the message lists the known ones.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        EXPORTERS[name]
    return names or list(EXPORTERS)


def export(classifier: Classifier, formats: Iterable[str]) -> dict[str, bytes]:
    """Writes a classifier in some formats.

    Args:
        classifier: The classifier.
        formats: Names in ``EXPORTERS``.

    Returns:
        Name of the object to its bytes.

    Raises:
        ConfigError: An unknown format, or one whose packages are not installed.
    """
    written: dict[str, bytes] = {}
    for name in formats:
        exporter = EXPORTERS[name]
        if exporter.missing:
            raise ConfigError(
                f"format '{name}'",
                expected=f"the packages {', '.join(exporter.packages)}",
                found=f"no {', '.join(exporter.missing)}",
                hint=f"Install them: pip install 'untaint[{exporter.extra}]'",
            )
        written |= exporter.write(classifier)
    return written


def save(classifier: Classifier, folder: Path, formats: Iterable[str] | None = None) -> list[Path]:
    """Writes a classifier as files.

    Args:
        classifier: The classifier.
        folder: Where to; made if it is not there. Files of the same names are replaced.
        formats: Names in ``EXPORTERS``; by default all that can be written here.

    Returns:
        The files.

    Raises:
        ConfigError: As ``export``.
    """
    chosen = [name for name in EXPORTERS if not EXPORTERS[name].missing] if formats is None else list(formats)
    written = export(classifier, chosen)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for one in chosen:
        for name, file in EXPORTERS[one].files.items():
            paths.append(folder / file)
            paths[-1].write_bytes(written[name])
    return paths

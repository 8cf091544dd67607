"""A trained classifier as files that others can load; one file per format, with one registered ``Exporter``.

Nothing heavy is imported before a format is written, so that the names of its files cost nothing.
"""

from __future__ import annotations

from components.common.exporters.base import EXPORTERS, Exporter, export, formats_of, save

__all__ = ["EXPORTERS", "Exporter", "export", "formats_of", "save"]
